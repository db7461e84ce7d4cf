"""A child process and what it prints, as lines; nothing here blocks.

What the worker and the libraries in it print: kept for the panel, never echoed.

Slicer's console is a widget: writing much to it from a callback blocks the application.

One command in a child process, from start to end, without blocking Slicer.
"""

from __future__ import annotations

import codecs
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import qt

from DiffuGTSPanel.process.LibraryLauncher import Launch

# subprocess.CREATE_NO_WINDOW, which only Windows has.
_WITHOUT_WINDOW = 0x08000000
Kind = Literal["not-started", "killed", "ended"]
MOST_LINES = 1000


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        kind: "not-started"; "killed", by a signal or a crash; "ended" by itself.
        code: the exit code, or the signal's number.
        words: the last lines on its stderr.
    """

    kind: Kind
    code: int
    words: tuple[str, ...] = ()


class _Lines:
    """Cuts a stream of bytes into lines, whatever the pieces in which it comes."""

    def __init__(self, onLine: Callable[[str], None]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._onLine = onLine

    def take(self, data: bytes, final: bool = False) -> None:
        """Calls `onLine` for each line that is complete; for the rest too when `final`."""
        # Progress bars move by carriage returns.
        text = self._rest + self._decoder.decode(data, final).replace("\r", "\n")
        *lines, self._rest = text.split("\n")
        if final and self._rest:
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            if line.strip():
                self._onLine(line)


class ChildProcess:
    """Runs a program and tells its lines and its end by callbacks, from the event loop.

    Args:
        launch: program, arguments, environment.
        onOut: called with each line of stdout.
        onErr: called with each line of stderr.
        onEnded: called once, with how it ended; also where it never started.
    """

    def __init__(
        self, launch: Launch, *, onOut: Callable[[str], None], onErr: Callable[[str], None],
        onEnded: Callable[[Ending], None],
    ) -> None:
        self._onEnded = onEnded
        self._onErr = onErr
        self._words: list[str] = []
        self._over = False
        self._out, self._err = _Lines(onOut), _Lines(self._heard)
        self._process = qt.QProcess()
        environment = qt.QProcessEnvironment()
        for name, value in launch.environment.items():
            environment.insert(name, value)
        self._process.setProcessEnvironment(environment)
        self._process.connect("readyReadStandardOutput()", self._readOut)
        self._process.connect("readyReadStandardError()", self._readErr)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._failed)
        self._launch = launch

    def start(self) -> None:
        """Starts the program; where that fails at once, `onEnded` is called in here."""
        self._process.start(self._launch.program, list(self._launch.arguments))

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._over

    @property
    def processId(self) -> int:
        """Of the program that was started; 0 when it does not run."""
        return 0 if self._over else int(self._process.processId())

    def write(self, data: bytes) -> None:
        """Sends to its stdin; kept until the process reads it."""
        if not self._over:
            self._process.write(data)

    def closeStdin(self) -> None:
        """Nothing more will be sent; a worker ends then."""
        if not self._over:
            self._process.closeWriteChannel()

    def endTree(self) -> None:
        """Ends the process and all its children by force; `onEnded` follows."""
        if self._over:
            return
        # A launcher may stand between: the process proper is its child.
        endProcessTree(self.processId)
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Blocks until it has ended, at most so long; whether it has."""
        return self._over or bool(self._process.waitForFinished(int(seconds * 1000)))

    def _heard(self, line: str) -> None:
        self._words = [*self._words[-7:], line]
        self._onErr(line)

    def _readOut(self) -> None:
        self._out.take(self._process.readAllStandardOutput().data())

    def _readErr(self) -> None:
        self._err.take(self._process.readAllStandardError().data())

    def _finished(self, code: int, status: int) -> None:
        self._out.take(self._process.readAllStandardOutput().data(), final=True)
        self._err.take(self._process.readAllStandardError().data(), final=True)
        killed = status == qt.QProcess.CrashExit
        self._end(Ending("killed" if killed else "ended", int(code), tuple(self._words)))

    def _failed(self, error: int) -> None:
        # The other errors are followed by `finished`.
        if error == qt.QProcess.FailedToStart:
            self._end(Ending("not-started", -1))

    def _end(self, ending: Ending) -> None:
        if not self._over:
            self._over = True
            self._process.deleteLater()
            self._onEnded(ending)


def endProcessTree(processId: int) -> None:
    """Ends a process and everything it started, children first."""
    if processId <= 0:
        return
    if os.name == "nt":
        subprocess.run(["taskkill", "/PID", str(processId), "/T", "/F"], capture_output=True,
                       check=False, creationflags=_WITHOUT_WINDOW)
        return
    for each in reversed(_tree(processId)):
        try:
            os.kill(each, signal.SIGKILL)
        except OSError:
            continue  # it has ended meanwhile


def _tree(root: int) -> list[int]:
    """The process and its descendants, parents first."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False
    ).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    tree = [root]
    for parent in tree:
        tree += [child for child, its in pairs if its == parent]
    return tree


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
