"""Folders that are whole or not there at all, whatever happens while they are built."""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from DiffuGTSLib.errors import OutputNotWritten


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
