"""The canonical grid and the way back, on straight, oblique, left-handed and thick grids."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.scan.canonical import (
    Canonical,
    canonical_geometry,
    canonical_image,
    intensity_range,
    mask_on_grid,
    normalise,
    resample,
    to_canonical,
    to_input_grid,
)

STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
LEFT_HANDED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


def oblique() -> tuple[float, ...]:
    """Turned by 20 degrees about x, then by 15 degrees about z."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(np.radians(15)), np.sin(np.radians(15))
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return tuple((about_z @ about_x).ravel())


OBLIQUE_LEFT = tuple((np.array(oblique()).reshape(3, 3) @ np.diag([1, 1, -1])).ravel())

GRIDS = {
    "straight": (STRAIGHT, (1.5, 1.5, 1.5), (40, 44, 36)),
    "ras": (RAS, (2.0, 2.0, 2.0), (30, 34, 26)),
    "left-handed, thick slices": (LEFT_HANDED, (0.9, 0.9, 6.5), (72, 70, 9)),
    "sagittal": (SAGITTAL, (1.0, 1.1, 3.0), (60, 54, 21)),
    "oblique": (oblique(), (0.8, 1.2, 2.5), (71, 55, 25)),
    "oblique, left-handed": (OBLIQUE_LEFT, (1.3, 0.7, 3.1), (45, 80, 19)),
    "four slices": (STRAIGHT, (1.0, 1.0, 10.0), (60, 60, 4)),
    "one voxel over": (STRAIGHT, (1.0, 1.0, 1.0), (41, 43, 45)),
}
each_grid = pytest.mark.parametrize("name", GRIDS)


