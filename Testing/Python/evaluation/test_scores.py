"""Dice, thresholds and AUROC on hand-made cases, and against MONAI."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_roc_auc

from DiffuGTSLib.evaluation.measures import THRESHOLDS, auroc, best_dice, dice, dice_by_threshold


def test_dice_of_shifted_cubes() -> None:
    first, second = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    first[2:6, 2:6, 2:6], second[4:8, 2:6, 2:6] = True, True
    assert dice(first, second) == pytest.approx(0.5)
    ours, theirs = (torch.from_numpy(m)[None, None].float() for m in (first, second))
    assert dice(first, second) == pytest.approx(float(compute_dice(ours, theirs)))


def test_dice_of_empty_masks_is_one_and_of_one_empty_zero() -> None:
    empty, full = np.zeros(8, bool), np.ones(8, bool)
    assert dice(empty, empty) == 1
    assert dice(empty, full) == 0


def test_dice_by_threshold_equals_dice_at_each_threshold() -> None:
    generator = np.random.default_rng(0)
    score, reference = generator.random((9, 9, 9)), generator.random((9, 9, 9)) > 0.7
    score[0, 0, 0], score[0, 0, 1] = 0.0, 1.0
    expected = [dice(score > t, reference) for t in THRESHOLDS]
    assert dice_by_threshold(score, reference) == pytest.approx(expected)


def test_the_thresholds_are_dense_where_calibrated_scores_lie() -> None:
    assert THRESHOLDS[0] == 0
    assert THRESHOLDS[-1] == 1
    assert 0.5 in THRESHOLDS
    for low, high in ((1e-4, 1e-3), (1e-3, 1e-2), (0.99, 0.999)):
        assert ((low < THRESHOLDS) & (high > THRESHOLDS)).sum() > 30
    assert np.diff(THRESHOLDS).max() < 0.013


def test_best_dice_finds_a_threshold_of_a_thousandth() -> None:
    score = np.array([1e-4, 5e-4, 2e-3, 3e-3])
    value, threshold = best_dice(score, score > 1e-3)
    assert value == 1
    assert 5e-4 <= threshold < 2e-3


def test_best_dice_finds_the_separating_threshold() -> None:
    reference = np.array([False, False, True, True])
    value, threshold = best_dice(np.array([0.1, 0.3, 0.4, 0.9]), reference)
    assert value == 1
    assert 0.3 <= threshold < 0.4


def test_auroc_counts_ties_half_and_agrees_with_monai() -> None:
    score, reference = np.array([0.2, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    assert auroc(score, reference) == pytest.approx(3.5 / 4)
    generator = np.random.default_rng(1)
    many, truth = generator.random(500), generator.random(500) > 0.6
    theirs = compute_roc_auc(torch.from_numpy(many), torch.from_numpy(truth.astype(int)))
    assert auroc(many, truth) == pytest.approx(float(theirs))


def test_auroc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True])))
