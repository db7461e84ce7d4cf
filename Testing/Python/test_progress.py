"""The progress estimator: a fraction that only grows, whatever the stages do."""

from __future__ import annotations

import pytest

from DiffuGTSLib.progress import ProgressEstimator


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_whole_run_goes_from_0_to_1():
    estimator = ProgressEstimator()
    stages = ("read", "encode", "attention", "inpaint", "residual", "lesions")
    fractions = [estimator.step(stage, done, 2) for stage in stages for done in range(3)]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == pytest.approx(1)


def test_a_second_prompt_goes_on_where_the_first_ended():
    estimator = ProgressEstimator(prompts=2)
    first = estimator.step("lesions", 1, 1)
    estimator.start_prompt(1)
    assert estimator.step("attention", 0, 1) == first
    assert estimator.step("lesions", 1, 1) == pytest.approx(1)


def test_an_encoded_scan_starts_at_the_attention():
    estimator = ProgressEstimator(encoded=True)
    assert estimator.step("attention", 0, 1) == 0
    assert estimator.step("lesions", 1, 1) == pytest.approx(1)


def test_a_stage_told_again_does_not_go_back():
    estimator = ProgressEstimator()
    far = estimator.step("residual", 1, 1)
    assert estimator.step("inpaint", 0, 5) == far


def test_the_seconds_left_follow_the_speed_so_far():
    clock = Clock()
    estimator = ProgressEstimator(encoded=True, clock=clock)
    assert estimator.seconds_left is None
    clock.now = 20.0
    fraction = estimator.step("inpaint", 1, 2)
    assert estimator.seconds_left == pytest.approx(20 * (1 - fraction) / fraction)
