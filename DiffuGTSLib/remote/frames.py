"""Messages and files in one stream of bytes, in each direction of an SSH connection.

A message is a JSON object on a line, in ASCII. A file is the message

    {"type": "file", "name": NAME, "bytes": N, "sha256": HEX}

and then pieces of it, each a message and so many bytes after its line:

    {"type": "piece", "name": NAME, "bytes": N, "zlib": true or false}

Other messages may come between two pieces: neither a cancel nor a sign of life waits for a large
file. Pieces are compressed where the link is the slower part.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.files import sha256, temporary_path

PIECE_BYTES = 1 << 20
_LEVEL = 1
_THREADS = 2
_LONGEST_LINE = 1 << 20
_READ_BYTES = 1 << 20
# Pieces that try a form out, and pieces until the other one is tried again: a link may be shared.
_TRIED, _TRUSTED = 2, 192
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}")


def is_file_name(name: object) -> bool:
    """Whether the other side may name a file so: it leads into no other folder."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


Message = dict[str, Any]


class StreamDamaged(DiffuGTSError):
    """What came from the other machine is not what was sent."""

    code = "stream-damaged"

    def __init__(self) -> None:
        super().__init__("What came from the other machine is damaged.",
                         "Run again; if it happens again, look at the network.")


class StreamEnded(Exception):
    """The other side is gone; no failure of this one."""


def widen(pipe: BinaryIO) -> None:
    """Lets a pipe hold a whole piece, where the system can: fewer turns between the two ends."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIECE_BYTES)


class Readable(Protocol):
    """A pipe's reading end: returns what is there, at least one byte, b"" at its end."""

    def read(self, size: int, /) -> bytes | None:
        """Up to `size` bytes."""


class _Form:
    """Whether pieces travel compressed or as they are: whichever has been faster.

    Both are tried in turns: what is the slower part, the link or the processors at its two ends,
    shows in the time alone.
    """

    def __init__(self) -> None:
        self._pieces = 0
        self._bytes_per_second = {True: 0.0, False: 0.0}
        self._measured, self._seconds, self._bytes = True, 0.0, 0

    def choose(self) -> bool:
        """For the next piece: True is compressed."""
        position = self._pieces % _TRUSTED
        self._pieces += 1
        if position < 2 * _TRIED:
            return position < _TRIED
        return self._bytes_per_second[True] >= self._bytes_per_second[False]

    def sent(self, compressed: bool, size: int, seconds: float) -> None:
        """A piece of that many bytes, uncompressed, has taken so long."""
        if compressed != self._measured:
            self._measured, self._seconds, self._bytes = compressed, 0.0, 0
        self._seconds += seconds
        self._bytes += size
        if self._bytes >= _TRIED * PIECE_BYTES:
            self._bytes_per_second[compressed] = self._bytes / max(self._seconds, 1e-9)


class FrameWriter:
    """Writes messages and files; from any thread.

    Args:
        stream: unbuffered.
    """

    def __init__(self, stream: BinaryIO) -> None:
        widen(stream)
        self._stream = stream
        self._lock = threading.Lock()
        self._form = _Form()

    def send(self, message: Message) -> None:
        """Writes one message.

        Raises:
            StreamEnded: nobody reads.
        """
        line = json.dumps(message, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"
        with self._lock:
            self._write(line)

    def send_file(
        self, path: Path, name: str, on_piece: Callable[[int, int], None] = lambda done, size: None
    ) -> None:
        """Writes a file.

        Args:
            path: of the file; it must not change meanwhile.
            name: for the other side; says nothing of the path.
            on_piece: called with the bytes sent and their total after each piece; what it raises
                ends the sending, and the other side never takes the file for complete.

        Raises:
            OSError: the file cannot be read.
            StreamEnded: nobody reads.
        """
        size = path.stat().st_size
        self.send({"type": "file", "name": name, "bytes": size, "sha256": sha256(path)})
        done, before = 0, time.monotonic()
        with path.open("rb") as stream, ThreadPoolExecutor(_THREADS) as pool:
            for compressed, raw, packed in self._packed(stream, pool):
                header = {"type": "piece", "name": name, "bytes": len(packed),
                          "zlib": packed is not raw}
                line = json.dumps(header).encode("ascii") + b"\n"
                with self._lock:
                    self._write(line + packed)
                done, now = done + len(raw), time.monotonic()
                self._form.sent(compressed, len(raw), now - before)
                before = now
                on_piece(done, size)

    def _packed(
        self, stream: BinaryIO, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[bool, bytes, bytes]]:
        """The form, a piece as it is and as it is to be sent; the pool compresses ahead."""
        ahead: deque[tuple[bytes, Future[bytes] | None]] = deque()
        while piece := stream.read(PIECE_BYTES):
            ahead.append((piece, pool.submit(_compressed, piece) if self._form.choose() else None))
            if len(ahead) > _THREADS:
                yield _finished(*ahead.popleft())
        while ahead:
            yield _finished(*ahead.popleft())

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._stream.write(view) or 0:]
        except (OSError, ValueError):
            raise StreamEnded from None


def _compressed(piece: bytes) -> bytes:
    packed = zlib.compress(piece, _LEVEL)
    return packed if len(packed) < len(piece) else piece


def _finished(piece: bytes, packed: Future[bytes] | None) -> tuple[bool, bytes, bytes]:
    return packed is not None, piece, piece if packed is None else packed.result()


