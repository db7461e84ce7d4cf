"""The evidence of a result: overlays on the slices, and the pseudo-healthy scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Run import inScene
from DiffuGTSPanel.scene import SliceViews
from DiffuGTSPanel.widgets.Section import Section, coloured

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.data.Run import PromptResult, Run
    from DiffuGTSPanel.Logic import DiffuGTSLogic

OVERLAYS = ("attention", "residual", "uncertainty")
PSEUDO_HEALTHY = "pseudo_healthy"


class EvidenceSection(Section):
    """Shows one map at a time, or the pseudo-healthy scan blended in: views have two layers.

    Args:
        resourcePath: of the module's widget.
        layout: to add the section to.
        logic: of the module.
        onFailure: called with errors.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 onFailure: Callable[[Failure], None]) -> None:
        super().__init__("Evidence", resourcePath, layout)
        self._logic, self._onFailure = logic, onFailure
        self._run: Run | None = None
        self._result: PromptResult | None = None
        self._shown = False
        # What is being read: requested once, however often a slider moves meanwhile.
        self._reading: tuple[int, str] | None = None
        self._boxes = {kind: getattr(self.ui, f"{kind}CheckBox") for kind in OVERLAYS}
        for kind, box in self._boxes.items():
            box.toggled.connect(self._toggler(kind))
        self.ui.opacitySlider.valueChanged.connect(self._show)
        self.ui.blendSlider.valueChanged.connect(self._show)
        self.ui.swapButton.clicked.connect(self._swap)
        self.setResult(None, None)

    @property
    def overlay(self) -> str:
        """The chosen map; empty without one."""
        return next((kind for kind, box in self._boxes.items() if box.checked), "")

    def setResult(self, run: Run | None, result: PromptResult | None) -> None:
        """Sets the result whose evidence is shown."""
        self.clearViews()
        self._run, self._result = run, result
        self.root.enabled = run is not None
        self._show()

    def clearViews(self) -> None:
        """Removes the overlays of this result from the views."""
        if self._shown and self._run and self._run.volumeNode:
            SliceViews.clear(self._run.volumeNode)
            self._showFill(True)
        self._shown = False

    def clear(self) -> None:
        """Drops the result, whose nodes are removed with the scene."""
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
        """Shows the chosen overlays again, after a preview replaced them."""
        self._show()

    def _show(self, *_arguments: object) -> None:
        """Updates the views; maps that are not loaded yet are read first."""
        self._explain()
        if self._run is None or self._result is None or self._run.volumeNode is None:
            return
        wanted = [kind for kind in (self.overlay, PSEUDO_HEALTHY if self._blend else "") if kind]
        missing = [kind for kind in wanted if inScene(self._result.evidence.get(kind)) is None]
        if missing:
            self.ui.overlayMeaningLabel.text = coloured(_("Reading..."), "muted")
            self._read(missing[0])
            return
        if not wanted:
            self.clearViews()
            return
        evidence = self._result.evidence
        overlay = evidence[self.overlay] if self.overlay else None
        pseudoHealthy = evidence[PSEUDO_HEALTHY] if self._blend else None
        SliceViews.showOverlay(self._run.volumeNode, overlay, float(self.ui.opacitySlider.value),
                               pseudoHealthyNode=pseudoHealthy, blend=self._blend)
        self._shown = True
        self._showFill(False)

    def _read(self, kind: str) -> None:
        # By identity: comparing results by value would compare all their voxels.
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
        """Fills or outlines the segments; evidence is visible through outlines only."""
        node = self._run.segmentationNode if self._run else None
        if node is not None and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility2DFill(filled)

    @property
    def _blend(self) -> float:
        return float(self.ui.blendSlider.value)

    def _explain(self) -> None:
        meaning = {
            "attention": _("Response to the prompt, 0 to 1."),
            "residual": _("Difference to the pseudo-healthy scan."),
            "uncertainty": _("Spread of the samples, in scan units."),
            "": _("One map at a time, under the outlines."),
        }[self.overlay]
        self.ui.overlayMeaningLabel.text = coloured(meaning, "muted")
        blended = (
            _("The scan.") if self._blend == 0 else
            _("Synthesised by the model: not a real scan.")
            if self._blend == 1 or (self.overlay and self._blend >= 0.5) else
            _("With an overlay, only the scan or the pseudo-healthy scan is shown.")
            if self.overlay else _("The scan and the pseudo-healthy scan, blended."))
        self.ui.blendMeaningLabel.text = coloured(blended, "muted")
