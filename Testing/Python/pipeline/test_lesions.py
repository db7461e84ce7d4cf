"""Lesions: known answers on boxes, balls and ellipsoids, on turned and mirrored grids."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from DiffuGTSLib.pipeline.lesions import (
    Lesion,
    _diameters,
    _longest_of_slices,
    find_lesions,
    labelled,
    without_holes,
)

IDENTITY = np.eye(3)
LEFT_HANDED = np.diag([1.0, 1.0, -1.0])
SAGITTAL = np.array([[0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]])


def turned(degrees: float) -> np.ndarray:
    """Direction matrix of a grid turned about the x and z axes: an oblique scan."""
    a = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return about_z @ about_x


def image_of(array: np.ndarray, spacing=(1.0, 1.0, 1.0), direction=IDENTITY) -> sitk.Image:
    """An image from an array in (x, y, z) order."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((-30.0, 12.0, 55.0))
    return image


def ellipsoid(radii, spacing=(1.0, 1.0, 1.0), size=(64, 64, 40), direction=IDENTITY) -> sitk.Image:
    """Radii in mm along the voxel axes, around the middle of the grid."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    inside = sum((g / r) ** 2 for g, r in zip(grid, radii, strict=True)) <= 1
    return image_of(inside.astype(np.uint8), spacing, direction)


def only(mask: sitk.Image, score: sitk.Image | None = None) -> Lesion:
    """The one lesion of a mask."""
    (lesion,) = find_lesions(mask, sitk.Cast(mask, sitk.sitkFloat32) if score is None else score)
    return lesion


def box(size, spacing=(1.0, 1.0, 1.0)) -> sitk.Image:
    array = np.zeros((40, 40, 20), np.uint8)
    array[3 : 3 + size[0], 5 : 5 + size[1], 2 : 2 + size[2]] = 1
    return image_of(array, spacing)


@pytest.mark.parametrize("direction", [IDENTITY, LEFT_HANDED, turned(20), -turned(35)])
def test_a_ball_has_its_volume_and_diameter_on_every_grid(direction):
    lesion = only(ellipsoid((12, 12, 12), (0.8, 0.8, 2.5), direction=direction))
    assert lesion.volume_ml == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.03)
    assert lesion.longest_diameter_mm == pytest.approx(24, abs=0.8)
    assert lesion.perpendicular_mm == pytest.approx(24, abs=1.6)
    assert lesion.feret_3d_mm == pytest.approx(24, abs=2.5)


def test_an_ellipsoid_gives_its_long_and_its_short_axis():
    lesion = only(ellipsoid((20, 9, 6), (0.7, 0.9, 1.5)))
    assert lesion.longest_diameter_mm == pytest.approx(40, abs=0.9)
    assert lesion.perpendicular_mm == pytest.approx(18, abs=0.9)


def test_the_diameter_is_taken_in_the_axial_plane_of_a_sagittal_scan():
    lesion = only(ellipsoid((8, 25, 10), size=(40, 64, 40), direction=SAGITTAL))
    assert lesion.longest_diameter_mm == pytest.approx(20, abs=1)
    assert lesion.perpendicular_mm == pytest.approx(16, abs=1)
    assert lesion.feret_3d_mm == pytest.approx(50, abs=1)
    assert lesion.slice_range == (7, 56)


def test_a_boxs_diagonal_and_the_chord_across_it():
    lesion = only(box((24, 10, 5)))
    diagonal = np.hypot(24, 10)
    assert lesion.volume_ml == pytest.approx(1.2)
    assert lesion.longest_diameter_mm == pytest.approx(diagonal, abs=1)
    assert lesion.perpendicular_mm == pytest.approx(10 * diagonal / 24, abs=1)
    assert lesion.slice_range == (2, 6)


def test_a_row_is_measured_between_its_outer_edges():
    lesion = only(box((9, 1, 1), (2.0, 3.0, 5.0)))
    assert lesion.longest_diameter_mm == pytest.approx(18)
    assert lesion.perpendicular_mm == pytest.approx(3)
    assert lesion.feret_3d_mm == pytest.approx(18)


def test_the_3d_diameter_agrees_with_simpleitk_within_a_voxel():
    mask = ellipsoid((20, 9, 14), (0.7, 0.9, 1.5), direction=turned(30))
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.ComputeFeretDiameterOn()
    statistics.Execute(mask)
    assert only(mask).feret_3d_mm == pytest.approx(statistics.GetFeretDiameter(1) + 0.7, abs=0.7)


@pytest.mark.parametrize("direction", [IDENTITY, LEFT_HANDED, turned(25)])
def test_the_centroid_is_the_middle_of_the_box_in_ras(direction):
    mask = box((4, 6, 8))
    mask.SetDirection(direction.ravel().tolist())
    middle = mask.TransformContinuousIndexToPhysicalPoint((4.5, 7.5, 5.5))
    assert only(mask).centroid_ras_mm == pytest.approx((-middle[0], -middle[1], middle[2]))


def test_the_score_is_averaged_over_the_lesion_only():
    mask = box((10, 10, 2))
    scores = np.full((40, 40, 20), 0.9, np.float32)
    scores[3:13, 5:15, 2] = 0.2
    scores[3:13, 5:15, 3] = 0.6
    lesion = only(mask, image_of(scores))
    assert lesion.mean_score == pytest.approx(0.4, abs=1e-6)
    assert lesion.max_score == pytest.approx(0.6, abs=1e-6)


def two_boxes() -> sitk.Image:
    array = np.zeros((40, 40, 20), np.uint8)
    array[2:6, 2:6, 2:6] = 1
    array[20:30, 20:30, 5:15] = 1
    array[35, 35, 18] = 1
    return image_of(array)


def test_lesions_come_largest_first_and_specks_are_left_out():
    lesions = find_lesions(two_boxes(), two_boxes())
    assert [lesion.number for lesion in lesions] == [1, 2]
    assert [lesion.volume_ml for lesion in lesions] == pytest.approx([1.0, 0.064])
    assert len(find_lesions(two_boxes(), two_boxes(), minimum_ml=0.001)) == 3


def test_lesions_are_the_same_where_their_labels_are_given():
    mask = two_boxes()
    assert find_lesions(mask, mask, labels=labelled(mask)) == find_lesions(mask, mask)


@pytest.mark.parametrize("seed", range(4))
def test_the_diameters_are_those_of_all_slices_measured(seed):
    draws = np.random.default_rng(seed)
    stack = draws.random((12, 15, 9)) > draws.uniform(0.6, 0.98, 12)[:, None, None]
    spacing = np.array([0.7, 1.3])
    assert _longest_of_slices(stack, spacing) == max(_diameters(s, spacing) for s in stack)


def test_labels_carry_the_lesions_numbers_on_the_masks_grid():
    mask = two_boxes()
    labels = labelled(mask)
    array = sitk.GetArrayFromImage(labels)
    assert labels.GetPixelID() == sitk.sitkUInt16
    assert labels.GetOrigin() == mask.GetOrigin()
    assert (array == 1).sum() == 1000
    assert (array == 2).sum() == 64
    assert array[10, 25, 25] == 1


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    array = np.zeros((12, 12, 12), np.uint8)
    array[1:5, 1:5, 1:5] = 1
    array[5:9, 5:9, 5:9] = 1
    assert only(image_of(array)).volume_ml == pytest.approx(0.128)


def test_a_concave_lesion_at_the_scans_edge_is_measured():
    array = np.zeros((30, 30, 3), np.uint8)
    array[0:20, 0:4] = 1
    array[0:4, 0:20] = 1
    lesion = only(image_of(array))
    assert lesion.longest_diameter_mm == pytest.approx(np.hypot(20, 20), abs=1)
    assert lesion.slice_range == (0, 2)


@pytest.mark.parametrize("seed", range(12))
def test_holes_are_filled_as_by_scipy(seed):
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.standard_normal((30, 26, 22)), 0.5 + seed / 12)
    mask = noise > np.quantile(noise, 0.2 + seed / 20)
    expected = ndimage.binary_fill_holes(mask)
    filled = without_holes(image_of(mask.astype(np.uint8), (1.0, 2.0, 3.0)))
    assert np.array_equal(sitk.GetArrayFromImage(filled).T, expected)
    assert filled.GetSpacing() == (1.0, 2.0, 3.0)


def test_a_pocket_that_opens_at_the_scans_edge_is_no_hole():
    array = np.zeros((12, 12, 12), np.uint8)
    array[:5, :5, :5] = 1
    array[:3, 1:4, 1:4] = 0  # seen by the scan up to its edge
    array[7:12, 7:12, 7:12] = 1
    array[8:11, 8:11, 8:11] = 0
    array[9, 9, 9] = 1  # an island in the hole
    filled = sitk.GetArrayFromImage(without_holes(image_of(array))).T
    assert np.array_equal(filled[:6], array[:6])
    assert filled[7:, 7:, 7:].all()


def test_an_empty_mask_has_no_lesion_and_no_label():
    empty = image_of(np.zeros((8, 9, 10), np.uint8))
    assert find_lesions(empty, empty) == []
    assert sitk.GetArrayFromImage(labelled(empty)).max() == 0


def test_a_score_of_another_size_is_refused():
    with pytest.raises(ValueError, match="differ in size"):
        find_lesions(box((4, 4, 4)), image_of(np.zeros((3, 3, 3), np.float32)))


def test_a_lesion_goes_into_json_and_has_a_name():
    lesion = only(box((4, 6, 8)))
    assert json.loads(json.dumps(lesion.as_dict()))["slice_range"] == [2, 9]
    assert lesion.name("liver tumor") == "liver tumor 1"


def test_a_large_scan_is_measured_in_seconds():
    array = np.zeros((512, 512, 300), np.uint8)
    array[200:260, 200:260, 100:140] = sitk.GetArrayFromImage(
        ellipsoid((21, 21, 19), (0.7, 0.7, 1), size=(60, 60, 40))).T
    mask = image_of(array, (0.7, 0.7, 1.0))
    started = time.process_time()
    assert only(mask, mask).volume_ml == pytest.approx(35, rel=0.05)
    assert time.process_time() - started < 5
