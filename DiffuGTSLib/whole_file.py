"""Small files that are whole or not there at all, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import OutputNotWritten

# As segmentation_file.py names its unfinished files, too.
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.[\w.]+")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name, to the disk itself, and renames it.

    Raises:
        OutputNotWritten: no space, no permission; the file that was there stays as it was.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError:
        raise OutputNotWritten(
            f"{path.name} could not be written completely.",
            "Free some space on the disk or choose another folder.",
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """`write_whole` of a JSON document."""
    text = json.dumps(document, indent=1, allow_nan=False)
    write_whole(path, text.encode("ascii") + b"\n")


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left half-written in `folder` and below."""
    for path in folder.rglob(".*"):
        if _UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
