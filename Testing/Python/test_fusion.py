"""Calibration and fusion recover what was put in."""

from __future__ import annotations

import numpy as np
import pytest

from DiffuGTSLib.scores import dice
from DiffuGTSLib.training.fusion import Measured, best_shift, fit


def measured(seed: int, useful: bool = True) -> Measured:
    """Attention that is half right; a pixel residual that tells the rest, where it is useful."""
    generator = np.random.default_rng(seed)
    truth = np.zeros((24, 24, 24), bool)
    truth[8:16, 8:16, 8:16] = True
    inside = np.zeros_like(truth)
    inside[5:19, 5:19, 5:19] = True
    noise = generator.normal(0, 1, truth.shape)
    attention = 1 / (1 + np.exp(-(noise + 1.0 * truth - 1.5)))
    pixel = np.where(truth & useful, 0.3, 0.02) * np.exp(generator.normal(0, 0.2, truth.shape))
    feature = np.exp(generator.normal(-3, 0.2, truth.shape))
    return Measured("CT", attention, truth, inside, pixel, feature)


def test_the_shift_puts_the_best_threshold_at_one_half() -> None:
    examples = [measured(i) for i in range(3)]
    shift, best = best_shift(examples)
    moved = [1 / (1 + np.exp(-(np.log(m.attention / (1 - m.attention)) + shift)))
             for m in examples]
    at_half = np.mean([dice(p > 0.5, m.truth) for p, m in zip(moved, examples, strict=True)])
    assert at_half == pytest.approx(best, abs=0.02)


def score(made: Measured, kind: str, examples: list[Measured]) -> float:
    refined = fit(examples).score(made.attention, made.pixel, made.feature, kind)
    return dice((refined > 0.5) & made.inside, made.truth)


def test_a_useful_residual_is_used_and_helps_on_a_new_example() -> None:
    examples, new = [measured(i) for i in range(4)], measured(99)
    assert fit(examples).weights["pixel"][2] > 1
    assert score(new, "pixel", examples) > 0.9 > score(new, "attention", examples)


def test_a_residual_that_tells_nothing_changes_nothing() -> None:
    examples, new = [measured(i, useful=False) for i in range(4)], measured(99, useful=False)
    alone, both = (score(new, kind, examples) for kind in ("attention", "both"))
    assert both == pytest.approx(alone, abs=0.05)


def test_floors_are_the_residuals_of_healthy_tissue() -> None:
    made = fit([measured(i) for i in range(3)])
    assert made.pixel_floor == pytest.approx(0.02, rel=0.1)
    assert made.feature_floor == pytest.approx(np.exp(-3), rel=0.1)
