"""The brain of a whole head, by registration: known answers, and real heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.scan.brain import BrainFit, fit_brain, grown, stripped_brain, template
from DiffuGTSLib.scan.canonical import canonical_geometry, resample
from DiffuGTSLib.training.data.augment import simulated_head

SCALE, TURN = 1.12, (0.15, -0.1, 0.2)  # radians about x, y, z


def voxels(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def on_grid(array: np.ndarray, grid: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0).astype(np.float32))
    image.CopyInformation(grid)
    return image


def moved_brain() -> tuple[np.ndarray, np.ndarray, sitk.Image]:
    """The template's brain larger, turned and shifted, and where it is (X, Y, Z); their grid."""
    grid = sitk.Image([110, 130, 115], sitk.sitkFloat32)
    grid.SetSpacing((2.0, 2.0, 2.0))
    grid.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    grid.SetOrigin((130.0, 140.0, -80.0))
    middle = template().image.TransformContinuousIndexToPhysicalPoint(
        [n / 2 for n in template().image.GetSize()])
    place = grid.TransformContinuousIndexToPhysicalPoint([n / 2 for n in grid.GetSize()])
    change = sitk.Similarity3DTransform()
    change.SetCenter(place)
    change.SetTranslation([m - p for m, p in zip(middle, place, strict=True)])
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*TURN)
    change.SetMatrix([value / SCALE for value in turn.GetMatrix()])
    image, share = (
        voxels(sitk.Resample(sitk.Cast(of, sitk.sitkFloat32), grid, change, sitk.sitkLinear))
        for of in (template().image, template().brain)
    )
    brain = share > 0.5
    return np.where(brain, image / 250, 0).astype(np.float32), brain, grid


@pytest.fixture(scope="module")
def known() -> tuple[np.ndarray, np.ndarray, sitk.Image]:
    return moved_brain()


def test_the_template_is_a_brain_of_usual_size_and_nothing_else() -> None:
    assert 1100 < template().volume_ml < 1200
    image, brain = voxels(template().image), voxels(template().brain) > 0
    assert not image[~brain].any()
    assert (image[brain] > 0).mean() > 0.99


@pytest.mark.parametrize("seed", [1, 2])
def test_a_brain_is_found_in_a_head_where_it_was_put(
    known: tuple[np.ndarray, np.ndarray, sitk.Image], seed: int
) -> None:
    image, brain, grid = known
    head = simulated_head(image, brain, np.random.default_rng(seed))
    fit = fit_brain(on_grid(head, grid))
    assert fit is not None
    assert fit.is_whole_head
    assert dice(voxels(fit.mask) > 0, brain) > 0.93
    np.testing.assert_allclose(fit.growth, [SCALE] * 3, atol=0.08)
    assert fit.volume_ml == pytest.approx(brain.sum() * 0.008, rel=0.1)
    assert fit.mask.GetSize() == grid.GetSize()


def test_the_contrast_of_the_sequence_does_not_matter(
    known: tuple[np.ndarray, np.ndarray, sitk.Image]
) -> None:
    image, brain, grid = known
    head = simulated_head(np.where(brain, 1.1 - image, 0), brain, np.random.default_rng(3))
    fit = fit_brain(on_grid(head, grid))
    assert fit is not None
    assert dice(voxels(fit.mask) > 0, brain) > 0.9


def test_a_stripped_brain_is_no_whole_head(
    known: tuple[np.ndarray, np.ndarray, sitk.Image]
) -> None:
    image, brain, grid = known
    fit = fit_brain(on_grid(image, grid))
    assert fit is not None
    assert fit.around < 0.02
    assert not fit.is_whole_head
    assert dice(voxels(fit.mask) > 0, brain) > 0.93


@pytest.mark.parametrize("array", [
    np.zeros((40, 40, 40)), np.full((40, 40, 40), 7.0), np.zeros((3, 2, 1)),
    np.arange(3600.0).reshape(60, 60, 1), np.arange(24.0).reshape(4, 3, 2),
], ids=["zeros", "constant", "tiny", "one slice", "a few voxels"])
def test_where_there_is_no_head_none_is_found(array: np.ndarray) -> None:
    grid = sitk.Image(list(array.shape), sitk.sitkUInt8)
    fit = fit_brain(on_grid(array, grid))
    assert fit is None or not fit.is_whole_head


