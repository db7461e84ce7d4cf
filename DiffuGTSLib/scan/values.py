"""Voxel values that no scan of its modality has: clipped, or refused, with a sentence.

They are judged by the bulk of the voxels, never by extremes: hot voxels, metal or a burnt-in block
must not decide about the others.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import NoContent
from DiffuGTSLib.scan.modality import Modality
from DiffuGTSLib.scan.nifti import keep_forms

# 12 bits from -1024 on, which is what most scanners write. The extended scale goes from -10240 to
# 30710 HU: no tissue is above 3071 there either, only metal, which would bleed into its
# surroundings when the scan is resampled. Below -1024 pads are usual, down to -3024.
CT_RANGE_HU = (-10240.0, 3071.0)
CT_AIR_HU = -1024.0
# Above the rest by so many times the range below it, an MR value is no signal.
MR_FACTOR = 10.0
# Beyond these percentiles values are outliers if they are far off; beyond the inner ones, if no
# value lies between them and the rest. A body that fills so little of a scan has edges, which do.
_MR_PERCENTILES = (0.1, 99.9)
_MR_INNER_PERCENTILES = (5.0, 95.0)
# The signal of an MR is at most so many times its noise; 12 bits hold 4096.
_MAX_SIGNAL = 1000.0
_SAMPLES = 1_000_000
# A constant background, whatever its value, says nothing of the signal.
_MIN_BACKGROUND = 0.05
_FEW_VALUES = 8
_MIN_EXTENT_MM, _MAX_EXTENT_MM = 30.0, 3000.0


def without_outliers(image: sitk.Image, modality: Modality) -> tuple[sitk.Image, list[str]]:
    """The image with outliers clipped, and a sentence if there are any.

    Args:
        image: 3D, all values finite; returned as it is where nothing is clipped.
        modality: decides what a value can be.

    Example:
        >>> without_outliers(sitk.Image(4, 4, 4, sitk.sitkInt16), "CT")[1]
        []
    """
    voxels = sitk.GetArrayViewFromImage(image)
    low, high, ends, spread = (
        (*CT_RANGE_HU, (CT_AIR_HU, CT_RANGE_HU[1]), []) if modality == "CT" else _mr_limits(voxels))
    if float(voxels.min()) >= low and float(voxels.max()) <= high:
        return image, spread
    values = np.array(voxels, dtype=np.float32 if voxels.dtype.kind == "f" else voxels.dtype)
    below, above = voxels < low, voxels > high
    values[below], values[above] = ends
    clipped = sitk.GetImageFromArray(values)
    clipped.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        clipped.SetMetaData(key, image.GetMetaData(key))
    said = _said(modality, int(below.sum()), int(above.sum()))
    return keep_forms(image, clipped), [*said, *spread]


def _said(modality: Modality, below: int, above: int) -> list[str]:
    low, high = CT_RANGE_HU
    counts = ([(below, f"tissue or air has in a CT (below {low:g} HU)"),
               (above, f"tissue has in a CT (above {high:g} HU)")] if modality == "CT" else
              [(below + above, "the rest of the MR holds")])
    return [f"{count} {'voxel is' if count == 1 else 'voxels are'} far outside what {what} and "
            f"{'was' if count == 1 else 'were'} clipped." for count, what in counts if count]


def _mr_limits(voxels: np.ndarray) -> tuple[float, float, tuple[float, float], list[str]]:
    """The lowest and highest value that stay, what replaces those beyond, and notes."""
    sample = voxels.ravel()[:: max(1, voxels.size // _SAMPLES)]
    sample = np.sort(sample[sample != 0].astype(np.float64))
    darkest = np.searchsorted(sample, sample[0], "right") if sample.size else 0
    if _MIN_BACKGROUND * sample.size < darkest < sample.size and sample[0] >= 0:
        sample = sample[darkest:]
    if not sample.size:
        return -np.inf, np.inf, (0.0, 0.0), []
    inner = np.percentile(sample, _MR_INNER_PERCENTILES)
    last = _end(sample, min(float(inner[0]), 0.0))
    first = -_end(-sample[::-1], min(-float(inner[1]), 0.0))
    reach = MR_FACTOR * (max(last, 0.0) - min(first, 0.0))
    usual = max(abs(float(inner[0])), abs(float(inner[1])))
    spread = [] if max(abs(first), abs(last)) <= _MAX_SIGNAL * usual else [
        "Some voxels of the MR are more than a thousand times brighter than nearly all others: "
        "if they are faults, remove them and run again."]
    return first - reach, last + reach, (min(first, 0.0), last), spread


def _end(values: np.ndarray, other: float) -> float:
    """The highest value that belongs to the rest, up to the 99.9th percentile.

    Args:
        values: (N,), ascending.
        other: where the rest begins; at most 0.
    """
    first, last = (int(share / 100 * (values.size - 1))
                   for share in (_MR_INNER_PERCENTILES[1], _MR_PERCENTILES[1]))
    top = values[first : last + 1]
    reach = top[:-1] + MR_FACTOR * (np.maximum(top[:-1], 0.0) - other)
    gaps = np.flatnonzero(top[1:] > reach)
    # Not between two values: the upper one may be an outlier.
    return float(top[gaps[0]] if gaps.size else top[-1])


def check_contents(image: sitk.Image) -> None:
    """Refuses what is no scan by its values.

    Args:
        image: 3D, all values finite.

    Raises:
        NoContent: the same value in all voxels, or two values only, as in a mask.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()
    if low == high:
        raise NoContent("All voxels of the scan have the same value.", "Choose another scan.")
    some = voxels.ravel()[: _SAMPLES // 10]
    if (((some == low) | (some == high)).all()
            and ((voxels == low) | (voxels == high)).all()):
        raise NoContent(
            f"The scan holds two values only ({low:g} and {high:g}), as a segmentation does.",
            "Pass the scan itself, not a mask of it.")


def doubts(image: sitk.Image) -> list[str]:
    """Sentences on what a scan hardly ever is: of few values, or far smaller or larger than a body.

    Args:
        image: 3D, all values finite.
    """
    voxels = sitk.GetArrayViewFromImage(image).ravel()
    for samples in (_SAMPLES // 100, _SAMPLES):  # a few tell of nearly every scan
        count = np.unique(voxels[:: max(1, voxels.size // samples)]).size
        if count > _FEW_VALUES:
            break
    said = [] if count > _FEW_VALUES else [
        f"The scan holds {count} different values only: is it a segmentation?"]
    extent = [n * step for n, step in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    if not _MIN_EXTENT_MM <= max(extent) <= _MAX_EXTENT_MM:
        sizes = " x ".join(f"{length:.3g}" for length in extent)
        said.append(f"By its spacing the scan is {sizes} mm in all: if it is larger or smaller, "
                    "the spacing is wrong, and so are all sizes and volumes.")
    return said
