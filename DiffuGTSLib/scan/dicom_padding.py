"""Padding in DICOM slices: pixels that fill up the rectangle and hold no signal.

DICOM PS3.3 C.7.5.1.1.2 states their value, or range of values, as stored. ITK rescales them like
all others, so that some become metal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.scan.modality import MAX_CT_MINIMUM_HU
from DiffuGTSLib.scan.values import CT_AIR_HU, CT_RANGE_HU

Range = tuple[float, float]
_VALUE, _LIMIT = "0028|0120", "0028|0121"
_SLOPE, _INTERCEPT = "0028|1053", "0028|1052"
_BITS, _SIGNED = "0028|0100", "0028|0103"
_MIN_TISSUE_HU = -1000.0


def padding_range(text: Callable[[str], str]) -> Range | None:
    """The rescaled values that are padding; None where the slice states none.

    Args:
        text: the value of a tag such as "0028|0120", or "".
    """
    numbers = []
    for tag in (_VALUE, _LIMIT, _BITS, _SIGNED, _SLOPE, _INTERCEPT):
        try:
            numbers.append(float(text(tag).strip()))
        except ValueError:
            numbers.append(np.nan)
    first, last, bits, signed, slope, intercept = numbers
    if not np.isfinite(first):
        return None
    span = 2.0 ** (bits if np.isfinite(bits) and 0 < bits <= 32 else 16)
    low = -span / 2 if signed == 1 else 0.0
    # Some writers state a signed value as an unsigned one, and the other way round.
    ends = [(value - low) % span + low for value in (first, last) if np.isfinite(value)]
    scaled = [value * (slope if np.isfinite(slope) and slope else 1.0)
              + (intercept if np.isfinite(intercept) else 0.0) for value in ends]
    return min(scaled), max(scaled)


def without_padding(
    voxels: np.ndarray, pads: Sequence[Range | None], modality: str
) -> np.ndarray | None:
    """The voxels with air (CT) or the darkest value (MR) for padding; None where none is stated.

    Args:
        voxels: (slices, rows, columns), rescaled.
        pads: of each slice.
    """
    if not any(pads):
        return None
    padding = np.zeros(voxels.shape, bool)
    for index, pad in enumerate(pads):
        if pad is not None:
            # Half a step of a stored integer: rescaling rounds.
            padding[index] = (voxels[index] > pad[0] - 0.5) & (voxels[index] < pad[1] + 0.5)
            if not _is_no_tissue(pad, modality):
                padding[index] = _from_border(padding[index])
    return filled(voxels, padding, modality)


def filled(voxels: np.ndarray, padding: np.ndarray, modality: str) -> np.ndarray:
    """The voxels with air (CT) or the darkest value (MR) where `padding` is true."""
    rest = voxels[~padding]
    if not rest.size or rest.size == voxels.size:
        return voxels
    darkest = float(rest.min())
    # A CT that is not in Hounsfield units must not look as if it were.
    air = CT_AIR_HU if modality == "CT" and darkest < MAX_CT_MINIMUM_HU else darkest
    cleaned = voxels.copy()
    cleaned[padding] = air
    return cleaned


def _is_no_tissue(pad: Range, modality: str) -> bool:
    return modality == "CT" and (pad[1] < _MIN_TISSUE_HU or pad[0] > CT_RANGE_HU[1])


def _from_border(padding: np.ndarray) -> np.ndarray:
    """What hangs together with the border of a slice: tissue may have the same value."""
    edge = np.concatenate([padding[0], padding[-1], padding[:, 0], padding[:, -1]])
    if not edge.any() or padding.all():
        return padding
    framed = sitk.GetImageFromArray(np.pad(padding.astype(np.uint8), 1, constant_values=1))
    outside = sitk.ConnectedThreshold(framed, [(0, 0)], 1, 1)
    inner: np.ndarray = sitk.GetArrayFromImage(outside)[1:-1, 1:-1] == 1
    return inner & padding
