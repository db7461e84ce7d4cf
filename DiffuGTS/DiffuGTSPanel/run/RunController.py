"""A run at work: the scan to a file, the request, the worker's events, the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Event, Failure, failureOf, unexpected
from DiffuGTSPanel.data.Run import Progress, Run, stageText
from DiffuGTSPanel.process.Piecewise import Piecewise, Steps
from DiffuGTSPanel.run.ResultLoader import Received
from DiffuGTSPanel.scene import LesionSegments, ScanExport
from DiffuGTSPanel.scene.SequenceFrames import Frames, sequenceOf
from DiffuGTSPanel.scene.VolumeGrid import Placement

# Shares of the progress bar: writing the scan before the worker's part, reading after it.
_BEFORE, _AFTER = 0.03, 0.03


@dataclass(frozen=True)
class Job:
    """One request to the worker: a run, or one frame of it."""

    id: str
    frame: int | None
    placement: Placement


class Office(Protocol):
    """What a run at work needs of whoever holds the worker."""

    def request(self, run: Run, request: Event) -> None:
        """Sends a request to a worker with the run's options; raises Failure."""

    def withdraw(self, jobId: str) -> None:
        """Asks the worker to stop a job."""

    def ended(self, work: Work) -> None:
        """The run has ended; its caller is told after this."""


