"""Where the cases of a batch are processed: the agreement between the batch and such a place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from DiffuGTSLib.batch_case import Case, Outcome, Settings

# listen(case name, stage, done, total, fraction of the case in 0..1); stage "start" first.
Listen = Callable[[str, str, int, int, float], None]


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
