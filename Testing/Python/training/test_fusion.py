"""The fits of the calibration: threshold shift, fusion, prominence; its negative examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.special import expit
from support.tiny_model import PROMPT, ball_scan, write_tiny_model
from support.training_material import training_case

from DiffuGTSLib.evaluation.measures import THRESHOLDS, dice
from DiffuGTSLib.models.card import shifted_threshold
from DiffuGTSLib.pipeline.lesions import prominent
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.training.calibration import ExampleMaps, best_shift, fit_fusion, segmented_maps
from DiffuGTSLib.training.data.examples import (
    CalibrationExample,
    joining_cases,
    wrong_organ_examples,
)


def example_maps(seed: int, useful: bool = True) -> ExampleMaps:
    """Attention that is half right; a pixel residual that shows the rest, where it is useful."""
    generator = np.random.default_rng(seed)
    truth = np.zeros((24, 24, 24), bool)
    truth[8:16, 8:16, 8:16] = True
    candidates = np.zeros_like(truth)
    candidates[5:19, 5:19, 5:19] = True
    noise = generator.normal(0, 1, truth.shape)
    attention = 1 / (1 + np.exp(-(noise + 1.0 * truth - 1.5)))
    pixel = np.where(truth & useful, 0.3, 0.02) * np.exp(generator.normal(0, 0.2, truth.shape))
    feature = np.exp(generator.normal(-3, 0.2, truth.shape))
    return ExampleMaps("CT", attention, truth, candidates, pixel, feature)


def test_the_shift_puts_the_best_threshold_at_one_half() -> None:
    examples = [example_maps(i) for i in range(3)]
    best = best_shift(examples)
    moved = [1 / (1 + np.exp(-(np.log(m.attention / (1 - m.attention)) + best.shift)))
             for m in examples]
    at_half = np.mean([dice(p > 0.5, m.truth) for p, m in zip(moved, examples, strict=True)])
    assert at_half == pytest.approx(best.dice, abs=0.02)
    assert best.utility == best.dice


def test_a_map_that_is_nearly_certain_everywhere_has_its_threshold_there() -> None:
    maps = example_maps(1)
    certain = replace(maps, attention=np.where(maps.truth, 0.9995, 0.998))
    assert best_shift([certain]).shift == pytest.approx(-6.9, abs=0.1)  # logits of both: 6.2, 7.6
    assert best_shift([certain]).utility == 1.0


def score(maps: ExampleMaps, kind: str, examples: list[ExampleMaps]) -> float:
    refined = fit_fusion(examples).score(maps.attention, maps.pixel, maps.feature, kind)
    return dice((refined > 0.5) & maps.candidates, maps.truth)


def test_a_useful_residual_is_used_and_helps_on_a_new_example() -> None:
    examples, new = [example_maps(i) for i in range(4)], example_maps(99)
    assert fit_fusion(examples).weights["pixel"][2] > 1
    assert score(new, "pixel", examples) > 0.9 > score(new, "attention", examples)


def test_a_residual_without_information_changes_nothing() -> None:
    examples = [example_maps(i, useful=False) for i in range(4)]
    new = example_maps(99, useful=False)
    alone, both = (score(new, kind, examples) for kind in ("attention", "both"))
    assert both == pytest.approx(alone, abs=0.05)


def test_the_final_mask_takes_a_residual_only_if_it_helps_examples_left_out() -> None:
    assert fit_fusion([example_maps(i) for i in range(4)]).used in ("pixel", "both")
    assert fit_fusion([example_maps(i, useful=False) for i in range(4)]).used == "attention"
    # Nothing to gain: the attention stays as it is.
    as_it_is = fit_fusion([example_maps(i, useful=False) for i in range(4)])
    assert as_it_is.weights["attention"] == (0.0, 1.0, 0.0, 0.0)
    assert not as_it_is.prominence
    # Two examples are too few for a cross-validation.
    assert fit_fusion([example_maps(i) for i in range(2)]).used == "attention"


def test_faint_false_positives_are_removed_by_their_peak_not_by_a_higher_threshold() -> None:
    """Attention that fades towards the lesion's edge, and spots that never get as high."""
    examples = []
    for seed in range(4):
        maps = example_maps(seed)
        distance = np.abs(np.indices(maps.truth.shape) - 12).max(0)
        logit = np.where(maps.truth, 4.0 - distance, -6.0)
        logit[1:3, 1:3, :20], logit[20:23, 20:23, 2:] = 1.0, 1.0
        blank = np.full(maps.truth.shape, 0.02)
        everywhere = np.ones_like(maps.truth)
        examples.append(ExampleMaps("CT", expit(logit), maps.truth, everywhere, blank, blank))
    fusion = fit_fusion(examples)
    assert fusion.used == "attention"
    assert fusion.prominence["attention"] >= 0.5
    result = fusion.score(*(getattr(examples[0], n) for n in ("attention", "pixel", "feature")))
    kept = prominent(result, 0.5, shifted_threshold(0.5, fusion.prominence["attention"]))
    assert np.array_equal(kept > 0.5, examples[0].truth)


def test_the_score_is_that_of_the_used_kind_unless_another_is_requested() -> None:
    maps, fitted = example_maps(0), fit_fusion([example_maps(i) for i in range(4)])
    fusion = replace(fitted, used="attention")
    scores = {kind: fusion.score(maps.attention, maps.pixel, maps.feature, kind)
              for kind in ("", "attention", "pixel")}
    assert np.array_equal(scores[""], scores["attention"])
    assert not np.allclose(scores[""], scores["pixel"])


