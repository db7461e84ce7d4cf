"""The files of a worker's job: all of them complete under their names, or none."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import SimpleITK as sitk

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.image_file import quiet

Stamp = tuple[object, ...]


class JobFiles:
    """Writes a job's volumes as uncompressed .nrrd, the fastest to write and to read.

    Args:
        folder: of the job; made when the first files are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unfinished: list[Path] = []

    def write(
        self, images: Mapping[str, sitk.Image], check: Callable[[], None]
    ) -> dict[str, str]:
        """Writes the images and returns their absolute paths by name.

        Args:
            images: by file name without suffix.
            check: called between files and before they get their names; may raise `Cancelled`.

        Raises:
            OutputNotWritten: no permission, no space; nothing is left behind then.
        """
        finished = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name, image in images.items():
                check()
                finished[name] = self._write_unfinished(image)
            check()
            paths = {name: self._folder.absolute() / f"{name}.nrrd" for name in images}
            for name, temporary in finished.items():
                temporary.replace(paths[name])
        except (RuntimeError, OSError):
            raise OutputNotWritten(
                "The result could not be written to the job's folder.",
                "Free some space on the disk or choose another folder.",
            ) from None
        finally:
            self.remove_unfinished()
        return {name: str(path) for name, path in paths.items()}

    def remove_unfinished(self) -> None:
        """Removes what has no final name yet."""
        while self._unfinished:
            self._unfinished.pop().unlink(missing_ok=True)

    def _write_unfinished(self, image: sitk.Image) -> Path:
        temporary = self._folder / f".{uuid.uuid4().hex}.nrrd"
        self._unfinished.append(temporary)
        with quiet():
            sitk.WriteImage(image, str(temporary), useCompression=False)
        voxel_bytes = sitk.GetArrayViewFromImage(image).itemsize
        if temporary.stat().st_size < math.prod(image.GetSize()) * voxel_bytes:
            raise OSError("incomplete")
        return temporary


def stamp(path: Path) -> Stamp | None:
    """What tells whether a scan on disk is still the same: names, sizes and times of its files.

    None when that cannot be told.
    """
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError:
        return None
    return str(path.absolute()), *states
