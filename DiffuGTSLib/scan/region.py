"""A region that limits the search: an organ's mask, of whatever program.

A given organ is better than the model's own gate, above all where that was not validated.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.scan.canonical import Canonical, mask_on_grid
from DiffuGTSLib.scan.file_checks import check_file
from DiffuGTSLib.scan.header import is_complete, quiet, read_header

SCAN_DIMENSIONS = 3


class RegionUnusable(DiffuGTSError):
    """What is to limit the search is no mask, or holds nothing of the scan."""

    code = "region-unusable"


def read_region(path: Path) -> sitk.Image:
    """The mask in a file, uint8: 1 wherever the file is not 0, in any of its layers.

    Args:
        path: of a label image: .nii.gz, .nrrd, .seg.nrrd, .mha and what else ITK reads.

    Raises:
        UnreadableImage: there is no such file, or it is damaged.
        RegionUnusable: it is no 3D mask.
    """
    check_file(path)
    try:
        with quiet():
            header = read_header(path)
            whole = is_complete(path, header)
            image = header.Execute() if whole else None
    except RuntimeError:
        image = None
    if image is None:
        raise RegionUnusable(f"The mask {path.name} cannot be read, or is not whole.",
                             "Copy it again, or save it as .nii.gz or .nrrd.")
    return as_region(image, path.name)


def as_region(image: sitk.Image, name: str = "") -> sitk.Image:
    """An image of labels as a region, uint8 of 0 and 1.

    Args:
        name: for messages.

    Raises:
        RegionUnusable: it is no 3D image, or holds NaN.
    """
    voxels = sitk.GetArrayFromImage(image)
    if image.GetDimension() != SCAN_DIMENSIONS:
        raise RegionUnusable(f"The mask {name} is not one 3D image.".replace("  ", " "),
                             "Pass the mask of one organ on the scan's grid.")
    if np.issubdtype(voxels.dtype, np.floating) and not np.isfinite(voxels).all():
        raise RegionUnusable(f"The mask {name} holds NaN.".replace("  ", " "),
                             "Pass a mask of 0 and 1.")
    inside = voxels != 0
    if inside.ndim > SCAN_DIMENSIONS:  # segments that overlap lie in layers
        inside = inside.any(-1)
    region = sitk.GetImageFromArray(inside.astype(np.uint8))
    region.CopyInformation(image)
    return region


def region_on_grid(region: sitk.Image, canonical: Canonical) -> np.ndarray:
    """The region on the padded canonical grid, bool (X, Y, Z).

    Args:
        region: of `read_region` or `as_region`; on any grid that covers the organ.

    Raises:
        RegionUnusable: nothing of it lies in the scan.
    """
    inside = mask_on_grid(region, canonical.geometry)
    if not inside.any():
        raise RegionUnusable("The mask that limits the search holds nothing of the scan.",
                             "It may be empty, of another scan, or not on the scan's grid.")
    padded = np.zeros(tuple(canonical.tensor.shape[2:]), bool)
    padded[tuple(slice(0, n) for n in inside.shape)] = inside
    return padded
