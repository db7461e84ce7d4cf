"""The panel: connects its sections with each other and with the logic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.scene import SliceViews
from DiffuGTSPanel.widgets import KeptSettings
from DiffuGTSPanel.widgets.AdvancedSection import AdvancedSection
from DiffuGTSPanel.widgets.BatchSection import BatchSection
from DiffuGTSPanel.widgets.EvidenceSection import EvidenceSection
from DiffuGTSPanel.widgets.KeptSettings import (
    FrameChoice,
    ModalityChoice,
    Parameters,
    SequenceChoice,
)
from DiffuGTSPanel.widgets.LesionSection import LesionSection
from DiffuGTSPanel.widgets.PromptSection import PromptSection
from DiffuGTSPanel.widgets.RunSection import SEQUENCE, RunSection
from DiffuGTSPanel.widgets.Section import coloured, duration
from DiffuGTSPanel.widgets.SetupSection import SetupSection

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Run import Preview, Progress, Run
    from DiffuGTSPanel.Logic import DiffuGTSLogic


class Panel(VTKObservationMixin):
    """The module's panel.

    Args:
        widget: the module's widget, a ScriptedLoadableModuleWidget.
        logic: the module's logic.

    Attributes:
        run: the running run; None without one.
        parameters: the scene's parameters; None while another module is shown.
    """

    def __init__(self, *, widget: Any, logic: DiffuGTSLogic) -> None:
        VTKObservationMixin.__init__(self)
        self.logic = logic
        self.run: Run | None = None
        self._started = 0.0
        # Run and threshold that were kept where another one failed.
        self._keptThreshold: tuple[Run | None, float | None] = None, None
        self._volume: Any = None
        self._within: Any = None
        self._segments: dict[str, str] = {}  # chosen last, by the segmentation's id
        self.parameters: Any = None
        self._suspended = False  # while the scene is closed or imported
        self._guiTag: Any = None
        self.root = slicer.util.loadUI(widget.resourcePath("UI/DiffuGTS.ui"))
        self.ui = slicer.util.childWidgetVariables(self.root)
        widget.layout.addWidget(self.root)
        self._addSections(widget.resourcePath)
        self.root.setMRMLScene(slicer.mrmlScene)
        self.ui.researchLabel.text = coloured(self.ui.researchLabel.text, "muted")
        self.ui.advancedButton.contentsCollapsed.connect(self._advancedToggled)
        self.ui.batchButton.contentsCollapsed.connect(self._batchToggled)
        self.advanced.models.onChanged = self._setModel
        self.advanced.segments.onChosen = self._setSegment
        self.advanced.segments.onListed = self._updateReady
        logic.onWorker = self.advanced.showWorker
        self._showResultSections(False)
        self.setParameterNode(logic.getParameterNode())
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeRemovedEvent, self._nodeRemoved)

    def _addSections(self, resourcePath: Any) -> None:
        ui, logic = self.ui, self.logic
        self.setup = SetupSection(resourcePath, ui.setupContainer.layout(), logic,
                                  onReady=self._updateReady)
        self.runSection = RunSection(resourcePath, ui.findButton.layout(), logic.log,
                                     onRun=self.start, onCancel=self.cancel,
                                     onSuggestion=self._useSuggestion)
        self.prompt = PromptSection(resourcePath, ui.promptContainer.layout(), logic,
                                    onChanged=self._promptChanged, onRun=self.start)
        self.evidence = EvidenceSection(resourcePath, ui.evidenceButton.layout(), logic,
                                        onFailure=self.runSection.showFailure)
        self.lesions = LesionSection(resourcePath, ui.lesionsButton.layout(), logic,
                                     onSelected=self.evidence.setResult,
                                     onFailure=self.runSection.showFailure)
        self.advanced = AdvancedSection(resourcePath, ui.advancedButton.layout(), logic,
                                        onPython=self._computeChanged)
        self.batch = BatchSection(resourcePath, ui.batchButton.layout(), logic,
                                  options=self._batchOptions)

    # Calls of the module's widget

    def enter(self) -> None:
        """The module is shown."""
        if self.parameters is None:
            self.setParameterNode(self.logic.getParameterNode())
        self.setup.refresh()
        if self.parameters and self.parameters.volume is None:
            self.parameters.volume = self._firstScan()
        self._updateReady()

    def _firstScan(self) -> Any:
        """The scene's first volume that may be a scan; a labelmap is a scalar volume as well."""
        return next((node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
                     if node.GetClassName() == "vtkMRMLScalarVolumeNode"
                     and not node.GetHideFromEditors()
                     and not node.GetAttribute("DiffuGTS.Evidence")), None)

    def exit(self) -> None:
        """Another module is shown; a run continues."""
        self._suspended = False
        self.setParameterNode(None)

    def sceneStartClose(self) -> None:
        """The nodes are about to be removed; the logic cancels the run."""
        self._suspend()
        self._segments.clear()  # the next scene uses the ids again
        self.evidence.clear()
        self.lesions.clear()
        self._showResultSections(False)

    def sceneStartImport(self) -> None:
        """Nodes are about to be read: until all are there, parameters refer to missing ones."""
        self._suspend()

    def sceneSettled(self) -> None:
        """The scene was closed or imported: shows the parameters that it has now.

        Selectors list its nodes only once the batch of changes has ended, of which closing and
        importing may be parts: called again then.
        """
        if self._suspended and not slicer.mrmlScene.IsBatchProcessing():
            self._suspended = False
            self.setParameterNode(self.logic.getParameterNode())

    def _suspend(self) -> None:
        self._suspended = self._suspended or self.parameters is not None
        self.setParameterNode(None)

    def cleanup(self) -> None:
        """The module is being removed; the logic ends the worker."""
        self.setParameterNode(None)
        self.removeObservers()
        self.advanced.close()
        self.lesions.close()
        self.logic.onWorker = None
        self.logic.log.onLine = None

    def setParameterNode(self, node: Any) -> None:
        """Connects the widgets to a parameter node, or to none."""
        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
            self.removeObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent,
                                self._parametersChanged)
        self.parameters = Parameters(node) if node else None  # type: ignore[call-arg]
        if self.parameters is not None:
            self._within = self.parameters.within
            self._guiTag = self.parameters.connectGui(self.root)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._parametersChanged)
            self._parametersChanged()

    def _parametersChanged(self, *_arguments: object) -> None:
        """Updates what the wrapper cannot connect."""
        if self.parameters is not None:
            # Connected by the wrapper, the cursor would jump to the end with each letter.
            self.prompt.setText(self.parameters.prompt)
            self.advanced.models.choose(self.parameters.model)
            self.prompt.setModel(self.parameters.model)
            self._resetScanOptions()
            self._resetSegment()
            self.advanced.segments.show(self.parameters.within, self.parameters.withinSegment)
            self.advanced.setVolume(self.parameters.volume)
            self.lesions.setScan(self.parameters.volume)
            isCt = self.parameters.modality is ModalityChoice.CT
            self.advanced.ui.sequenceSelector.enabled = not isCt
        self._updateReady()

    def _resetScanOptions(self) -> None:
        """Modality and MR sequence were chosen for one scan, not for the next."""
        before, self._volume = self._volume, self.parameters.volume
        if None not in (before, self._volume) and before is not self._volume:
            self.parameters.modality = ModalityChoice.AUTOMATIC
            self.parameters.sequence = SequenceChoice.AUTOMATIC

    def _resetSegment(self) -> None:
        """The id of a segment may be another one's in the next segmentation."""
        before, self._within = self._within, self.parameters.within
        if before is self._within:
            return
        if before is not None:
            self._segments[before.GetID()] = self.parameters.withinSegment
        node = self._within
        self.parameters.withinSegment = self._segments.get(node.GetID(), "") if node else ""

    def _setSegment(self, segment: str) -> None:
        if self.parameters is not None:
            self.parameters.withinSegment = segment

    def _promptChanged(self) -> None:
        if self.parameters is not None and self.parameters.prompt != self.prompt.text:
            self.parameters.prompt = self.prompt.text
        self._updateReady()

    def _setModel(self, name: str) -> None:
        if self.parameters is not None:
            self.parameters.model = name

    def _advancedToggled(self, collapsed: bool) -> None:
        if not collapsed:
            self.advanced.open()

    def _computeChanged(self) -> None:
        """Another Python, or another computer: its packages count."""
        self.setup.refresh()
        self._updateReady()

    def _batchToggled(self, collapsed: bool) -> None:
        if not collapsed:
            self.batch.prefill(self.prompt.text)

    def _batchOptions(self) -> dict[str, Any]:
        """The options of the other sections, for a batch."""
        parameters = self.parameters
        if parameters is None:
            return {"model": self.prompt.model}
        return {"model": parameters.model, "device": self.advanced.device,
                "host": self.advanced.host, "seed": parameters.seed,
                **self._scanOptions(parameters)}

    def _scanOptions(self, parameters: Any) -> dict[str, Any]:
        """Modality and MR sequence as chosen; a CT has no sequence."""
        isCt = parameters.modality is ModalityChoice.CT
        return {"modality": parameters.modality.option,
                "sequence": None if isCt else parameters.sequence.option}

    def _useSuggestion(self, suggestion: str) -> None:
        self.runSection.clearMessage()
        if suggestion.startswith(SEQUENCE):
            self.parameters.sequence = SequenceChoice[suggestion.removeprefix(SEQUENCE)]
            self.start()
        else:
            self.prompt.replaceWith(suggestion)

    # Runs

    def _missing(self) -> str:
        """Why a run cannot start, in words; empty when it can."""
        if self.parameters is None or self.parameters.volume is None:
            return _("Load a CT or MR scan first.")
        if not self.prompt.parsedPrompts:
            return _("Type what to look for.")
        if not self.prompt.runnable:
            return _("The text is not understood.")
        if not self.setup.complete:
            return _("Install the missing packages first.")
        if self.advanced.segments.isMissing:
            return _("The segment to search in was removed: choose another one under Advanced.")
        model = self.advanced.models.current
        if (model is not None and model.name == self.parameters.model and not model.ready
                and not self.advanced.host):
            return model.message
        return ""

    def _updateReady(self) -> None:
        missing = self._missing()
        self.runSection.setReady(not missing, missing)

    def start(self) -> None:
        """Runs the prompt on the scan, if that is possible."""
        if self.run is not None or self._missing() or self.parameters is None:
            return
        parameters = self.parameters
        try:
            self.run = self.logic.segmentAsync(
                parameters.volume, self.prompt.text,
                onProgress=self._onProgress, onPreview=self._onPreview,
                onFinished=self._onFinished, onError=self._onError,
                onCancelled=self._onCancelled, onUpdated=self._onUpdated,
                roi=parameters.roi, within=parameters.within, seed=parameters.seed,
                withinSegment=parameters.withinSegment, model=parameters.model,
                device=self.advanced.device, host=self.advanced.host,
                **self._scanOptions(parameters),
                frames="all" if parameters.frames is FrameChoice.ALL else "this",
            )
        except Failure as failure:
            self.runSection.showFailure(failure)
            return
        KeptSettings.rememberPrompt(self.prompt.text)
        if self.advanced.host:
            KeptSettings.rememberHost(self.advanced.host)
        self._started = time.monotonic()
        self.evidence.clearViews()
        self.prompt.setEditable(False)
        self.runSection.start()

    def cancel(self) -> None:
        """Cancels the run."""
        if self.run is not None:
            self.runSection.cancelling()
            self.logic.cancel(self.run)

    def _onProgress(self, run: Run, progress: Progress) -> None:
        if run is self.run:
            self.runSection.show(progress, len(run.prompts))

    def _onPreview(self, run: Run, preview: Preview) -> None:
        if run.volumeNode is not None:
            opacity = float(self.evidence.ui.opacitySlider.value)
            SliceViews.showOverlay(run.volumeNode, preview.attentionNode, opacity)

    def _onFinished(self, run: Run) -> None:
        if run.volumeNode is not None:
            SliceViews.clear(run.volumeNode)
        self._stop(_("Done in {time}.").format(time=duration(time.monotonic() - self._started)))
        if run.note:
            self.runSection.showNote(run.note)
        self.lesions.add(run)
        self._showResultSections(True)

    def _onCancelled(self, run: Run) -> None:
        self._clearPreview(run)
        self._stop(_("Cancelled."))

    def _onError(self, run: Run, failure: Failure) -> None:
        if run is self.run:
            self._clearPreview(run)
            self._stop("")
            self.runSection.showFailure(failure)
        else:  # a threshold change of a finished run
            self.lesions.refresh(run)
            self.runSection.showFailure(failure, passing=True)
            self._keptThreshold = run, run.threshold

    def _onUpdated(self, run: Run) -> None:
        self.lesions.refresh(run)
        failed, threshold = self._keptThreshold
        if run is failed and run.threshold != threshold:
            self.runSection.clearPassing()

    def _clearPreview(self, run: Run) -> None:
        if run.volumeNode is not None:
            SliceViews.clear(run.volumeNode)
        # An overlay of an earlier result may have been shown.
        self.evidence.refresh()

    def _nodeRemoved(self, *_arguments: object) -> None:
        self.lesions.remove(lambda run: run.segmentationNode is None)
        self.batch.inputs.refresh()

    def _stop(self, sentence: str) -> None:
        self.run = None
        self.prompt.setEditable(True)
        self.runSection.stop(sentence)
        self._updateReady()

    def _showResultSections(self, shown: bool) -> None:
        for button in (self.ui.lesionsButton, self.ui.evidenceButton):
            button.enabled = shown
            button.collapsed = not shown
