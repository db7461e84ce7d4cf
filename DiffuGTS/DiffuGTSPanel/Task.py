"""One command in a child process, from start to end, without blocking Slicer."""

from __future__ import annotations

from collections.abc import Callable

from DiffuGTSPanel.ChildProcess import ChildProcess, Ending
from DiffuGTSPanel.Library import Launch


class Task:
    """Runs a command once.

    Args:
        launch: of the command.
        onDone: called with the ending and the lines of stdout; not after `cancel`.
        onLine: called with each line of stderr.
    """

    def __init__(
        self, launch: Launch, onDone: Callable[[Ending, list[str]], None],
        onLine: Callable[[str], None] | None = None,
    ) -> None:
        self._lines: list[str] = []
        self._onDone: Callable[[Ending, list[str]], None] | None = onDone
        self._onLine = onLine
        self._child = ChildProcess(
            launch, onOut=self._lines.append, onErr=self._tell, onEnded=self._ended
        )
        self._child.start()

    @property
    def running(self) -> bool:
        """Whether the command is at work."""
        return self._child.running

    def cancel(self) -> None:
        """Ends the command; nothing is called any more."""
        self._onDone = self._onLine = None
        self._child.endTree()

    def _tell(self, line: str) -> None:
        if self._onLine is not None:
            self._onLine(line)

    def _ended(self, ending: Ending) -> None:
        if self._onDone is not None:
            self._onDone(ending, self._lines)
