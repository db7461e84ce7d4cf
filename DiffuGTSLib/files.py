"""Atomic writes of files and folders, SHA-256, and the folders that the program uses.

Standard library only: `diffugts doctor` needs it where other packages are missing.
"""

from __future__ import annotations

import errno
import hashlib
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

MODELS_VARIABLE = "DIFFUGTS_MODELS"
CACHE_VARIABLE = "DIFFUGTS_CACHE"
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.[\w.]+")


def temporary_path(path: Path, suffix: str) -> Path:
    """An unused name in the same folder, which `remove_unfinished` recognises."""
    return path.with_name(f".{uuid.uuid4().hex}{suffix}")


@contextmanager
def atomic_file(path: Path, suffix: str) -> Iterator[Path]:
    """The temporary name to write to; at the end the file is renamed to `path` in one step.

    Raises:
        OutputNotWritten: no space, no permission, or SimpleITK failed; the file that was there
            stays as it was.
    """
    temporary = temporary_path(path, suffix)
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


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file in one step, and waits until it is on the disk.

    Raises:
        OutputNotWritten: see `atomic_file`.
    """
    with atomic_file(path, ".tmp") as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: Path, document: dict[str, Any]) -> None:
    """`write_atomically` of a JSON document."""
    text = json.dumps(document, indent=1, allow_nan=False)
    write_atomically(path, text.encode("ascii") + b"\n")


def remove_unfinished(folder: Path) -> None:
    """Removes the temporary files that a killed process left in `folder` and below."""
    for path in folder.rglob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, hint: str = "Choose another folder.") -> Iterator[Path]:
    """A temporary folder; renamed to `folder` when the block succeeds, removed when it fails.

    Args:
        folder: absent or empty.
        hint: what to do where it cannot be written.

    Raises:
        OutputNotWritten: the disk is full, or the folder cannot be written.
    """
    building = folder.with_name(f".building-{uuid.uuid4().hex}")
    try:
        building.mkdir(parents=True)
        yield building
        building.replace(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutputNotWritten(
                "The disk is full.", "Free some space and try again."
            ) from error
        raise OutputNotWritten(f"The folder {folder.name} cannot be written.", hint) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def resource(name: str) -> Path:
    """A folder or file of Resources: in the wheel beside the library's code, else in the checkout.

    The result need not exist; the reader reports what is missing.
    """
    packaged = Path(__file__).parent / "Resources" / name
    return packaged if packaged.exists() else Path(__file__).parents[1] / "Resources" / name


def cache_folder() -> Path:
    """Where downloads are kept: DIFFUGTS_CACHE, else the system's folder for caches."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else _user_folder("XDG_CACHE_HOME", ".cache", "Caches")


def store_folder() -> Path:
    """The folder of installed models: DIFFUGTS_MODELS, else the system's folder for user data."""
    named = os.environ.get(MODELS_VARIABLE)
    if named:
        return Path(named)
    return _user_folder("XDG_DATA_HOME", ".local/share", "Application Support") / "models"


def _user_folder(variable: str, linux: str, macos: str) -> Path:
    """This program's folder of one kind: Windows has one place for all kinds."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / macos
    else:
        base = Path(os.environ.get(variable) or home / linux)
    return base / "diffugts"
