"""Files that are whole or not there at all, whatever happens while they are written.

Where the vocabulary, the embedded model and other resources lie.

Folders that are whole or not there at all, whatever happens while they are built.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import OutputNotWritten

_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.[\w.]+")
VARIABLE = "DIFFUGTS_MODELS"


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


def resource(name: str) -> Path:
    """A folder or file of Resources: in the wheel beside the library's code, else in the checkout.

    The result need not exist; who reads it says what is missing.
    """
    packaged = Path(__file__).parent / "Resources" / name
    return packaged if packaged.exists() else Path(__file__).parents[1] / "Resources" / name


@contextmanager
def whole_folder(folder: Path, hint: str = "Choose another folder.") -> Iterator[Path]:
    """A new folder beside `folder` that takes its name when the block ends well, else goes.

    Args:
        folder: not there, or empty.
        hint: what to do where it cannot be written.

    Raises:
        OutputNotWritten: there is no room, or it cannot be written.
    """
    building = folder.with_name(f".building-{uuid.uuid4().hex}")
    try:
        building.mkdir(parents=True)
        yield building
        building.replace(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutputNotWritten("The disk is full.", "Make room and try again.") from error
        raise OutputNotWritten(f"The folder {folder.name} cannot be written.", hint) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def cache_folder() -> Path:
    """Where downloads are kept: DIFFUGTS_CACHE, else this system's folder for such things."""
    told = os.environ.get("DIFFUGTS_CACHE")
    if told:
        return Path(told)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "diffugts"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "diffugts"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffugts"


def store_folder() -> Path:
    """The folder of installed models: DIFFUGTS_MODELS, else this system's place for such data."""
    told = os.environ.get(VARIABLE)
    if told:
        return Path(told)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "diffugts" / "models"
