"""Sequences (time series): the frames of a volume, and results for all of them."""

from __future__ import annotations

from typing import Any

import slicer

from DiffuGTSPanel.data.Run import inScene


def sequenceOf(volumeNode: Any) -> tuple[Any, int] | None:
    """The browser of the sequence that a volume is a frame of, and the number of frames.

    None for a volume that is not in a sequence.
    """
    if volumeNode is None:
        return None
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        sequence = browser.GetSequenceNode(volumeNode)
        if sequence is not None:
            return browser, int(sequence.GetNumberOfDataNodes())
    return None


class SequenceFrames:
    """All frames of a volume's sequence.

    Args:
        browser: of the sequence.
        volumeNode: its proxy in the scene.
    """

    def __init__(self, browser: Any, volumeNode: Any) -> None:
        self._browser = browser
        self._sequence = browser.GetSequenceNode(volumeNode)
        self._results: Any = None

    def __len__(self) -> int:
        return int(self._sequence.GetNumberOfDataNodes())

    @property
    def shown(self) -> int:
        """The frame that is shown."""
        return int(self._browser.GetSelectedItemNumber())

    def volume(self, frame: int) -> Any:
        """The volume node of a frame, which is in the sequence, not in the scene."""
        return self._sequence.GetNthDataNode(frame)

    def store(self, frame: int, segmentationNode: Any) -> None:
        """Stores a frame's segments in a sequence of their own.

        Args:
            segmentationNode: in the scene; it becomes the proxy that shows the chosen frame.
        """
        if inScene(self._results) is None:
            self._results = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLSequenceNode", segmentationNode.GetName())
            self._results.SetIndexName(self._sequence.GetIndexName())
            self._results.SetIndexUnit(self._sequence.GetIndexUnit())
            self._results.SetIndexType(self._sequence.GetIndexType())
        self._results.SetDataNodeAtValue(
            segmentationNode, self._sequence.GetNthIndexValue(frame))

    def attach(self, segmentationNode: Any) -> None:
        """Shows the stored segments together with the volume's frames."""
        self._browser.AddSynchronizedSequenceNode(self._results)
        self._browser.AddProxyNode(segmentationNode, self._results, False)
        # Edits of a frame are stored in that frame.
        self._browser.SetSaveChanges(self._results, True)

    def segments(self, frame: int, shownNode: Any) -> Any:
        """The segmentation of a frame: `shownNode` where that frame is shown."""
        if frame == self.shown and shownNode is not None:
            return shownNode
        return self._results.GetNthDataNode(frame)

    def show(self, frame: int) -> None:
        """Shows a frame."""
        self._browser.SetSelectedItemNumber(frame)

    def refresh(self) -> None:
        """Updates the shown frame after its segments have changed."""
        self._browser.Modified()

    def remove(self) -> None:
        """Removes the results from the scene."""
        if inScene(self._results) is not None:
            slicer.mrmlScene.RemoveNode(self._results)
        self._results = None
