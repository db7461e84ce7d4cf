"""Work on the main thread, called from the event loop: long work in pieces, and later calls.

Python threads do not help in Slicer: they run only while the main thread runs Python. So volumes
are read and written by generators that yield after each piece of a few milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import qt

# Half a frame at 60 Hz: the last piece of a slice may overrun it.
SLICE_SECONDS = 0.008
Piecewise = Generator[None, None, None]


class IdleTask:
    """Runs a generator to its end from the event loop, a time slice at a time.

    Args:
        work: yields after each piece.
        onDone: called after the last piece.
        onError: called with what the generator raised.

    Attributes:
        running: it has not ended.
    """

    def __init__(
        self, work: Piecewise, onDone: Callable[[], None],
        onError: Callable[[Exception], None],
    ) -> None:
        self._work = work
        self._onDone = onDone
        self._onError = onError
        self.running = True
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._runSlice)
        self._timer.start()

    def stop(self) -> None:
        """Stops; neither callback follows. The generator's `finally` parts run."""
        self._end()
        self._work.close()

    def _runSlice(self) -> None:
        if not self.running:
            return
        end = time.monotonic() + SLICE_SECONDS
        try:
            while time.monotonic() < end:
                next(self._work)
        except StopIteration:
            self._end()
            self._onDone()
        except Exception as error:
            self._end()
            self._onError(error)

    def _end(self) -> None:
        if self.running:
            self.running = False
            self._timer.stop()
            # Its connection holds this object; both go once the event loop runs.
            self._timer.deleteLater()


def callLater(function: Callable[[], Any]) -> None:
    """Calls a function from the event loop, once."""
    qt.QTimer.singleShot(0, lambda: function() and None)


def singleShotTimer(function: Callable[[], None], seconds: float = 0.0) -> Any:
    """A QTimer, not started yet, that calls a function once after a time."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(int(seconds * 1000))
    timer.connect("timeout()", function)
    return timer
