"""CT or MR, and which sequence."""

from __future__ import annotations

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


def test_a_ct_that_is_stated_to_be_mr_is_remarked_upon() -> None:
    def remarks(scan: volume.Scan) -> int:
        return sum("state CT" in note for note in scan.notes)

    stated = volume.from_image(body(-1000, 50), "MR")
    guessed = volume.from_image(body(-1000, 50))
    assert (remarks(stated), remarks(guessed)) == (1, 0)
    assert remarks(guessed.with_overrides("MR")) == remarks(stated.with_overrides("MR")) == 1
    assert remarks(volume.from_image(body(20, 400), "MR")) == 0
