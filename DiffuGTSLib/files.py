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
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import OutputNotWritten

MODELS_VARIABLE = "DIFFUGTS_MODELS"
CACHE_VARIABLE = "DIFFUGTS_CACHE"
_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:24] or "host"
_TEMPORARY = re.compile(r"\.diffugts-([A-Za-z0-9]+)-(\d+)-[0-9a-f]{12}(\.[\w.]+)?")
# Of another machine nobody here knows which processes run; after a day none writes any more.
_ABANDONED_SECONDS = 86400.0
_CLOCK_SECONDS = 2.0
# The temporary names of this process, and what each is to be called at the end.
_own: dict[str, str] = {}


def temporary_path(path: Path, suffix: str = "") -> Path:
    """An unused name in the same folder; it says whose it is, for `remove_unfinished`."""
    name = f".diffugts-{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:12]}{suffix}"
    _own[name] = final_name(path)
    return path.with_name(name)


def final_name(path: Path) -> str:
    """The name that a file will have: its own, unless that is a temporary one of this process."""
    return _own.get(path.name, path.name)


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
            f"{final_name(path)} could not be written completely.",
            "Free some space on the disk or choose another folder.",
        ) from None
    finally:
        _remove(temporary)


class StagedFiles:
    """Several files that appear together: each under a temporary name until `commit`.

    What was there before stays until all new ones are complete.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[Path, Path]] = []

    def path(self, final: Path, suffix: str) -> Path:
        """The temporary name to write to, in the folder of `final`."""
        temporary = temporary_path(final, suffix)
        self._pairs.append((temporary, final))
        return temporary

    def drop(self, temporary: Path) -> None:
        """Gives up a file that could not be made; the others stay staged."""
        self._pairs = [pair for pair in self._pairs if pair[0] != temporary]
        _remove(temporary)

    def commit(self) -> None:
        """Gives all files their names, in the order in which they were staged.

        Raises:
            OutputNotWritten: one of them cannot be renamed.
        """
        try:
            for temporary, final in self._pairs:
                temporary.replace(final)
        except OSError:
            raise OutputNotWritten(
                f"{final.name} could not be written.", "Choose another folder."
            ) from None
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes what has no final name yet."""
        while self._pairs:
            _remove(self._pairs.pop()[0])


def _remove(temporary: Path) -> None:
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
    _own.pop(temporary.name, None)


def session_folder(kind: str) -> Path:
    """A new folder below the cache that only the user may read, for this process alone.

    Those that killed processes left are removed first.

    Args:
        kind: name of the folder that holds them.

    Raises:
        OutputNotWritten: it cannot be made.
    """
    base = cache_folder() / kind
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_unfinished(base)
        folder = temporary_path(base / "session")
        folder.mkdir(mode=0o700)
    except OSError:
        raise OutputNotWritten(
            "The folder for temporary copies of scans cannot be made.",
            f"Free some space, or set {CACHE_VARIABLE} to a folder of yours.") from None
    return folder


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


def remove_unfinished(*folders: Path, locked: bool = False) -> None:
    """Removes the temporary files and folders that dead processes left in `folders` themselves.

    Those of processes that still run stay, and so does every other file.

    Args:
        locked: the caller has the folders to itself, so that other machines' files are dead, too.
    """
    for folder in folders:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            match = _TEMPORARY.fullmatch(entry.name)
            if match and _is_dead(entry, match[1], int(match[2]), locked):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        os.unlink(entry.path)


def _is_dead(entry: os.DirEntry[str], host: str, process: int, locked: bool) -> bool:
    """Whether the process that made a temporary file has ended."""
    if entry.name in _own:
        return False
    try:
        written = entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return False
    if host != _HOST:
        return locked or time.time() - written > _ABANDONED_SECONDS
    if process == os.getpid():
        return True  # an earlier process had the same number
    try:
        import psutil

        found = psutil.Process(process)
        # A number is given again: one that began after the file was written is another process.
        return (found.status() == psutil.STATUS_ZOMBIE
                or found.create_time() > written + _CLOCK_SECONDS)
    except ImportError:
        return False
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


@contextmanager
def atomic_folder(folder: Path, hint: str = "Choose another folder.") -> Iterator[Path]:
    """A temporary folder; renamed to `folder` when the block succeeds, removed when it fails.

    Args:
        folder: absent or empty.
        hint: what to do where it cannot be written.

    Raises:
        OutputNotWritten: the disk is full, or the folder cannot be written.
    """
    remove_unfinished(folder.parent)
    building = temporary_path(folder)
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
        _own.pop(building.name, None)


def is_same_file(one: Path | str, other: Path | str) -> bool:
    """Whether two paths lead to the same file or folder, links included; it need not exist."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)


def is_inside(path: Path | str, folder: Path | str) -> bool:
    """Whether a path leads into a folder, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


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
