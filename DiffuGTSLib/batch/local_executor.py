"""An executor of child processes on this machine: one a GPU, or several on the CPU.

A child that dies, because memory ran out or a library crashed, is replaced; see batch_places.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from DiffuGTSLib.batch.case import Case, Failure, Outcome, Settings
from DiffuGTSLib.batch.executor import ChildFailed, Listen, Place, Places
from DiffuGTSLib.errors import ModelDamaged, WorkerDied

_LIBRARY = Path(__file__).resolve().parents[2]
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 10.0
_OWN_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # on Windows only


class _Child(Place):
    """A child process.

    Args:
        number: its own, from 0.
        jobs: how many there are, which share the cores.
        messages: gets (child, event) pairs; the event is None once the child has ended.
    """

    def __init__(
        self, settings: Settings, number: int, jobs: int,
        messages: queue.Queue[tuple[_Child, dict[str, Any] | None]],
    ) -> None:
        super().__init__()
        self.number = number
        self._messages = messages
        # A session of its own: Ctrl+C is for the batch, which tells its children to end.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "DiffuGTSLib.batch.local_child"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(jobs),
            start_new_session=True, creationflags=_OWN_GROUP,
        )
        self.send({"type": "settings", "settings": settings.as_dict(), "place": number})
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, request: dict[str, Any]) -> None:
        """Writes one request; that the child is gone is told by its end."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Tells the process to end; what it has at hand stops at its next step."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def wait(self) -> None:
        """Waits for the end of a process that was told to; a slow one is killed."""
        try:
            self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # the last line of a killed process
            for line in self.process.stdout:
                self._messages.put((self, json.loads(line)))
        self._messages.put((self, None))


class Processes(Places[_Child]):
    """Processes cases in child processes; see batch_executor.Executor.

    Args:
        jobs: how many children. On a machine with several GPUs they take one each in turn; on
            the CPU they share the cores.
    """

    def __init__(self, jobs: int = 1) -> None:
        super().__init__()
        self._jobs = jobs
        self._messages: queue.Queue[tuple[_Child, dict[str, Any] | None]] = queue.Queue()
        self._settings: Settings | None = None
        self._facts: dict[str, Any] | None = None

    def start(self, settings: Settings) -> dict[str, Any]:
        """Starts the children and waits until the first one has loaded the model."""
        self._settings = settings
        self._places = [self._child(number) for number in range(self._jobs)]
        while self._facts is None:
            self._handle(*self._messages.get())
        return self._facts

    def close(self) -> None:
        """Ends the children."""
        for child in self._places:
            child.close()
        for child in self._places:
            child.wait()
        self._places = []

    def _child(self, number: int) -> _Child:
        assert self._settings is not None
        return _Child(self._settings, number, self._jobs, self._messages)

    def _give(self, place: _Child, case: Case) -> None:
        place.send({"type": "case", **case.as_dict()})

    def _cancel(self, place: _Child) -> None:
        place.send({"type": "cancel"})

    def _news(self, listen: Listen) -> Iterator[Outcome]:
        with contextlib.suppress(queue.Empty):
            child, event = self._messages.get(timeout=_SECONDS_BETWEEN_LOOKS)
            if event is not None and event["type"] == "progress":
                listen(event["id"], event["stage"], event["done"], event["total"],
                       event["fraction"])
            else:
                yield from self._handle(child, event)

    def _handle(self, child: _Child, event: dict[str, Any] | None) -> list[Outcome]:
        """What an event of a child means; the outcomes that it brings."""
        if event is None:
            return self._bury(child)
        if event["type"] == "error":
            raise ChildFailed(Failure(event["code"], event["message"], event["hint"]))
        if event["type"] == "ready":
            self._welcome(child, event["facts"])
        elif event["type"] == "outcome":
            return [self._take(child, Outcome.from_dict(event["outcome"]))]
        return []

    def _welcome(self, child: _Child, facts: dict[str, Any]) -> None:
        child.ready = True
        if self._facts is None:
            self._facts = facts
        elif facts["model_sha256"] != self._facts["model_sha256"]:
            raise ModelDamaged("The model was changed while the batch ran.",
                               "Start again, into another folder.")

    def _bury(self, child: _Child) -> list[Outcome]:
        """Replaces a child that has ended; its cases are run again, or one has failed."""
        if child not in self._places:
            return []
        if not child.ready:
            raise WorkerDied("A process of the batch ended before the model was loaded.",
                             "Memory may have run out; see also: diffugts doctor")
        cases, alone = list(child.cases.values()), child.alone
        child.close()
        child.wait()
        self._places[self._places.index(child)] = self._child(child.number)
        if not alone:
            self._suspects.extend(cases)
            return []
        failure = Failure(
            WorkerDied.code, "The process that worked on this scan ended without a word.",
            "Memory may have run out: crop the scan, or process fewer at once (--jobs).",
        )
        return [Outcome(case.name, "failed", error=failure) for case in cases]


def _environment(jobs: int) -> dict[str, str]:
    """The children find the library from anywhere, and share the cores."""
    more = {"PYTHONPATH": os.pathsep.join(
        part for part in (str(_LIBRARY), os.environ.get("PYTHONPATH")) if part
    )}
    if jobs > 1:
        threads = str(max(1, _cores() // jobs))
        more |= {name: os.environ.get(name, threads)
                 for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")}
    return os.environ | more


def _cores() -> int:
    """Those that this process may use; not all systems tell."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
