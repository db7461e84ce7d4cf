"""A real worker as a child process, and what it says."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from support.tiny_model import PROMPT

REPOSITORY = Path(__file__).resolve().parents[3]
PATIENCE_SECONDS = 120.0


class WorkerProcess:
    """Starts the worker on a model package; `arguments` replace its command line.

    A `deaf` one hears "ready" and closes its ear.
    """

    def __init__(
        self, model: Path | str, arguments: list[str] | None = None, deaf: bool = False
    ) -> None:
        command = arguments or ["-m", "DiffuGTSLib.worker", "--model", str(model),
                                "--device", "cpu"]
        # It must find the library from anywhere, and not because of where it was started.
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment, cwd=Path(__file__).parent,
        )
        self.lines: list[bytes] = []
        self.stderr: list[bytes] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        if deaf:
            assert json.loads(self.process.stdout.readline())["type"] == "ready"
            self.process.stdout.close()
        else:
            threading.Thread(target=self._read, daemon=True).start()
        listen = threading.Thread(
            target=lambda: self.stderr.extend(self.process.stderr), daemon=True
        )
        listen.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            self._events.put(json.loads(line))

    def send(self, **request: Any) -> None:
        self.send_line(json.dumps(request).encode())

    def send_line(self, line: bytes) -> None:
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def until(self, kind: str, job: Any = None) -> list[dict[str, Any]]:
        """The events up to and with the first of `kind` for `job`."""
        events = []
        while not events or (events[-1]["type"], events[-1]["id"]) != (kind, job):
            event = self._events.get(timeout=PATIENCE_SECONDS)
            assert event["type"] not in ("error", "cancelled") or kind == event["type"], event
            events.append(event)
        return events

    def close_stdin(self) -> int:
        """Closes stdin and returns the exit code."""
        self.process.stdin.close()
        return self.process.wait(timeout=120)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def segment(
    worker: WorkerProcess, scan: Path, folder: Path, job: Any = "a", prompt: Any = PROMPT,
    **more: Any,
) -> None:
    """Sends a request; `more` are its optional fields."""
    worker.send(type="segment", id=job, image=str(scan), prompt=prompt, folder=str(folder), **more)


def stages(events: list[dict[str, Any]]) -> list[str]:
    """The stages of the progress among events, each once."""
    return list(dict.fromkeys(e["stage"] for e in events if e["type"] == "progress"))
