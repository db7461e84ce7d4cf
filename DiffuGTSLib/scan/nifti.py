"""What a NIfTI-1 file itself states of its geometry: pixdim, sform and qform, and their codes.

ITK takes one of them and says nothing where they contradict each other; other readers take another.
So contradictions are refused or noted here, and what is written carries the scan's own forms.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.scan.file_checks import read_start

# Of an image: the bytes below, as hexadecimal digits. Written files get them from there.
FORMS_TAG = "DiffuGTS_nifti_forms"
HEADER_BYTES = 348
_SUFFIXES = (".nii", ".nii.gz")
# dim; units; pixdim; codes, quaternion, offsets and the rows of the sform; by their offsets.
_DIM, _UNITS, _PIXDIM, _FORMS = 40, 123, 76, 252
_PIXDIM_FORMAT, _FORMS_FORMAT = "4f", "2h18f"
MAX_SHARE = 0.01
MAX_MM = 1.0
_NOTED_SHARE = 1e-4
_NOTED_MM = 0.01
_MILLIMETRES = {1: 1000.0, 3: 0.001}
_UNIT_NAMES = {1: "metres", 3: "microns"}
SPACING_RANGE_MM = (0.01, 50.0)


@dataclass(frozen=True)
class Forms:
    """The geometry in a NIfTI-1 header; mm, right anterior superior.

    Attributes:
        size: voxels along each axis.
        pixdim: the spacing that is stated by itself.
        qfac: -1 or 1, the handedness of the qform.
        sform_code, qform_code: 0 means that the form is not set.
        quaternion: b, c, d and the offsets of the qform.
        rows: of the sform, (3, 4).
        units: of lengths and times, as the file codes them.
    """

    size: tuple[int, int, int]
    pixdim: tuple[float, float, float]
    qfac: float
    sform_code: int
    qform_code: int
    quaternion: tuple[float, ...]
    rows: tuple[float, ...]
    units: int

    @classmethod
    def of(cls, path: Path) -> Forms | None:
        """Those of a file; None where it is no NIfTI-1 file, or its header cannot be read."""
        header, order = nifti_header(path)
        if not order:
            return None
        size = struct.unpack_from(f"{order}3h", header, _DIM + 2)
        qfac, *pixdim = struct.unpack_from(f"{order}{_PIXDIM_FORMAT}", header, _PIXDIM)
        forms = struct.unpack_from(f"{order}{_FORMS_FORMAT}", header, _FORMS)
        x, y, z = (abs(step) for step in pixdim)
        a, b, c = (max(1, n) for n in size)
        return cls((a, b, c), (x, y, z), qfac, forms[1], forms[0], forms[2:8],
                   forms[8:20], header[_UNITS])

    @property
    def sform(self) -> np.ndarray:
        """(4, 4), from voxels to the file's own unit."""
        return np.vstack([np.reshape(self.rows, (3, 4)), [0, 0, 0, 1]])

    @property
    def qform(self) -> np.ndarray:
        """(4, 4), as `sform`."""
        b, c, d = self.quaternion[:3]
        a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        turn = np.array([
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c]])
        steps = np.array(self.pixdim) * [1, 1, -1 if self.qfac < 0 else 1]
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn * steps, self.quaternion[3:6]
        return matrix

    def bytes(self) -> bytes:
        """For `FORMS_TAG`: units, pixdim and forms, in the byte order of written files."""
        return struct.pack(f"<B{_PIXDIM_FORMAT}{_FORMS_FORMAT}", self.units, self.qfac,
                           *self.pixdim, self.qform_code, self.sform_code, *self.quaternion,
                           *self.rows)


