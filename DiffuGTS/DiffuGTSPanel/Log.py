"""What the worker and the libraries in it print: kept for the panel, never echoed.

Slicer's console is a widget: writing much to it from a callback blocks the application.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MOST_LINES = 1000


class Log:
    """The last lines.

    Attributes:
        lines: the newest last.
        onLine: called with each new line.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=MOST_LINES)
        self.onLine: Callable[[str], None] | None = None

    def add(self, line: str) -> None:
        """Keeps a line and tells it."""
        self.lines.append(line)
        if self.onLine is not None:
            self.onLine(line)
