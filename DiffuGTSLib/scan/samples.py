"""Public sample scans: fetched once, checked by SHA-256, kept in the cache folder."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
import uuid
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from DiffuGTSLib.errors import DownloadFailed
from DiffuGTSLib.files import cache_folder, resource

CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 180.0
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Sample:
    """An entry of samples.json; `source` says where the scan comes from."""

    name: str
    prompt: str
    modality: str
    file: str
    url: str
    sha256: str
    source: str


def samples() -> dict[str, Sample]:
    """The catalogue, by name."""
    entries = json.loads(resource("samples.json").read_text(encoding="utf-8"))["samples"]
    return {entry["name"]: Sample(**entry) for entry in entries}


def fetch(sample: Sample) -> Path:
    """The sample's file: from the cache, else from the network.

    Raises:
        DownloadFailed: no answer within 5 s, too slow, or another file than the catalogue says;
            nothing is left in the cache then.
    """
    path = cache_folder() / "samples" / sample.file
    if path.is_file() and _sha256(path) == sample.sha256:
        return path
    unfinished = path.with_name(f".{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(sample.url, unfinished)
        if _sha256(unfinished) != sample.sha256:
            raise DownloadFailed(f"The sample {sample.name} arrived damaged.", "Try again.")
        unfinished.replace(path)
    except (OSError, HTTPException):
        raise DownloadFailed(
            f"The sample {sample.name} could not be fetched.", "Check the network or the proxy."
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _download(url: str, path: Path) -> None:
    """Raises OSError: no connection, silence for 5 s, or longer than three minutes in all."""
    end = time.monotonic() + WHOLE_SECONDS
    request = urllib.request.Request(url, headers={"User-Agent": "DiffuGTS"})
    with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer, path.open("wb") as out:
        while chunk := answer.read(_CHUNK_BYTES):
            out.write(chunk)
            if time.monotonic() > end:
                raise TimeoutError("too slow")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
