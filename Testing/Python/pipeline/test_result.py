"""Images of a result: what is made region by region is what the whole grid would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.special import expit, logit

from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.pipeline.inpainting import Candidates
from DiffuGTSLib.pipeline.result import Evidence, Result
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.scan.canonical import Canonical, to_canonical, to_input_grid
from DiffuGTSLib.scan.example_scans import example_scans


def scan(pixel: type) -> sitk.Image:
    """An oblique one, coarser along one axis than the model's grid."""
    voxels = np.random.default_rng(1).normal(100, 30, (18, 50, 44)).astype(pixel)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.7, 1.6, 4.0))
    c, s = np.cos(0.2), np.sin(0.2)
    image.SetDirection((c, s, 0, -s, c, 0, 0, 0, -1))
    return image


def result_of(image: sitk.Image) -> Result:
    """Three parts of M: at a corner of the scan, and two whose boxes overlap."""
    canonical = to_canonical(image, "MR", (2.0, 2.0, 2.0), 16)
    mask = np.zeros(tuple(canonical.tensor.shape[2:]), bool)
    mask[:6, :5, :7] = True
    for n in range(12):
        mask[10 + n, 12 + n : 14 + n, 10:16] = True  # a diagonal plate
    mask[18:21, 12:15, 12:18] = True  # in its bounding box, and beyond it
    evidence = Evidence.nothing(np.zeros(mask.shape, np.float32), Candidates(mask, mask, []))
    evidence.healthy[mask] = np.random.default_rng(2).random(int(mask.sum()))
    return Result(understand("brain tumor"), evidence, canonical, image, 0.5)


def pseudo_healthy_of(result: Result, canonical: Canonical) -> np.ndarray:
    """By its definition, over the whole grid at once, (z, y, x)."""
    mask, (low, high) = result.evidence.mask, canonical.limits
    fade = np.clip(ndimage.distance_transform_edt(mask) / 2, 0, 1).astype(np.float32)
    nearest = ndimage.distance_transform_edt(
        ~mask, return_distances=False, return_indices=True)
    tissue = result.evidence.healthy[tuple(nearest)] * (high - low) + low
    share, new = (sitk.GetArrayFromImage(to_input_grid(part.astype(np.float32), canonical))
                  for part in (fade, tissue))
    own = sitk.GetArrayFromImage(result.image).astype(np.float32)
    return own + share * (new - own)


@pytest.mark.parametrize("pixel", [np.int16, np.float32])
def test_the_pseudo_healthy_scan_is_what_the_whole_grid_gives(pixel: type) -> None:
    image = scan(pixel)
    before = sitk.GetArrayFromImage(image)
    result = result_of(image)
    made = sitk.GetArrayFromImage(result.pseudo_healthy)
    assert len(result.boxes) == 3
    assert (made != before).sum() > 400
    assert made.dtype == pixel
    error = np.abs(made - pseudo_healthy_of(result, result.canonical))
    assert error.max() < (0.501 if pixel == np.int16 else 1e-3)
    assert np.array_equal(sitk.GetArrayFromImage(image), before)


def test_a_map_is_on_the_input_grid_what_the_whole_grid_gives() -> None:
    result = result_of(scan(np.int16))
    result.evidence.residual[result.evidence.mask] = 0.7
    whole = to_input_grid(result.evidence.residual, result.canonical)
    assert result.residual.GetOrigin() == whole.GetOrigin()
    assert result.residual.GetDirection() == whole.GetDirection()
    assert np.allclose(sitk.GetArrayFromImage(result.residual), sitk.GetArrayFromImage(whole),
                       atol=1e-6)


def test_the_mask_is_that_of_the_lesions() -> None:
    image = sitk.Image((20, 20, 20), sitk.sitkInt16)
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    canonical = to_canonical(image, "CT", (2.0, 2.0, 2.0), 4)
    mask = np.zeros(tuple(canonical.tensor.shape[2:]), bool)
    mask[4:9, 4:9, 4:9] = mask[14, 14, 14:16] = True  # 1 ml, and less than a lesion has
    evidence = Evidence.nothing(np.zeros(mask.shape, np.float32), Candidates(mask, mask, []))
    evidence.score[mask] = 0.9
    result = Result(understand("lung tumor"), evidence, canonical, image, 0.5)
    (lesion,) = result.lesions
    assert lesion.volume_ml == pytest.approx(1.0)
    assert sitk.GetArrayFromImage(result.mask).sum() == 125
    assert np.count_nonzero(sitk.GetArrayFromImage(result.probability) > 0.5) == 127


