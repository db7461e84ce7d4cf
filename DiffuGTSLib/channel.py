"""."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from DiffuGTSLib.errors import DiffuGTSError

_LONGEST_LINE = 1 << 20
Id = str | int


class ChannelClosed(Exception):
    """The other side has closed the worker's stdout: no failure, nobody listens any more."""


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
        """Lines of stdin until it closes; a line too long comes in pieces, which are no JSON."""
        while line := self._requests.readline(_LONGEST_LINE):
            if line.strip():
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
