"""Example scans: over a real connection, checked, kept, and never half there."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import jsonschema
import pytest

from DiffuGTSLib.errors import DownloadFailed
from DiffuGTSLib.files import cache_folder, resource
from DiffuGTSLib.scan.example_scans import ExampleScan, example_scans, fetch

CONTENT = b"a scan " * 50_000


class Handler(BaseHTTPRequestHandler):
    """Serves /whole, and /half of what it promises."""

    def do_GET(self):
        self.send_response(404 if self.path == "/none" else 200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_):
        """Keeps quiet."""


@pytest.fixture
def server():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def scan(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUGTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_port}/whole"
    return ExampleScan("Test", "liver tumor", "CT", "test.nrrd", url,
                  hashlib.sha256(CONTENT).hexdigest(), "here")


def kept():
    return [path.name for path in cache_folder().rglob("*") if path.is_file()]


def test_the_catalogue_fits_its_schema_and_urls_name_their_checksum():
    read = (json.loads(resource(name).read_text("utf-8")) for name in ("example_scans.json",
                                                               "example_scans.schema.json"))
    jsonschema.validate(*read)
    assert all(scan.url.endswith(scan.sha256) for scan in example_scans().values())


def test_a_sample_is_fetched_once_and_then_taken_from_the_cache(scan, server):
    assert fetch(scan).read_bytes() == CONTENT
    server.shutdown()
    server.server_close()
    assert fetch(scan).read_bytes() == CONTENT
    assert kept() == ["test.nrrd"]


def test_a_damaged_file_in_the_cache_is_fetched_again(scan):
    fetch(scan).write_bytes(b"damaged")
    assert fetch(scan).read_bytes() == CONTENT


def test_another_file_than_promised_is_refused_and_not_kept(scan):
    with pytest.raises(DownloadFailed, match="damaged"):
        fetch(replace(scan, sha256="0" * 64))
    assert kept() == []


@pytest.mark.parametrize("path", ["half", "none"])
def test_a_broken_download_is_said_plainly_and_not_kept(scan, path):
    with pytest.raises(DownloadFailed):
        fetch(replace(scan, url=scan.url.replace("whole", path)))
    assert kept() == []


def test_a_server_that_is_not_there_is_said_plainly(scan):
    with pytest.raises(DownloadFailed, match="could not be fetched"):
        fetch(replace(scan, url="http://127.0.0.1:9/whole"))