def fine_scan() -> tuple[sitk.Image, np.ndarray]:
    """A CT of 1 mm, air with two balls of soft tissue; and the balls, (z, y, x) bool."""
    z, y, x = np.indices((48, 64, 80))
    balls = [np.sqrt((z - 24) ** 2 + (y - 32) ** 2 + (x - middle) ** 2) <= radius
             for middle, radius in ((22, 5), (58, 8))]
    noise = np.random.default_rng(0).normal(0, 20, z.shape)
    voxels = np.where(balls[0] | balls[1], 40, -850) + noise
    image = sitk.GetImageFromArray(voxels.astype(np.int16))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image, balls[0] | balls[1]


def unsure_of_the_boundary(score_at_boundary: float) -> tuple[Result, np.ndarray]:
    """Attention that falls slowly across the balls' boundaries, where it has that score."""
    image, balls = fine_scan()
    canonical = to_canonical(image, "CT", (2.0, 2.0, 2.0), 16)
    truth = sitk.GetImageFromArray(balls.astype(np.float32))
    truth.CopyInformation(image)
    depth = sitk.SignedMaurerDistanceMap(truth > 0.5, False, False, True)
    depth = sitk.Resample(depth, canonical.geometry, sitk.Transform(), sitk.sitkLinear, 20.0)
    x, y, z = canonical.geometry.GetSize()
    outside_mm = np.full(tuple(canonical.tensor.shape[2:]), 20.0, np.float32)
    outside_mm[:x, :y, :z] = sitk.GetArrayFromImage(depth).T
    attention = expit(logit(score_at_boundary) - 0.4 * outside_mm)
    mask = outside_mm < 8
    evidence = Evidence.nothing(attention.astype(np.float32), Candidates(mask, mask, []))
    evidence.score[mask] = attention[mask]
    evidence.healthy[mask] = 0.075  # -850 HU
    return Result(understand("lung tumor"), evidence, canonical, image, 0.5), balls


@pytest.mark.parametrize("score_at_boundary", [0.4, 0.7])
def test_lesions_end_at_half_of_their_contrast_on_the_scans_own_grid(
    score_at_boundary: float
) -> None:
    plain, balls = unsure_of_the_boundary(score_at_boundary)
    refined = replace(plain, half_contrast=True)
    before, after = (dice(sitk.GetArrayFromImage(r.mask) > 0, balls) for r in (plain, refined))
    assert (before < 0.7, after > 0.95) == (True, True)
    assert [lesion.number for lesion in refined.lesions] == [1, 2]
    assert refined.highest_score >= max(lesion.max_score for lesion in refined.lesions)


def test_what_is_not_inpainted_keeps_its_score() -> None:
    plain, _ = unsure_of_the_boundary(0.5)
    refined = replace(plain, half_contrast=True)
    beyond = ~plain.evidence.mask
    plain.evidence.scored = np.ones_like(beyond)
    refined.evidence.score[beyond] = 0.3
    made = sitk.GetArrayFromImage(refined.probability)
    assert made[0, 0, 0] == pytest.approx(0.3)
    assert refined.with_threshold(0.2).half_contrast


def test_without_a_candidate_there_is_no_contrast() -> None:
    plain, _ = unsure_of_the_boundary(0.5)
    plain.evidence.mask[:] = False
    empty = replace(plain, half_contrast=True)
    assert (empty.found, sitk.GetArrayFromImage(empty.probability).any()) == (False, False)


def test_a_real_lung_cancer_is_outlined_better_at_half_of_its_contrast() -> None:
    scan = next(scan for scan in example_scans() if scan.prompt == "lung tumor")
    segmenter = Segmenter.from_pretrained("embedded", "cpu")
    refined = segmenter.segment(segmenter.encode(sitk.ReadImage(str(scan.path)), "CT"), scan.prompt)
    assert refined.half_contrast
    truth = sitk.GetArrayFromImage(scan.read_outline()) > 0
    plain = replace(refined, half_contrast=False)
    after, before = (dice(sitk.GetArrayFromImage(r.mask) > 0, truth) for r in (refined, plain))
    assert after > before + 0.01
    brain = segmenter.package.card.fusion_of("brain", "MR")
    assert not brain.half_contrast  # there it gained nothing for certain
