"""Child processes without blocking Slicer: a long-lived one, a single command, and their log."""

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
import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.process.LibraryLauncher import Launch

# subprocess.CREATE_NO_WINDOW exists on Windows only.
_CREATE_NO_WINDOW = 0x08000000
MAX_LINES = 1000
_MAX_ERROR_LINES = 8
Kind = Literal["not-started", "killed", "ended"]


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended.

    Attributes:
        kind: "not-started"; "killed" by a signal or a crash; "ended" by itself. Slicer's launcher
            of Python ends by itself with code 1, whatever killed Python.
        code: the exit code, or the signal's number.
        errorLines: the last lines on its stderr.
    """

    kind: Kind
    code: int
    errorLines: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it ended, as far as that is known, for an error message."""
        if self.kind == "killed":
            return _("signal {number}").format(number=self.code)
        if self.code == 1:
            return _("it crashed or was killed")
        return _("exit code {code}").format(code=self.code)


class _LineSplitter:
    """Splits a stream of bytes that arrives in chunks into lines."""

    def __init__(self, onLine: Callable[[str], None]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._onLine = onLine

    def take(self, data: bytes, final: bool = False) -> None:
        """Calls `onLine` for each complete line; with `final` for the rest too."""
        # Progress bars redraw themselves with carriage returns.
        text = self._rest + self._decoder.decode(data, final).replace("\r", "\n")
        *lines, self._rest = text.split("\n")
        if final and self._rest:
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            if line.strip():
                self._onLine(line)


class ChildProcess:
    """Runs a program; its output lines and its end arrive as callbacks from the event loop.

    Args:
        launch: program, arguments, environment.
        onOut: called with each line of stdout.
        onErr: called with each line of stderr.
        onEnded: called once, also where the program could not be started.
    """

    def __init__(
        self, launch: Launch, *, onOut: Callable[[str], None], onErr: Callable[[str], None],
        onEnded: Callable[[ProcessExit], None],
    ) -> None:
        self._onEnded = onEnded
        self._onErr = onErr
        self._errorLines: deque[str] = deque(maxlen=_MAX_ERROR_LINES)
        self._hasEnded = False
        self._out, self._err = _LineSplitter(onOut), _LineSplitter(self._addErrorLine)
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
        """Starts the program; where that fails at once, `onEnded` is called before this returns."""
        self._process.start(self._launch.program, list(self._launch.arguments))

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._hasEnded

    @property
    def processId(self) -> int:
        """Of the program that was started; 0 when it does not run."""
        return 0 if self._hasEnded else int(self._process.processId())

    def write(self, data: bytes) -> None:
        """Writes to its stdin; buffered until the process reads it."""
        if not self._hasEnded:
            self._process.write(data)

    def closeStdin(self) -> None:
        """Closes its stdin, at which a worker ends."""
        if not self._hasEnded:
            self._process.closeWriteChannel()

    def killTree(self) -> None:
        """Kills the process and all its children; `onEnded` follows."""
        if self._hasEnded:
            return
        # The program may be a launcher, with the actual process as its child.
        killProcessTree(self.processId)
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Blocks until it has ended or the time is over; returns whether it has ended."""
        return self._hasEnded or bool(self._process.waitForFinished(int(seconds * 1000)))

    def _addErrorLine(self, line: str) -> None:
        self._errorLines.append(line)
        self._onErr(line)

    def _readOut(self) -> None:
        self._out.take(self._process.readAllStandardOutput().data())

    def _readErr(self) -> None:
        self._err.take(self._process.readAllStandardError().data())

    def _finished(self, code: int, exitStatus: int) -> None:
        self._out.take(self._process.readAllStandardOutput().data(), final=True)
        self._err.take(self._process.readAllStandardError().data(), final=True)
        killed = exitStatus == qt.QProcess.CrashExit
        self._finish(ProcessExit(
            "killed" if killed else "ended", int(code), tuple(self._errorLines)))

    def _failed(self, error: int) -> None:
        # The other errors are followed by `finished`.
        if error == qt.QProcess.FailedToStart:
            self._finish(ProcessExit("not-started", -1))

    def _finish(self, result: ProcessExit) -> None:
        if not self._hasEnded:
            self._hasEnded = True
            self._process.deleteLater()
            self._onEnded(result)


def killProcessTree(processId: int) -> None:
    """Kills a process and all its descendants, children first."""
    if processId <= 0:
        return
    if os.name == "nt":
        subprocess.run(["taskkill", "/PID", str(processId), "/T", "/F"], capture_output=True,
                       check=False, creationflags=_CREATE_NO_WINDOW)
        return
    for each in reversed(processTree(processId)):
        try:
            os.kill(each, signal.SIGKILL)
        except OSError:
            continue  # it has already ended


def processTree(root: int) -> list[int]:
    """The process and its descendants, parents first."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False,
        env=slicer.util.startupEnvironment(),  # it must not load Slicer's libraries
    ).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    tree = [root]
    for parent in tree:
        tree += [child for child, parentId in pairs if parentId == parent]
    return tree


class Log:
    """The last lines that the worker and its libraries printed, for the panel.

    They are not echoed: Slicer's console is a widget, and much text blocks the application.

    Attributes:
        lines: newest last.
        onLine: called with each new line.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=MAX_LINES)
        self.onLine: Callable[[str], None] | None = None

    def add(self, line: str) -> None:
        """Appends a line."""
        self.lines.append(line)
        if self.onLine is not None:
            self.onLine(line)


class CommandTask:
    """Runs one command to its end.

    Args:
        launch: of the command.
        onDone: called with how it ended and the lines of stdout; not after `cancel`.
        onLine: called with each line of stderr.
    """

    def __init__(
        self, launch: Launch, onDone: Callable[[ProcessExit, list[str]], None],
        onLine: Callable[[str], None] | None = None,
    ) -> None:
        self._lines: list[str] = []
        self._onDone: Callable[[ProcessExit, list[str]], None] | None = onDone
        self._onLine = onLine
        self._child = ChildProcess(
            launch, onOut=self._lines.append, onErr=self._errorLine, onEnded=self._ended
        )
        self._child.start()

    @property
    def running(self) -> bool:
        """Whether the command is running."""
        return self._child.running

    def cancel(self) -> None:
        """Kills the command; no callback follows."""
        self._onDone = self._onLine = None
        self._child.killTree()

    def _errorLine(self, line: str) -> None:
        if self._onLine is not None:
            self._onLine(line)

    def _ended(self, result: ProcessExit) -> None:
        if self._onDone is not None:
            self._onDone(result, self._lines)
