"""JSON lines on stdin and stdout, between a process of this library and the one that started it.

What both such processes need beside it: fewer progress events, and less of the processor's time.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from DiffuGTSLib.errors import DiffuGTSError

_LONGEST_LINE = 1 << 20
TOO_LONG = b"too long"
_NICENESS = 5
_SIGKILL = 9
_PR_SET_PDEATHSIG = 1  # of Linux: the signal that comes when the parent has ended
Id = str | int


class ChannelClosed(Exception):
    """The reading side has closed this process's stdout; no failure: the run has no reader left."""


class Channel:
    """The two ends of the protocol, out of reach of libraries that print or read.

    Takes over file descriptors 0 and 1: from then on what anything prints, in C too, goes to
    stderr, and whatever reads stdin (a child process, say) gets nothing.
    """

    def __init__(self) -> None:
        self._requests: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._events: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        sys.stdout.flush()
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._lock = threading.Lock()

    def lines(self) -> Iterator[bytes]:
        """Lines of stdin until it closes; of a line too long only TOO_LONG, which is no JSON."""
        while line := self._requests.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = self._requests.readline(_LONGEST_LINE)
                yield TOO_LONG
            elif line.strip():
                yield line

    def send(self, kind: str, job: Id | None = None, **fields: Any) -> None:
        """Writes one event; may be called from any thread.

        Raises:
            ChannelClosed: nobody reads the events.
        """
        event = {"type": kind, "id": job, **fields}
        line = json.dumps(event, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"
        with self._lock:
            try:
                written = 0
                while written < len(line):
                    written += self._events.write(line[written:]) or 0
            except OSError:
                raise ChannelClosed from None

    def send_error(self, error: DiffuGTSError, job: Id | None = None) -> None:
        """Writes an error event."""
        self.send("error", job, code=error.code, message=error.message, hint=error.hint,
                  suggestions=list(getattr(error, "suggestions", ())))


class Throttle:
    """Drops progress events that follow too soon; they would only cost the reader time.

    The first event of a stage and its last one always pass.

    Args:
        seconds: between two events of the same stage.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stage = ""
        self._sent = 0.0

    def passes(self, stage: str, done: int, total: int) -> bool:
        """Whether the event that `done` of `total` steps are finished is to be sent."""
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._sent < self._seconds:
            return False
        self._stage, self._sent = stage, now
        return True


class Parent:
    """The process that started this one. To be made at once, while that surely still runs.

    An orphan could wake long after another run has taken over its folder. Linux ends this process
    together with its parent; elsewhere `check` notices before anything is written.
    """

    def __init__(self) -> None:
        self._number = os.getppid()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, _SIGKILL)

    def check(self) -> None:
        """Raises ChannelClosed where the parent has ended."""
        if os.getppid() != self._number:
            raise ChannelClosed


def lower_priority() -> None:
    """Lets the application in front of this process stay fluid; Windows has no nice values."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICENESS)