def nifti_header(path: Path, suffixes: tuple[str, ...] = _SUFFIXES) -> tuple[bytes, str]:
    """The header of a NIfTI-1 file and its byte order, "<" or ">"; "" where it is none."""
    if not path.name.lower().endswith(suffixes):
        return b"", ""
    try:
        header = read_start(path, HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        return b"", ""
    length = header[:4] if len(header) == HEADER_BYTES else b""
    return header, next((o for o in "<>" if length == struct.pack(f"{o}i", HEADER_BYTES)), "")


def check_forms(forms: Forms) -> list[str]:
    """Sentences on small contradictions between what a header states.

    Raises:
        UnreadableImage: two values contradict each other by more than 1 % or 1 mm of size, or say
            that different sides of the body are left; or the sform's axes are not at right angles;
            or a spacing or a form is nothing that can be.
    """
    _check_numbers(forms)
    if not forms.sform_code and not forms.qform_code:
        return ["The NIfTI file has neither sform nor qform: which side is left is a guess."]
    if not forms.sform_code:
        return []
    axes = forms.sform[:3, :3] / np.maximum(np.linalg.norm(forms.sform[:3, :3], axis=0), 1e-12)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > MAX_SHARE:
        raise UnreadableImage(
            f"The axes in the sform of the NIfTI file are not at right angles (by {shear:.1%}).",
            "Resample the scan to a regular grid, or correct its sform.")
    return _sizes(forms) + (_places(forms) if forms.qform_code else [])


def _check_numbers(forms: Forms) -> None:
    """Refuses a spacing of 0, what is no number, and a unit that makes a body of no size."""
    unit = forms.units & 7
    steps = [step for step, n in zip(forms.pixdim, forms.size, strict=True) if n > 1]
    stated = " x ".join(f"{step:.4g}" for step in forms.pixdim)
    low, high = (end / _MILLIMETRES.get(unit, 1.0) for end in SPACING_RANGE_MM)
    if not all(math.isfinite(step) and step > 0 for step in steps):
        raise UnreadableImage(f"The scan's voxel spacing ({stated}, pixdim) cannot be right.",
                              "Set the true spacing in the file's header.")
    if unit in _UNIT_NAMES and not all(low <= step <= high for step in steps):
        raise UnreadableImage(
            f"The NIfTI file states its spacing ({stated}) in {_UNIT_NAMES[unit]}, which no scan "
            "has.", "If the numbers are mm, correct the unit in the file's header (xyzt_units).")
    for name, code, values in (("sform", forms.sform_code, forms.rows),
                               ("qform", forms.qform_code, forms.quaternion)):
        if code and not all(map(math.isfinite, values)):
            raise UnreadableImage(
                f"The {name} of the NIfTI file holds what is no number.",
                "Correct it in the file's header: where the scan lies depends on it.")


def _sizes(forms: Forms) -> list[str]:
    """pixdim against the steps of the sform."""
    unit = _MILLIMETRES.get(forms.units & 7, 1.0)
    stated = np.array(forms.pixdim)
    steps = np.linalg.norm(forms.sform[:3, :3], axis=0)
    share = np.abs(steps - stated) / np.maximum(stated, 1e-12)
    off = np.abs(steps - stated) * np.array(forms.size) * unit
    said = [" x ".join(f"{step:.4g}" for step in values * unit) for values in (stated, steps)]
    if (share > MAX_SHARE).any() or (off > MAX_MM).any():
        raise UnreadableImage(
            f"The NIfTI file states two voxel spacings: {said[0]} mm (pixdim) and {said[1]} mm "
            "(sform).", "Correct the wrong one in the file's header.")
    if (share > _NOTED_SHARE).any():
        return [f"The NIfTI file states two slightly different voxel spacings: {said[0]} mm "
                f"(pixdim) and {said[1]} mm (sform)."]
    return []


def _places(forms: Forms) -> list[str]:
    """sform against qform: where the eight corners lie, and which sides the axes lead to."""
    corners = np.array(np.meshgrid(*([0, n - 1] for n in forms.size), [1])).reshape(4, -1)
    unit = _MILLIMETRES.get(forms.units & 7, 1.0)
    apart = np.linalg.norm((forms.sform @ corners - forms.qform @ corners)[:3], axis=0).max() * unit
    named = [_orientation(matrix) for matrix in (forms.sform, forms.qform)]
    if named[0] != named[1]:
        raise UnreadableImage(
            f"The NIfTI file states two orientations: {named[0]} (sform) and {named[1]} (qform).",
            "Correct the wrong one in the file's header: left and right depend on it.")
    if apart > _NOTED_MM:
        # As ITK chooses; others take the sform first.
        followed = "sform" if forms.sform_code == 1 else "qform"
        return [f"The NIfTI file's sform and qform place it up to {apart:.3g} mm apart: written "
                f"NIfTI files carry both; coordinates in tables, and files of other formats such "
                f"as .seg.nrrd, follow the {followed}."]
    return []


def _orientation(matrix: np.ndarray) -> str:
    """Where the voxel axes lead: "RAS" for example."""
    axes = matrix[:3, :3]
    largest = np.abs(axes).argmax(axis=0)
    return "".join(("LR", "PA", "IS")[row][int(axes[row, column] > 0)]
                   for column, row in enumerate(largest))


def keep_forms(source: sitk.Image, target: sitk.Image) -> sitk.Image:
    """`target`, which lies on the voxels of `source`, with the forms of its file."""
    if source.HasMetaDataKey(FORMS_TAG):
        target.SetMetaData(FORMS_TAG, source.GetMetaData(FORMS_TAG))
    return target


def states_sides(image: sitk.Image) -> bool:
    """Whether it is known which side is left: not of a NIfTI file without any form."""
    if not image.HasMetaDataKey(FORMS_TAG):
        return True
    codes = struct.unpack_from("<2h", bytes.fromhex(image.GetMetaData(FORMS_TAG)), 17)
    return any(codes)


def write_forms(path: Path, forms: str, compression: int) -> None:
    """Puts forms, as `FORMS_TAG` has them, into the header of a .nii.gz that ITK wrote."""
    with gzip.open(path) as stream:
        content = bytearray(stream.read())
    values = bytes.fromhex(forms)
    steps = struct.calcsize(f"<{_PIXDIM_FORMAT}")
    content[_UNITS] = values[0]
    content[_PIXDIM : _PIXDIM + steps] = values[1 : 1 + steps]
    content[_FORMS : _FORMS + len(values) - 1 - steps] = values[1 + steps :]
    with gzip.open(path, "wb", compresslevel=compression) as stream:
        stream.write(content)
