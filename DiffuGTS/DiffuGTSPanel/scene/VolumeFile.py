"""Reads and writes uncompressed .nrrd files in pieces.

SimpleITK reads and writes a file in one call, which blocks Slicer for a second with a large CT. The
header is a dozen lines of text, so it is written here.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from DiffuGTSPanel.data.Failure import Failure

_TYPES = {
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32",
    "uint32": "uint32", "int64": "int64", "uint64": "uint64", "float32": "float",
    "float64": "double",
}
# Other names for the types, as ITK writes them.
_ITK_TYPES = {
    "signed char": "int8", "unsigned char": "uint8", "short": "int16", "unsigned short": "uint16",
    "int": "int32", "unsigned int": "uint32", "long long int": "int64",
    "unsigned long long int": "uint64", "float": "float32", "double": "float64",
}
_MODALITY_TAG = "0008|0060"


def write(
    path: Path, array: np.ndarray, ijkToRas: np.ndarray, modality: str = ""
) -> Generator[None, None, None]:
    """Writes a volume atomically: the file gets its name when it is complete.

    Args:
        array: (K, J, I); may be a view.
        ijkToRas: 4x4, voxel indices (i, j, k) to mm.
        modality: "CT" or "MR" where known; stored as the DICOM tag.

    Raises:
        Failure: no space or no permission; no file remains.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(_header(array, ijkToRas, modality))
            for plane in array:
                file.write(np.ascontiguousarray(plane).data)
                yield
        os.replace(unfinished, path)
    except OSError:
        raise Failure(
            "output-not-written", "The volume could not be written to the temporary folder.",
            "Free some space on the disk, or choose another temporary folder in Slicer's settings.",
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _header(array: np.ndarray, ijkToRas: np.ndarray, modality: str) -> bytes:
    lps = np.diag([-1.0, -1.0, 1.0]) @ ijkToRas[:3]
    columns = [f"({','.join(f'{value:.17g}' for value in column)})" for column in lps.T]
    lines = [
        "NRRD0005", f"type: {_TYPES[array.dtype.name]}", "dimension: 3",
        "space: left-posterior-superior", f"sizes: {' '.join(str(n) for n in array.shape[::-1])}",
        f"space directions: {' '.join(columns[:3])}", "kinds: domain domain domain",
        f"endian: {sys.byteorder}", "encoding: raw", f"space origin: {columns[3]}",
    ]
    if modality:
        lines.append(f"{_MODALITY_TAG}:={modality}")
    return ("\n".join(lines) + "\n\n").encode("ascii")


class Reader:
    """Reads an uncompressed .nrrd file plane by plane.

    Attributes:
        shape: (K, J, I).
        dtype: of the voxels.

    Raises:
        Failure: the file is missing, incomplete or in another format.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        try:
            with self._path.open("rb") as file:
                fields: dict[str, str] = {}
                while (line := file.readline().decode("ascii", "replace").strip()) or not fields:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                self._start = file.tell()
            self.shape = tuple(int(n) for n in fields["sizes"].split()[::-1])
            kind = _ITK_TYPES.get(fields["type"], fields["type"])
            self.dtype = np.dtype(kind).newbyteorder(
                "<" if fields.get("endian", "little") == "little" else ">")
            plain = fields["encoding"] == "raw" and len(self.shape) == 3
            size = math.prod(self.shape) * self.dtype.itemsize
            complete = self._path.stat().st_size >= self._start + size
        except (OSError, KeyError, ValueError, TypeError):
            raise _unreadable() from None
        if not (plain and complete):
            raise _unreadable()

    def planes(self) -> Iterator[np.ndarray]:
        """The planes (J, I) from the first slice to the last.

        Raises:
            Failure: the file was removed or truncated meanwhile.
        """
        count = math.prod(self.shape[1:])
        try:
            with self._path.open("rb") as file:
                file.seek(self._start)
                for _ in range(self.shape[0]):
                    plane = np.fromfile(file, self.dtype, count)
                    if plane.size < count:
                        raise _unreadable()
                    yield plane.reshape(self.shape[1:])
        except OSError:
            raise _unreadable() from None


def _unreadable() -> Failure:
    return Failure("result-not-read", "A result file of the run can no longer be read.",
                   "Run the prompt again.")