@dataclass
class _Incoming:
    """A file on its way in; without a path its bytes are dropped."""

    path: Path | None
    size: int
    digest: str
    temporary: Path | None = None
    stream: BinaryIO | None = None
    done: int = 0
    hash: Any = field(default_factory=hashlib.sha256)
    failure: OSError | None = None

    def open(self) -> None:
        if self.path is not None:
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self.temporary = temporary_path(self.path)
                self.stream = self.temporary.open("xb")
            except OSError as error:
                self._fail(error)

    def add(self, piece: bytes) -> None:
        self.done += len(piece)
        if self.done > self.size:
            raise StreamDamaged
        self.hash.update(piece)
        if self.stream is not None:
            try:
                self.stream.write(piece)
            except OSError as error:
                self._fail(error)

    def finish(self) -> None:
        """Gives the file its name."""
        if self.hash.hexdigest() != self.digest:
            raise StreamDamaged
        if self.stream is not None and self.temporary is not None and self.path is not None:
            try:
                self.stream.close()
                self.temporary.replace(self.path)
            except OSError as error:
                self._fail(error)

    def discard(self) -> None:
        """Removes what has no name yet."""
        if self.stream is not None:
            with suppress(OSError):
                self.stream.close()
        if self.temporary is not None:
            with suppress(OSError):
                self.temporary.unlink(missing_ok=True)

    def _fail(self, error: OSError) -> None:
        self.discard()
        self.stream, self.failure = None, error


class FrameReader:
    """Reads what a FrameWriter has written.

    Files are complete under their names, or not there.

    Args:
        stream: of the other side.
        path_of: where a file of that name goes; None to drop it.

    One file is on its way at a time.
    """

    def __init__(self, stream: Readable, path_of: Callable[[str], Path | None]) -> None:
        self._stream, self._path_of = stream, path_of
        self._buffer = bytearray()
        self._incoming: dict[str, _Incoming] = {}
        self._waiting_since: float | None = None

    @property
    def silence(self) -> float:
        """Seconds for which nothing came while it was waited for.

        A reader that is held up itself, by an application that does not take its events, hears
        nothing either: that is no silence of the other side.
        """
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    def skip_to(self, marker: bytes, most: int = 1 << 16) -> bytes:
        """Drops what comes before the line that starts with `marker`, and returns it.

        What a shell prints when it starts comes before the first message.

        Raises:
            StreamEnded: there is no such line among the first `most` bytes.
        """
        while (start := _line_start(self._buffer, marker)) < 0:
            if len(self._buffer) > most or not self._fill():
                raise StreamEnded(bytes(self._buffer[-2000:]).decode("utf-8", "replace"))
        before = bytes(self._buffer[:start])
        del self._buffer[:start]
        return before

    def messages(self) -> Iterator[Message]:
        """Messages until the stream ends; pieces are put into their files.

        After a file's last piece comes {"type": "received", "name", "path", "failed"}: failed where
        it could not be written; path is None where it was to be dropped. After each other piece
        {"type": "receiving", "name", "done", "bytes"}.

        Raises:
            StreamDamaged: bytes are missing, or other ones came.
        """
        try:
            while (line := self._line()) is not None:
                message = _parsed(line)
                if message["type"] == "file":
                    self._begin(message)
                    if not message["bytes"]:
                        yield self._end(message["name"])
                elif message["type"] == "piece":
                    yield self._piece(message)
                else:
                    yield message
        finally:
            self.close()

    def close(self) -> None:
        """Removes unfinished files."""
        while self._incoming:
            self._incoming.popitem()[1].discard()

    def _begin(self, message: Message) -> None:
        name, size, digest = message.get("name"), message.get("bytes"), message.get("sha256")
        if (not isinstance(name, str) or not is_file_name(name) or type(size) is not int
                or size < 0 or not isinstance(digest, str)):
            raise StreamDamaged
        self.close()  # the one before was given up
        self._incoming[name] = _Incoming(self._path_of(name), size, digest)
        self._incoming[name].open()

    def _piece(self, message: Message) -> Message:
        size, name = message.get("bytes"), message.get("name")
        if type(size) is not int or not 0 < size <= PIECE_BYTES or name not in self._incoming:
            raise StreamDamaged
        data = self._bytes(size)
        if message.get("zlib"):
            try:
                inflater = zlib.decompressobj()
                data = inflater.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise StreamDamaged from None
            if not inflater.eof:
                raise StreamDamaged
        incoming = self._incoming[name]
        incoming.add(data)
        if incoming.done == incoming.size:
            return self._end(name)
        return {"type": "receiving", "name": name, "done": incoming.done, "bytes": incoming.size}

    def _end(self, name: str) -> Message:
        incoming = self._incoming.pop(name)
        try:
            incoming.finish()
        except StreamDamaged:
            incoming.discard()
            raise
        return {"type": "received", "name": name, "path": incoming.path,
                "failed": incoming.failure is not None}

    def _line(self) -> bytes | None:
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if start > _LONGEST_LINE:
                raise StreamDamaged
            if not self._fill():
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[:end + 1]
        return line

    def _bytes(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            if not self._buffer and not self._fill():
                raise StreamEnded
            parts.append(bytes(self._buffer[:missing]))
            del self._buffer[:missing]
            missing -= len(parts[-1])
        return b"".join(parts)

    def _fill(self) -> bool:
        """Reads more; False at the end."""
        self._waiting_since = time.monotonic()
        try:
            data = self._stream.read(_READ_BYTES)
        except (OSError, ValueError):
            data = None
        self._waiting_since = None
        self._buffer += data or b""
        return bool(data)


def _line_start(buffer: bytearray, marker: bytes) -> int:
    if buffer.startswith(marker):
        return 0
    found = buffer.find(b"\n" + marker)
    return found + 1 if found >= 0 else -1


def _parsed(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise StreamDamaged from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise StreamDamaged
    return message
