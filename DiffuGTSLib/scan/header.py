"""Headers of image files: whether a file is complete, its spacing and its grid, without its voxels.

Reading and writing share it, and `quiet`, which keeps ITK's messages off the console.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.scan.dicom import frames_in
from DiffuGTSLib.scan.file_checks import check_file, files_of, is_regular, unzipped_bytes
from DiffuGTSLib.scan.nifti import SPACING_RANGE_MM, Forms

Triple = tuple[float, float, float]
Size = tuple[int, int, int]
# Where the axes of a RAS grid lie; an image's axis points to one of the two.
RAS_AXES = ("RL", "AP", "SI")
# Of deflate.
_MAX_COMPRESSION = 1032
# Of files of NIfTI-1.
_WITH_VOXELS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
# What a straightened NIfTI grid may differ from the stated one, at any corner.
_MAX_SHEAR, _MAX_SHEAR_MM = 0.01, 1.0
# Else ITK refuses axes that are off by the rounding of a registration; `is_sheared` judges them.
os.environ.setdefault("ITK_NIFTI_SFORM_PERMISSIVE", "1")


class _Silence:
    """Where stderr led before; shared by all threads, as the descriptor is."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.stderr = -1
        self.warnings = True


_silence = _Silence()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what ITK and its NIfTI library print, full paths among it, off the console.

    ITK's warnings are switched off; the NIfTI library writes to the descriptor of stderr itself,
    which leads nowhere meanwhile. Threads may be inside at the same time: the last one to leave
    brings everything back.
    """
    with _silence.lock:
        _silence.depth += 1
        if _silence.depth == 1:
            _hush()
    try:
        yield
    finally:
        with _silence.lock:
            _silence.depth -= 1
            if _silence.depth == 0:
                os.dup2(_silence.stderr, 2)
                os.close(_silence.stderr)
                sitk.ProcessObject.SetGlobalWarningDisplay(_silence.warnings)


def _hush() -> None:
    _silence.warnings = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    sys.stderr.flush()
    _silence.stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def has_dicom_mark(path: Path) -> bool:
    """Whether a file has DICOM's four letters after its preamble; False if it cannot be opened."""
    try:
        if not is_regular(path):
            return False
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> sitk.ImageFileReader:
    """A reader that knows the header of `path` and has read no voxels.

    Raises:
        RuntimeError: SimpleITK cannot read the header.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def is_complete(path: Path, header: sitk.ImageFileReader) -> bool:
    """Whether a NIfTI file holds all voxels that its header promises; True for other formats.

    SimpleITK silently reads a truncated NIfTI file and fills up with zeros; the other
    formats it refuses itself.
    """
    return holds_bytes(path, promised_bytes(path, header))


def holds_bytes(path: Path, promised: int) -> bool:
    """Whether a file (of a pair that with the voxels) holds so many bytes, unzipped; False where
    it breaks off or is damaged."""
    voxels = files_of(path)[1] if promised else path
    zipped = voxels.name.lower().endswith(".gz")
    there = unzipped_bytes(voxels) if zipped else voxels.stat().st_size
    return there is not None and there >= promised


def promised_bytes(path: Path, header: sitk.ImageFileReader) -> int:
    """Those of a NIfTI file with voxels by its header, unzipped; 0 for other formats."""
    if not path.name.lower().endswith(_WITH_VOXELS) or not header.HasMetaDataKey("bitpix"):
        return 0
    voxel_bytes = math.prod(header.GetSize()) * int(header.GetMetaData("bitpix")) // 8
    return int(float(header.GetMetaData("vox_offset"))) + voxel_bytes


def is_sheared(header: sitk.ImageFileReader) -> bool:
    """Whether ITK has straightened the axes of a NIfTI file by more than 1 % or 1 mm."""
    if (not header.HasMetaDataKey("ITK_sform_corrected")
            or header.GetMetaData("ITK_sform_corrected") != "YES"):
        return False
    rows = [header.GetMetaData(f"srow_{axis}").split() for axis in "xyz"]
    stated = np.array(rows, dtype=float)[:, :3] * np.array([[-1.0], [-1.0], [1.0]])
    direction = np.array(header.GetDirection()).reshape(header.GetDimension(), -1)[:3, :3]
    straight = direction * np.array(header.GetSpacing()[:3])
    size = np.array(header.GetSize()[:3]) - 1
    # Of all corners: the signs of the axes' differences may add up.
    off = np.abs(stated - straight) @ size
    lengths = np.linalg.norm(stated, axis=0)
    angles = (stated / lengths).T @ (stated / lengths) - np.eye(3)
    return bool(np.abs(angles).max() > _MAX_SHEAR or off.max() > _MAX_SHEAR_MM)


def stated_spacing(path: Path) -> tuple[float, ...] | None:
    """The voxel spacing (X, Y, Z) that a NIfTI-1 file itself states; None for other formats.

    SimpleITK silently turns an unusable one, such as 0 or NaN, into 1 mm.
    """
    forms = Forms.of(path)
    # The sign of a NIfTI spacing says nothing; the axes' signs are stated elsewhere.
    return forms.pixdim if forms else None


@dataclass(frozen=True)
class ScanGrid:
    """Voxels and spacing in mm of a scan, along the axes right, anterior and superior."""

    size: Size
    spacing: Triple

    @classmethod
    def of(cls, image: sitk.Image | sitk.ImageFileReader) -> ScanGrid:
        """That of a 3D image, or of a header."""
        letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
            image.GetDirection())
        axes = [next(i for i, way in enumerate(letters) if way in ends) for ends in RAS_AXES]
        size, spacing = image.GetSize(), image.GetSpacing()
        (a, b, c), (x, y, z) = [size[i] for i in axes], [float(spacing[i]) for i in axes]
        return cls((a, b, c), (x, y, z))

    @classmethod
    def stated(cls, path: Path) -> ScanGrid | None:
        """What the header of an image file states; None where only reading shows it: a DICOM
        folder or multi-frame file, an image that is no scan, a file that cannot be read or is far
        too small for what its header promises."""
        try:
            check_file(path)
            with quiet():
                header = read_header(path)
            size = files_of(path)[1].stat().st_size
            if size * _MAX_COMPRESSION < promised_bytes(path, header):
                return None
        except (RuntimeError, OSError, DiffuGTSError):
            return None
        low, high = SPACING_RANGE_MM
        usable = all(low <= step <= high for step in header.GetSpacing())
        plain = header.GetDimension() == 3 and frames_in(header) == 1
        return cls.of(header) if plain and usable else None

    def in_model(self, spacing: Triple, multiple: int, smallest: int) -> Size:
        """Voxels (X, Y, Z) on the model's grid, padded as `grid.to_canonical` pads."""
        x, y, z = (
            _padded(max(1, math.ceil(n * own / step - 1e-3)), multiple, smallest)
            for n, own, step in zip(self.size, self.spacing, spacing, strict=True)
        )
        return x, y, z


def _padded(n: int, multiple: int, smallest: int) -> int:
    return n + max(-n % multiple, smallest - n)
