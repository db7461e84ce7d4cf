"""The background process that holds the model, seen from Slicer.

DiffuGTSLib/worker/protocol.py describes what is said on its pipes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import qt

from DiffuGTSPanel.process.ChildProcess import ChildProcess, Ending
from DiffuGTSPanel.process.LibraryLauncher import Launch

# A worker that was asked to end stops within a denoising step.
PATIENCE_SECONDS = 10.0
Event = dict[str, Any]


@dataclass(frozen=True)
class WorkerState:
    """What is known of the worker.

    Attributes:
        state: "off", "starting", "ready", "working".
        model, device, python, torch, version: as it said itself.
        freeGb, totalGb: memory of its device when it started; None where it cannot be told.
    """

    state: str = "off"
    model: str = ""
    device: str = ""
    python: str = ""
    torch: str = ""
    version: str = ""
    freeGb: float | None = None
    totalGb: float | None = None

    def said(self, ready: Event) -> WorkerState:
        """The state after a `ready` event."""
        memory = {key: ready.get(f"memory_{key}_gb") for key in ("free", "total")}
        return WorkerState(
            "ready", ready["model"], ready["device"], ready["python"], ready["torch"],
            ready["version"], memory["free"], memory["total"],
        )

    def at(self, state: str) -> WorkerState:
        """The same worker in another state."""
        return replace(self, state=state)


class Worker(Protocol):
    """What the logic needs of a worker; a stand-in for tests has these methods too."""

    @property
    def running(self) -> bool:
        """Whether the process is there."""

    def start(self, launch: Launch) -> None:
        """Starts it; what comes of that is told by the callbacks."""

    def send(self, request: Event) -> None:
        """Sends a request; kept until the worker reads it."""

    def stop(self, wait: bool = False) -> None:
        """Asks it to end, then ends its process tree; `onEnded` is not called."""

    def kill(self) -> None:
        """Ends its process tree at once; `onEnded` is not called."""


class WorkerProcess:
    """The worker as a child process of Slicer.

    It ends when its stdin closes, so that it cannot outlive Slicer, however that ends.

    Args:
        onEvent: called with each event.
        onLog: called with each line that it, or a library in it, prints.
        onEnded: called when it has ended without having been asked to.
    """

    def __init__(
        self, *, onEvent: Callable[[Event], None], onLog: Callable[[str], None],
        onEnded: Callable[[Ending], None],
    ) -> None:
        self._onEvent, self._onLog, self._onEnded = onEvent, onLog, onEnded
        self._child: ChildProcess | None = None
        # Those that were asked to end and have not yet: kept, or Qt would kill only the launcher.
        self._leaving: list[ChildProcess] = []

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._child is not None and self._child.running

    @property
    def processId(self) -> int:
        """Of the program that was started; 0 when there is none."""
        return self._child.processId if self._child is not None else 0

    def start(self, launch: Launch) -> None:
        """Starts the process; one that runs is asked to end first."""
        self.stop()
        child = ChildProcess(
            launch,
            onOut=lambda line: self._take(child, line),
            onErr=self._onLog,
            onEnded=lambda ending: self._ended(child, ending),
        )
        self._child = child
        child.start()

    def send(self, request: Event) -> None:
        """Sends a request; kept until the worker reads it."""
        if self._child is not None:
            self._child.write(json.dumps(request, ensure_ascii=True).encode("ascii") + b"\n")

    def stop(self, wait: bool = False) -> None:
        """Asks the process to end; after some patience its whole tree is ended by force.

        Args:
            wait: for it, two seconds at most, then by force: Slicer itself is about to end.
        """
        child, self._child = self._child, None
        if child is None or not child.running:
            return
        child.write(b'{"type": "quit"}\n')
        child.closeStdin()
        self._leaving.append(child)
        if wait:
            if not child.wait(2.0):
                child.endTree()
                child.wait(2.0)
        else:
            qt.QTimer.singleShot(int(PATIENCE_SECONDS * 1000), child.endTree)

    def kill(self) -> None:
        """Ends the process tree at once."""
        child, self._child = self._child, None
        if child is not None and child.running:
            self._leaving.append(child)
            child.endTree()

    def _take(self, child: ChildProcess, line: str) -> None:
        if child is not self._child:
            return  # of a worker that was told to go
        try:
            event = json.loads(line)
        except ValueError:
            self._onLog(line)
            return
        self._onEvent(event)

    def _ended(self, child: ChildProcess, ending: Ending) -> None:
        if child in self._leaving:
            self._leaving.remove(child)
        if child is self._child:
            self._child = None
            self._onEnded(ending)
