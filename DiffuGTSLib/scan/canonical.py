"""The model's canonical grid: RAS axes, the model's spacing, normalised intensity; and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch

Modality = Literal["CT", "MR"]
Box = tuple[slice, slice, slice]
CT_WINDOW_HU = (-1000.0, 1000.0)
MR_PERCENTILES = (0.0, 99.5)
AIR_SHARE = 0.2  # of exact zeros in a scan whose air was set to 0
OVERSHOOT_SHARE = 0.05  # of what is not 0; with more, negative values mean something
# Rows of an axis' matrix that are multiplied at once; weights that make no difference in float32,
# which a recursive Gaussian has all along the axis.
_ROWS, _NEGLIGIBLE = 16, 1e-7


@dataclass(frozen=True)
class Canonical:
    """A scan on the model's grid.

    Attributes:
        tensor: float32, (1, 1, X, Y, Z); axes point to the right, anterior and superior
            (along the scan's own, possibly oblique, axes); CT in [0, 1], MR from 0
            upwards but for the overshoot of earlier resampling.
        geometry: an empty image that carries the canonical grid (SimpleITK geometry).
        source: an empty image that carries the input's own grid.
        modality: "CT" or "MR".
        padding: voxels added at the end of each axis (X, Y, Z) so that the networks divide it.
        limits: the scan's own intensities that became 0 and 1.
    """

    tensor: torch.Tensor
    geometry: sitk.Image
    source: sitk.Image
    modality: Modality
    padding: tuple[int, int, int]
    limits: tuple[float, float]

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

    CT: -1000 and 1000 HU. MR: the percentiles 0 and 99.5 of `voxels`; 0 instead of the first where
    the air was set to 0 and a few voxels lie below it. Those are the overshoot of an earlier
    resampling; taken for 0, they would lift the air around a stripped brain to a sixth of the
    range.
    """
    if modality == "CT":
        return CT_WINDOW_HU
    low, high = np.percentile(voxels, MR_PERCENTILES)
    if low < 0 < high:
        air, below = np.mean(voxels == 0), np.mean(voxels < 0)
        if air > AIR_SHARE and below < OVERSHOOT_SHARE * (1 - air):
            low = 0.0
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


def mask_on_grid(mask: sitk.Image, geometry: sitk.Image) -> np.ndarray:
    """Which voxels of `geometry` a mask of 0 and 1 fills by more than half: bool (X, Y, Z)."""
    share = resample(sitk.Cast(mask, sitk.sitkFloat32), geometry)
    return np.asarray(sitk.GetArrayFromImage(share).transpose(2, 1, 0) > 0.5)


def _antialias(image: sitk.Image, geometry: sitk.Image) -> sitk.Image:
    """Gaussian smoothing along each axis of `image` whose sampling becomes coarser."""
    fine = np.array(image.GetSpacing())
    axes = np.abs(np.array(image.GetDirection()).reshape(3, 3).T
                  @ np.array(geometry.GetDirection()).reshape(3, 3))
    coarse = axes @ np.array(geometry.GetSpacing())
    for axis in range(3):
        sigma = _smoothing(fine[axis], coarse[axis], image.GetSize()[axis])
        if sigma > 0:
            image = sitk.RecursiveGaussian(image, sigma, direction=axis)
    return image


def _smoothing(fine: float, coarse: float, size: int) -> float:
    """Sigma in mm before an axis of `size` voxels becomes coarser; 0 for none."""
    if coarse / fine <= 1.2 or size < 4:
        return 0.0
    # FWHM of the coarse voxel: 0.425 of its size, less what the fine voxel already has.
    return float(0.425 * np.sqrt(coarse**2 - fine**2))


def _on_aligned_grid(image: sitk.Image, geometry: sitk.Image) -> torch.Tensor:
    """`image` at the voxels of `geometry`, whose axes are the image's own, reversed or in another
    order: float32 (X, Y, Z). What lies beyond the scan repeats its last voxels.

    As `resample`, and several times faster: smoothing and interpolation act on each axis alone, so
    that products with a banded matrix an axis do both, those first that leave the least.
    """
    turn = (np.array(image.GetDirection()).reshape(3, 3).T
            @ np.array(geometry.GetDirection()).reshape(3, 3))
    own = np.abs(turn).argmax(axis=0)  # the image's axis along each axis of the geometry
    start = image.TransformPhysicalPointToContinuousIndex(geometry.GetOrigin())
    voxels = torch.from_numpy(sitk.GetArrayFromImage(image))
    shrinkage = [geometry.GetSize()[axis] / image.GetSize()[own[axis]] for axis in range(3)]
    for axis in np.argsort(shrinkage):
        along = int(own[axis])
        fine, coarse = image.GetSpacing()[along], geometry.GetSpacing()[int(axis)]
        steps = np.arange(geometry.GetSize()[int(axis)]) * np.sign(turn[along, axis])
        weights = _axis_weights(image.GetSize()[along], fine, coarse,
                                start[along] + steps * coarse / fine)
        voxels = _applied(weights, voxels, 2 - along)  # an array has z first
    return voxels.permute(*(2 - int(axis) for axis in own)).contiguous()


def _axis_weights(size: int, fine: float, coarse: float, positions: np.ndarray) -> torch.Tensor:
    """What each voxel of an axis adds to the samples at P `positions` (in voxels): (P, size)."""
    response = np.eye(size)
    sigma = _smoothing(fine, coarse, size)
    if sigma > 0:
        impulses = sitk.GetImageFromArray(response)
        impulses.SetSpacing((fine, 1.0))
        response = sitk.GetArrayFromImage(sitk.RecursiveGaussian(impulses, sigma, direction=0))
    inside = positions.clip(0, size - 1)
    low = np.minimum(inside.astype(int), size - 2)
    share = inside - low
    weights = response[:, low] * (1 - share) + response[:, low + 1] * share
    return torch.from_numpy(np.ascontiguousarray(weights.T)).float()


def _applied(weights: torch.Tensor, voxels: torch.Tensor, axis: int) -> torch.Tensor:
    """The matrix (M, N) times `voxels` along an axis of N voxels, of any type: float32.

    The matrix is a band: a block of its rows at a time, times the voxels that count in these.
    """
    size = list(voxels.shape)
    size[axis] = len(weights)
    samples = torch.empty(size)
    for first in range(0, len(weights), _ROWS):
        rows = weights[first : first + _ROWS]
        counted = torch.nonzero(rows.abs().amax(0) > _NEGLIGIBLE).flatten()
        start, stop = int(counted[0]), int(counted[-1]) + 1
        rows, part = rows[:, start:stop], voxels.narrow(axis, start, stop - start).float()
        block = samples.narrow(axis, first, len(rows))
        if axis == 0:
            block.copy_((rows @ part.flatten(1)).unflatten(1, part.shape[1:]))
        else:
            block.copy_(rows @ part if axis == 1 else part @ rows.T)
    return samples


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
    # The last canonical voxel may lie beyond the scan: air there would darken the last slice.
    voxels = _on_aligned_grid(image, geometry)
    # The range comes from the input's own voxels: smoothing must not change the scale.
    limits = intensity_range(sitk.GetArrayViewFromImage(image), modality)
    tensor = torch.from_numpy(normalise(voxels.numpy(), modality, limits))[None, None]
    x, y, z = (max(int(-n % multiple), smallest - n) for n in tensor.shape[2:])
    tensor = torch.nn.functional.pad(tensor, (0, z, 0, y, 0, x), value=0.0)
    return Canonical(tensor, geometry, empty_like(image), modality, (x, y, z), limits)


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


def boxes_to_input_grid(
    array: np.ndarray, boxes: Sequence[Box], canonical: Canonical
) -> sitk.Image:
    """Inside `boxes` what `to_input_grid` gives, 0 elsewhere: float32, the input's grid.

    Args:
        array: (X, Y, Z) on the canonical grid.
        boxes: of the canonical grid; work is done there alone.
    """
    image = sitk.Image(canonical.source.GetSize(), sitk.sitkFloat32)
    image.CopyInformation(canonical.source)
    for region, (part,) in parts_on_input_grid([array], boxes, canonical):
        image[region] = sitk.GetImageFromArray(part)
    return image


def parts_on_input_grid(
    arrays: Sequence[np.ndarray], boxes: Sequence[Box], canonical: Canonical
) -> Iterator[tuple[Box, list[np.ndarray]]]:
    """The region (x, y, z) of the input's grid that each box reaches into, and the arrays there,
    float32 (z, y, x); regions may overlap."""
    for padded in boxes:
        box = _without_padding(padded, canonical)
        region = None if box is None else _input_region(box, canonical)
        if box is not None and region is not None:
            yield region, [_region_of_input_grid(array, box, region, canonical)
                           for array in arrays]


def _without_padding(box: Box, canonical: Canonical) -> Box | None:
    """The part of a box that lies in the scan; None where there is none."""
    size = canonical.geometry.GetSize()
    x, y, z = (slice(s.start, min(s.stop, n)) for s, n in zip(box, size, strict=True))
    return None if any(s.start >= s.stop for s in (x, y, z)) else (x, y, z)


def _input_region(box: Box, canonical: Canonical) -> Box | None:
    """The voxels (x, y, z) of the input's grid into which a canonical box reaches; None if none."""
    ends = []
    for corner in ([s.start - 1.0 for s in box], [float(s.stop) for s in box]):
        point = canonical.geometry.TransformContinuousIndexToPhysicalPoint(corner)
        ends.append(canonical.source.TransformPhysicalPointToContinuousIndex(point))
    size = np.array(canonical.source.GetSize())
    first = np.maximum(np.floor(np.min(ends, axis=0)).astype(int), 0)
    last = np.minimum(np.ceil(np.max(ends, axis=0)).astype(int), size - 1)
    x, y, z = (slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    return None if (first > last).any() else (x, y, z)


def _region_of_input_grid(
    array: np.ndarray, box: Box, region: Box, canonical: Canonical
) -> np.ndarray:
    """The array (X, Y, Z) on a region of the input's grid, (z, y, x)."""
    # Two voxels around the box: enough for the interpolation at the region's border.
    near = [slice(max(0, s.start - 2), min(n, s.stop + 2))
            for s, n in zip(box, canonical.geometry.GetSize(), strict=True)]
    part = np.ascontiguousarray(array[tuple(near)].T, np.float32)
    image = sitk.GetImageFromArray(part)
    image.SetOrigin(canonical.geometry.TransformIndexToPhysicalPoint([s.start for s in near]))
    image.SetSpacing(canonical.geometry.GetSpacing())
    image.SetDirection(canonical.geometry.GetDirection())
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    source = canonical.source
    resampler.SetOutputOrigin(source.TransformIndexToPhysicalPoint([s.start for s in region]))
    resampler.SetOutputSpacing(source.GetSpacing())
    resampler.SetOutputDirection(source.GetDirection())
    resampler.SetSize([s.stop - s.start for s in region])
    return sitk.GetArrayFromImage(resampler.Execute(image))
