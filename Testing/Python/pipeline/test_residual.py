"""Residuals, their fusion, boundaries at half of the contrast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from DiffuGTSLib.models.card import Fusion, logits
from DiffuGTSLib.pipeline.residual import (
    at_half_contrast,
    cosine_distance,
    pixel_residual,
    sum_of_upsampled,
)


def fusion(weights: tuple[float, float, float, float]) -> Fusion:
    return Fusion({"both": weights}, pixel_floor=0.02, feature_floor=0.1)


def test_pixel_residual_is_the_absolute_difference() -> None:
    scan, healthy = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.4])
    assert torch.allclose(pixel_residual(scan, healthy), torch.tensor([0.3, 0.5]))


def test_the_cosine_distance_is_zero_for_equal_and_two_for_opposite_features() -> None:
    features = torch.randn(1, 4, 8, 8, 8)
    assert cosine_distance(features, features).max() < 1e-5
    assert torch.allclose(cosine_distance(features, -features), torch.tensor(2.0), atol=1e-4)


def test_the_cosine_distance_ignores_the_length_of_the_features() -> None:
    features = torch.randn(1, 4, 4, 4, 4)
    assert cosine_distance(features, 3 * features).max() < 1e-5


def test_the_levels_distances_are_upsampled_and_summed_and_never_negative() -> None:
    levels = [torch.full((1, 1, n, n, n), 2.0) for n in (8, 4)]
    assert torch.allclose(sum_of_upsampled(levels, (8, 8, 8)), torch.full((8, 8, 8), 4.0))
    assert sum_of_upsampled([-levels[0]], (8, 8, 8)).max() == 0


def test_fusion_of_the_attention_alone_gives_the_attention() -> None:
    p = np.array([0.1, 0.5, 0.9])
    blank = np.zeros(3)
    assert fusion((0, 1, 0, 0)).score(p, blank, blank) == pytest.approx(p)


def test_larger_residuals_raise_the_score_in_units_of_their_floor() -> None:
    made = fusion((0.0, 1.0, 1.0, 0.0))
    p, pixel, blank = np.full(2, 0.5), np.array([0.02, 0.2]), np.zeros(2)
    expected = 1 / (1 + np.exp(-np.log1p([1.0, 10.0])))
    assert made.score(p, pixel, blank) == pytest.approx(expected)


def test_certain_attention_stays_finite() -> None:
    assert np.isfinite(logits(np.array([0.0, 1.0]))).all()


def distance_from_the_middle() -> np.ndarray:
    """In voxels, (41, 41, 41)."""
    return np.sqrt(sum((axis - 20.0) ** 2 for axis in np.indices((41, 41, 41))))


def blurred_ball(contrast: float = 0.4) -> np.ndarray:
    """A ball of radius 9 that fades to nothing from 7 to 11; half of it is left at 9."""
    return contrast * np.clip((11 - distance_from_the_middle()) / 4, 0, 1)


@pytest.mark.parametrize(("uncertain_at", "radius"), [(7.0, 8.8), (8.0, 9.1), (10.0, 9.5)])
@pytest.mark.parametrize("contrast", [0.1, 0.4])
def test_a_lesion_ends_near_half_of_its_contrast(
    uncertain_at: float, radius: float, contrast: float
) -> None:
    distance = distance_from_the_middle()
    score = 1 / (1 + np.exp(0.4 * (distance - uncertain_at)))  # falls slowly around there
    refined = at_half_contrast(score, blurred_ball(contrast))
    # 0.4 (uncertain_at - r) + 0.5 + ((11 - r) / 4 - 0.5) / 0.2 = 0
    assert distance[refined > 0.5].max() == pytest.approx(radius, abs=0.15)


def test_where_the_score_is_certain_the_contrast_does_not_count() -> None:
    score = np.where(distance_from_the_middle() < 5, 0.9, 0.1)
    refined = at_half_contrast(score, blurred_ball())
    assert np.array_equal(refined > 0.5, score > 0.5)


def test_nothing_becomes_a_lesion_of_its_own() -> None:
    distance = distance_from_the_middle()
    score = np.where(distance < 5, 0.9, np.where(distance > 15, 0.4, 0.0))  # a shell around it
    refined = at_half_contrast(score, np.full(score.shape, 0.4))
    assert np.array_equal(refined[distance > 15], np.float32(score[distance > 15]))
    assert (refined[score == 0] == 0).all()
    everything_uncertain = at_half_contrast(score * 0.5, np.full(score.shape, 0.4))
    assert everything_uncertain.max() == pytest.approx(0.45)
