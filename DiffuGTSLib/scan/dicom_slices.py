"""The slices of a DICOM series before they are stacked: whether they make one volume.

ITK takes spacing, orientation, size and pixel type of the first slice for all of them. So the
slices are compared here, and the odd ones are named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import ModalityMismatch, UnreadableImage

_POSITION_TAG = "0020|0032"
_ORIENTATION_TAG = "0020|0037"
_SPACING_TAG = "0028|0030"
_PHOTOMETRIC_TAG = "0028|0004"
# A scan of usual size moves by no more than a millimetre when these differ by less.
_MAX_TURN = 0.003
_MAX_SHARE = 0.01
_MAX_MM = 1.0
_MAX_UNEVENNESS = 0.1  # of the mean distance of two slices
_NOTED_MM = 0.1
_MAX_NAMED = 3
_FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)


@dataclass(frozen=True)
class Slices:
    """What the headers of a series' slices have in common.

    Attributes:
        pixel: the type that holds the values of all slices, each with its own rescaling.
        notes: sentences on small differences.
    """

    pixel: int
    notes: list[str]


def check_slices(files: Sequence[str], name: str) -> Slices:
    """Reads the headers of the slices, in their order, and compares them.

    Args:
        files: of one series, by position.
        name: of the folder, for messages.

    Raises:
        UnreadableImage: they differ in size, spacing or orientation, say not where they lie, or lie
            unevenly or tilted.
        ModalityMismatch: their values are stored inverted.
        RuntimeError: SimpleITK cannot read one of them.
    """
    headers = [_header(file) for file in files]
    for tag in (_POSITION_TAG, _ORIENTATION_TAG):
        if not all(header.HasMetaDataKey(tag) for header in headers):
            raise UnreadableImage(f"The DICOM slices in {name} do not say where they lie.",
                                  "Export the original series again.")
    _refuse_inverted(headers, name)
    _refuse_odd(files, [tuple(header.GetSize()[:2]) for header in headers], name, "size",
                lambda size: f"{size[0]} x {size[1]} pixels")
    _refuse_odd(files, _groups([_numbers(h, _SPACING_TAG) for h in headers], _MAX_SHARE, True),
                name, "pixel spacing", lambda step: " x ".join(f"{s:.4g}" for s in step) + " mm")
    _refuse_odd(files, _groups([_numbers(h, _ORIENTATION_TAG) for h in headers], _MAX_TURN, False),
                name, "orientation", lambda axes: " ".join(f"{a:.3g}" for a in axes))
    notes = _check_positions(headers, name)
    return Slices(_widest([header.GetPixelID() for header in headers]), notes)


def _header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _numbers(header: sitk.ImageFileReader, tag: str) -> tuple[float, ...]:
    text = header.GetMetaData(tag) if header.HasMetaDataKey(tag) else ""
    return tuple(float(part) for part in text.split("\\") if part.strip())


def _groups(
    values: list[tuple[float, ...]], tolerance: float, relative: bool
) -> list[tuple[float, ...]]:
    """Each replaced by the first one seen that is alike."""
    seen: list[tuple[float, ...]] = []

    def alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        if len(one) != len(other):
            return False
        difference = np.abs(np.subtract(one, other))
        return bool((difference <= tolerance * (np.abs(other) if relative else 1.0)).all())

    grouped = []
    for value in values:
        first = next((one for one in seen if alike(value, one)), None)
        if first is None:
            seen.append(value)
        grouped.append(value if first is None else first)
    return grouped


def _refuse_odd(
    files: Sequence[str], values: Sequence[tuple[float, ...]], name: str, what: str,
    words: Callable[[tuple[float, ...]], str],
) -> None:
    """Refuses slices that do not all have the same of `what`, and names those in the minority."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return
    usual, odd = counts[0][0], [index for index, value in enumerate(values)
                                if value != counts[0][0]]
    named = ", ".join(Path(files[index]).name for index in odd[:_MAX_NAMED])
    more = f" and {len(odd) - _MAX_NAMED} more" if len(odd) > _MAX_NAMED else ""
    raise UnreadableImage(
        f"The DICOM slices in {name} differ in {what}: {words(usual)}, but {words(values[odd[0]])} "
        f"in {named}{more}.", "Move the slices that do not belong to the scan to another folder.")


def _refuse_inverted(headers: list[sitk.ImageFileReader], name: str) -> None:
    if any(header.HasMetaDataKey(_PHOTOMETRIC_TAG)
           and header.GetMetaData(_PHOTOMETRIC_TAG).strip() == "MONOCHROME1" for header in headers):
        raise ModalityMismatch(
            f"The DICOM slices in {name} are stored inverted (MONOCHROME1), which changes their "
            "values.", "Export the series as MONOCHROME2.")


def _check_positions(headers: list[sitk.ImageFileReader], name: str) -> list[str]:
    """A volume has one slice spacing, along the slices' normal; ITK does not insist on it."""
    positions = np.array([_numbers(header, _POSITION_TAG) for header in headers])
    axes = np.array(_numbers(headers[0], _ORIENTATION_TAG)).reshape(2, 3)
    normal = np.cross(axes[0], axes[1])
    steps = np.diff(positions, axis=0)
    mean = steps.mean(axis=0)
    length = float(np.linalg.norm(mean))
    off = np.linalg.norm(steps - mean, axis=1)
    even = positions[0] + np.arange(len(positions))[:, None] * mean
    away = np.linalg.norm(positions - even, axis=1)
    widest = float(np.linalg.norm(steps, axis=1).max())
    if length == 0.0 or off.max() > _MAX_UNEVENNESS * length or away.max() > _MAX_MM:
        where = int(off.argmax()) + 1
        raise UnreadableImage(
            f"The DICOM slices in {name} are not evenly spaced: up to {widest:.4g} mm, "
            f"{length:.4g} mm on average; the oddest are slices {where} and {where + 1}.",
            "A slice is missing or repeated, or the folder holds several time points: "
            "export one complete volume.")
    aside = float(np.linalg.norm(mean - (mean @ normal) * normal)) * (len(headers) - 1)
    if aside > _MAX_MM:
        raise UnreadableImage(
            f"The DICOM slices in {name} are sheared, as with a tilted gantry: by {aside:.3g} mm "
            "from the first to the last.",
            "Load the series in 3D Slicer, harden its tilt correction and save it as .nrrd.")
    if away.max() > _NOTED_MM:
        return [f"The DICOM slices lie up to {away.max():.2g} mm away from even places."]
    return []


def _widest(pixels: list[int]) -> int:
    """The one type of all slices; where they differ, one that holds the values of each."""
    if len(set(pixels)) == 1:
        return pixels[0]
    return sitk.sitkFloat32 if set(pixels) & set(_FLOATS) else sitk.sitkInt32
