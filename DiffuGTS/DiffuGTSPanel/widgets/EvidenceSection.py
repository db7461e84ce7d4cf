"""The maps behind a result, laid over the slices, and the scan's pseudo-healthy twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Run import inScene
from DiffuGTSPanel.scene import SliceViews
from DiffuGTSPanel.scene.SliceViews import ColourBar
from DiffuGTSPanel.widgets.Section import Section, coloured

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.data.Run import PromptResult, Run
    from DiffuGTSPanel.Logic import DiffuGTSLogic

OVERLAYS = ("attention", "residual", "uncertainty")
TWIN = "pseudo_healthy"


class EvidenceSection(Section):
    """Slices have one layer above the scan: one map at a time, or the twin blended in.

    Args:
        resourcePath: of the module's widget.
        layout: where to be.
        logic: what reads the maps.
        onFailure: called with what went wrong.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 onFailure: Callable[[Failure], None]) -> None:
        super().__init__("Evidence", resourcePath, layout)
        self._logic, self._onFailure = logic, onFailure
        self._run: Run | None = None
        self._result: PromptResult | None = None
        self._shown = False
        # What is being read: asked for once, however often a slider moves meanwhile.
        self._reading: tuple[int, str] | None = None
        self._bar = ColourBar(self.ui.colourBarPlace.layout())
        self._boxes = {kind: getattr(self.ui, f"{kind}CheckBox") for kind in OVERLAYS}
        for kind, box in self._boxes.items():
            box.toggled.connect(self._toggler(kind))
        self.ui.opacitySlider.valueChanged.connect(self._show)
        self.ui.blendSlider.valueChanged.connect(self._show)
        self.ui.swapButton.clicked.connect(self._swap)
        self.setResult(None, None)

    @property
    def overlay(self) -> str:
        """The map that is laid over the slices; empty when none is."""
        return next((kind for kind, box in self._boxes.items() if box.checked), "")

    def setResult(self, run: Run | None, result: PromptResult | None) -> None:
        """Whose maps are shown from now on."""
        self.clearViews()
        self._run, self._result = run, result
        self.root.enabled = run is not None
        self._show()

    def clearViews(self) -> None:
        """The scan alone, where maps of this result were laid over it."""
        if self._shown and self._run and self._run.volumeNode:
            SliceViews.clear(self._run.volumeNode)
            self._showFill(True)
        self._shown = False

    def forget(self) -> None:
        """The nodes are gone with the scene."""
        self._shown = False
        self.setResult(None, None)

    def _toggler(self, kind: str) -> Callable[..., None]:
        def toggle(checked: bool, *_arguments: object) -> None:
            if checked:
                for other, box in self._boxes.items():
                    if other != kind:
                        wasBlocked = box.blockSignals(True)
                        box.checked = False
                        box.blockSignals(wasBlocked)
            self._show()
        return toggle

    def _swap(self, *_arguments: object) -> None:
        self.ui.blendSlider.value = 0.0 if self.ui.blendSlider.value >= 0.5 else 1.0

    def refresh(self) -> None:
        """Lays over the slices again what something else has taken away."""
        self._show()

    def _show(self, *_arguments: object) -> None:
        """Brings the views to what is chosen; maps that were not read yet are read first."""
        self._explain()
        if self._run is None or self._result is None or self._run.volumeNode is None:
            self._bar.clear()
            return
        wanted = [kind for kind in (self.overlay, TWIN if self._twin else "") if kind]
        missing = [kind for kind in wanted if inScene(self._result.evidence.get(kind)) is None]
        if missing:
            self.ui.overlayMeaningLabel.text = coloured(_("Reading..."), "muted")
            self._read(missing[0])
            return
        if not wanted:
            self.clearViews()
            self._bar.clear()
            return
        evidence = self._result.evidence
        overlay = evidence[self.overlay] if self.overlay else None
        twin = evidence[TWIN] if self._twin else None
        SliceViews.showOverlay(self._run.volumeNode, overlay, float(self.ui.opacitySlider.value),
                          twinNode=twin, twin=self._twin)
        self._shown = True
        self._showFill(False)
        self._bar.show(overlay) if overlay else self._bar.clear()

    def _read(self, kind: str) -> None:
        # By identity: results are equal only after a look at all their voxels.
        wanted = id(self._result), kind
        if self._run is not None and self._reading != wanted:
            self._reading = wanted
            index = [id(result) for result in self._run.results].index(wanted[0])
            self._logic.evidence(self._run, kind, self._haveRead, index, self._failed)

    def _haveRead(self, *_arguments: object) -> None:
        self._reading = None
        self._show()

    def _failed(self, failure: Failure) -> None:
        self._reading = None
        for box in self._boxes.values():
            box.checked = False
        self.ui.blendSlider.value = 0.0
        self._onFailure(failure)

    def _showFill(self, filled: bool) -> None:
        """Maps and twin are seen through segments that are only outlined."""
        node = self._run.segmentationNode if self._run else None
        if node is not None and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility2DFill(filled)

    @property
    def _twin(self) -> float:
        return float(self.ui.blendSlider.value)

    def _explain(self) -> None:
        meaning = {
            "attention": _("Where the model looked."),
            "residual": _("What differs from the pseudo-healthy scan."),
            "uncertainty": _("How much the pseudo-healthy samples differ, in the scan's units."),
            "": _("One map at a time, under the segments' outlines."),
        }[self.overlay]
        self.ui.overlayMeaningLabel.text = coloured(meaning, "muted")
        twin = (_("The scan.") if self._twin == 0 else
                _("Painted by the model as it might look healthy: not a real scan.")
                if self._twin == 1 or (self.overlay and self._twin >= 0.5) else
                _("With a map on top: the scan or the twin, not both.") if self.overlay else
                _("The scan and its pseudo-healthy twin, blended."))
        self.ui.blendMeaningLabel.text = coloured(twin, "muted")
