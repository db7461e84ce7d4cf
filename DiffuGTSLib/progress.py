"""Progress and cancellation, passed down through the pipeline as one object."""

from __future__ import annotations

import threading
from collections.abc import Callable

from DiffuGTSLib.errors import Cancelled

Callback = Callable[[str, int, int], None]


class Progress:
    """Tells a caller how far a run is, and stops it when asked to.

    Args:
        callback: called as callback(stage, done, total) between steps; what it raises stops the
            run, `Cancelled` among others.
    """

    def __init__(self, callback: Callback | None = None) -> None:
        self._callback = callback
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Asks the run to stop at its next step; may be called from any thread."""
        self._cancelled.set()

    def step(self, stage: str, done: int, total: int) -> None:
        """Reports that `done` of `total` steps of `stage` are finished.

        Raises:
            Cancelled: `cancel` was called, or the callback raised it.
        """
        if self._cancelled.is_set():
            raise Cancelled
        if self._callback is not None:
            self._callback(stage, done, total)
        if self._cancelled.is_set():
            raise Cancelled
