"""Controls one run: export of the scan, request to the worker, its events, the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Event, Failure, failureFrom, unexpectedFailure
from DiffuGTSPanel.data.Run import Progress, Run, stageText
from DiffuGTSPanel.process.Piecewise import IdleTask, Piecewise
from DiffuGTSPanel.run.ResultLoader import ResultLoader
from DiffuGTSPanel.scene import LesionSegments, ScanExport, SearchRegion
from DiffuGTSPanel.scene.SequenceFrames import SequenceFrames, sequenceOf
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid

# Fractions of the progress bar for exporting the scan and for loading the results.
_EXPORT_FRACTION, _LOAD_FRACTION = 0.03, 0.03


@dataclass(frozen=True)
class Job:
    """One request to the worker: a run, or one frame of it."""

    id: str
    frame: int | None
    grid: VolumeGrid


class WorkerClient(Protocol):
    """Sends the requests of a run to the worker."""

    def request(self, run: Run, request: Event) -> None:
        """Sends a request to a worker with the run's model and device; raises Failure."""

    def cancelJob(self, jobId: str) -> None:
        """Asks the worker to cancel a job."""

    def ended(self, controller: RunController) -> None:
        """The run has ended; its callback follows."""


class RunController:
    """Controls one run from its start to its end.

    Args:
        run: to control.
        folder: for files.
        client: sends requests to the worker.

    Attributes:
        loader: loads the results into the scene.
        jobs: requests so far, the current one last.
        frames: of a sequence; None for a single volume.
        cancelling: a cancel was requested.
    """

    def __init__(self, run: Run, folder: ScanExport.JobFolder, client: WorkerClient) -> None:
        self.run = run
        self.loader = ResultLoader(run)
        self.jobs: list[Job] = []
        self.frames: SequenceFrames | None = None
        self.cancelling = False
        self._folder, self._client = folder, client
        self._pendingFrames: deque[int | None] = deque()
        self._queuedWork: deque[tuple[Piecewise, Callable[[], None]]] = deque()
        self._task: IdleTask | None = None
        self._jobActive = False
        self._regionName = ""  # of the current job's region, where there is one

    def begin(self) -> None:
        """Starts the run; called from the event loop."""
        self.run.state = "running"
        self._pendingFrames = deque([None])
        self._guard(self._prepare)

    def _prepare(self) -> None:
        if self.run.target is not None:
            LesionSegments.checkTarget(self.run.target)
        found = sequenceOf(self.run.volumeNode)
        if self.run.options.frames == "all" and found is not None:
            self.frames = SequenceFrames(found[0], self.run.volume)
            self._pendingFrames = deque(range(len(self.frames)))
        self._nextFrame()

    def _guard(self, step: Callable[[], None]) -> None:
        """Runs a step; an error in it ends the run with a failure."""
        try:
            step()
        except Failure as failure:
            self.fail(failure)
        except Exception as error:
            if not self.run.active:
                raise  # an error in a callback
            self.fail(unexpectedFailure(error))

    def take(self, event: Event) -> None:
        """Handles an event of the worker for the current job."""
        kind = event["type"]
        if kind == "cancelled":
            self._jobActive = False
            self._end("cancelled")
        elif kind == "error":
            self._jobActive = False
            self.fail(failureFrom(event))
        elif self.cancelling:
            return
        elif kind == "progress":
            self._reportWorkerProgress(event)
        elif kind == "preview" and self.frames is None:
            self._enqueue(self.loader.preview(event, self._job.grid))
        elif kind == "result":
            last = event["index"] == event["count"] - 1
            self._jobActive = not last
            loading = self.loader.result(event, self._job.grid, self._job.frame)
            self._enqueue(loading, (lambda: self._guard(self._frameDone)) if last else None)
            if last:
                self._reportProgress("receive", 1 - _LOAD_FRACTION)

    def cancel(self) -> bool:
        """Cancels the run; True when the worker has to confirm first."""
        self.cancelling = True
        self._stopTasks()
        if self._jobActive:
            return True
        self._end("cancelled")
        return False

    def fail(self, failure: Failure) -> None:
        """Ends the run with a failure."""
        if self.cancelling:
            self._end("cancelled")
        elif self.run.active:
            self._stopTasks()
            self._end("failed", failure)

    def frameNode(self, frame: int | None) -> Any:
        """The segmentation of a frame; None for a single volume."""
        if self.frames is None or frame is None:
            return None
        return self.frames.segments(frame, self.run.segmentationNode)

    @property
    def jobId(self) -> str:
        """Id of the job that the worker is processing; "" without one."""
        return self._job.id if self._jobActive else ""

    @property
    def _job(self) -> Job:
        return self.jobs[-1]

    def _nextFrame(self) -> None:
        """Exports the volume or its next frame."""
        frame = self._pendingFrames.popleft()
        options = self.run.options
        frameNode = self.frames.volume(frame) if self.frames and frame is not None else None
        roi = self.run.roi
        source = ScanExport.readSource(self.run.volumeNode, roi, options.modality, frameNode)
        self.run.note = source.grid.note
        identity = self.run.id if frame is None else f"{self.run.id}-{frame + 1}"
        self.jobs.append(Job(identity, frame, source.grid))
        self._reportProgress("prepare", 0.0)
        self._enqueue(self._export(source), lambda: self._request(source))

    def _export(self, source: ScanExport.ScanSource) -> Piecewise:
        """Writes what the current job is limited to, and the scan unless its file exists."""
        run = self.run
        if run.within is not None:
            region = yield from SearchRegion.readRegion(
                run.volumeNode, run.within, run.withinSegment, source.grid)
            yield from self._folder.writeRegion(self._job.id, region.array, source.grid)
            self._regionName = region.name
        if self._folder.scan(source.key) is None:
            yield from self._folder.writeScan(source)

    def _request(self, source: ScanExport.ScanSource) -> None:
        options = self.run.options
        self._reportProgress("start", _EXPORT_FRACTION)
        path, within = self._folder.scan(source.key), self.run.within
        self._jobActive = True
        try:
            self._client.request(self.run, {
                "type": "segment", "id": self._job.id, "image": str(path),
                "prompt": list(self.run.prompts), "folder": str(self._folder.new(self._job.id)),
                "seed": options.seed, "threshold": options.threshold,
                "modality": source.statedModality, "samples": options.samples,
                "skull_stripped": options.skullStripped, "sequence": options.sequence,
                "within": None if within is None else str(self._folder.region(self._job.id)),
                "within_name": None if within is None else self._regionName,
            })
        except Failure as failure:
            self._jobActive = False
            self.fail(failure)

    def _frameDone(self) -> None:
        """All results of a job have been loaded."""
        node = self.run.segmentationNode
        if self.frames is not None and self._job.frame is not None:
            self.frames.store(self._job.frame, node)
            if self._pendingFrames:
                node.GetSegmentation().RemoveAllSegments()
        if self._pendingFrames:
            self._nextFrame()
            return
        if self.frames is not None:
            self.frames.attach(node)
        self._end("finished")

    def _end(self, state: str, failure: Failure | None = None) -> None:
        if not self.run.active:
            return
        self.run.state = state
        self._stopTasks()
        if state == "finished":
            self.loader.removePreviews()
        else:
            self.loader.remove()
            if self.frames is not None:
                self.frames.remove()
            for job in self.jobs:
                self._folder.removeJob(job.id)
        self._client.ended(self)
        callbacks = self.run.callbacks
        if state == "finished" and callbacks.onFinished is not None:
            callbacks.onFinished(self.run)
        elif state == "cancelled" and callbacks.onCancelled is not None:
            callbacks.onCancelled(self.run)
        elif failure is not None and callbacks.onError is not None:
            callbacks.onError(self.run, failure)

    def _enqueue(self, work: Piecewise, then: Callable[[], None] | None = None) -> None:
        """Runs long work after what is queued already."""
        self._queuedWork.append((work, then or (lambda: None)))
        if self._task is None:
            self._nextTask()

    def _nextTask(self) -> None:
        self._task = None
        if not self._queuedWork:
            return
        work, then = self._queuedWork.popleft()

        def done() -> None:
            self._nextTask()
            then()

        self._task = IdleTask(work, done, self._taskFailed)

    def _taskFailed(self, error: Exception) -> None:
        self._task = None
        failure = error if isinstance(error, Failure) else unexpectedFailure(error)
        if self._jobActive:
            # The worker's result is no longer needed.
            self._client.cancelJob(self._job.id)
        self.fail(failure)

    def _stopTasks(self) -> None:
        self._queuedWork.clear()
        if self._task is not None:
            self._task.stop()
        self._task = None

    def _reportWorkerProgress(self, event: Event) -> None:
        fraction = _EXPORT_FRACTION + (1 - _EXPORT_FRACTION - _LOAD_FRACTION) * event["fraction"]
        self._reportProgress(event["stage"], fraction, event)

    def _reportProgress(self, stage: str, fraction: float, event: Event | None = None) -> None:
        if self.run.callbacks.onProgress is None:
            return
        count = len(self.jobs) + len(self._pendingFrames)
        overall = (len(self.jobs) - 1 + fraction) / count
        event = event or {"index": 0, "done": 0, "total": 1, "seconds_left": None}
        secondsLeft = event["seconds_left"] if count == 1 else None
        index = event["index"]
        text = stageText(stage)
        if stage in ("sending", "receiving") and event["total"]:
            text += " " + _("({percent} %)").format(percent=100 * event["done"] // event["total"])
        if count > 1:
            text = _("Frame {number} of {count}: {text}").format(
                number=len(self.jobs), count=count, text=text)
        self.run.callbacks.onProgress(self.run, Progress(
            stage, index, self.run.prompts[index], event["done"], event["total"], overall,
            secondsLeft, text))
