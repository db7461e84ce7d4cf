"""The made-up bodies: deterministic, plausible, and true to their masks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.scan.phantom import Kind, Phantom, make_phantom
from DiffuGTSLib.scan.volume import check, read

KINDS = ("chest", "liver", "brain")
each_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def coarse(kind: Kind, seed: int = 0, tumor: bool = True) -> Phantom:
    return make_phantom(kind, seed, spacing=(4.0, 4.0, 4.0), tumor=tumor)


def voxels(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayViewFromImage(image)


@each_kind
def test_the_default_grid_is_of_a_usual_size(kind: Kind) -> None:
    phantom = make_phantom(kind)
    assert all(80 <= n <= 136 for n in phantom.image.GetSize())
    assert all(2.0 <= step <= 2.5 for step in phantom.image.GetSpacing())
    assert check(phantom.image) is phantom.image


@each_kind
def test_the_same_seed_makes_the_same_phantom(kind: Kind) -> None:
    again = make_phantom(kind, 0, spacing=(4.0, 4.0, 4.0))
    assert np.array_equal(voxels(again.image), voxels(coarse(kind).image))
    assert np.array_equal(voxels(again.mask), voxels(coarse(kind).mask))


@each_kind
def test_another_seed_makes_another_body(kind: Kind) -> None:
    one, other = coarse(kind), coarse(kind, 1)
    assert (voxels(one.organ) != voxels(other.organ)).mean() > 0.002


@each_kind
@pytest.mark.parametrize("seed", range(6))
def test_the_tumors_lie_in_the_organ_and_have_a_plausible_size(kind: Kind, seed: int) -> None:
    phantom = coarse(kind, seed)
    lesions = sitk.LabelShapeStatisticsImageFilter()
    lesions.Execute(sitk.ConnectedComponent(phantom.mask))
    assert 1 <= lesions.GetNumberOfLabels() <= (2 if kind == "chest" else 1)
    sizes_ml = [lesions.GetPhysicalSize(label) / 1000 for label in lesions.GetLabels()]
    assert all(0.3 < size < 70 for size in sizes_ml)
    assert not (voxels(phantom.mask) > voxels(phantom.organ)).any()


@pytest.mark.parametrize(("kind", "low", "high"), [("chest", 2500, 6000), ("liver", 900, 2200)])
def test_the_organ_has_a_plausible_volume(kind: Kind, low: float, high: float) -> None:
    assert low < voxels(coarse(kind).organ).sum() * 0.064 < high


@each_kind
def test_the_tumor_has_its_own_intensity(kind: Kind) -> None:
    phantom = coarse(kind)
    scan, mask, organ = (voxels(i) for i in (phantom.image, phantom.mask, phantom.organ))
    difference = np.median(scan[mask > 0]) - np.median(scan[(organ > 0) & (mask == 0)])
    expected = {"chest": 700, "liver": -40, "brain": 200}[kind]
    assert difference / expected > 1


@each_kind
def test_without_tumor_only_its_place_changes(kind: Kind) -> None:
    ill, sound = coarse(kind), coarse(kind, tumor=False)
    assert not voxels(sound.mask).any()
    near = sitk.GetArrayFromImage(sitk.BinaryDilate(ill.mask, [3, 3, 3])) > 0
    changed = voxels(ill.image) != voxels(sound.image)
    assert changed[voxels(ill.mask) > 0].mean() > 0.9
    assert not changed[~near].any()


def test_a_ct_phantom_has_air_fat_tissue_and_bone_in_hu() -> None:
    for kind in ("chest", "liver"):
        scan = voxels(coarse(kind).image)
        assert scan.min() >= -1024
        for low, high in ((-1024, -950), (-130, -60), (20, 90), (250, 800)):
            assert ((scan >= low) & (scan <= high)).mean() > 0.005


def test_the_patient_lies_as_dicom_says() -> None:
    """The heart to the left of the middle, the spine at the back, the right lung at the right."""
    organ = coarse("chest").organ
    centroid = sitk.LabelShapeStatisticsImageFilter()
    centroid.Execute(sitk.BinaryThreshold(coarse("chest").image, 350, 3000))
    assert centroid.GetCentroid(1)[1] > 5
    left, _, _ = np.argwhere(voxels(organ).transpose(2, 1, 0)).mean(axis=0)
    assert left < (organ.GetSize()[0] - 1) / 2


@each_kind
def test_a_written_phantom_is_read_as_what_it_is(tmp_path: Path, kind: Kind) -> None:
    files = coarse(kind).write(tmp_path)
    assert [file.name for file in files] == ["image.nii.gz", "mask.nii.gz", "organ.nii.gz"]
    scan = read(files[0])
    assert scan.modality == ("MR" if kind == "brain" else "CT")
    assert np.array_equal(voxels(scan.image), voxels(coarse(kind).image))


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritten):
        coarse("brain").write(tmp_path / "missing")


@each_kind
def test_the_prompt_names_the_tumor(kind: Kind) -> None:
    expected = {"chest": "lung tumor", "liver": "liver tumor", "brain": "brain tumor"}
    assert coarse(kind).prompt == expected[kind]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="chest, liver, brain"):
        make_phantom("knee")  # type: ignore[arg-type]
