"""The pipeline on a tiny model: grids, seeds, cancel, thresholds, no second encoding."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.errors import (
    Cancelled,
    DiffuGTSError,
    ModalityMismatch,
    NotAScalarVolume,
    NotFinite,
    PromptNotUnderstood,
)
from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.models.card import Card, Fusion, logits
from DiffuGTSLib.pipeline import EncodedScan, Preview, Segmenter
from DiffuGTSLib.pipeline.inpainting import CandidateOptions
from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.pipeline.result import Result
from DiffuGTSLib.progress import Progress, ProgressEstimator
from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.scan.volume import as_scan


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    return Segmenter.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def result(segmenter: Segmenter) -> Result:
    return segmenter.segment(segmenter.encode(ball_scan()[0], "MR"), PROMPT)


def turned(image: sitk.Image) -> sitk.Image:
    """The scan with a left-handed, oblique direction and another origin."""
    copy = sitk.Image(image)
    c, s = np.cos(0.3), np.sin(0.3)
    copy.SetDirection((c, s, 0, -s, c, 0, 0, 0, -1))
    copy.SetOrigin((12.0, -30.0, 77.0))
    return copy


def test_finds_the_ball(result: Result) -> None:
    _, ball = ball_scan()
    assert result.found
    assert dice(sitk.GetArrayFromImage(result.mask) > 0, ball) > 0.6


@pytest.mark.parametrize("make", [lambda i: i, turned])
def test_every_image_lies_on_the_inputs_grid(segmenter: Segmenter, make) -> None:
    image = make(ball_scan()[0])
    found = segmenter.segment(segmenter.encode(image, "MR"), PROMPT)
    for made in (found.mask, found.attention, found.pseudo_healthy, found.residual,
                 found.uncertainty, found.probability):
        assert made.GetSize() == image.GetSize()
        assert made.GetSpacing() == image.GetSpacing()
        assert made.GetOrigin() == image.GetOrigin()
        assert made.GetDirection() == image.GetDirection()


def with_nan() -> sitk.Image:
    image = sitk.Cast(ball_scan()[0], sitk.sitkFloat32)
    image[3, 4, 5] = float("nan")
    return image


@pytest.mark.parametrize(("image", "error"), [
    (sitk.Image([20, 20], sitk.sitkInt16), NotAScalarVolume),
    (sitk.Image([9, 9, 9, 3], sitk.sitkInt16), NotAScalarVolume),
    (sitk.Image([9, 9, 9], sitk.sitkVectorUInt8, 3), NotAScalarVolume),
    (sitk.Image([9, 9, 9], sitk.sitkComplexFloat32), NotAScalarVolume),
    (with_nan(), NotFinite),
], ids=["2D", "4D", "colour", "complex", "NaN"])
def test_an_image_in_memory_that_is_no_scan_is_refused_by_name(
    segmenter: Segmenter, image: sitk.Image, error: type[DiffuGTSError]
) -> None:
    with pytest.raises(error):
        segmenter.encode(image, "MR")


def test_a_single_time_point_in_memory_is_a_scan(segmenter: Segmenter, result: Result) -> None:
    again = segmenter.segment(segmenter.encode(sitk.JoinSeries([ball_scan()[0]]), "MR"), PROMPT)
    assert np.array_equal(again.evidence.score, result.evidence.score)


def test_the_same_seed_gives_the_same_mask(segmenter: Segmenter, result: Result) -> None:
    again = segmenter.segment(segmenter.encode(ball_scan()[0], "MR"), PROMPT)
    assert np.array_equal(again.evidence.score, result.evidence.score)
    assert np.array_equal(again.evidence.healthy, result.evidence.healthy)
    other = segmenter.segment(segmenter.encode(ball_scan()[0], "MR"), PROMPT, seed=5)
    assert not np.array_equal(other.evidence.healthy, result.evidence.healthy)


def test_outside_the_painted_region_the_pseudo_healthy_scan_is_the_scan(result: Result) -> None:
    scan = sitk.GetArrayFromImage(result.image).astype(np.float32)
    healthy = sitk.GetArrayFromImage(result.pseudo_healthy)
    changed = scan != healthy
    painted_mm3 = float(result.evidence.mask.sum()) * 8
    assert 0 < changed.sum() * 12 < 1.3 * painted_mm3


def test_a_new_threshold_runs_no_network(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a network ran")

    monkeypatch.setattr(torch.nn.Module, "__call__", forbidden)
    looser, tighter = result.with_threshold(0.05), result.with_threshold(0.95)
    volumes = [int(sitk.GetArrayFromImage(r.mask).sum()) for r in (looser, result, tighter)]
    assert volumes[0] >= volumes[1] >= volumes[2]
    assert volumes[0] > volumes[2]


def two_places(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> EncodedScan:
    """A scan whose attention will be a bright place and a fainter one, 0.9 and 0.45."""
    scan = segmenter.encode(ball_scan()[0], "MR")
    grid = np.indices(scan.canonical.tensor.shape[2:])
    near, far = (np.exp(-sum((g - c) ** 2 for g in grid) / 60) for c in (26, 10))
    attention = np.maximum(0.9 * near, 0.45 * far).astype(np.float32)
    monkeypatch.setattr(segmenter, "attend", lambda *_, **__: attention)
    return scan


@pytest.mark.parametrize("threshold", [0.4, 0.3, 0.1])
def test_a_lower_threshold_finds_what_a_run_at_it_finds(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    scan = two_places(segmenter, monkeypatch)
    run = segmenter.segment(scan, PROMPT)
    assert len(run.lesions) == 1
    lower, anew = run.with_threshold(threshold), segmenter.segment(
        scan, PROMPT, threshold=threshold)
    assert len(lower.lesions) == len(anew.lesions) == 2
    assert np.array_equal(sitk.GetArrayViewFromImage(lower.labels),
                          sitk.GetArrayViewFromImage(anew.labels))
    assert "was not painted healthy" in lower.notes[-1]
    assert lower.pseudo_healthy is run.pseudo_healthy or np.array_equal(
        sitk.GetArrayViewFromImage(lower.pseudo_healthy),
        sitk.GetArrayViewFromImage(run.pseudo_healthy))
    back = lower.with_threshold(run.threshold)
    assert back.notes == run.notes
    assert np.array_equal(sitk.GetArrayViewFromImage(back.labels),
                          sitk.GetArrayViewFromImage(run.labels))


def test_what_needs_residuals_is_not_found_without_a_run_and_that_is_said(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = two_places(segmenter, monkeypatch)
    run = segmenter.segment(scan, PROMPT)
    assert run.search is not None
    fusion = replace(run.search.fusion, used="both", weights={"both": (0.0, 1.0, 1.0, 1.0)})
    refined = replace(run, search=replace(run.search, fusion=fusion))
    lower = refined.with_threshold(0.3)
    assert len(lower.lesions) == 1
    assert lower.notes[-1].endswith("are not marked. Run again with the lower threshold.")
    assert refined.with_threshold(0.48).notes == run.notes  # nothing lies in between


def test_the_highest_score_is_of_one_scale_with_and_without_candidates(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = two_places(segmenter, monkeypatch)
    fusion = Fusion({"attention": (-1.0, 0.5, 0.0, 0.0)}, 0.01, 0.01, "attention")
    monkeypatch.setattr(Card, "fusion_of", lambda *_: fusion)
    found = segmenter.segment(scan, PROMPT)
    monkeypatch.setattr(segmenter, "candidate_options", CandidateOptions(minimum_ml=1e6))
    without = segmenter.segment(scan, PROMPT)
    assert not without.evidence.mask.any()
    assert without.highest_score == pytest.approx(found.highest_score, abs=1e-6)


def test_thresholds_outside_zero_to_one_are_refused(result: Result) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        result.with_threshold(1.5)


def test_lesions_whose_peak_is_too_low_are_let_go(result: Result) -> None:
    scores = np.zeros_like(result.evidence.score)
    scores[8:14, 8:14, 8:14], scores[30:36, 30:36, 30:36] = 0.6, 0.6
    scores[9:13, 9:13, 9:13] = 0.9
    painted = replace(result.evidence, score=scores, mask=scores > 0)
    both = replace(result, evidence=painted, threshold=0.5, search=None)
    one = replace(both, prominence=1.0)  # as a score: 0.73
    assert (len(both.lesions), len(one.lesions)) == (2, 1)
    assert one.lesions[0].max_score > 0.8
    assert len(one.with_threshold(0.3).lesions) == 2  # 0.54: the bar moves along


def test_peaks_are_judged_before_thick_slices_lower_them(result: Result) -> None:
    scores = np.zeros_like(result.evidence.score)
    scores[8:14, 8:14, 8:14] = 0.6
    scores[10, 10, 10] = 0.9  # a single voxel of the model's grid
    painted = replace(result.evidence, score=scores, mask=scores > 0)
    depth = result.image.GetSize()[2] * result.image.GetSpacing()[2]
    thick = sitk.Image([*result.image.GetSize()[:2], int(depth / 7)], sitk.sitkFloat32)
    thick.SetSpacing([*result.image.GetSpacing()[:2], 7.0])
    thick.SetOrigin(result.image.GetOrigin())
    thick.SetDirection(result.image.GetDirection())
    canonical = replace(result.canonical, source=thick)
    coarse = replace(result, evidence=painted, threshold=0.5, prominence=1.0, image=thick,
                     canonical=canonical)
    assert float(sitk.GetArrayViewFromImage(coarse.probability).max()) < coarse.needed_score
    assert coarse.highest_score > coarse.needed_score
    assert len(coarse.lesions) == 1


def test_a_second_prompt_does_not_encode_again(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = segmenter.encode(ball_scan()[0], "MR")
    encoded: list[tuple[int, ...]] = []
    vae = segmenter.package.autoencoder
    real = vae.encode_with_features

    def watched(x: torch.Tensor):
        encoded.append(tuple(x.shape))
        return real(x)

    monkeypatch.setattr(vae, "encode_with_features", watched)
    segmenter.segment(scan, "brain metastasis")
    assert len(encoded) == 2  # the crop's two decodings, never the scan itself


def test_progress_goes_through_the_stages_and_the_preview_comes_before_inpainting(
    segmenter: Segmenter,
) -> None:
    seen: list[str] = []
    scan = segmenter.encode(ball_scan()[0], "MR", progress=lambda s, *_: seen.append(s))

    def preview(made: Preview) -> None:
        assert made.attention.GetSize() == made.candidates.GetSize() == (48, 48, 32)
        assert sitk.GetArrayFromImage(made.candidates).any()
        seen.append("preview")

    segmenter.segment(scan, PROMPT, progress=lambda s, *_: seen.append(s), preview=preview)
    assert list(dict.fromkeys(seen)) == [
        "read", "encode", "attention", "preview", "inpaint", "residual", "lesions"]


def test_all_prompts_run_on_one_encoding_each_result_as_it_is_ready(
    segmenter: Segmenter, result: Result
) -> None:
    estimator, previews, steps = ProgressEstimator(2), [], []
    encoded: list[EncodedScan] = []

    def step(stage: str, done: int, total: int) -> None:
        estimator.step(stage, done, total)
        steps.append((stage, estimator.prompt))

    found = segmenter.segment_all(
        ball_scan()[0], [PROMPT, "brain metastasis"], Options(modality="MR"), progress=step,
        estimator=estimator, preview=lambda index, made: previews.append(index),
        on_encoded=encoded.append,
    )
    first = next(found)
    assert first.prompt.text == PROMPT
    assert previews == [0]
    assert 0.4 < estimator.fraction < 0.6
    assert [one.prompt.text for one in found] == ["brain metastasis"]
    assert previews == [0, 1]
    assert estimator.fraction == pytest.approx(1)
    assert [stage for stage, _ in steps].count("encode") == len(
        [step for step in steps if step == ("encode", 0)])
    assert len(encoded) == 1
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(first.mask), sitk.GetArrayFromImage(result.mask))


def test_an_unknown_prompt_is_refused_before_any_network_runs(segmenter: Segmenter) -> None:
    with pytest.raises(PromptNotUnderstood):
        segmenter.segment_all(Path("absent.nii"), [PROMPT, "the weather"])


def test_options_count_for_every_prompt(segmenter: Segmenter) -> None:
    scan = segmenter.encode(ball_scan()[0], "MR")
    (found,) = segmenter.segment_all(scan, [PROMPT], Options(threshold=1.0, samples=1, seed=3))
    assert found.threshold == 1.0
    assert not found.found


def test_a_cancel_ends_the_run_of_all_prompts(segmenter: Segmenter) -> None:
    progress = Progress()
    found = segmenter.segment_all(ball_scan()[0], [PROMPT, PROMPT], Options(modality="MR"),
                                  progress=progress)
    next(found)
    progress.cancel()
    with pytest.raises(Cancelled):
        next(found)


def test_a_path_an_image_and_a_scan_are_one(segmenter: Segmenter, tmp_path: Path) -> None:
    image, _ = ball_scan()
    path = tmp_path / "x_flair_bet.nrrd"
    sitk.WriteImage(image, path)
    for source in (path, str(path), as_scan(path, "MR")):
        scan = segmenter.encode(source, "MR")
        assert scan.sequence == "flair"
    assert segmenter.encode(image, "MR", sequence="t2").sequence == "t2"
    assert segmenter.encode(as_scan(path, "MR"), sequence="t1").sequence == "t1"


def test_a_cancel_in_the_middle_of_inpainting_raises_and_the_next_run_works(
    segmenter: Segmenter,
) -> None:
    scan = segmenter.encode(ball_scan()[0], "MR")

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "inpaint" and done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        segmenter.segment(scan, PROMPT, progress=stop)
    assert segmenter.segment(scan, PROMPT).found


def test_a_scan_without_candidates_is_a_result(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmenter, "candidate_options", CandidateOptions(minimum_ml=1000.0))
    image, _ = ball_scan()
    found = segmenter.segment(segmenter.encode(image, "MR"), PROMPT)
    assert not found.found
    assert found.lesions == []
    assert 0 <= found.highest_score <= 1
    assert not sitk.GetArrayFromImage(found.mask).any()
    healthy = sitk.GetArrayFromImage(found.pseudo_healthy)
    assert np.array_equal(healthy, sitk.GetArrayFromImage(image))


def test_nonsense_is_refused(segmenter: Segmenter) -> None:
    scan = segmenter.encode(ball_scan()[0], "MR")
    with pytest.raises(PromptNotUnderstood) as caught:
        segmenter.segment(scan, "banana")
    assert "Known places" in caught.value.hint


def test_a_modality_that_cannot_be_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(ModalityMismatch):
        segmenter.encode(ball_scan()[0], "CT")


def test_reads_files_with_other_letters_in_their_names(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    path = tmp_path / "Löwe 脳.nii.gz"
    sitk.WriteImage(ball_scan()[0], str(path))
    assert segmenter.segment(segmenter.encode(path, "MR"), PROMPT).found


def test_where_the_model_is_not_calibrated_the_result_says_so(segmenter: Segmenter) -> None:
    card = replace(segmenter.package.card, calibration={"brain/MR": 0.0})
    calibrated = Segmenter(replace(segmenter.package, card=card), segmenter.device)
    scan = calibrated.encode(ball_scan()[0], "MR")
    assert calibrated.segment(scan, "brain tumor").notes == []
    assert "not calibrated" in calibrated.segment(scan, "liver tumor").notes[0]
    nowhere = replace(card, calibration={}, calibrated_on="2 held-out scans.")
    calibrated = Segmenter(replace(segmenter.package, card=nowhere), segmenter.device)
    assert "not calibrated" in calibrated.segment(scan, "brain tumor").notes[0]


def test_an_mr_sequence_has_its_own_calibration_where_the_card_has_one(
    segmenter: Segmenter,
) -> None:
    shifts = {"brain/MR": -1.0, "brain/MR/flair": 1.5}
    card = replace(segmenter.package.card, calibration=shifts)
    calibrated = Segmenter(replace(segmenter.package, card=card), segmenter.device)
    brain = understand("brain tumor")
    flair, t2, unknown = (
        logits(calibrated.attend(calibrated.encode(ball_scan()[0], "MR", sequence=s), brain))
        for s in ("flair", "t2", None)
    )
    assert np.array_equal(t2, unknown)
    middle = np.abs(t2) < 4
    assert (flair - t2)[middle] == pytest.approx(2.5, abs=0.01)


def test_an_open_gate_hides_nothing(segmenter: Segmenter) -> None:
    image, ball = ball_scan()
    attention = copy.deepcopy(segmenter.package.attention)
    attention.gate_bias.data.fill_(-40.0)  # shut everywhere
    found = []
    for gates in ((), ("brain/MR",)):
        card = replace(segmenter.package.card, open_gates=gates)
        shut = Segmenter(replace(segmenter.package, card=card, attention=attention), "cpu")
        found.append(shut.segment(shut.encode(image, "MR"), PROMPT))
    assert not found[0].found
    assert dice(sitk.GetArrayFromImage(found[1].mask) > 0, ball) > 0.6
