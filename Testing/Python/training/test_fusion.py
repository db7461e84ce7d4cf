"""Calibration and fusion recover what was put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.special import expit
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.evaluation.measures import THRESHOLDS, dice
from DiffuGTSLib.models.card import raised
from DiffuGTSLib.pipeline.lesions import prominent
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.training.calibration import Measured, best_shift, fit, measure
from DiffuGTSLib.training.data.cases import Case
from DiffuGTSLib.training.data.examples import Example, elsewhere_examples


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
    best = best_shift(examples)
    moved = [1 / (1 + np.exp(-(np.log(m.attention / (1 - m.attention)) + best.shift)))
             for m in examples]
    at_half = np.mean([dice(p > 0.5, m.truth) for p, m in zip(moved, examples, strict=True)])
    assert at_half == pytest.approx(best.dice, abs=0.02)
    assert best.worth == best.dice


def test_a_map_that_is_nearly_certain_everywhere_has_its_threshold_there() -> None:
    made = measured(1)
    certain = replace(made, attention=np.where(made.truth, 0.9995, 0.998))
    assert best_shift([certain]).shift == pytest.approx(-6.9, abs=0.1)  # logits of both: 6.2, 7.6
    assert best_shift([certain]).worth == 1.0


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


def test_the_final_mask_takes_a_residual_only_if_it_helps_examples_left_out() -> None:
    assert fit([measured(i) for i in range(4)]).used in ("pixel", "both")
    assert fit([measured(i, useful=False) for i in range(4)]).used == "attention"
    assert fit([measured(i) for i in range(2)]).used == "attention"  # nothing proves them


def test_faint_false_alarms_are_let_go_by_their_peak_not_by_a_higher_threshold() -> None:
    """Attention that fades towards the lesion's edge, and spots that never get as high."""
    examples = []
    for seed in range(4):
        made = measured(seed)
        distance = np.abs(np.indices(made.truth.shape) - 12).max(0)
        logit = np.where(made.truth, 4.0 - distance, -6.0)
        logit[1:3, 1:3, :20], logit[20:23, 20:23, 2:] = 1.0, 1.0
        blank = np.full(made.truth.shape, 0.02)
        examples.append(Measured("CT", expit(logit), made.truth, made.truth | True, blank, blank))
    fusion = fit(examples)
    assert fusion.used == "attention"
    assert fusion.prominence["attention"] >= 0.5
    result = fusion.score(*(getattr(examples[0], n) for n in ("attention", "pixel", "feature")))
    kept = prominent(result, 0.5, raised(0.5, fusion.prominence["attention"]))
    assert np.array_equal(kept > 0.5, examples[0].truth)


def test_what_is_used_makes_the_score_unless_another_kind_is_asked_for() -> None:
    made, fusion = measured(0), replace(fit([measured(i) for i in range(4)]), used="attention")
    scores = {kind: fusion.score(made.attention, made.pixel, made.feature, kind)
              for kind in ("", "attention", "pixel")}
    assert np.array_equal(scores[""], scores["attention"])
    assert not np.allclose(scores[""], scores["pixel"])


def test_lesions_of_another_kind_are_neither_for_nor_against(tmp_path) -> None:
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path / "tiny"), "cpu")
    image, ball = ball_scan()
    truth = sitk.GetImageFromArray(ball.astype(np.uint8))
    truth.CopyInformation(image)
    everywhere = truth * 0 + 1
    made = measure(segmenter, Example(image, truth, PROMPT, "MR"))
    blind = measure(segmenter, Example(image, truth, PROMPT, "MR", ignore=everywhere))
    assert (made.attention.any(), made.inside.any()) == (True, True)
    assert (blind.attention.any(), blind.inside.any()) == (False, False)


def test_floors_are_the_residuals_of_healthy_tissue() -> None:
    made = fit([measured(i) for i in range(3)])
    assert made.pixel_floor == pytest.approx(0.02, rel=0.1)
    assert made.feature_floor == pytest.approx(np.exp(-3), rel=0.1)


def test_what_a_scan_without_a_lesion_is_worth_falls_with_what_is_marked() -> None:
    score, none = np.zeros((10, 10, 20)), np.zeros((10, 10, 20), bool)
    score[:5, :5, :5] = 0.7  # 1 ml at 2 mm
    worth = Measured("MR", score, none, none, score, score).worth(score)
    assert worth[THRESHOLDS < 0.7] == pytest.approx(0.5)
    assert worth[THRESHOLDS > 0.7] == pytest.approx(1.0)


def test_false_alarms_in_healthy_scans_raise_the_threshold() -> None:
    examples = [measured(i) for i in range(3)]
    healthy = replace(examples[0], truth=np.zeros_like(examples[0].truth))
    without, with_healthy = best_shift(examples), best_shift([*examples, healthy, healthy])
    assert with_healthy.shift < without.shift  # 0.5 is reached by fewer voxels
    assert with_healthy.dice <= without.dice
    assert best_shift([healthy]).dice == 0.0


def test_limbs_are_asked_for_what_is_not_in_them(tmp_path) -> None:
    image, ball = ball_scan()
    outline = sitk.GetImageFromArray(ball.astype(np.uint8))
    outline.CopyInformation(image)
    sitk.WriteImage(image, tmp_path / "image.nii.gz")
    sitk.WriteImage(outline, tmp_path / "tumor.nii.gz")
    cases = [Case(f"sts_029_{end}", "sarcoma", modality, tmp_path, ("tumor",))
             for end, modality in (("ct", "CT"), ("t1", "MR"))]
    cases.append(Case("lung1", "chest", "CT", tmp_path, ("tumor",)))
    made = elsewhere_examples(cases)
    assert [e.key for e in made] == ["lung/CT", "brain/MR"]
    for example in made:
        assert not sitk.GetArrayFromImage(example.truth).any()
        assert example.truth.GetSize() == example.image.GetSize()
        assert example.truth.GetOrigin() == pytest.approx(example.image.GetOrigin())
