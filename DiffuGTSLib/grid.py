"""The model's canonical grid: RAS axes, the model's spacing, normalised intensity; and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch

Modality = Literal["CT", "MR"]

CT_WINDOW_HU = (-1000.0, 1000.0)
MR_PERCENTILES = (0.0, 99.5)


@dataclass(frozen=True)
class Canonical:
    """A scan on the model's grid.

    Attributes:
        tensor: float32, (1, 1, X, Y, Z); axes point to the right, anterior and superior
            (along the scan's own, possibly oblique, axes); CT in [0, 1], MR from 0 upwards.
        geometry: an empty image that carries the canonical grid (SimpleITK geometry).
        source: an empty image that carries the input's own grid.
        modality: "CT" or "MR".
        padding: voxels added at the end of each axis (X, Y, Z) so that the networks divide it.
    """

    tensor: torch.Tensor
    geometry: sitk.Image
    source: sitk.Image
    modality: Modality
    padding: tuple[int, int, int]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Spacing of the canonical grid in mm, (X, Y, Z)."""
        return self.geometry.GetSpacing()


def empty_like(image: sitk.Image) -> sitk.Image:
    """A uint8 image of zeros on the grid of `image`: the geometry without the voxels."""
    blank = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    blank.CopyInformation(image)
    return blank


def intensity_range(voxels: np.ndarray, modality: Modality) -> tuple[float, float]:
    """The intensities that become 0 and 1 (METHOD.md 1, preprocessing).

    CT: -1000 and 1000 HU. MR: the percentiles 0 and 99.5 of `voxels`.
    """
    if modality == "CT":
        return CT_WINDOW_HU
    low, high = np.percentile(voxels, MR_PERCENTILES)
    return float(low), float(high)


def normalise(
    voxels: np.ndarray, modality: Modality, limits: tuple[float, float]
) -> np.ndarray:
    """Intensities scaled so that `limits` become 0 and 1; CT is clipped there, MR is not."""
    low, high = limits
    scaled = (np.asarray(voxels, dtype=np.float32) - low) / max(high - low, 1e-6)
    return np.clip(scaled, 0.0, 1.0) if modality == "CT" else scaled


def canonical_geometry(image: sitk.Image, spacing: tuple[float, float, float]) -> sitk.Image:
    """The geometry (uint8 zeros) that covers `image` with RAS axes and the given spacing in mm.

    The outer edges of the first voxels coincide, so that a thick-sliced scan loses nothing.
    """
    oriented = sitk.DICOMOrient(empty_like(image), "RAS")
    extent = np.array(oriented.GetSize()) * np.array(oriented.GetSpacing())
    size = np.maximum(1, np.ceil(extent / np.array(spacing) - 1e-3)).astype(int)
    direction = np.array(oriented.GetDirection()).reshape(3, 3)
    half_step = (np.array(spacing) - np.array(oriented.GetSpacing())) / 2
    origin = np.array(oriented.GetOrigin()) + direction @ half_step
    geometry = sitk.Image([int(n) for n in size], sitk.sitkUInt8)
    geometry.SetSpacing([float(s) for s in spacing])
    geometry.SetOrigin(origin.tolist())
    geometry.SetDirection(direction.ravel().tolist())
    return geometry


def resample(
    image: sitk.Image,
    geometry: sitk.Image,
    interpolator: int = sitk.sitkLinear,
    outside: float | None = 0.0,
) -> sitk.Image:
    """`image` on the grid of `geometry`; averaged first along the axes that lose resolution.

    Samples beyond the last voxel centre repeat the nearest voxel when they are inside the
    image's outer edge; farther outside they take `outside`, or that voxel too if it is None.
    """
    if interpolator == sitk.sitkLinear:
        image = _antialias(image, geometry)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(geometry)
    resampler.SetInterpolator(interpolator)
    if outside is None:
        resampler.SetUseNearestNeighborExtrapolator(True)
    else:
        resampler.SetDefaultPixelValue(outside)
    resampler.SetOutputPixelType(image.GetPixelID())
    return resampler.Execute(image)


def _antialias(image: sitk.Image, geometry: sitk.Image) -> sitk.Image:
    """Gaussian smoothing along each axis of `image` whose sampling becomes coarser."""
    fine = np.array(image.GetSpacing())
    axes = np.abs(np.array(image.GetDirection()).reshape(3, 3).T
                  @ np.array(geometry.GetDirection()).reshape(3, 3))
    coarse = axes @ np.array(geometry.GetSpacing())
    for axis in range(3):
        ratio = coarse[axis] / fine[axis]
        if ratio > 1.2 and image.GetSize()[axis] >= 4:
            # FWHM of the coarse voxel: 0.425 of its size, less what the fine voxel already has.
            sigma = 0.425 * np.sqrt(coarse[axis] ** 2 - fine[axis] ** 2)
            image = sitk.RecursiveGaussian(image, float(sigma), direction=axis)
    return image


def to_canonical(
    image: sitk.Image,
    modality: Modality,
    spacing: tuple[float, float, float],
    multiple: int = 1,
    smallest: int = 1,
) -> Canonical:
    """The scan on the model's grid, each axis padded to a multiple of `multiple` voxels and to at
    least `smallest`.

    Padding (at the upper end) is 0: the darkest value, which is air.
    """
    geometry = canonical_geometry(image, spacing)
    scan = sitk.Cast(image, sitk.sitkFloat32)
    # The last canonical voxel may lie beyond the scan: air there would darken the last slice.
    voxels = sitk.GetArrayFromImage(resample(scan, geometry, outside=None))
    # The range comes from the input's own voxels: smoothing must not change the scale.
    limits = intensity_range(sitk.GetArrayViewFromImage(scan), modality)
    scaled = normalise(voxels, modality, limits)
    tensor = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 1, 0)))[None, None]
    x, y, z = (max(int(-n % multiple), smallest - n) for n in tensor.shape[2:])
    tensor = torch.nn.functional.pad(tensor, (0, z, 0, y, 0, x), value=0.0)
    return Canonical(tensor, geometry, empty_like(image), modality, (x, y, z))


def canonical_image(array: np.ndarray, canonical: Canonical) -> sitk.Image:
    """(X, Y, Z) on the padded canonical grid -> an image with the canonical geometry."""
    x, y, z = canonical.geometry.GetSize()
    cropped = np.asarray(array)[:x, :y, :z]
    image = sitk.GetImageFromArray(np.ascontiguousarray(cropped.transpose(2, 1, 0)))
    image.CopyInformation(canonical.geometry)
    return image


def to_input_grid(
    array: np.ndarray,
    canonical: Canonical,
    interpolator: int = sitk.sitkLinear,
    outside: float = 0.0,
) -> sitk.Image:
    """(X, Y, Z) on the canonical grid -> an image on the input's own grid, exactly."""
    image = canonical_image(array, canonical)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(canonical.source)
    resampler.SetInterpolator(interpolator)
    resampler.SetDefaultPixelValue(outside)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return resampler.Execute(image)
