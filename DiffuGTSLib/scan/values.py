"""Voxel values that no scan of its modality has: outliers are clipped, and said.

Judged by percentiles, never by extremes: one hot voxel must not decide about the others.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.scan.modality import Modality
from DiffuGTSLib.scan.nifti import keep_forms

# What 16 bits hold; metal reaches it. Beyond, a value is taken for the lightest or densest one that
# scanners of 12 bits give.
CT_RANGE_HU = (-32768.0, 32767.0)
_CT_ENDS_HU = (-1024.0, 3071.0)
# Above the 99.9th percentile by so many times the range below it, an MR value is no signal.
MR_FACTOR = 10.0
_MR_PERCENTILES = (0.1, 99.9)
_SAMPLES = 1_000_000


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
    low, high, ends = _limits(voxels, modality)
    if float(voxels.min()) >= low and float(voxels.max()) <= high:
        return image, []
    values = np.array(voxels, dtype=np.float32 if voxels.dtype.kind == "f" else voxels.dtype)
    below, above = voxels < low, voxels > high
    values[below], values[above] = ends
    count = int(below.sum() + above.sum())
    clipped = sitk.GetImageFromArray(values)
    clipped.CopyInformation(image)
    for key in image.GetMetaDataKeys():
        clipped.SetMetaData(key, image.GetMetaData(key))
    are = "voxel is" if count == 1 else "voxels are"
    return keep_forms(image, clipped), [
        f"{count} {are} far outside what {'a CT' if modality == 'CT' else 'the rest of the MR'} "
        f"holds and {'was' if count == 1 else 'were'} clipped."]


def _limits(voxels: np.ndarray, modality: Modality) -> tuple[float, float, tuple[float, float]]:
    """The lowest and highest value that stay, and what replaces those beyond."""
    if modality == "CT":
        return *CT_RANGE_HU, _CT_ENDS_HU
    sample = voxels.ravel()[:: max(1, voxels.size // _SAMPLES)]
    sample = sample[sample != 0]
    if not sample.size:
        return -np.inf, np.inf, (0.0, 0.0)
    first, last = (float(value) for value in np.percentile(sample, _MR_PERCENTILES))
    reach = MR_FACTOR * (max(last, 0.0) - min(first, 0.0))
    return first - reach, last + reach, (min(first, 0.0), last)
