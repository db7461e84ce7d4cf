"""An executor of child processes on this machine: one a GPU, or several on the CPU.

A child that dies, because memory ran out or a library crashed, is replaced; see executor.py.
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

from DiffuGTSLib.batch.case import BatchFailure, BatchSettings, Case, Outcome
from DiffuGTSLib.batch.executor import OnCaseProgress, Worker, WorkerFailed, WorkerPool
from DiffuGTSLib.errors import ModelDamaged, WorkerDied

_LIBRARY = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.2
_SECONDS_TO_EXIT = 10.0
_NEW_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # on Windows only


class _Child(Worker):
    """A child process.

    Args:
        number: its index, from 0; it chooses the GPU.
        jobs: number of children, which share the cores.
        messages: gets (child, event) pairs; the event is None once the child has ended.
    """

    def __init__(
        self, settings: BatchSettings, number: int, jobs: int,
        messages: queue.Queue[tuple[_Child, dict[str, Any] | None]],
    ) -> None:
        super().__init__()
        self.number = number
        self._messages = messages
        # A session of its own: Ctrl+C goes to the batch, which ends its children.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "DiffuGTSLib.batch.local_child"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(jobs),
            start_new_session=True, creationflags=_NEW_GROUP,
        )
        self.send({"type": "settings", "settings": settings.as_dict(), "slot": number})
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, request: dict[str, Any]) -> None:
        """Writes one request; a child that is gone is noticed by the end of its output."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Requests the end of the process; its cases stop at their next step."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def wait(self) -> None:
        """Waits for the process to exit after `close`; a slow one is killed."""
        try:
            self.process.wait(_SECONDS_TO_EXIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # the last line of a killed process
            for line in self.process.stdout:
                self._messages.put((self, json.loads(line)))
        self._messages.put((self, None))


class LocalExecutor(WorkerPool[_Child]):
    """Processes cases in child processes; see executor.Executor.

    Args:
        jobs: number of children. On a machine with several GPUs they take one each in turn; on
            the CPU they share the cores.
    """

    def __init__(self, jobs: int = 1) -> None:
        super().__init__()
        self._jobs = jobs
        self._messages: queue.Queue[tuple[_Child, dict[str, Any] | None]] = queue.Queue()
        self._settings: BatchSettings | None = None
        self._facts: dict[str, Any] | None = None

    def start(self, settings: BatchSettings, cases: int) -> dict[str, Any]:
        """Starts the children, one a case at most, and waits until the first has the model."""
        self._settings = settings
        self._jobs = min(self._jobs, max(1, cases))
        self._workers = [self._child(number) for number in range(self._jobs)]
        while self._facts is None:
            self._handle(*self._messages.get())
        return self._facts

    def close(self) -> None:
        """Ends the children."""
        for child in self._workers:
            child.close()
        for child in self._workers:
            child.wait()
        self._workers = []

    def _child(self, number: int) -> _Child:
        assert self._settings is not None
        return _Child(self._settings, number, self._jobs, self._messages)

    def _submit(self, worker: _Child, case: Case) -> None:
        worker.send({"type": "case", **case.as_dict()})

    def _cancel(self, worker: _Child) -> None:
        worker.send({"type": "cancel"})

    def _poll(self, on_progress: OnCaseProgress) -> Iterator[Outcome]:
        with contextlib.suppress(queue.Empty):
            child, event = self._messages.get(timeout=_POLL_SECONDS)
            if event is not None and event["type"] == "progress":
                on_progress(event["id"], event["stage"], event["done"], event["total"],
                            event["fraction"])
            else:
                yield from self._handle(child, event)

    def _handle(self, child: _Child, event: dict[str, Any] | None) -> list[Outcome]:
        """Handles an event of a child; returns the outcomes that it brings."""
        if event is None:
            return self._on_exit(child)
        if event["type"] == "error":
            raise WorkerFailed(BatchFailure(event["code"], event["message"], event["hint"]))
        if event["type"] == "ready":
            self._on_ready(child, event["facts"])
        elif event["type"] == "outcome":
            return [self._complete(child, Outcome.from_dict(event["outcome"]))]
        return []

    def _on_ready(self, child: _Child, facts: dict[str, Any]) -> None:
        child.ready = True
        if self._facts is None:
            self._facts = facts
        elif facts["model_sha256"] != self._facts["model_sha256"]:
            raise ModelDamaged("The model changed while the batch was running.",
                               "Start again, into another folder.")

    def _on_exit(self, child: _Child) -> list[Outcome]:
        """Replaces a child that has exited; its cases are retried, or one has failed."""
        if child not in self._workers:
            return []
        if not child.ready:
            raise WorkerDied("A process of the batch ended before the model was loaded.",
                             "Memory may have run out; see also: diffugts doctor")
        cases, isolated = list(child.cases.values()), child.isolated
        child.close()
        child.wait()
        self._workers[self._workers.index(child)] = self._child(child.number)
        if not isolated:
            self._retries.extend(cases)
            return []
        failure = BatchFailure(
            WorkerDied.code, "The process working on this scan ended unexpectedly.",
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
    """Number of cores that this process may use; of all cores where the system does not say."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
