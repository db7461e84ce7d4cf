"""Long work on the main thread, done in pieces between Slicer's own events.

Python threads do not help in Slicer: they only run while the main thread runs Python. So reading
and writing of volumes are generators that yield after each piece of some milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import qt

# A frame at 60 Hz is 16 ms, and the last piece of a turn may take longer than what is left of it.
SECONDS_A_TURN = 0.008
Piecewise = Generator[None, None, None]


class Steps:
    """Runs a generator to its end, a turn at a time, from the event loop.

    Args:
        work: yields after each piece.
        onDone: called after the last piece.
        onError: called with what the generator raised.

    Attributes:
        running: there is something left to do.
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
        self._timer.connect("timeout()", self._turn)
        self._timer.start()

    def stop(self) -> None:
        """Stops; neither callback follows. The generator's `finally` parts run."""
        self._end()
        self._work.close()

    def _turn(self) -> None:
        if not self.running:
            return
        end = time.monotonic() + SECONDS_A_TURN
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
