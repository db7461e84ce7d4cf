"""The files of a worker's job: all of them complete under their names, or none.

Volumes are uncompressed .nrrd, the fastest to write and to read. Most maps are 0 but for a few
regions: what is 0 is left out, and reads as 0 again wherever the file system keeps holes in files
(and takes the place of zeros where it does not).
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import OutputNotWritten

# Bytes that are written or left out together, as many as file systems allocate at once.
_BLOCK = 4096
_THREADS = 2
# Types of NRRD that go by another name in numpy.
_TYPES = {"float32": "float", "float64": "double"}


class JobFiles:
    """Writes a job's volumes.

    Args:
        folder: of the job; made when the first files are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unfinished: list[Path] = []
        self._written: list[tuple[sitk.Image, Path]] = []

    def write(
        self, images: Mapping[str, Callable[[], sitk.Image]], check: Callable[[], None]
    ) -> dict[str, str]:
        """Makes and writes the images, several at a time, and returns their absolute paths by name.

        An image that this object has written already gets one more name, and no second copy.

        Args:
            images: by file name without suffix, what gives each image; called on threads.
            check: called before each image and before files get their names; may raise
                `Cancelled`.

        Raises:
            OutputNotWritten: no permission, no space; nothing is left behind then.
        """
        pool = ThreadPoolExecutor(_THREADS)
        try:
            with _as_not_written():
                self._folder.mkdir(parents=True, exist_ok=True)
            started = {name: pool.submit(self._write_unfinished, make, check)
                       for name, make in images.items()}
            finished = {name: future.result() for name, future in started.items()}
            check()
            paths = {name: self._folder.absolute() / f"{name}.nrrd" for name in images}
            with _as_not_written():
                for name, (_, temporary) in finished.items():
                    temporary.replace(paths[name])
        finally:
            pool.shutdown(cancel_futures=True)
            self.remove_unfinished()
        self._written += [(image, paths[name]) for name, (image, _) in finished.items()]
        return {name: str(path) for name, path in paths.items()}

    def remove_unfinished(self) -> None:
        """Removes what has no final name yet."""
        while self._unfinished:
            self._unfinished.pop().unlink(missing_ok=True)

    def _write_unfinished(
        self, make: Callable[[], sitk.Image], check: Callable[[], None]
    ) -> tuple[sitk.Image, Path]:
        check()
        image = make()
        temporary = self._folder / f".{uuid.uuid4().hex}.nrrd"
        self._unfinished.append(temporary)
        with _as_not_written():
            if not self._linked(image, temporary):
                write_nrrd(image, temporary)
        return image, temporary

    def _linked(self, image: sitk.Image, path: Path) -> bool:
        """Whether the file of the same image has got `path` as a further name."""
        for written, file in self._written:
            if written is image:
                try:
                    os.link(file, path)
                except OSError:  # a file system without links, or the file is gone
                    return False
                return True
        return False


@contextmanager
def _as_not_written() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError):
        raise OutputNotWritten(
            "The result could not be written to the job's folder.",
            "Free some space on the disk or choose another folder.",
        ) from None


def write_nrrd(image: sitk.Image, path: Path) -> None:
    """Writes a 3D scalar image, uncompressed and without its meta data.

    Raises:
        OSError: it could not be written; a part of it may be left.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    with path.open("wb") as file:
        file.write(_header(image, voxels.dtype))
        _write_but_zeros(file, np.frombuffer(voxels, np.uint8))


def _header(image: sitk.Image, kind: np.dtype) -> bytes:
    directions = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    *axes, origin = (
        f"({','.join(f'{value:.17g}' for value in vector)})"
        for vector in (*directions.T, image.GetOrigin())
    )
    lines = [
        "NRRD0004", f"type: {_TYPES.get(kind.name, kind.name)}", "dimension: 3",
        "space: left-posterior-superior", f"sizes: {' '.join(map(str, image.GetSize()))}",
        f"space directions: {' '.join(axes)}", "kinds: domain domain domain",
        f"endian: {sys.byteorder}", "encoding: raw", f"space origin: {origin}",
    ]
    return ("\n".join(lines) + "\n\n").encode("ascii")


def _write_but_zeros(file: BinaryIO, content: np.ndarray) -> None:
    """Writes bytes from the file's position to its end; whole blocks of zeros are skipped."""
    start, whole = file.tell(), content.size // _BLOCK * _BLOCK
    filled = content[:whole].view(np.uint64).reshape(-1, _BLOCK // 8).max(axis=1) > 0
    edges = np.flatnonzero(np.diff(filled, prepend=False, append=False)) * _BLOCK
    pieces = [*edges.reshape(-1, 2).tolist(), [whole, content.size]]
    for first, end in pieces:
        file.seek(start + first)
        file.write(content[first:end].data)
    file.truncate(start + content.size)
