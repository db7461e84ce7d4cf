"""A model hub on this machine that speaks what huggingface_hub needs to fetch a file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves files as /owner/name/resolve/main/path.

    Attributes:
        files: by "owner/name/path".
        gated: repositories that ask for a token.
        cuts: how many bytes each of the next downloads gives before the connection breaks.
        requests: what was asked: method, path, Range and Authorization.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.cuts: list[int] = []
        self.requests: list[tuple[str, str, str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        range_, token = (self.headers.get(n, "") for n in ("Range", "Authorization"))
        self.server.requests.append((self.command, path, range_, token))
        repository, _, name = path.partition("/resolve/main/")
        file = self.server.files.get(f"{repository}/{name}")
        if repository in self.server.gated and not token:
            self._fail(401, "GatedRepo")
        elif file is None:
            self._fail(404, "EntryNotFound")
        else:
            self._send(file.read_bytes(), range_, body)

    def _send(self, content: bytes, range_: str, body: bool) -> None:
        start = int(range_.removeprefix("bytes=").partition("-")[0] or 0) if range_ else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        self.close_connection = cut is not None

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
