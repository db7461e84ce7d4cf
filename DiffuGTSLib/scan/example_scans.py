"""Public example scans: downloaded once, checked by SHA-256, kept in the cache folder."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from DiffuGTSLib.errors import DownloadFailed
from DiffuGTSLib.files import cache_folder, resource, sha256, temporary_path

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 180.0
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class ExampleScan:
    """An entry of example_scans.json; `source` states where the scan comes from."""

    name: str
    prompt: str
    modality: str
    file: str
    url: str
    sha256: str
    source: str


def example_scans() -> dict[str, ExampleScan]:
    """All example scans by name."""
    entries = json.loads(resource("example_scans.json").read_text(encoding="utf-8"))["scans"]
    return {entry["name"]: ExampleScan(**entry) for entry in entries}


def fetch(scan: ExampleScan) -> Path:
    """The scan's file: from the cache, else from the network.

    Raises:
        DownloadFailed: no answer within 5 s, too slow, or the file has another SHA-256; nothing
            is left in the cache then.
    """
    path = cache_folder() / "samples" / scan.file
    if path.is_file() and sha256(path) == scan.sha256:
        return path
    temporary = temporary_path(path, ".download")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(scan.url, temporary)
        if sha256(temporary) != scan.sha256:
            raise DownloadFailed(f"The example scan {scan.name} arrived damaged.", "Try again.")
        temporary.replace(path)
    except (OSError, HTTPException):
        raise DownloadFailed(
            f"The example scan {scan.name} could not be fetched.",
            "Check the network or the proxy.",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _download(url: str, path: Path) -> None:
    """Raises OSError: no connection, no data for 5 s, or longer than three minutes in all."""
    end = time.monotonic() + TOTAL_SECONDS
    request = urllib.request.Request(url, headers={"User-Agent": "DiffuGTS"})
    with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer, path.open("wb") as out:
        while chunk := answer.read(_CHUNK_BYTES):
            out.write(chunk)
            if time.monotonic() > end:
                raise TimeoutError("too slow")
