"""The Python interface in Slicer: run prompts on volumes, get segments and evidence."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from DiffuGTSPanel.batch.BatchQueue import BatchQueue
from DiffuGTSPanel.data.Batch import (
    BatchCallbacks,
    BatchCase,
    BatchOptions,
    BatchProgress,
    BatchRun,
)
from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import (
    Callbacks,
    Lesion,
    ModelEntry,
    Options,
    ParsedPrompt,
    Progress,
    PromptResult,
    Run,
)
from DiffuGTSPanel.library import ModelCatalogue, PromptReading
from DiffuGTSPanel.library.PythonPackages import PythonPackages
from DiffuGTSPanel.process.ChildProcess import CommandTask, Log
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.process.WorkerProcess import WorkerState
from DiffuGTSPanel.run.RunController import RunController
from DiffuGTSPanel.run.RunQueue import RunQueue
from DiffuGTSPanel.scene import SearchRegion, SliceViews
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid


class DiffuGTSLogic(ScriptedLoadableModuleLogic):
    """Segments what texts name, in one background process.

    Attributes:
        log: output of the background process.
        packages: the installed packages.
        lastRun: the latest run.

    Example:
        >>> logic = slicer.util.getModuleLogic("DiffuGTS")
        >>> segmentationNode = logic.segment(volumeNode, "liver tumor")
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.log = Log()
        self.packages = PythonPackages()
        self.lastRun: Run | None = None
        self._runQueue = RunQueue(self.log, self.packages)
        self._batchQueue = BatchQueue(self.log, self.packages)
        self._scene = slicer.mrmlScene
        self._closing = self._scene.AddObserver(
            slicer.vtkMRMLScene.StartCloseEvent, lambda *_arguments: self._runQueue.sceneCloses())

    # Prompts -------------------------------------------------------------------------------------

    def understand(self, text: str, model: str = "embedded") -> list[ParsedPrompt]:
        """How each prompt in a text is understood, before anything runs."""
        return PromptReading.understand(text, model)

    def suggestions(self, prefix: str, limit: int = 8) -> list[str]:
        """Prompts that complete the typed text."""
        return PromptReading.suggestions(prefix, limit)

    def examples(self) -> list[str]:
        """Example prompts."""
        return list(PromptReading.EXAMPLES)

    # Runs ----------------------------------------------------------------------------------------

    def segmentAsync(
        self, volumeNode: Any, prompts: str | Sequence[str], *,
        onProgress: Callable[[Run, Progress], None] | None = None,
        onPreview: Callable[..., None] | None = None,
        onFinished: Callable[[Run], None] | None = None,
        onError: Callable[[Run, Failure], None] | None = None,
        onCancelled: Callable[[Run], None] | None = None,
        onUpdated: Callable[[Run], None] | None = None,
        roi: Any = None, within: Any = None, withinSegment: str = "", segmentation: Any = None,
        **options: Any,
    ) -> Run:
        """Queues a run and returns at once.

        Args:
            volumeNode: the scan, a vtkMRMLScalarVolumeNode.
            prompts: a text, several prompts separated by line breaks or ";", or a list.
            onProgress: called with the run and a `Progress`.
            onPreview: called with the run and a `Preview`, before inpainting begins.
            onFinished: called with the run, its segments in the scene.
            onError: called with the run and a `Failure`; its nodes have been removed.
            onCancelled: called with the run; its nodes have been removed.
            onUpdated: called with the run when its segments have changed later.
            roi: a vtkMRMLMarkupsROINode that limits the search.
            within: a vtkMRMLSegmentationNode, such as an organ's, that limits the search to its
                segments.
            withinSegment: id or name of one of them; "" for all.
            segmentation: a vtkMRMLSegmentationNode to add to; None creates one. Its segments stay
                unchanged, also where new ones overlap them.
            options: seed, threshold, modality, model, device, samples, frames, sequence,
                skullStripped, host: see `Options`.

        Raises:
            TypeError: unknown option, or `within` is no segmentation.
        """
        SearchRegion.checkSegmentation(within, withinSegment)
        texts = PromptReading.prompts(prompts) if isinstance(prompts, str) else list(prompts)
        callbacks = Callbacks(onProgress, onPreview, onFinished, onError, onCancelled, onUpdated)
        # An empty text is passed on; the worker refuses it with a message.
        run = Run(uuid.uuid4().hex[:12], tuple(texts) or ("",), Options(**options), callbacks)
        run.volume, run.roi, run.target = volumeNode, roi, segmentation
        run.within, run.withinSegment = within, withinSegment
        self.lastRun = run
        self._runQueue.add(run)
        return run

    def segment(
        self, volumeNode: Any, prompts: str | Sequence[str], *,
        progress: Callable[[float, str], None] | None = None, **options: Any,
    ) -> Any:
        """Runs prompts on a volume and waits while Slicer's event loop runs.

        Args:
            volumeNode, prompts, options: as for `segmentAsync`.
            progress: called with the completed fraction and the stage in words.

        Returns:
            The vtkMRMLSegmentationNode, one segment per lesion; empty when nothing was found.
            Details are in `lastRun.results`.

        Raises:
            Failure: with a message and a hint; code "cancelled" when the run was cancelled.
        """
        loop = qt.QEventLoop()
        failures: list[Failure] = []

        def failed(_run: Run, failure: Failure) -> None:
            failures.append(failure)
            loop.quit()

        def reportProgress(_run: Run, step: Progress) -> None:
            if progress is not None:
                progress(step.fraction, step.text)

        run = self.segmentAsync(
            volumeNode, prompts, onProgress=reportProgress, onFinished=lambda _run: loop.quit(),
            onError=failed, onCancelled=lambda _run: loop.quit(), **options)
        while run.active:
            loop.exec_()
        if failures:
            raise failures[0]
        if run.state != "finished":
            raise Failure("cancelled", _("The run was cancelled."))
        return run.segmentationNode

    def cancel(self, run: Run | BatchRun) -> None:
        """Cancels a run or batch; `onCancelled` follows. Does nothing when it has ended.

        The finished cases of a batch stay in its folder.
        """
        if isinstance(run, BatchRun):
            self._batchQueue.cancel(run)
        elif run.active:
            self._runQueue.cancel(run)

    # Many scans ----------------------------------------------------------------------------------

    def segmentBatch(
        self, inputs: Any, prompts: str | Sequence[str], outputFolder: Path | str, *,
        onProgress: Callable[[BatchRun, BatchProgress], None] | None = None,
        onCase: Callable[[BatchRun, BatchCase], None] | None = None,
        onFinished: Callable[[BatchRun], None] | None = None,
        onError: Callable[[BatchRun, Failure], None] | None = None,
        onCancelled: Callable[[BatchRun], None] | None = None,
        wait: bool = False, **options: Any,
    ) -> BatchRun:
        """Segments many scans into a folder, in a process of its own; returns at once.

        The folder gets a segmentation per scan, cases.csv, lesions.csv and report.html. A scan
        that fails does not stop the others.

        Args:
            inputs: a file, folder (all scans in it and below, DICOM too), pattern, table (.csv,
                .json), volume node of the scene, or a list of these.
            prompts: as for `segmentAsync`; "" where a table has them.
            outputFolder: created where needed.
            onProgress: called with the run and a `BatchProgress`.
            onCase: called with the run and a `BatchCase` whenever that has changed.
            onFinished: called with the run, also where cases failed: see `run.cases`.
            onError: called with the run and a `Failure` where it cannot start or continue.
            onCancelled: called with the run; finished cases stay, and `resume` continues.
            wait: return when it has ended; Slicer's event loop runs meanwhile.
            options: resume, jobs, maps, dicomSeg, model, device, threshold, seed, samples,
                modality, sequence, skullStripped, host: see `BatchOptions`.

        Raises:
            TypeError: unknown option, or an input that is none of the above.
            Failure: with `wait`, where it cannot start or continue, or was cancelled.
        """
        texts = PromptReading.prompts(prompts) if isinstance(prompts, str) else list(prompts)
        callbacks = BatchCallbacks(onProgress, onCase, onFinished, onError, onCancelled)
        run = self._batchQueue.start(inputs, texts, outputFolder, self.python, callbacks,
                                  BatchOptions(**options))
        if wait:
            self._batchQueue.wait(run)
        return run

    def loadCase(self, case: BatchCase) -> tuple[Any, Any]:
        """Loads scan and result of a batch's case into the scene and shows them.

        Returns:
            The volume node and the segmentation node; None for a missing one.

        Raises:
            Failure: one of them cannot be read.
        """
        self._batchQueue.load(case)
        return case.volume, case.segments

    # Results -------------------------------------------------------------------------------------

    def setThreshold(self, run: Run, threshold: float) -> None:
        """Applies another threshold to a finished run; no network runs. `onUpdated` follows.

        May be called faster than it is carried out: the newest threshold counts. Segments that
        the user has edited stay unchanged: the new ones go into a new segmentation then.
        """
        controller = self._runQueue.finished(run)
        if controller is not None:
            self._runQueue.setThreshold(controller, min(1.0, max(0.0, float(threshold))))
        elif run.callbacks.onError is not None and not run.active:
            run.callbacks.onError(run, _notKept())

    def keepLesion(self, run: Run, lesion: Lesion, kept: bool) -> None:
        """Removes a lesion's segment from the segmentation, or restores it."""
        controller = self._runQueue.finished(run)
        result = next((each for each in run.results if lesion in each.lesions), None)
        node = run.segmentationNode
        if controller is None or result is None or node is None:
            return
        controller.loader.keep(
            controller.frameNode(result.frame) or node, result, lesion.number, kept)
        if run.callbacks.onUpdated is not None:
            run.callbacks.onUpdated(run)

    def jumpToLesion(self, run: Run, lesion: Lesion) -> None:
        """Moves all slice views to a lesion; of a sequence, also shows its frame."""
        result = next((each for each in run.results if lesion in each.lesions), None)
        controller = self._runQueue.finished(run)
        if controller is not None and controller.frames is not None and result is not None:
            controller.frames.show(result.frame or 0)
        SliceViews.jumpTo(lesion.position)

    def evidence(
        self, run: Run, kind: str, onReady: Callable[[Any], None], index: int = 0,
        onError: Callable[[Failure], None] | None = None,
    ) -> None:
        """Loads a volume node with evidence, from the disk when first requested.

        Args:
            kind: "attention", "residual", "uncertainty", "probability" or "pseudo_healthy".
            onReady: called with the vtkMRMLScalarVolumeNode.
            index: in `run.results`, of the prompt and, in a sequence, the frame.
            onError: called when it cannot be read.
        """
        reportError = onError or (lambda failure: self.log.add(failure.message))
        controller = self._runQueue.finished(run)
        result = run.results[index] if index < len(run.results) else None
        if controller is None or result is None or kind not in result.files:
            qt.QTimer.singleShot(0, lambda: reportError(_notKept()))
            return
        job = next(each for each in controller.jobs if each.frame == result.frame)
        self._runQueue.read(_readEvidence(controller, kind, result, job.grid),
                          lambda: onReady(result.evidence[kind]), reportError)

    # Setup ---------------------------------------------------------------------------------------

    @property
    def python(self) -> str:
        """The Python that the background process runs in; "" is Slicer's own."""
        return self._runQueue.python

    @python.setter
    def python(self, program: str) -> None:
        self._runQueue.python = program

    @property
    def worker(self) -> WorkerState:
        """State of the background process."""
        return self._runQueue.worker

    @property
    def onWorker(self) -> Callable[[WorkerState], None] | None:
        """Called when the state of the background process changes."""
        return self._runQueue.onWorker

    @onWorker.setter
    def onWorker(self, callback: Callable[[WorkerState], None] | None) -> None:
        self._runQueue.onWorker = callback

    def models(self) -> list[ModelEntry]:
        """All models, installed or not."""
        return ModelCatalogue.listModels()

    def modelAction(
        self, action: str, name: str, onDone: Callable[[str], None],
        onError: Callable[[Failure], None], onLine: Callable[[str], None],
    ) -> CommandTask:
        """Downloads, verifies or removes a model without blocking; see ModelCatalogue."""
        return ModelCatalogue.runAction(action, name, self.python, onDone, onError, onLine)

    def shutdown(self) -> None:
        """Ends the background processes and removes all temporary files."""
        self._batchQueue.shutdown()
        self._runQueue.shutdown()
        if self._closing is not None:
            self._scene.RemoveObserver(self._closing)
        self._closing = None


def _readEvidence(
    controller: RunController, kind: str, result: PromptResult, grid: VolumeGrid
) -> Piecewise:
    """Reads evidence that has not been read yet or whose node was removed."""
    node = result.evidence.get(kind)
    if node is None or not slicer.mrmlScene.IsNodePresent(node):
        yield from controller.loader.evidence(kind, result, grid)


def _notKept() -> Failure:
    return Failure("result-not-kept", _("The files of that run are no longer available."),
                   _("Run the prompt again."))