def test_limits_of_a_brain() -> None:
    mask = sitk.Image([4, 4, 4], sitk.sitkUInt8)
    assert BrainFit(mask, (0.9, 1.0, 1.1), 1.0, 0.9).is_whole_head
    assert not BrainFit(mask, (0.5, 1.0, 1.1), 1.0, 0.9).is_whole_head
    assert not BrainFit(mask, (0.9, 1.0, 1.6), 1.0, 0.9).is_whole_head
    assert not BrainFit(mask, (1.3, 1.3, 1.3), 1.0, 0.9).is_whole_head  # 2.5 litres
    assert not BrainFit(mask, (0.9, 1.0, 1.1), 0.6, 0.9).is_whole_head
    assert not BrainFit(mask, (0.9, 1.0, 1.1), 1.0, 0.05).is_whole_head


def test_the_same_scan_gives_the_same_brain_each_time(
    known: tuple[np.ndarray, np.ndarray, sitk.Image]
) -> None:
    image, brain, grid = known
    head = on_grid(simulated_head(image, brain, np.random.default_rng(1)), grid)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    first, second = fit_brain(head), fit_brain(head)
    assert first is not None
    assert second is not None
    assert first.growth == second.growth
    np.testing.assert_array_equal(voxels(first.mask), voxels(second.mask))
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads


def test_without_its_template_the_program_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("DiffuGTSLib.scan.brain.TEMPLATE", "Templates/none.nii.gz")
    template.cache_clear()
    try:
        with pytest.raises(UnreadableImage, match="cannot be read"):
            template()
    finally:
        template.cache_clear()


def test_a_mask_is_grown_by_millimetres_not_voxels() -> None:
    mask = sitk.Image([21, 21, 21], sitk.sitkUInt8)
    mask.SetSpacing((1.0, 2.0, 4.0))
    mask[10, 10, 10] = 1
    wider = voxels(grown(mask, 4.0)) > 0
    assert [int(np.ptp(axis)) + 1 for axis in np.nonzero(wider)] == [9, 5, 3]


def turned(image: sitk.Image, angle: float) -> tuple[sitk.Image, sitk.Transform]:
    turn = sitk.Euler3DTransform()
    turn.SetCenter(image.TransformContinuousIndexToPhysicalPoint(
        [n / 2 for n in image.GetSize()]))
    turn.SetRotation(angle, -angle / 2, angle / 2)
    return sitk.Resample(image, image, turn, sitk.sitkLinear), turn


@pytest.mark.parametrize("name", ["volunteer_t1", "volunteer_t2"])
def test_the_same_brain_is_found_when_a_real_head_is_turned(shared_data: Path, name: str) -> None:
    head = sitk.ReadImage(str(shared_data / "brain" / name / "image.nii.gz"), sitk.sitkFloat32)
    straight = fit_brain(head)
    tilted, turn = turned(head, 0.2)
    fit = fit_brain(tilted)
    assert straight is not None
    assert straight.is_whole_head
    assert fit is not None
    assert fit.is_whole_head
    there = sitk.Resample(straight.mask, head, turn, sitk.sitkNearestNeighbor)
    assert dice(voxels(fit.mask) > 0, voxels(there) > 0) > 0.88


def test_thick_oblique_left_handed_slices_of_a_real_head(shared_data: Path) -> None:
    path = shared_data / "brain" / "brain1" / "image.nii.gz"
    fit = fit_brain(sitk.ReadImage(str(path)))
    assert fit is not None
    assert fit.is_whole_head
    assert 1500 < fit.volume_ml < 2000
    tumor = sitk.ReadImage(str(path.parent / "tumor.nii.gz")) > 0
    inside = voxels(grown(fit.mask, 2.0)) > 0
    assert inside[voxels(tumor) > 0].mean() > 0.95


@pytest.mark.parametrize("name", ["fg-6692_t1", "fg-6692_fla", "ms_p19_flair"])
def test_real_stripped_brains_are_no_whole_heads(shared_data: Path, name: str) -> None:
    image = sitk.ReadImage(str(shared_data / "brain" / name / "image.nii.gz"), sitk.sitkFloat32)
    fit = fit_brain(image)
    assert fit is not None
    assert not fit.is_whole_head
    grid = canonical_geometry(image, (3.0, 3.0, 3.0))
    own, found = (voxels(resample(sitk.Cast(mask, sitk.sitkFloat32), grid)) > 0.5
                  for mask in (stripped_brain(image), fit.mask))
    assert dice(found, own) > 0.92
