"""New thresholds on finished runs: the worker cuts the score anew, no network runs."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure, failureOf, unexpected
from DiffuGTSPanel.data.Run import Run
from DiffuGTSPanel.process.Piecewise import Piecewise, Steps
from DiffuGTSPanel.process.WorkerProcess import Event, Worker
from DiffuGTSPanel.run.RunController import Job, Work
from DiffuGTSPanel.scene.ScanExport import JobFolder

_numbers = itertools.count(1)


class Thresholds:
    """Of each run only the newest threshold is sent, and only when the one before is done.

    Args:
        folder: for the worker's files.
        worker: that holds the results.
    """

    def __init__(self, folder: JobFolder, worker: Worker) -> None:
        self._folder, self._worker = folder, worker
        self._wanted: dict[str, tuple[Work, float]] = {}
        self._atWork: _Change | None = None

    def ask(self, work: Work, threshold: float) -> None:
        """Wants another threshold on a finished run."""
        self._wanted[work.run.id] = (work, threshold)
        self._next()

    def take(self, event: Event) -> None:
        """An event of the worker that belongs to no run at work."""
        if self._atWork is not None and event["id"] == self._atWork.id:
            self._atWork.take(event)

    def fail(self, failure: Failure) -> None:
        """The worker has ended: with it the scores have gone."""
        change, self._atWork = self._atWork, None
        runs = [work.run for work, _threshold in self._wanted.values()]
        self._wanted.clear()
        for run in dict.fromkeys(each.id for each in runs):
            _tellError(next(each for each in runs if each.id == run), failure)
        if change is not None:
            change.stop()
            _tellError(change.run, failure)

    def forget(self) -> None:
        """Drops what is wanted and what is at work, without a word."""
        if self._atWork is not None:
            self._atWork.stop()
        self._atWork = None
        self._wanted.clear()

    def _next(self) -> None:
        if self._atWork is not None or not self._wanted:
            return
        work, threshold = self._wanted.pop(next(iter(self._wanted)))
        if not self._worker.running:
            _tellError(work.run, _notKept())
            return
        self._atWork = _Change(work, threshold, self._folder, self._worker, self._done)
        self._atWork.begin()

    def _done(self) -> None:
        self._atWork = None
        self._next()


class _Change:
    """One threshold on its way through all jobs of a run."""

    def __init__(
        self, work: Work, threshold: float, folder: JobFolder, worker: Worker, onDone: Any
    ) -> None:
        self.id = ""
        self.run = work.run
        self._work, self._threshold = work, threshold
        self._folder, self._worker, self._onDone = folder, worker, onDone
        self._jobs = deque(work.jobs)
        self._events: deque[Event] = deque()
        self._steps: Steps | None = None

    def begin(self) -> None:
        """Asks for the first job's."""
        self._work.received.keepEdited()
        self._request()

    def stop(self) -> None:
        """Stops; nothing is told."""
        if self._steps is not None:
            self._steps.stop()
        self._events.clear()
        self._folder.removeJob(self.id)

    def take(self, event: Event) -> None:
        """An event of the worker for this change."""
        if event["type"] == "error":
            self._failed(failureOf(event))
        elif event["type"] == "cancelled":
            self._failed(_notKept())
        elif event["type"] == "result":
            self._events.append(event)
            if self._steps is None:
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
        self._steps = Steps(self._update(event), lambda: self._updated(event), self._failed)

    def _update(self, event: Event) -> Piecewise:
        job, received = self._job, self._work.received
        result = next(each for each in self.run.results
                      if each.index == event["index"] and each.frame == job.frame)
        node = self._work.frameNode(job.frame)
        yield from received.update(event, result, job.placement, node)
        if self._work.frames is not None:
            self._work.frames.refresh()

    def _updated(self, event: Event) -> None:
        self._steps = None
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
        _tellError(self.run, error if isinstance(error, Failure) else unexpected(error))
        self._onDone()


def _tellError(run: Run, failure: Failure) -> None:
    if run.callbacks.onError is not None:
        run.callbacks.onError(run, failure)


def _notKept() -> Failure:
    return Failure("result-not-kept", _("The background process no longer holds that result."),
                   _("Run the prompt again."))
