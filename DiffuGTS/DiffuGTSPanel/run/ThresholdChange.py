"""Other thresholds for finished runs, applied by the worker to its score maps."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure, failureFrom, unexpectedFailure
from DiffuGTSPanel.data.Run import Run
from DiffuGTSPanel.process.Piecewise import IdleTask, Piecewise
from DiffuGTSPanel.process.WorkerProcess import Event, Worker
from DiffuGTSPanel.run.RunController import Job, RunController
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
        self._requested[controller.run.id] = (controller, threshold)
        self._next()

    def take(self, event: Event) -> None:
        """Handles an event of the worker that belongs to no running run."""
        if self._current is not None and event["id"] == self._current.id:
            self._current.take(event)

    def fail(self, failure: Failure) -> None:
        """The worker has ended, and with it the score maps are gone."""
        change, self._current = self._current, None
        runs = [controller.run for controller, _threshold in self._requested.values()]
        self._requested.clear()
        for run in runs:  # one request per run
            _reportError(run, failure)
        if change is not None:
            change.stop()
            _reportError(change.run, failure)

    def clear(self) -> None:
        """Drops all requests and stops the current change; no callback follows."""
        if self._current is not None:
            self._current.stop()
        self._current = None
        self._requested.clear()

    def _next(self) -> None:
        if self._current is not None or not self._requested:
            return
        controller, threshold = self._requested.pop(next(iter(self._requested)))
        if not self._worker.running:
            _reportError(controller.run, _notKept())
            return
        self._current = ThresholdChange(controller, threshold, self._folder, self._worker,
                                        self._done)
        self._current.begin()

    def _done(self) -> None:
        self._current = None
        self._next()


class ThresholdChange:
    """Applies one threshold to all jobs of a run."""

    def __init__(
        self, controller: RunController, threshold: float, folder: JobFolder, worker: Worker,
        onDone: Callable[[], None],
    ) -> None:
        self.id = ""
        self.run = controller.run
        self._controller, self._threshold = controller, threshold
        self._folder, self._worker, self._onDone = folder, worker, onDone
        self._jobs = deque(controller.jobs)
        self._events: deque[Event] = deque()
        self._task: IdleTask | None = None

    def begin(self) -> None:
        """Sends the request for the first job."""
        self._controller.loader.keepEdited()
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

    @property
    def _job(self) -> Job:
        return self._jobs[0]

    def _request(self) -> None:
        self.id = f"threshold-{next(_numbers)}"
        self._worker.send({
            "type": "threshold", "id": self.id, "result": self._job.id,
            "threshold": self._threshold, "folder": str(self._folder.new(self.id)),
        })

    def _read(self) -> None:
        event = self._events.popleft()
        self._task = IdleTask(self._update(event), lambda: self._updated(event), self._failed)

    def _update(self, event: Event) -> Piecewise:
        job, loader = self._job, self._controller.loader
        result = next(each for each in self.run.results
                      if each.index == event["index"] and each.frame == job.frame)
        node = self._controller.frameNode(job.frame)
        yield from loader.update(event, result, job.grid, node)
        if self._controller.frames is not None:
            self._controller.frames.refresh()

    def _updated(self, event: Event) -> None:
        self._task = None
        if self._events:
            self._read()
        elif event["index"] == event["count"] - 1:
            self._folder.removeJob(self.id)
            self._jobs.popleft()
            if self._jobs:
                self._request()
                return
            if self.run.callbacks.onUpdated is not None:
                self.run.callbacks.onUpdated(self.run)
            self._onDone()

    def _failed(self, error: Exception) -> None:
        self.stop()
        _reportError(self.run, error if isinstance(error, Failure) else unexpectedFailure(error))
        self._onDone()


def _reportError(run: Run, failure: Failure) -> None:
    if run.callbacks.onError is not None:
        run.callbacks.onError(run, failure)


def _notKept() -> Failure:
    return Failure("result-not-kept", _("The background process no longer holds that result."),
                   _("Run the prompt again."))
