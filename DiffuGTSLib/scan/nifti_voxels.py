"""How a NIfTI-1 file stores its voxels: where, of which type, and rescaled by what.

ITK reads parts of the header as voxels, or ignores a rescaling, where the header is wrong.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.scan.file_checks import files_of, pieces
from DiffuGTSLib.scan.nifti import HEADER_BYTES, nifti_header

_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz")
_DIM, _DATATYPE, _OFFSET, _SCALING = 40, 70, 108, 112
# Of a single file: the header, and four bytes that say whether extensions follow.
_MIN_OFFSET = 352
_FLOATS = {16: "f4", 64: "f8"}
# That ITK reads; of those that it does not read, the names.
_READ = (2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1792, 2304)
_NAMES = {0: "of unknown type", 1: "of one bit", 1536: "of 128-bit floats",
          2048: "of 256-bit complex numbers"}
_AGAIN = "The file is damaged or was written by a faulty program: write it again."


def check_voxels(path: Path) -> list[str]:
    """Sentences on how the voxels are stored; none where the file is no NIfTI-1 file.

    Raises:
        UnreadableImage: the header states sizes, a type, a place or a rescaling of the voxels that
            cannot be.
    """
    own, voxels = files_of(path)
    header, order = nifti_header(own, _SUFFIXES)
    if not order:
        return []
    count, *sizes = struct.unpack_from(f"{order}8h", header, _DIM)
    if not 1 <= count <= 7:
        raise _refused(path, f"{count} dimensions")
    if min(sizes[:count]) < 0:
        raise _refused(path, f"a negative size ({' x '.join(map(str, sizes[:count]))} voxels)")
    kind = struct.unpack_from(f"{order}h", header, _DATATYPE)[0]
    if kind not in _READ:
        name = _NAMES.get(kind, f"of the unknown type {kind}")
        raise UnreadableImage(f"{path.name} has voxels {name}, which are not read.",
                              "Save it with voxels of 16-bit integers or 32-bit floats.")
    offset = struct.unpack_from(f"{order}f", header, _OFFSET)[0]
    least = _MIN_OFFSET if own == voxels else 0
    if not (math.isfinite(offset) and offset >= least and offset == int(offset)):
        raise UnreadableImage(
            f"The header of {path.name} states that its voxels begin at byte {offset:g} "
            "(vox_offset), which cannot be.",
            f"Set vox_offset to {least} if they follow the header, or write the file again.")
    return _scaling(path, *struct.unpack_from(f"{order}2f", header, _SCALING))


def _scaling(path: Path, slope: float, intercept: float) -> list[str]:
    # 0 and NaN mean that nothing is rescaled.
    if slope == 0 or math.isnan(slope):
        return []
    if math.isinf(slope) or not math.isfinite(intercept):
        raise _refused(path, f"a rescaling that cannot be (scl_slope {slope:g}, scl_inter "
                             f"{intercept:g})")
    if slope < 0:
        return [f"The NIfTI file states a negative scl_slope ({slope:g}): if that is wrong, bright "
                "and dark are swapped."]
    return []


def _refused(path: Path, what: str) -> UnreadableImage:
    return UnreadableImage(f"The header of {path.name} states {what}.", _AGAIN)


def holds_no_number(path: Path) -> bool:
    """Whether a NIfTI-1 file of floats holds NaN or infinite voxels, which ITK reads as 0."""
    own, voxels = files_of(path)
    header, order = nifti_header(own, _SUFFIXES)
    kind = struct.unpack_from(f"{order}h", header, _DATATYPE)[0] if order else 0
    if kind not in _FLOATS:
        return False
    kind_of_voxel = np.dtype(order + _FLOATS[kind])
    offset = int(struct.unpack_from(f"{order}f", header, _OFFSET)[0])
    skip = max(HEADER_BYTES, offset) if own == voxels else offset
    count, *dims = struct.unpack_from(f"{order}8h", header, _DIM)
    left = math.prod(max(1, n) for n in dims[:count]) * kind_of_voxel.itemsize
    rest = b""
    for piece in pieces(voxels):
        here, skip = piece[skip:], max(0, skip - len(piece))
        rest = (rest + here)[:left]
        usable = len(rest) - len(rest) % kind_of_voxel.itemsize
        if not np.isfinite(np.frombuffer(rest[:usable], kind_of_voxel)).all():
            return True
        left, rest = left - usable, rest[usable:]
    return False
