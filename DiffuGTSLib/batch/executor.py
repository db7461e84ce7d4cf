"""The interface of an executor, and what all executors share: cases are assigned to workers.

A worker process that dies loses no case. Its cases are retried in isolation, one at a time, so that
only a case whose worker dies again has failed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from DiffuGTSLib.batch.case import WORKER_THREADS, BatchFailure, BatchSettings, Case, Outcome
from DiffuGTSLib.errors import DiffuGTSError

# on_progress(case name, stage, done, total, fraction of the case in 0..1); stage "start" first.
OnCaseProgress = Callable[[str, str, int, int, float], None]


@dataclass(eq=False)
class Worker:
    """A process that holds the model, and the cases assigned to it.

    Attributes:
        ready: the model is loaded.
        isolated: it retries a case after a crash, and gets no other case meanwhile.
        cases: at most WORKER_THREADS, by name.
    """

    ready: bool = False
    isolated: bool = False
    cases: dict[str, Case] = field(default_factory=dict)


W = TypeVar("W", bound=Worker)


class WorkerPool(ABC, Generic[W]):
    """Assigns cases to workers and collects outcomes: the `run` of an Executor."""

    def __init__(self) -> None:
        self._workers: list[W] = []
        self._retries: deque[Case] = deque()
        self._exhausted = False

    def run(
        self, cases: Iterable[Case], on_progress: OnCaseProgress, cancelled: threading.Event
    ) -> Iterator[Outcome]:
        """One outcome a case, in the order in which they end."""
        waiting = iter(cases)
        self._exhausted = notified = False
        while True:
            if not cancelled.is_set():
                self._assign_cases(waiting, on_progress)
            elif not notified:
                notified = True
                for worker in self._workers:
                    self._cancel(worker)
            finished = cancelled.is_set() or (self._exhausted and not self._retries)
            if finished and not any(worker.cases for worker in self._workers):
                return
            yield from self._poll(on_progress)

    def _assign_cases(self, waiting: Iterator[Case], on_progress: OnCaseProgress) -> None:
        """Keeps WORKER_THREADS cases at each worker; a retried case runs in isolation."""
        # Evenly: every worker gets its first case before any gets its second.
        for count in range(1, WORKER_THREADS + 1):
            for worker in self._workers:
                if not worker.ready or worker.isolated or len(worker.cases) >= count:
                    continue
                case = None if worker.cases else self._next_retry(worker)
                worker.isolated = case is not None
                if case is None:
                    case = next(waiting, None)
                    self._exhausted = case is None
                if case is not None:
                    worker.cases[case.name] = case
                    self._submit(worker, case)
                    on_progress(case.name, "start", 0, 1, 0.0)

    def _next_retry(self, worker: W) -> Case | None:
        """Takes a case that this worker may retry off the list."""
        return self._retries.popleft() if self._retries else None

    def _complete(self, worker: W, outcome: Outcome) -> Outcome:
        """Notes that a worker has finished a case."""
        del worker.cases[outcome.case]
        worker.isolated = False
        return outcome

    @abstractmethod
    def _submit(self, worker: W, case: Case) -> None:
        """Sends a case to a worker."""

    @abstractmethod
    def _cancel(self, worker: W) -> None:
        """Cancels a worker's cases; they end at their next step."""

    @abstractmethod
    def _poll(self, on_progress: OnCaseProgress) -> Iterable[Outcome]:
        """The outcomes that arrive within a short wait."""


class Executor(Protocol):
    """Processes cases somewhere: in processes of this machine, or on a cluster."""

    def start(self, settings: BatchSettings, cases: int) -> dict[str, Any]:
        """Starts the workers; returns CaseProcessor.facts() of the first that has the model.

        Args:
            settings: of the run.
            cases: how many there are to process; no more workers than that are started.

        Raises:
            DiffuGTSError: the model cannot be loaded, or there is no worker.
        """

    def run(
        self, cases: Iterable[Case], on_progress: OnCaseProgress, cancelled: threading.Event
    ) -> Iterator[Outcome]:
        """One outcome a case, in the order in which they end.

        Cases are taken as they are needed. A case whose worker dies is retried; one whose worker
        dies again is a failed outcome.

        Args:
            cases: to be processed.
            on_progress: called from any thread; with the stage "start" when a case is assigned.
            cancelled: once set, no more cases are assigned, and running ones end at their next
                step with the status "cancelled".

        Raises:
            DiffuGTSError: the workers cannot go on.
        """

    def close(self) -> None:
        """Ends what `start` began; may be called twice, and after an error."""


class WorkerFailed(DiffuGTSError):
    """A worker reported why it cannot work; the error has the code of that report."""

    def __init__(self, failure: BatchFailure) -> None:
        super().__init__(failure.message, failure.hint)
        self.code = failure.code
