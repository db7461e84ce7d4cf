"""Other thresholds for finished runs, applied by the worker to its score maps."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure, failureFrom, unexpectedFailure
from DiffuGTSPanel.data.Run import LesionMask, PromptResult, Run
from DiffuGTSPanel.process.Piecewise import IdleTask, Piecewise
from DiffuGTSPanel.process.WorkerProcess import Event, Worker
from DiffuGTSPanel.run.RunController import Job, RunController
from DiffuGTSPanel.scene import LesionSegments
from DiffuGTSPanel.scene.ScanExport import JobFolder

_numbers = itertools.count(1)


class ThresholdQueue:
    """Changes one threshold at a time; of each run only the newest request counts.

    Args:
        folder: for the worker's files.
        worker: which keeps the score maps.
    """

    def __init__(self, folder: JobFolder, worker: Worker) -> None:
        self._folder, self._worker = folder, worker
        self._requested: dict[str, tuple[RunController, float]] = {}
        self._current: ThresholdChange | None = None

    def add(self, controller: RunController, threshold: float) -> None:
        """Requests another threshold on a finished run."""
        controller.run.requestedThreshold = threshold
        self._requested[controller.run.id] = (controller, threshold)
        self._next()

    def take(self, event: Event) -> None:
        """Handles an event of the worker that belongs to no running run."""
        if self._current is not None and event["id"] == self._current.id:
            self._current.take(event)

    def fail(self, failure: Failure | None = None) -> None:
        """The worker has ended or is replaced, and with it the score maps are gone.

        What it has sent completely is applied nevertheless.

        Args:
            failure: why; None where it was ended on purpose.
        """
        runs = {key: controller.run for key, (controller, _threshold) in self._requested.items()}
        self._requested.clear()
        change = self._current
        if change is not None and not change.applying:
            self._current = None
            change.stop()
            runs[change.run.id] = change.run
        for run in runs.values():
            _reportError(run, failure or _notKept())

    def clear(self) -> None:
        """Drops all requests and stops the current change; no callback follows."""
        if self._current is not None:
            self._current.stop()
        self._current = None
        self._requested.clear()

    def _next(self) -> None:
        while self._current is None and self._requested:
            controller, threshold = self._requested.pop(next(iter(self._requested)))
            if self._worker.running:
                self._current = ThresholdChange(controller, threshold, self._folder, self._worker,
                                                self._done)
                self._current.begin()
            else:
                _reportError(controller.run, _notKept())

    def _done(self, change: ThresholdChange, failure: Failure | None) -> None:
        self._current = None
        run = change.run
        isNewest = run.id not in self._requested
        if failure is not None and isNewest:
            _reportError(run, failure)
        elif failure is None:
            if isNewest:
                run.requestedThreshold = None
            if run.callbacks.onUpdated is not None:
                run.callbacks.onUpdated(run)
        self._next()


@dataclass(frozen=True)
class _Received:
    """What the worker has sent for one result."""

    event: Event
    job: Job
    result: PromptResult
    masks: dict[int, LesionMask]


class ThresholdChange:
    """Applies one threshold to all jobs of a run.

    The run and the scene change when all of it has been received and read: a change that fails
    before leaves both as they were.

    Args:
        controller: of the run.
        threshold: of the score, 0 to 1.
        folder: for the worker's files.
        worker: which keeps the score maps.
        onDone: called with the change, and a failure where there was one.

    Attributes:
        id: of the current request.
        run: whose threshold it is.
        applying: the worker is no longer needed.
    """

    def __init__(
        self, controller: RunController, threshold: float, folder: JobFolder, worker: Worker,
        onDone: Callable[[ThresholdChange, Failure | None], None],
    ) -> None:
        self.id = ""
        self.run = controller.run
        self.applying = False
        self._controller, self._threshold = controller, threshold
        self._folder, self._worker, self._onDone = folder, worker, onDone
        self._jobs = deque(controller.jobs)
        self._events: deque[Event] = deque()
        self._received: list[_Received] = []
        self._task: IdleTask | None = None

    def begin(self) -> None:
        """Sends the request for the first job."""
        self._request()

    def stop(self) -> None:
        """Stops; no callback follows."""
        if self._task is not None:
            self._task.stop()
        self._events.clear()
        self._folder.removeJob(self.id)

    def take(self, event: Event) -> None:
        """Handles an event of the worker for this change."""
        if event["type"] == "error":
            self._failed(failureFrom(event))
        elif event["type"] == "cancelled":
            self._failed(_notKept())
        elif event["type"] == "result":
            self._events.append(event)
            if self._task is None:
                self._read()

    def _request(self) -> None:
        self.id = f"threshold-{next(_numbers)}"
        self._worker.send({
            "type": "threshold", "id": self.id, "result": self._jobs[0].id,
            "threshold": self._threshold, "folder": str(self._folder.new(self.id)),
        })

    def _read(self) -> None:
        event = self._events.popleft()
        self._task = IdleTask(self._receive(event), lambda: self._haveRead(event), self._failed)

    def _receive(self, event: Event) -> Piecewise:
        job = self._jobs[0]
        result = next(each for each in self.run.results
                      if each.index == event["index"] and each.frame == job.frame)
        masks = yield from LesionSegments.readLesionMasks(event["mask"], job.grid)
        self._received.append(_Received(event, job, result, masks))

    def _haveRead(self, event: Event) -> None:
        self._task = None
        if self._events:
            self._read()
        elif event["index"] == event["count"] - 1:
            self._folder.removeJob(self.id)
            self._jobs.popleft()
            if self._jobs:
                self._request()
            else:
                self.applying = True
                self._task = IdleTask(
                    self._apply(), lambda: self._onDone(self, None), self._failed)

    def _apply(self) -> Piecewise:
        loader = self._controller.loader
        loader.keepEdited()
        for each in self._received:
            node = self._controller.frameNode(each.job.frame)
            yield from loader.update(each.event, each.result, each.masks, each.job.grid, node)
            if self._controller.frames is not None:
                self._controller.frames.refresh()

    def _failed(self, error: Exception) -> None:
        self.stop()
        self._onDone(self, error if isinstance(error, Failure) else unexpectedFailure(error))


def _reportError(run: Run, failure: Failure) -> None:
    """Reports that a run keeps its threshold."""
    run.requestedThreshold = None
    if run.callbacks.onError is not None:
        run.callbacks.onError(run, failure)


def _notKept() -> Failure:
    return Failure("result-not-kept", _("The background process no longer holds that result."),
                   _("Run the prompt again."))
