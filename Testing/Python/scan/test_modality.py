"""CT or MR, and which sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.errors import ModalityMismatch
from DiffuGTSLib.scan import volume
from DiffuGTSLib.scan.modality import guess_modality, guess_sequence, settle_modality


def body(air: float, tissue: float, noise: float = 20.0) -> sitk.Image:
    """Half `air`, half `tissue`, with noise; int16."""
    voxels = np.full((20, 20, 20), float(tissue))
    voxels[:, :10] = air
    voxels += np.random.default_rng(0).normal(0, noise, voxels.shape)
    return sitk.GetImageFromArray(voxels.round().astype(np.int16))


def test_air_and_tissue_in_hounsfield_units_are_a_ct() -> None:
    assert guess_modality(body(-1000, 50)) == "CT"


def test_a_resampled_ct_need_not_hold_integers() -> None:
    assert guess_modality(sitk.Cast(body(-1000, 50), sitk.sitkFloat32) + 0.37) == "CT"


def test_a_crop_of_a_lung_with_little_else_in_it_is_a_ct() -> None:
    voxels = np.random.default_rng(0).normal(-860, 60, (40, 40, 40))
    voxels[18:22, 18:22] = 40  # a vessel
    assert guess_modality(sitk.GetImageFromArray(voxels.round().astype(np.int16))) == "CT"
    background = np.full(voxels.shape, -1000.0)
    background[10:30, 10:30, 10:30] = 400  # an MR on a background of its own
    assert guess_modality(sitk.GetImageFromArray(background.astype(np.int16))) == "MR"


def test_positive_intensities_are_mr() -> None:
    assert guess_modality(body(20, 400)) == "MR"


def test_an_mr_scan_with_negative_noise_is_mr() -> None:
    assert guess_modality(body(0, 300, noise=50)) == "MR"


def test_an_mr_phase_image_is_mr() -> None:
    phase = np.random.default_rng(0).integers(-2048, 2048, (30, 30, 30)).astype(np.int16)
    assert guess_modality(sitk.GetImageFromArray(phase)) == "MR"


def test_the_dicom_tag_decides_before_the_intensities() -> None:
    image = body(-1000, 50)
    image.SetMetaData("0008|0060", "MR ")
    assert guess_modality(image) == "MR"


def test_a_pet_scan_is_refused_by_its_dicom_tag() -> None:
    image = body(0, 300)
    image.SetMetaData("0008|0060", "PT")
    with pytest.raises(ModalityMismatch, match="PT"):
        guess_modality(image)
    assert settle_modality(image, "MR") == "MR"


def test_eight_bits_are_refused_as_ct_and_fine_as_mr() -> None:
    image = sitk.Cast(body(20, 200, noise=5), sitk.sitkUInt8)
    assert settle_modality(image) == "MR"
    with pytest.raises(ModalityMismatch, match="8 bits"):
        settle_modality(image, "CT")
    image.SetMetaData("0008|0060", "CT")
    with pytest.raises(ModalityMismatch, match="8 bits"):
        settle_modality(image)


def test_a_ct_without_hounsfield_units_is_refused_when_told_ct() -> None:
    with pytest.raises(ModalityMismatch, match="below -200"):
        settle_modality(body(24, 1074), "CT")


def test_a_ct_tag_suffices_for_a_crop_without_air() -> None:
    image = body(-90, 50)
    image.SetMetaData("0008|0060", "CT")
    assert settle_modality(image) == "CT"


def test_another_word_than_ct_or_mr_is_refused() -> None:
    with pytest.raises(ModalityMismatch, match="CT or MR"):
        settle_modality(body(0, 300), "PET")


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("sub-01_T1w", "t1"), ("BraTS-GLI-0001-000-t1n", "t1"), ("t1_mprage_sag", "t1"),
        ("3D T1 BRAVO", "t1"), ("T1 without contrast", "t1"), ("ax_t1_pre", "t1"),
        ("BraTS20_001_t1ce", "t1c"), ("AX T1 +C", "t1c"), ("t1_c", "t1c"), ("T1 POST GD", "t1c"),
        ("T1 contrast-enhanced", "t1c"), ("t1gd", "t1c"), ("t1c", "t1c"),
        ("t2w", "t2"), ("Ax T2 TSE", "t2"), ("BraTS_t2w", "t2"),
        ("T2_FLAIR", "flair"), ("fg-6692_fla", "flair"), ("3DFLAIR", "flair"), ("x-t2f", "flair"),
        ("liver", ""), ("patient_t10", ""), ("T2*", ""), ("t2star", ""), ("T2 star", ""),
        ("t1_map", ""), ("t1_to_t2", ""), ("flair_on_t1", ""), ("flat", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_name_hints_at_the_sequence(name: str, sequence: str) -> None:
    assert guess_sequence(name) == sequence


def test_the_first_telling_name_decides() -> None:
    assert guess_sequence("image", "AX FLAIR", "t1") == "flair"


def test_a_modality_that_is_stated_against_the_values_is_remarked_upon() -> None:
    def remarks(scan: volume.Scan) -> list[str]:
        return [note[:-15] for note in scan.notes if note.endswith("and run again.")]

    phase = np.random.default_rng(0).integers(-2048, 2048, (30, 30, 30)).astype(np.int16)
    for image, stated, right in ((body(-1000, 50), "MR", "CT"),
                                 (sitk.GetImageFromArray(phase), "CT", "MR")):
        given, guessed = volume.from_image(image, stated), volume.from_image(image)
        (note,) = remarks(given)
        assert note.endswith(f"state {right}")
        assert remarks(guessed) == remarks(volume.from_image(image, right)) == []
        assert remarks(guessed.with_overrides(stated)) == [note]
        assert remarks(given.with_overrides(stated)) == [note]
        assert remarks(given.with_overrides(right)) == []


def inside_a_body(offset: float = 0.0) -> sitk.Image:
    """Liver with a lesion and fat, in Hounsfield units; int16."""
    voxels = np.random.default_rng(0).normal(60, 15, (30, 30, 30))
    voxels[:6] -= 150
    voxels[12:20, 12:20, 12:20] -= 35
    return sitk.GetImageFromArray((voxels + offset).round().astype(np.int16))


def test_a_ct_without_air_is_taken_where_it_is_stated() -> None:
    crop = inside_a_body()
    assert volume.from_image(crop, "CT").notes == ()
    (note,) = volume.from_image(crop).notes  # taken for MR
    assert "state CT and run again" in note
    assert volume.from_image(crop).with_overrides("CT").modality == "CT"
    assert any("as given" in note for note in volume.from_image(crop, "MR").notes)


@pytest.mark.parametrize("image", [
    inside_a_body(1024), sitk.Cast(inside_a_body(), sitk.sitkFloat32) / 1000, body(20, 400),
    sitk.Cast(sitk.Clamp(inside_a_body(), sitk.sitkInt16, 0, 255), sitk.sitkInt16),
])
def test_what_is_in_no_hounsfield_units_is_no_ct_though_it_is_stated(image: sitk.Image) -> None:
    with pytest.raises(ModalityMismatch, match="cannot be a CT"):
        volume.from_image(image, "CT")


def test_crops_of_real_cts_without_air_are_taken(shared_data: Path) -> None:
    taken = []
    for folder in sorted((shared_data / "sarcoma").glob("*_ct"))[:12]:
        tumor = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "tumor.nii.gz")))
        middle = np.argwhere(tumor).mean(axis=0)[::-1]
        image = sitk.ReadImage(str(folder / "image.nii.gz"))
        half = np.ceil(20 / np.array(image.GetSpacing())).astype(int)
        low = np.clip((middle - half).astype(int), 0, None)
        size = np.minimum(2 * half, np.array(image.GetSize()) - low)
        crop = sitk.RegionOfInterest(image, size.tolist(), low.tolist())
        taken.append(settle_modality(crop, "CT"))
    assert taken == ["CT"] * 12


@pytest.mark.parametrize("folder", ["shared_data", "shared_tumors"])
def test_the_modality_of_every_real_scan_is_guessed(folder: str, request) -> None:
    root = request.getfixturevalue(folder)
    wrong = []
    for entry in json.loads((root / "manifest.json").read_text(encoding="utf-8")):
        image = sitk.ReadImage(str(root / entry["group"] / entry["case"] / "image.nii.gz"))
        if guess_modality(image) != entry["modality"]:
            wrong.append(entry["case"])
    assert not wrong
