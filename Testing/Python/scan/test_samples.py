"""Sample scans: over a real connection, checked, kept, and never half there."""

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
from DiffuGTSLib.scan.samples import Sample, fetch, samples

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
def sample(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUGTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{server.server_port}/whole"
    return Sample("Test", "liver tumor", "CT", "test.nrrd", url,
                  hashlib.sha256(CONTENT).hexdigest(), "here")


def kept():
    return [path.name for path in cache_folder().rglob("*") if path.is_file()]


def test_the_catalogue_fits_its_schema_and_urls_name_their_checksum():
    read = (json.loads(resource(name).read_text()) for name in ("samples.json",
                                                               "samples.schema.json"))
    jsonschema.validate(*read)
    assert all(sample.url.endswith(sample.sha256) for sample in samples().values())


def test_a_sample_is_fetched_once_and_then_taken_from_the_cache(sample, server):
    assert fetch(sample).read_bytes() == CONTENT
    server.shutdown()
    server.server_close()
    assert fetch(sample).read_bytes() == CONTENT
    assert kept() == ["test.nrrd"]


def test_a_damaged_file_in_the_cache_is_fetched_again(sample):
    fetch(sample).write_bytes(b"damaged")
    assert fetch(sample).read_bytes() == CONTENT


def test_another_file_than_promised_is_refused_and_not_kept(sample):
    with pytest.raises(DownloadFailed, match="damaged"):
        fetch(replace(sample, sha256="0" * 64))
    assert kept() == []


@pytest.mark.parametrize("path", ["half", "none"])
def test_a_broken_download_is_said_plainly_and_not_kept(sample, path):
    with pytest.raises(DownloadFailed):
        fetch(replace(sample, url=sample.url.replace("whole", path)))
    assert kept() == []


def test_a_server_that_is_not_there_is_said_plainly(sample):
    with pytest.raises(DownloadFailed, match="could not be fetched"):
        fetch(replace(sample, url="http://127.0.0.1:9/whole"))
