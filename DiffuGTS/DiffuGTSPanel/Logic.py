"""DiffuGTS from Python inside Slicer: run prompts on volumes, get segments and evidence."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from DiffuGTSPanel.batch.BatchQueue import Batches
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
    Progress,
    PromptResult,
    Run,
)
from DiffuGTSPanel.data.Run import Understanding as Reading
from DiffuGTSPanel.library import ModelCatalogue, PromptReading
from DiffuGTSPanel.library.PythonPackages import Packages
from DiffuGTSPanel.process.ChildProcess import Log, Task
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.process.WorkerProcess import WorkerState
from DiffuGTSPanel.run.RunController import Work
from DiffuGTSPanel.run.RunQueue import Engine
from DiffuGTSPanel.scene import SliceViews
from DiffuGTSPanel.scene.VolumeGrid import Placement


class DiffuGTSLogic(ScriptedLoadableModuleLogic):
    """Segments what texts name; the work is done by one background process.

    Attributes:
        log: what the background process prints.
        packages: what is installed.
        lastRun: the newest run.

    Example:
        >>> logic = slicer.util.getModuleLogic("DiffuGTS")
        >>> segmentationNode = logic.segment(volumeNode, "liver tumor")
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.log = Log()
        self.packages = Packages()
        self.lastRun: Run | None = None
        self._engine = Engine(self.log, self.packages)
        self._batches = Batches(self.log, self.packages)
        self._scene = slicer.mrmlScene
        self._closing = self._scene.AddObserver(
            slicer.vtkMRMLScene.StartCloseEvent, lambda *_arguments: self._engine.sceneCloses())

    # Prompts -------------------------------------------------------------------------------------

    def understand(self, text: str, model: str = "embedded") -> list[Reading]:
        """How each prompt in a text is understood, before anything runs."""
        return PromptReading.understand(text, model)

    def suggestions(self, prefix: str, limit: int = 8) -> list[str]:
        """Prompts that complete what was typed so far."""
        return PromptReading.suggestions(prefix, limit)

    def examples(self) -> list[str]:
        """Prompts to begin with."""
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
        roi: Any = None, segmentation: Any = None, **options: Any,
    ) -> Run:
        """Begins a run and returns at once; runs queue up.

        Args:
            volumeNode: the scan, a vtkMRMLScalarVolumeNode.
            prompts: a text, with several prompts one a line or divided by ";", or a list.
            onProgress: called with the run and a `Progress`.
            onPreview: called with the run and a `Preview`, well before the end.
            onFinished: called with the run, its segments in the scene.
            onError: called with the run and a `Failure`; nothing of the run is in the scene then.
            onCancelled: called with the run, likewise.
            onUpdated: called with the run when its segments have changed since.
            roi: a vtkMRMLMarkupsROINode, to look only there.
            segmentation: a vtkMRMLSegmentationNode to add to; None makes a new one. Segments that
                are in it stay as they are, also where the new ones overlap them.
            options: seed, threshold, modality, model, device, samples, frames, sequence,
                skullStripped: see `Options`.

        Raises:
            TypeError: an option that there is not.
        """
        texts = PromptReading.prompts(prompts) if isinstance(prompts, str) else list(prompts)
        callbacks = Callbacks(onProgress, onPreview, onFinished, onError, onCancelled, onUpdated)
        # An empty text goes on as it is, and is refused in words.
        run = Run(uuid.uuid4().hex[:12], tuple(texts) or ("",), Options(**options), callbacks)
        run.volume, run.roi, run.target = volumeNode, roi, segmentation
        self.lastRun = run
        self._engine.add(run)
        return run

    def segment(
        self, volumeNode: Any, prompts: str | Sequence[str], *,
        progress: Callable[[float, str], None] | None = None, **options: Any,
    ) -> Any:
        """Runs prompts on a volume and waits; Slicer's windows stay alive meanwhile.

        Args:
            volumeNode, prompts, options: as for `segmentAsync`.
            progress: called with the fraction done and the stage in words.

        Returns:
            The vtkMRMLSegmentationNode, one segment a lesion; empty when nothing was found. The
            details are in `lastRun.results`.

        Raises:
            Failure: with a sentence and a hint; code "cancelled" when the run was cancelled.
        """
        loop = qt.QEventLoop()
        failures: list[Failure] = []

        def failed(_run: Run, failure: Failure) -> None:
            failures.append(failure)
            loop.quit()

        def tell(_run: Run, step: Progress) -> None:
            if progress is not None:
                progress(step.fraction, step.text)

        run = self.segmentAsync(
            volumeNode, prompts, onProgress=tell, onFinished=lambda _run: loop.quit(),
            onError=failed, onCancelled=lambda _run: loop.quit(), **options)
        while run.active:
            loop.exec_()
        if failures:
            raise failures[0]
        if run.state != "finished":
            raise Failure("cancelled", _("The run was cancelled."))
        return run.segmentationNode

    def cancel(self, run: Run | BatchRun) -> None:
        """Stops a run or batch; its `onCancelled` follows. Nothing happens when it has ended.

        Of a batch, what is finished stays in its folder.
        """
        if isinstance(run, BatchRun):
            self._batches.cancel(run)
        elif run.active:
            self._engine.cancel(run)

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

        The folder then holds a segmentation a scan, cases.csv, lesions.csv and report.html. A
        scan that fails does not stop the others.

        Args:
            inputs: a file, folder (all scans in it and below, DICOM too), pattern, table (.csv,
                .json), volume node of the scene, or a list of such.
            prompts: as for `segmentAsync`; "" where a table says them.
            outputFolder: made if need be.
            onProgress: called with the run and a `BatchProgress`.
            onCase: called with the run and a `BatchCase` whenever that has changed.
            onFinished: called with the run, also where some cases failed: see `run.cases`.
            onError: called with the run and a `Failure` where it cannot start or go on.
            onCancelled: called with the run; what is finished stays, and `resume` goes on.
            wait: return when it has ended; Slicer's windows stay alive meanwhile.
            options: resume, jobs, maps, dicomSeg, model, device, threshold, seed, samples,
                modality, sequence, skullStripped: see `BatchOptions`.

        Raises:
            TypeError: an option that there is not, or an input that is none of the above.
            Failure: with `wait`, where it cannot start or go on, or was cancelled.
        """
        texts = PromptReading.prompts(prompts) if isinstance(prompts, str) else list(prompts)
        callbacks = BatchCallbacks(onProgress, onCase, onFinished, onError, onCancelled)
        run = self._batches.start(inputs, texts, outputFolder, self.python, callbacks,
                                  BatchOptions(**options))
        if wait:
            self._batches.wait(run)
        return run

    def loadCase(self, case: BatchCase) -> tuple[Any, Any]:
        """Brings scan and result of a batch's case into the scene and the views.

        Returns:
            The volume node and the segmentation node; None for one that there is not.

        Raises:
            Failure: one of them cannot be read.
        """
        self._batches.load(case)
        return case.volume, case.segments

    # Results -------------------------------------------------------------------------------------

    def setThreshold(self, run: Run, threshold: float) -> None:
        """Cuts the score of a finished run anew; no network runs. `onUpdated` follows.

        May be called faster than it can be done: the newest threshold counts. Segments that
        somebody has edited are left alone: the new ones go into a new segmentation then.
        """
        work = self._engine.finished(run)
        if work is not None:
            self._engine.setThreshold(work, min(1.0, max(0.0, float(threshold))))
        elif run.callbacks.onError is not None and not run.active:
            run.callbacks.onError(run, _gone())

    def keepLesion(self, run: Run, lesion: Lesion, kept: bool) -> None:
        """Takes a lesion's segment out of the segmentation, or puts it back."""
        work = self._engine.finished(run)
        result = next((each for each in run.results if lesion in each.lesions), None)
        node = run.segmentationNode
        if work is None or result is None or node is None:
            return
        work.received.keep(work.frameNode(result.frame) or node, result, lesion.number, kept)
        if run.callbacks.onUpdated is not None:
            run.callbacks.onUpdated(run)

    def jumpToLesion(self, run: Run, lesion: Lesion) -> None:
        """Moves all slice views to a lesion; of a sequence, shows its frame too."""
        result = next((each for each in run.results if lesion in each.lesions), None)
        work = self._engine.finished(run)
        if work is not None and work.frames is not None and result is not None:
            work.frames.show(result.frame or 0)
        SliceViews.jumpTo(lesion.position)

    def evidence(
        self, run: Run, kind: str, onReady: Callable[[Any], None], index: int = 0,
        onError: Callable[[Failure], None] | None = None,
    ) -> None:
        """Gives a volume node with evidence; read from the disk when first asked for.

        Args:
            kind: "attention", "residual", "uncertainty", "probability" or "pseudo_healthy".
            onReady: called with the vtkMRMLScalarVolumeNode.
            index: in `run.results`: which prompt, and of a sequence which frame.
            onError: called when it cannot be read.
        """
        tell = onError or (lambda failure: self.log.add(failure.message))
        work = self._engine.finished(run)
        result = run.results[index] if index < len(run.results) else None
        if work is None or result is None or kind not in result.files:
            qt.QTimer.singleShot(0, lambda: tell(_gone()))
            return
        job = next(each for each in work.jobs if each.frame == result.frame)
        self._engine.read(_evidenceOf(work, kind, result, job.placement),
                          lambda: onReady(result.evidence[kind]), tell)

    # Set-up --------------------------------------------------------------------------------------

    @property
    def python(self) -> str:
        """The Python that the background process runs in; "" is Slicer's own."""
        return self._engine.python

    @python.setter
    def python(self, program: str) -> None:
        self._engine.python = program

    @property
    def worker(self) -> WorkerState:
        """What is known of the background process."""
        return self._engine.worker

    @property
    def onWorker(self) -> Callable[[WorkerState], None] | None:
        """Called when the background process's state changes."""
        return self._engine.onWorker

    @onWorker.setter
    def onWorker(self, callback: Callable[[WorkerState], None] | None) -> None:
        self._engine.onWorker = callback

    def models(self) -> list[ModelEntry]:
        """The models that there are, installed or not."""
        return ModelCatalogue.listModels()

    def modelAction(
        self, action: str, name: str, onDone: Callable[[str], None],
        onError: Callable[[Failure], None], onLine: Callable[[str], None],
    ) -> Task:
        """Downloads, verifies or removes a model without blocking; see `Models.act`."""
        return ModelCatalogue.act(action, name, self.python, onDone, onError, onLine)

    def shutdown(self) -> None:
        """Ends the background processes and removes all temporary files."""
        self._batches.shutdown()
        self._engine.shutdown()
        if self._closing is not None:
            self._scene.RemoveObserver(self._closing)
        self._closing = None


def _evidenceOf(work: Work, kind: str, result: PromptResult, placement: Placement) -> Piecewise:
    """Reads evidence that has not been read, or whose node somebody has removed."""
    node = result.evidence.get(kind)
    if node is None or not slicer.mrmlScene.IsNodePresent(node):
        yield from work.received.evidence(kind, result, placement)


def _gone() -> Failure:
    return Failure("result-not-kept", _("The files of that run are no longer there."),
                   _("Run the prompt again."))
