"""Which segment limits the search: a list that follows its segmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

_EVENTS = ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SegmentsOrderModified")


class SegmentChoice(VTKObservationMixin):
    """The list of a segmentation's segments, with one chosen, or all.

    A chosen segment that is removed stays chosen, marked as removed: the search must not go on in
    all the others.

    Args:
        selector: a combo box.
        label: beside it; both are hidden without a segmentation.

    Attributes:
        chosen: id of the segment; "" for all.
        onChosen: called with the id after the user chose a segment.
        onListed: called after the list has changed.
    """

    def __init__(self, selector: Any, label: Any) -> None:
        VTKObservationMixin.__init__(self)
        self._selector, self._label = selector, label
        self._node: Any = None
        self._lastName = ""
        self.chosen = ""
        self.onChosen: Callable[[str], None] = lambda segment: None
        self.onListed: Callable[[], None] = lambda: None
        selector.currentIndexChanged.connect(self._choose)
        self.show(None, "")

    @property
    def isMissing(self) -> bool:
        """Whether the chosen segment is not in the segmentation."""
        return bool(self._node and self.chosen) and self.chosen not in self._names()

    def show(self, segmentationNode: Any, segment: str) -> None:
        """Lists the segments of a segmentation; None has none."""
        if segmentationNode is not self._node:
            self.removeObservers()
            self._node = segmentationNode
            for event in _EVENTS if segmentationNode is not None else ():
                self.addObserver(segmentationNode, getattr(slicer.vtkSegmentation, event),
                                 self._list)
        if segment != self.chosen:
            self.chosen, self._lastName = segment, ""
        self._list()

    def close(self) -> None:
        """Stops following the segmentation."""
        self.removeObservers()

    def _names(self) -> dict[str, str]:
        """Names of the segments by id."""
        segmentation = self._node.GetSegmentation()
        return {segmentation.GetNthSegmentID(number): segmentation.GetNthSegment(number).GetName()
                for number in range(segmentation.GetNumberOfSegments())}

    def _list(self, *_arguments: object) -> None:
        names = self._names() if self._node is not None else {}
        items = {"": _("All segments"), **names}
        self._lastName = names.get(self.chosen, self._lastName)
        if self.isMissing:
            items[self.chosen] = _("{name} (removed)").format(name=self._lastName or self.chosen)
        wasBlocked = self._selector.blockSignals(True)
        self._selector.clear()
        for segment, name in items.items():
            self._selector.addItem(name, segment)
        self._selector.setCurrentIndex(max(0, self._selector.findData(self.chosen)))
        self._selector.blockSignals(wasBlocked)
        for widget in (self._selector, self._label):
            widget.visible = self._node is not None
        self.onListed()

    def _choose(self, *_arguments: object) -> None:
        self.chosen = str(self._selector.itemData(self._selector.currentIndex) or "")
        self.onChosen(self.chosen)