def test_ignored_voxels_do_not_count(tmp_path) -> None:
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path / "tiny"), "cpu")
    image, ball = ball_scan()
    truth = sitk.GetImageFromArray(ball.astype(np.uint8))
    truth.CopyInformation(image)
    everywhere = truth * 0 + 1
    example = CalibrationExample(image, truth, PROMPT, "MR")
    maps = segmented_maps(segmenter, example)
    blind = segmented_maps(segmenter, replace(example, ignore=everywhere))
    assert (maps.attention.any(), maps.candidates.any()) == (True, True)
    assert (blind.attention.any(), blind.candidates.any()) == (False, False)


def test_boundaries_are_moved_only_where_that_gains_more_than_by_chance() -> None:
    useless = [example_maps(i, useful=False) for i in range(4)]
    def used(gains: list[float]) -> bool:
        return fit_fusion([replace(m, plain=0.5, half_contrast=0.5 + gain)
                           for m, gain in zip(useless, gains, strict=True)]).half_contrast
    assert used([0.03, 0.05, 0.04, 0.04])
    assert not used([0.0, 0.0, 0.0, 0.0])
    assert not used([0.3, -0.1, 0.1, -0.2])  # 0.025 on average, by chance
    assert not used([-0.03, -0.05, -0.04, -0.04])


def test_the_utility_of_both_boundaries_is_that_of_the_final_masks(tmp_path) -> None:
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path / "tiny"), "cpu")
    image, ball = ball_scan()
    truth = sitk.GetImageFromArray(ball.astype(np.uint8))
    truth.CopyInformation(image)
    maps = segmented_maps(segmenter, CalibrationExample(image, truth, PROMPT, "MR"))
    result = segmenter.segment(segmenter.encode(image, "MR"), PROMPT)
    for name, half in (("plain", False), ("half_contrast", True)):
        mask = sitk.GetArrayFromImage(replace(result, half_contrast=half).mask) > 0
        assert getattr(maps, name) == pytest.approx(dice(mask, ball))
    none = segmented_maps(segmenter, CalibrationExample(image, truth * 0, PROMPT, "MR"))
    volume = sum(lesion.volume_ml for lesion in result.lesions)
    assert none.plain == pytest.approx(1 / (1 + volume), rel=0.01)


def test_floors_are_the_residuals_of_healthy_tissue() -> None:
    maps = fit_fusion([example_maps(i) for i in range(3)])
    assert maps.pixel_floor == pytest.approx(0.02, rel=0.1)
    assert maps.feature_floor == pytest.approx(np.exp(-3), rel=0.1)


def test_the_utility_of_a_scan_without_a_lesion_falls_with_the_marked_volume() -> None:
    score, none = np.zeros((10, 10, 20)), np.zeros((10, 10, 20), bool)
    score[:5, :5, :5] = 0.7  # 1 ml at 2 mm
    maps = ExampleMaps("MR", score, none, none, score, score)
    utility = maps.utility_by_threshold(score)
    assert utility[THRESHOLDS < 0.7] == pytest.approx(0.5)
    assert utility[THRESHOLDS > 0.7] == pytest.approx(1.0)


def test_false_alarms_in_healthy_scans_raise_the_threshold() -> None:
    examples = [example_maps(i) for i in range(3)]
    healthy = replace(examples[0], truth=np.zeros_like(examples[0].truth))
    without, with_healthy = best_shift(examples), best_shift([*examples, healthy, healthy])
    assert with_healthy.shift < without.shift  # 0.5 is reached by fewer voxels
    assert with_healthy.dice <= without.dice
    assert best_shift([healthy]).dice == 0.0


def test_limbs_are_negative_examples_of_lung_and_brain_tumors(tmp_path) -> None:
    image, ball = ball_scan()
    outline = sitk.GetImageFromArray(ball.astype(np.uint8))
    outline.CopyInformation(image)
    sitk.WriteImage(image, tmp_path / "image.nii.gz")
    sitk.WriteImage(outline, tmp_path / "tumor.nii.gz")
    entries = [("sts_029_ct", "sarcoma", "CT"), ("sts_029_t1", "sarcoma", "MR"),
               ("lung1", "chest", "CT")]
    cases = [replace(training_case(*entry, masks=("tumor",)), folder=tmp_path)
             for entry in entries]
    maps = wrong_organ_examples(cases)
    assert [e.key for e in maps] == ["lung/CT", "brain/MR"]
    for example in maps:
        assert not sitk.GetArrayFromImage(example.truth).any()
        assert example.truth.GetSize() == example.image.GetSize()
        assert example.truth.GetOrigin() == pytest.approx(example.image.GetOrigin())


def test_gliomas_of_the_training_calibrate_as_well(tmp_path) -> None:
    """All four scans of the first seven patients; of lung cancers, of which enough are kept, none.

    A patient alone would place the thresholds of all sequences.
    """
    sitk.WriteImage(ball_scan()[0], tmp_path / "image.nii.gz")
    entries = [(f"brats2021_{n:05}_{sequence}", "glioma", "MR")
               for n in range(9, 0, -1) for sequence in ("t1", "t1c", "t2", "flair")]
    cases = [replace(training_case(*entry, masks=("tumor",)), folder=tmp_path,
                     patient=entry[0][:15]) for entry in entries]
    cancer = replace(training_case("nsclc_001", "lung_tumor", "CT", masks=("tumor",)),
                     folder=tmp_path)
    joining = joining_cases([*cases, cancer])
    assert len(joining) == 28
    assert {case.patient for case in joining} == {f"brats2021_{n:05}" for n in range(1, 8)}
