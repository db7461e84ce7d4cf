"""What the executors have in common: cases are handed out to places, and some of them twice.

A place that dies takes no case with it. What it had at hand are suspects: they run again, one at
a time and alone, so that only the case that its place dies of again has failed.

Where the cases of a batch are processed: the agreement between the batch and such a place.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from DiffuGTSLib.batch.case import HANDS, Case, Failure, Outcome, Settings
from DiffuGTSLib.errors import DiffuGTSError

# listen(case name, stage, done, total, fraction of the case in 0..1); stage "start" first.
Listen = Callable[[str, str, int, int, float], None]


@dataclass(eq=False)
class Place:
    """A process that holds the model, and the cases that it has at hand.

    Attributes:
        ready: the model is loaded.
        alone: its case is a suspect, and gets no company.
        cases: at most HANDS, by name.
    """

    ready: bool = False
    alone: bool = False
    cases: dict[str, Case] = field(default_factory=dict)


P = TypeVar("P", bound=Place)


class Places(ABC, Generic[P]):
    """Hands out cases and takes outcomes; see batch_executor.Executor, of which this is `run`."""

    def __init__(self) -> None:
        self._places: list[P] = []
        self._suspects: deque[Case] = deque()
        self._exhausted = False

    def run(
        self, cases: Iterable[Case], listen: Listen, cancelled: threading.Event
    ) -> Iterator[Outcome]:
        """One outcome a case, in the order in which they end."""
        waiting = iter(cases)
        self._exhausted = told = False
        while True:
            if not cancelled.is_set():
                self._hand_out(waiting, listen)
            elif not told:
                told = True
                for place in self._places:
                    self._cancel(place)
            finished = cancelled.is_set() or (self._exhausted and not self._suspects)
            if finished and not any(place.cases for place in self._places):
                return
            yield from self._news(listen)

    def _hand_out(self, waiting: Iterator[Case], listen: Listen) -> None:
        """Gives each place as many cases as it has hands; a suspect is given alone."""
        # Evenly: every place gets its first case before any gets its second.
        for hands in range(1, HANDS + 1):
            for place in self._places:
                if not place.ready or place.alone or len(place.cases) >= hands:
                    continue
                case = None if place.cases else self._suspect(place)
                place.alone = case is not None
                if case is None:
                    case = next(waiting, None)
                    self._exhausted = case is None
                if case is not None:
                    place.cases[case.name] = case
                    self._give(place, case)
                    listen(case.name, "start", 0, 1, 0.0)

    def _suspect(self, place: P) -> Case | None:
        """A suspect that may run at this place; it is one no longer."""
        return self._suspects.popleft() if self._suspects else None

    def _take(self, place: P, outcome: Outcome) -> Outcome:
        """A place has ended a case."""
        del place.cases[outcome.case]
        place.alone = False
        return outcome

    @abstractmethod
    def _give(self, place: P, case: Case) -> None:
        """Lets a place begin a case."""

    @abstractmethod
    def _cancel(self, place: P) -> None:
        """Tells a place that its cases are to end at their next step."""

    @abstractmethod
    def _news(self, listen: Listen) -> Iterable[Outcome]:
        """The outcomes that the places have told within a short wait."""


class Executor(Protocol):
    """Processes cases somewhere: in processes of this machine, or on a cluster."""

    def start(self, settings: Settings) -> dict[str, Any]:
        """Makes a place ready, the model loaded, and returns its CaseProcessor.facts().

        Raises:
            DiffuGTSError: the model cannot be loaded, or there is no place.
        """

    def run(
        self, cases: Iterable[Case], listen: Listen, cancelled: threading.Event
    ) -> Iterator[Outcome]:
        """One outcome a case, in the order in which they end.

        Cases are taken as they are needed. A case whose place dies is run again; one whose place
        dies of it is a failed outcome.

        Args:
            cases: to be processed.
            listen: told from any thread; with the stage "start" when a case is handed out.
            cancelled: once set, no more cases are handed out, and those at work end at their
                next step with the status "cancelled".

        Raises:
            DiffuGTSError: the places cannot go on.
        """

    def close(self) -> None:
        """Ends what `start` began; may be called twice, and after an error."""


class ChildFailed(DiffuGTSError):
    """A child process told why it cannot work; it has the code of that."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, failure.hint)
        self.code = failure.code