class Work:
    """Brings one run from its start to its end.

    Args:
        run: which one.
        folder: for files.
        office: what passes requests on to the worker.
    """

    def __init__(self, run: Run, folder: ScanExport.JobFolder, office: Office) -> None:
        self.run = run
        self.received = Received(run)
        self.jobs: list[Job] = []
        self.frames: Frames | None = None
        self.cancelling = False
        self._folder, self._office = folder, office
        self._left: deque[int | None] = deque()
        self._pieces: deque[tuple[Piecewise, Callable[[], None]]] = deque()
        self._steps: Steps | None = None
        self._atWorker = False

    def begin(self) -> None:
        """Starts; called from the event loop."""
        self.run.state = "running"
        self._left = deque([None])
        self._try(self._beginFirst)

    def _beginFirst(self) -> None:
        if self.run.target is not None:
            LesionSegments.checkTarget(self.run.target)
        found = sequenceOf(self.run.volumeNode)
        if self.run.options.frames == "all" and found is not None:
            self.frames = Frames(found[0], self.run.volume)
            self._left = deque(range(len(self.frames)))
        self._nextFrame()

    def _try(self, step: Callable[[], None]) -> None:
        """Does a step; whatever goes wrong in it ends the run with words."""
        try:
            step()
        except Failure as failure:
            self.fail(failure)
        except Exception as error:
            if not self.run.active:
                raise  # a mistake of whoever was told
            self.fail(unexpected(error))

    def take(self, event: Event) -> None:
        """An event of the worker for the job at work."""
        kind = event["type"]
        if kind == "cancelled":
            self._atWorker = False
            self._end("cancelled")
        elif kind == "error":
            self._atWorker = False
            self.fail(failureOf(event))
        elif self.cancelling:
            return
        elif kind == "progress":
            self._tellProgress(event)
        elif kind == "preview" and self.frames is None:
            self._piece(self.received.preview(event, self._job.placement))
        elif kind == "result":
            last = event["index"] == event["count"] - 1
            self._atWorker = not last
            work = self.received.result(event, self._job.placement, self._job.frame)
            self._piece(work, (lambda: self._try(self._frameDone)) if last else None)
            if last:
                self._tell("receive", 1 - _AFTER)

    def cancel(self) -> bool:
        """Stops the run; True when the worker has to answer first."""
        self.cancelling = True
        self._stopPieces()
        if self._atWorker:
            return True
        self._end("cancelled")
        return False

    def fail(self, failure: Failure) -> None:
        """Ends the run with a failure."""
        if self.cancelling:
            self._end("cancelled")
        elif self.run.active:
            self._stopPieces()
            self._end("failed", failure)

    def frameNode(self, frame: int | None) -> Any:
        """The segmentation of a frame; None where the run is on a single volume."""
        if self.frames is None or frame is None:
            return None
        return self.frames.segments(frame, self.run.segmentationNode)

    @property
    def jobId(self) -> str:
        """Of the job at the worker; "" where there is none."""
        return self._job.id if self._atWorker else ""

    @property
    def _job(self) -> Job:
        return self.jobs[-1]

    def _nextFrame(self) -> None:
        """Writes the volume, or its next frame, unless it was written before."""
        frame = self._left.popleft()
        options = self.run.options
        frameNode = self.frames.volume(frame) if self.frames and frame is not None else None
        roi = self.run.roi
        source = ScanExport.readSource(self.run.volumeNode, roi, options.modality, frameNode)
        self.run.note = source.placement.note
        identity = self.run.id if frame is None else f"{self.run.id}-{frame + 1}"
        self.jobs.append(Job(identity, frame, source.placement))
        self._tell("prepare", 0.0)
        if self._folder.scan(source.key) is None:
            self._piece(self._folder.writeScan(source), lambda: self._request(source))
        else:
            self._request(source)

    def _request(self, source: ScanExport.Source) -> None:
        options = self.run.options
        self._tell("start", _BEFORE)
        path = self._folder.scan(source.key)
        self._atWorker = True
        try:
            self._office.request(self.run, {
                "type": "segment", "id": self._job.id, "image": str(path),
                "prompt": list(self.run.prompts), "folder": str(self._folder.new(self._job.id)),
                "seed": options.seed, "threshold": options.threshold, "modality": source.told,
                "samples": options.samples, "skull_stripped": options.skullStripped,
                "sequence": options.sequence,
            })
        except Failure as failure:
            self._atWorker = False
            self.fail(failure)

    def _frameDone(self) -> None:
        """All results of a job are in the scene."""
        node = self.run.segmentationNode
        if self.frames is not None and self._job.frame is not None:
            self.frames.store(self._job.frame, node)
            if self._left:
                node.GetSegmentation().RemoveAllSegments()
        if self._left:
            self._nextFrame()
            return
        if self.frames is not None:
            self.frames.attach(node)
        self._end("finished")

    def _end(self, state: str, failure: Failure | None = None) -> None:
        if not self.run.active:
            return
        self.run.state = state
        self._stopPieces()
        if state == "finished":
            self.received.removePreviews()
        else:
            self.received.remove()
            if self.frames is not None:
                self.frames.remove()
            for job in self.jobs:
                self._folder.removeJob(job.id)
        self._office.ended(self)
        callbacks = self.run.callbacks
        if state == "finished" and callbacks.onFinished is not None:
            callbacks.onFinished(self.run)
        elif state == "cancelled" and callbacks.onCancelled is not None:
            callbacks.onCancelled(self.run)
        elif failure is not None and callbacks.onError is not None:
            callbacks.onError(self.run, failure)

    def _piece(self, work: Piecewise, then: Callable[[], None] | None = None) -> None:
        """Does long work after what is under way already."""
        self._pieces.append((work, then or (lambda: None)))
        if self._steps is None:
            self._nextPiece()

    def _nextPiece(self) -> None:
        self._steps = None
        if not self._pieces:
            return
        work, then = self._pieces.popleft()

        def done() -> None:
            self._nextPiece()
            then()

        self._steps = Steps(work, done, self._pieceFailed)

    def _pieceFailed(self, error: Exception) -> None:
        self._steps = None
        failure = error if isinstance(error, Failure) else unexpected(error)
        if self._atWorker:
            # It is at work for nothing now.
            self._office.withdraw(self._job.id)
        self.fail(failure)

    def _stopPieces(self) -> None:
        self._pieces.clear()
        if self._steps is not None:
            self._steps.stop()
        self._steps = None

    def _tellProgress(self, event: Event) -> None:
        fraction = _BEFORE + (1 - _BEFORE - _AFTER) * event["fraction"]
        self._tell(event["stage"], fraction, event)

    def _tell(self, stage: str, fraction: float, event: Event | None = None) -> None:
        if self.run.callbacks.onProgress is None:
            return
        count = len(self.jobs) + len(self._left)
        whole = (len(self.jobs) - 1 + fraction) / count
        event = event or {"index": 0, "done": 0, "total": 1, "seconds_left": None}
        left = event["seconds_left"] if count == 1 else None
        index = event["index"]
        text = stageText(stage)
        if count > 1:
            text = _("Frame {number} of {count}: {text}").format(
                number=len(self.jobs), count=count, text=text)
        self.run.callbacks.onProgress(self.run, Progress(
            stage, index, self.run.prompts[index], event["done"], event["total"], whole, left,
            text))
