"""Metrics on hand-made cases: empty masks, shifted cubes, one voxel, several lesions."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_dice, compute_roc_auc
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.evaluation.measures import (
    THRESHOLDS,
    Measures,
    auroc,
    baselines,
    best_dice,
    dice,
    dice_by_threshold,
    measure,
    overlap,
)
from DiffuGTSLib.pipeline.segmenter import Segmenter

SPACING = (1.0, 1.0, 1.0)


def image(array: np.ndarray, spacing=SPACING) -> sitk.Image:
    made = sitk.GetImageFromArray(array.astype(np.uint8))
    made.SetSpacing(spacing)
    return made


def cube(start: tuple[int, int, int], edge: int = 10, size: int = 32) -> np.ndarray:
    mask = np.zeros((size, size, size), bool)
    mask[tuple(slice(s, s + edge) for s in start)] = True
    return mask


EMPTY = np.zeros((32, 32, 32), bool)
CUBE = cube((4, 4, 4))


def scores(ours: np.ndarray, theirs: np.ndarray, spacing=SPACING) -> Measures:
    return measure(image(ours, spacing), image(theirs, spacing))


def test_a_perfect_mask_scores_one_everywhere():
    found = scores(CUBE, CUBE)
    assert (found.dsc, found.nsd, found.sensitivity, found.precision, found.f1) == (1, 1, 1, 1, 1)
    assert (found.volume_error_ml, found.volume_error_percent) == (0, 0)
    assert found.reference_ml == pytest.approx(1.0)


def test_a_shifted_cube_has_the_overlap_that_one_counts_by_hand():
    found = scores(cube((9, 4, 4)), CUBE)
    assert found.dsc == pytest.approx(0.5)
    assert found.dsc == pytest.approx(dice(cube((9, 4, 4)), CUBE))
    assert found.lesions_found == 1  # intersection over union 1/3
    assert found.volume_error_ml == pytest.approx(0)


def test_the_surface_is_right_within_two_mm_and_wrong_beyond():
    assert scores(cube((6, 4, 4)), CUBE).nsd == pytest.approx(1.0)
    far = scores(cube((9, 4, 4)), CUBE).nsd
    # Five of ten voxels apart: the caps are wrong, and of the sides all that is 3 or more away.
    assert 0.3 < far < 0.75


def test_the_surface_distance_counts_mm_not_voxels():
    assert scores(cube((6, 4, 4)), CUBE, (1.0, 1.0, 3.0)).nsd < 0.9
    assert scores(cube((9, 4, 4)), CUBE, (1.0, 1.0, 0.4)).nsd == pytest.approx(1.0)


def test_both_masks_empty_leave_nothing_to_score():
    found = scores(EMPTY, EMPTY)
    assert (found.dsc, found.nsd, found.sensitivity, found.precision, found.f1) == (None,) * 5
    assert (found.segmented_ml, found.volume_error_percent) == (0, None)


def test_a_missed_tumor_scores_zero():
    found = scores(EMPTY, CUBE)
    assert (found.dsc, found.nsd, found.sensitivity, found.precision, found.f1) == (0,) * 5
    assert found.volume_error_percent == pytest.approx(-100)


def test_a_false_alarm_without_a_tumor_counts_in_ml_alone():
    found = scores(CUBE, EMPTY)
    assert (found.dsc, found.nsd, found.f1) == (None, None, None)
    assert (found.segmented_ml, found.lesions_segmented) == (pytest.approx(1.0), 1)


def test_one_voxel_can_be_scored():
    spot = cube((16, 16, 16), edge=1)
    found = scores(spot, spot, (4.0, 4.0, 4.0))
    assert (found.dsc, found.nsd, found.lesions_found) == (1, 1, 1)
    missed = scores(cube((20, 16, 16), edge=1), spot, (4.0, 4.0, 4.0))
    assert (missed.dsc, missed.nsd, missed.lesions_found) == (0, 0, 0)


def test_a_tumor_at_the_edge_of_the_scan_can_be_scored():
    assert scores(cube((0, 0, 22)), cube((0, 0, 22))).nsd == 1


def test_parts_smaller_than_a_lesion_are_no_lesions_but_count_in_the_volume():
    crumb = CUBE | cube((25, 25, 25), edge=3)  # 0.027 ml
    found = scores(crumb, CUBE)
    assert found.lesions_segmented == 1
    assert found.volume_error_ml == pytest.approx(0.027)


def test_lesions_are_counted_one_by_one():
    truth = cube((2, 2, 2), 6) | cube((2, 2, 20), 6) | cube((20, 2, 2), 6)
    ours = cube((2, 2, 2), 6) | cube((3, 2, 20), 6) | cube((20, 20, 20), 6) | cube((20, 20, 2), 6)
    found = scores(ours, truth)
    assert (found.lesions, found.lesions_segmented, found.lesions_found) == (3, 4, 2)
    assert found.sensitivity == pytest.approx(2 / 3)
    assert found.precision == pytest.approx(1 / 2)
    assert found.f1 == pytest.approx(4 / 7)


def test_one_large_blob_over_two_lesions_finds_one_at_most():
    truth = cube((2, 2, 2), 8) | cube((2, 2, 16), 8)
    blob = np.zeros_like(truth)
    blob[2:10, 2:10, 2:24] = True
    assert scores(blob, truth).lesions_found == 1


def test_a_touch_is_no_find():
    assert scores(cube((13, 4, 4)), CUBE).lesions_found == 0  # intersection over union 1/19


def test_many_false_alarms_do_not_need_much_memory_or_change_the_finds():
    generator = np.random.default_rng(0)
    alarms = np.kron(generator.random((16, 16, 16)) > 0.9, np.ones((4, 4, 4))).astype(bool)
    truth = cube((20, 20, 20), 12, size=64)
    found = scores(alarms | truth, truth)
    assert found.lesions_found == 1
    assert found.lesions_segmented > 20


def test_masks_on_different_grids_are_refused():
    with pytest.raises(ValueError, match="differ"):
        measure(image(EMPTY), image(EMPTY[1:]))


def test_the_overlap_with_another_tumor_is_a_dsc_or_nothing():
    assert overlap(image(cube((9, 4, 4))), image(CUBE)) == pytest.approx(0.5)
    assert overlap(image(CUBE), image(EMPTY)) is None
    assert overlap(image(EMPTY), image(CUBE)) == 0


def test_a_bright_tumor_is_the_best_threshold_of_the_raw_intensity(tmp_path):
    truth = image(ball_scan()[1])
    truth.CopyInformation(ball_scan()[0])
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path / "tiny"), "cpu")
    scan = segmenter.encode(ball_scan()[0], "MR")
    found = baselines(segmenter.segment(scan, PROMPT), truth, scan.canonical)
    assert found.intensity > 0.99
    assert found.auroc_map > 0.6
    assert found.centre < 0.95
    assert found.best_score > 0.3


def test_dice_of_shifted_cubes():
    first, second = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    first[2:6, 2:6, 2:6], second[4:8, 2:6, 2:6] = True, True
    assert dice(first, second) == pytest.approx(0.5)
    ours, theirs = (torch.from_numpy(m)[None, None].float() for m in (first, second))
    assert dice(first, second) == pytest.approx(float(compute_dice(ours, theirs)))


def test_dice_of_empty_masks_is_one_and_of_one_empty_zero():
    empty, full = np.zeros(8, bool), np.ones(8, bool)
    assert dice(empty, empty) == 1
    assert dice(empty, full) == 0


def test_dice_by_threshold_equals_dice_at_each_threshold():
    generator = np.random.default_rng(0)
    score, reference = generator.random((9, 9, 9)), generator.random((9, 9, 9)) > 0.7
    score[0, 0, 0], score[0, 0, 1] = 0.0, 1.0
    expected = [dice(score > t, reference) for t in THRESHOLDS]
    assert dice_by_threshold(score, reference) == pytest.approx(expected)


def test_the_thresholds_are_dense_where_calibrated_scores_lie():
    assert THRESHOLDS[0] == 0
    assert THRESHOLDS[-1] == 1
    assert 0.5 in THRESHOLDS
    for low, high in ((1e-4, 1e-3), (1e-3, 1e-2), (0.99, 0.999)):
        assert ((low < THRESHOLDS) & (high > THRESHOLDS)).sum() > 30
    assert np.diff(THRESHOLDS).max() < 0.013


def test_best_dice_finds_a_threshold_of_a_thousandth():
    score = np.array([1e-4, 5e-4, 2e-3, 3e-3])
    value, threshold = best_dice(score, score > 1e-3)
    assert value == 1
    assert 5e-4 <= threshold < 2e-3


def test_best_dice_finds_the_separating_threshold():
    reference = np.array([False, False, True, True])
    value, threshold = best_dice(np.array([0.1, 0.3, 0.4, 0.9]), reference)
    assert value == 1
    assert 0.3 <= threshold < 0.4


def test_auroc_counts_ties_half_and_agrees_with_monai():
    score, reference = np.array([0.2, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    assert auroc(score, reference) == pytest.approx(3.5 / 4)
    generator = np.random.default_rng(1)
    many, truth = generator.random(500), generator.random(500) > 0.6
    theirs = compute_roc_auc(torch.from_numpy(many), torch.from_numpy(truth.astype(int)))
    assert auroc(many, truth) == pytest.approx(float(theirs))


def test_auroc_of_one_class_is_none():
    assert auroc(np.array([0.1, 0.2]), np.array([True, True])) is None
