"""Files that are whole or not there at all, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import OutputNotWritten

_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.[\w.]+")


def unfinished(path: Path, suffix: str) -> Path:
    """A name that nobody has, in the same folder; `remove_unfinished` knows it."""
    return path.with_name(f".{uuid.uuid4().hex}{suffix}")


@contextmanager
def replacing(path: Path, suffix: str) -> Iterator[Path]:
    """The name to write to; at the end the file is renamed to `path`, in one step of the disk.

    Raises:
        OutputNotWritten: no space, no permission, or SimpleITK failed; the file that was there
            stays as it was.
    """
    temporary = unfinished(path, suffix)
    try:
        yield temporary
        temporary.replace(path)
    except (RuntimeError, OSError):
        raise OutputNotWritten(
            f"{path.name} could not be written completely.",
            "Free some space on the disk or choose another folder.",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, to the disk itself.

    Raises:
        OutputNotWritten: see `replacing`.
    """
    with replacing(path, ".tmp") as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, document: dict[str, Any]) -> None:
    """`write_whole` of a JSON document."""
    text = json.dumps(document, indent=1, allow_nan=False)
    write_whole(path, text.encode("ascii") + b"\n")


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left half-written in `folder` and below."""
    for path in folder.rglob(".*"):
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