def points(image: sitk.Image) -> np.ndarray:
    """Physical coordinates (LPS, mm) of all voxels, (Z, Y, X, 3)."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.GetSize()), indexing="ij"), -1)
    matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return (index @ matrix.T + np.array(image.GetOrigin())).transpose(2, 1, 0, 3)


def filled(image: sitk.Image, voxels: np.ndarray) -> sitk.Image:
    result = sitk.GetImageFromArray(voxels.astype(np.float32))
    result.CopyInformation(image)
    return result


def grid(name: str) -> sitk.Image:
    direction, spacing, size = GRIDS[name]
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetDirection(direction)
    image.SetSpacing(spacing)
    image.SetOrigin((-31.5, 12.25, 140.0))
    return image


def middle(image: sitk.Image) -> np.ndarray:
    centre = [(n - 1) / 2 for n in image.GetSize()]
    return np.array(image.TransformContinuousIndexToPhysicalPoint(centre))


def blob(image: sitk.Image, offset: tuple[float, float, float], width: float = 5.0) -> sitk.Image:
    """A Gaussian of `width` mm, `offset` mm (LPS) from the middle of the image."""
    distance = np.linalg.norm(points(image) - middle(image) - offset, axis=-1)
    return filled(image, np.exp(-((distance / width) ** 2) / 2))


def centroid(image: sitk.Image) -> np.ndarray:
    """Of the intensities, LPS in mm."""
    weights = sitk.GetArrayFromImage(image).astype(float)
    return np.average(points(image).reshape(-1, 3), axis=0, weights=weights.ravel())


def tensor_image(canonical: Canonical) -> sitk.Image:
    return canonical_image(canonical.tensor[0, 0].numpy(), canonical)


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    return all(
        getattr(one, get)() == getattr(other, get)()
        for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection")
    )


@each_grid
def test_what_comes_back_lies_exactly_on_the_input_grid(name: str) -> None:
    canonical = to_canonical(blob(grid(name), (2, -3, 4)), "MR", (2.0, 2.0, 2.0), multiple=8)
    back = to_input_grid(canonical.tensor[0, 0].numpy(), canonical)
    assert same_grid(back, grid(name))


@each_grid
def test_a_blob_keeps_its_place_on_the_canonical_grid(name: str) -> None:
    scan = blob(grid(name), (2.3, -3.1, 1.7))
    image = tensor_image(to_canonical(scan, "MR", (2.0, 2.0, 2.0), multiple=16))
    assert np.abs(centroid(image) - centroid(scan)).max() < 0.3


@each_grid
def test_a_blob_keeps_its_place_on_the_way_back(name: str) -> None:
    scan = blob(grid(name), (2.3, -3.1, 1.7))
    canonical = to_canonical(scan, "MR", (2.0, 2.0, 2.0), multiple=16)
    back = to_input_grid(canonical.tensor[0, 0].numpy(), canonical)
    assert np.abs(centroid(back) - centroid(scan)).max() < 0.4


@each_grid
def test_a_ramp_keeps_its_world_coordinates(name: str) -> None:
    """Intensity = mm along one direction, so that an error in intensity is one in mm."""
    image, along = grid(name), np.array([0.48, -0.6, 0.64])
    scan = filled(image, points(image) @ along)
    canonical = to_canonical(scan, "MR", (2.0, 2.0, 2.0))
    low, high = intensity_range(sitk.GetArrayFromImage(scan), "MR")
    found = sitk.GetArrayFromImage(tensor_image(canonical)) * (high - low) + low
    places = points(canonical.geometry)
    inner = np.ones(found.shape, bool)
    matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    index = (places - np.array(image.GetOrigin())) @ np.linalg.inv(matrix).T
    for axis, (count, step) in enumerate(zip(image.GetSize(), image.GetSpacing(), strict=True)):
        # The last voxel is repeated at the edge, and smoothing flattens the ramp there.
        margin = min(8.0 / step, (count - 1) / 4) if step < 1.7 else 0
        inner &= (index[..., axis] >= margin) & (index[..., axis] <= count - 1 - margin)
    assert inner.sum() > 500
    assert np.abs(found - places @ along)[inner].max() < 0.2


@each_grid
@pytest.mark.parametrize("pixel", [sitk.sitkUInt8, sitk.sitkUInt16, sitk.sitkInt16])
def test_the_canonical_voxels_are_those_that_itk_samples(name: str, pixel: int) -> None:
    image = grid(name)
    noise = np.random.default_rng(4).uniform(0, 250, image.GetSize()[::-1]).round()
    scan = sitk.Cast(filled(image, noise), pixel)
    canonical = to_canonical(scan, "MR", (2.0, 2.0, 2.0))
    low, high = canonical.limits
    sampled = resample(sitk.Cast(scan, sitk.sitkFloat32), canonical.geometry, outside=None)
    error = (sitk.GetArrayFromImage(tensor_image(canonical))
             - (sitk.GetArrayFromImage(sampled) - low) / (high - low))
    # Beyond the last voxels' centres ITK does not repeat the nearest one everywhere.
    assert np.abs(error[1:-1, 1:-1, 1:-1]).max() < 1e-5


@each_grid
def test_a_smooth_pattern_survives_the_round_trip(name: str) -> None:
    scan = blob(grid(name), (0.0, 0.0, 0.0), width=11.0)
    canonical = to_canonical(scan, "MR", (1.5, 1.5, 1.5), multiple=4)
    low, high = intensity_range(sitk.GetArrayFromImage(scan), "MR")
    back = to_input_grid(canonical.tensor[0, 0].numpy(), canonical)
    error = sitk.GetArrayFromImage(back) * (high - low) + low - sitk.GetArrayFromImage(scan)
    assert np.abs(error).max() < 0.06


@each_grid
def test_the_tensor_axes_point_to_the_right_anterior_and_superior(name: str) -> None:
    for axis, ras in enumerate(((-8.0, 0, 0), (0, -8.0, 0), (0, 0, 8.0))):
        here, there = (
            to_canonical(blob(grid(name), offset), "MR", (2.0, 2.0, 2.0)).tensor[0, 0].numpy()
            for offset in ((0.0, 0.0, 0.0), ras)
        )
        moved = [
            np.average(np.arange(n), weights=there.sum(axis=others))
            - np.average(np.arange(n), weights=here.sum(axis=others))
            for n, others in zip(here.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
        ]
        assert int(np.argmax(np.abs(moved))) == axis
        assert moved[axis] > 2.5


@each_grid
def test_the_canonical_grid_covers_the_whole_scan(name: str) -> None:
    image = grid(name)
    geometry = canonical_geometry(image, (2.0, 2.0, 2.0))
    size = np.array(image.GetSize()) - 0.5
    for corner in product(*((-0.5, end) for end in size)):
        place = geometry.TransformPhysicalPointToContinuousIndex(
            image.TransformContinuousIndexToPhysicalPoint(corner)
        )
        assert all(-0.501 <= p <= n - 0.499 for p, n in zip(place, geometry.GetSize(), strict=True))


@each_grid
def test_padding_makes_the_axes_divisible_and_is_empty(name: str) -> None:
    canonical = to_canonical(blob(grid(name), (0, 0, 0)) + 1, "MR", (2.0, 2.0, 2.0), multiple=32)
    assert all(n % 32 == 0 for n in canonical.tensor.shape[2:])
    sizes = zip(canonical.tensor.shape[2:], canonical.padding, strict=True)
    assert canonical.geometry.GetSize() == tuple(n - p for n, p in sizes)
    x, y, z = canonical.geometry.GetSize()
    total = canonical.tensor.sum()
    assert canonical.tensor[..., :x, :y, :z].sum() == pytest.approx(float(total), rel=1e-5)


@each_grid
def test_a_constant_scan_is_constant_to_its_last_slice(name: str) -> None:
    """Voxels that overhang the scan must not pull its edge towards the dark."""
    scan = grid(name) + 100
    scan[[n // 2 for n in scan.GetSize()]] = -1000.0
    canonical = to_canonical(scan, "CT", (1.7, 2.3, 1.9))
    back = sitk.GetArrayFromImage(to_input_grid(canonical.tensor[0, 0].numpy(), canonical))
    for face in (back[:, :, 0], back[:, :, -1], back[:, 0], back[:, -1]):
        assert face == pytest.approx(0.55, abs=1e-4)


def test_labels_stay_labels_on_the_way_back() -> None:
    canonical = to_canonical(blob(grid("oblique"), (0, 0, 0)), "MR", (2.0, 2.0, 2.0), multiple=8)
    labels = (canonical.tensor[0, 0].numpy() > 0.3).astype(np.uint8) * 7
    back = to_input_grid(labels, canonical, sitk.sitkNearestNeighbor)
    assert back.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayFromImage(back))) == {0, 7}


def test_a_ct_is_clipped_to_its_window_and_an_mr_scan_is_not() -> None:
    voxels = np.array([-2000.0, -1000.0, 0.0, 1000.0, 3000.0])
    assert normalise(voxels, "CT", intensity_range(voxels, "CT")).tolist() == [0, 0, 0.5, 1, 1]
    assert normalise(voxels, "MR", (0.0, 1000.0)).tolist() == [-2, -1, 0, 1, 3]


def test_overshoot_below_the_air_of_a_stripped_brain_does_not_lift_the_air() -> None:
    voxels = np.zeros(10_000)
    voxels[:2000] = np.linspace(1, 500, 2000)
    voxels[2000:2050] = -80.0
    low, high = intensity_range(voxels, "MR")
    assert low == 0.0
    assert high == pytest.approx(np.percentile(voxels, 99.5))


def test_negative_values_that_mean_something_stay_the_lower_end() -> None:
    generator = np.random.default_rng(0)
    standardised = np.where(np.arange(10_000) < 4000, 0.0, generator.normal(0, 1, 10_000))
    no_air = np.where(np.arange(10_000) < 100, -5.0, 100.0)
    assert intensity_range(standardised, "MR")[0] == standardised.min()
    assert intensity_range(no_air, "MR")[0] == -5.0


def test_the_air_around_real_stripped_brains_becomes_zero(shared_data) -> None:
    image = sitk.ReadImage(str(shared_data / "brain" / "ms_p07_flair" / "image.nii.gz"))
    assert sitk.GetArrayViewFromImage(image).min() < -10
    assert to_canonical(image, "MR", (2.0, 2.0, 2.0)).tensor[0, 0, 0, 0, 0] == 0.0


def test_a_checkerboard_is_averaged_when_the_grid_gets_coarser() -> None:
    image = grid("straight")
    board = np.indices(image.GetSize()[::-1]).sum(axis=0) % 2
    coarse = resample(filled(image, board), canonical_geometry(image, (6.0, 6.0, 6.0)))
    assert np.abs(sitk.GetArrayFromImage(coarse)[1:-1, 1:-1, 1:-1] - 0.5).max() < 0.05


@pytest.mark.parametrize("case", ["brain1", "ms_p07_t1", "volunteer_t1"])
def test_a_real_scan_returns_unshifted(shared_data: Path, case: str) -> None:
    scan = sitk.ReadImage(str(shared_data / "brain" / case / "image.nii.gz"), sitk.sitkFloat32)
    canonical = to_canonical(scan, "MR", (2.0, 2.0, 2.0), multiple=16)
    back = to_input_grid(canonical.tensor[0, 0].numpy(), canonical)
    assert same_grid(back, scan)
    before, after = (sitk.GetArrayFromImage(image) for image in (scan, back))
    inner = (slice(2, -2),) * 3
    here = np.corrcoef(before[inner].ravel(), after[inner].ravel())[0, 1]
    assert here > 0.95
    for axis, step in product(range(3), (-1, 1)):
        shifted = np.roll(after, step, axis)
        assert np.corrcoef(before[inner].ravel(), shifted[inner].ravel())[0, 1] < here


@pytest.mark.parametrize("case", ["brain1", "ms_p07_t1", "volunteer_t1"])
def test_a_real_head_stays_where_it_is(shared_data: Path, case: str) -> None:
    scan = sitk.ReadImage(str(shared_data / "brain" / case / "image.nii.gz"), sitk.sitkFloat32)
    scan = sitk.Clamp(scan, sitk.sitkFloat32, 0.0)
    canonical = to_canonical(scan, "MR", (2.0, 2.0, 2.0))
    # The neck is cut by the field of view: the overhanging last voxel shifts the centroid a bit.
    assert np.abs(centroid(tensor_image(canonical)) - centroid(scan)).max() < 0.5
    assert np.sign(np.diag(np.array(canonical.geometry.GetDirection()).reshape(3, 3))).tolist() == [
        -1, -1, 1,
    ]  # fmt: skip


def test_a_mask_fills_the_voxels_of_which_it_covers_more_than_half() -> None:
    voxels = np.zeros((8, 10, 12), np.uint8)
    voxels[2:6, 3:8, 4:9] = 1
    mask = filled(sitk.Image([12, 10, 8], sitk.sitkUInt8), voxels)
    same = mask_on_grid(mask, mask)
    assert same.dtype == bool
    assert np.array_equal(same, voxels.transpose(2, 1, 0) > 0)
    shifted = sitk.Image(mask)
    shifted.SetOrigin((0.4, 0.0, 0.0))
    assert np.array_equal(mask_on_grid(mask, shifted), same)
    shifted.SetOrigin((0.0, 0.0, -0.6))
    assert np.array_equal(mask_on_grid(mask, shifted), np.roll(same, 1, axis=2))
