"""The background process that holds the model, from Slicer's side.

DiffuGTSLib/worker/protocol.py describes its requests and events.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import qt

from DiffuGTSPanel.process.ChildProcess import ChildProcess, ProcessExit
from DiffuGTSPanel.process.LibraryLauncher import Launch

# A worker stops within a denoising step of a request to quit.
STOP_TIMEOUT_SECONDS = 10.0
Event = dict[str, Any]


@dataclass(frozen=True)
class WorkerState:
    """The state of the worker.

    Attributes:
        state: "off", "starting", "ready", "working".
        model, device, python, torch, version: as its `ready` event states.
        freeGb, totalGb: memory of its device at the start; None where unknown.
    """

    state: str = "off"
    model: str = ""
    device: str = ""
    python: str = ""
    torch: str = ""
    version: str = ""
    freeGb: float | None = None
    totalGb: float | None = None

    @staticmethod
    def fromReady(ready: Event) -> WorkerState:
        """The state after a `ready` event."""
        memory = {key: ready.get(f"memory_{key}_gb") for key in ("free", "total")}
        return WorkerState(
            "ready", ready["model"], ready["device"], ready["python"], ready["torch"],
            ready["version"], memory["free"], memory["total"],
        )

    def withState(self, state: str) -> WorkerState:
        """The same worker in another state."""
        return replace(self, state=state)


class Worker(Protocol):
    """The interface of a worker, which tests may implement too."""

    @property
    def running(self) -> bool:
        """Whether the process is running."""

    def start(self, launch: Launch) -> None:
        """Starts it; the callbacks report how that goes."""

    def send(self, request: Event) -> None:
        """Sends a request; buffered until the worker reads it."""

    def stop(self, wait: bool = False) -> None:
        """Asks it to quit, then kills its process tree; `onEnded` is not called."""

    def kill(self) -> None:
        """Kills its process tree at once; `onEnded` is not called."""


class WorkerProcess:
    """The worker as a child process of Slicer.

    It ends when its stdin closes, so it cannot outlive Slicer, whatever ends that.

    Args:
        onEvent: called with each event.
        onLog: called with each other line that it prints.
        onEnded: called when it has ended without a request to.
    """

    def __init__(
        self, *, onEvent: Callable[[Event], None], onLog: Callable[[str], None],
        onEnded: Callable[[ProcessExit], None],
    ) -> None:
        self._onEvent, self._onLog, self._onEnded = onEvent, onLog, onEnded
        self._child: ChildProcess | None = None
        # Kept until they have ended: Qt would otherwise kill only the launcher.
        self._stopping: list[ChildProcess] = []

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self._child is not None and self._child.running

    @property
    def processId(self) -> int:
        """Of the program that was started; 0 without one."""
        return self._child.processId if self._child is not None else 0

    def start(self, launch: Launch) -> None:
        """Starts the process; a running one is stopped first."""
        self.stop()
        child = ChildProcess(
            launch,
            onOut=lambda line: self._onLine(child, line),
            onErr=self._onLog,
            onEnded=lambda result: self._ended(child, result),
        )
        self._child = child
        child.start()

    def send(self, request: Event) -> None:
        """Sends a request; buffered until the worker reads it."""
        if self._child is not None:
            self._child.write(json.dumps(request, ensure_ascii=True).encode("ascii") + b"\n")

    def stop(self, wait: bool = False) -> None:
        """Asks the process to quit; after a timeout its process tree is killed.

        Args:
            wait: block for two seconds at most, then kill: Slicer itself is about to end.
        """
        child, self._child = self._child, None
        if child is None or not child.running:
            return
        child.write(b'{"type": "quit"}\n')
        child.closeStdin()
        self._stopping.append(child)
        if wait:
            if not child.wait(2.0):
                child.killTree()
                child.wait(2.0)
        else:
            qt.QTimer.singleShot(int(STOP_TIMEOUT_SECONDS * 1000), child.killTree)

    def kill(self) -> None:
        """Kills the process tree at once."""
        child, self._child = self._child, None
        if child is not None and child.running:
            self._stopping.append(child)
            child.killTree()

    def _onLine(self, child: ChildProcess, line: str) -> None:
        if child is not self._child:
            return  # of a worker that is being stopped
        try:
            event = json.loads(line)
        except ValueError:
            self._onLog(line)
            return
        self._onEvent(event)

    def _ended(self, child: ChildProcess, result: ProcessExit) -> None:
        if child in self._stopping:
            self._stopping.remove(child)
        if child is self._child:
            self._child = None
            self._onEnded(result)
