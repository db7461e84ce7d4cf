"""Values that no scan of its modality has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.errors import ModalityMismatch, ResultNotFinite
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.scan.modality import MODALITY_TAG
from DiffuGTSLib.scan.volume import from_image


def ct(offset: float = 0, hot: float | None = None) -> sitk.Image:
    rng = np.random.default_rng(1)
    voxels = rng.normal(-950, 20, (20, 40, 40)).astype(np.float32)
    voxels[:, 10:30, 10:30] = rng.normal(40, 20, (20, 20, 20))
    voxels += offset
    if hot is not None:
        voxels[5, 5, 5] = hot
    return sitk.GetImageFromArray(voxels)


@pytest.mark.parametrize("hot", [1e5, 1e10, 1e30, -1e30])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_hot_voxel_is_clipped_and_said(modality: str, hot: float) -> None:
    scan = from_image(ct(0 if modality == "CT" else 1000, hot), modality)
    voxels = sitk.GetArrayViewFromImage(scan.image)
    assert np.abs(voxels).max() < 4000
    assert "1 voxel is far outside" in scan.notes[0]
    others = sitk.GetArrayFromImage(ct(0 if modality == "CT" else 1000))
    others[5, 5, 5] = voxels[5, 5, 5]
    np.testing.assert_array_equal(voxels, others)


def test_a_hot_voxel_does_not_change_what_is_found(tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path / "tiny"), "cpu")
    image = sitk.Cast(ball_scan()[0], sitk.sitkFloat32)
    plain = segmenter.segment(segmenter.encode(image, "MR"), PROMPT)
    image[3, 4, 5] = 1e30
    hot = segmenter.segment(segmenter.encode(image, "MR"), PROMPT)
    assert plain.found
    assert hot.lesions[0].volume_ml == pytest.approx(plain.lesions[0].volume_ml, rel=0.02)
    assert any("far outside" in note for note in hot.notes)


def test_nan_in_the_weights_is_an_error(tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path / "tiny"), "cpu")
    with torch.no_grad():
        segmenter.package.attention.anomaly_bias.fill_(float("nan"))
    scan = segmenter.encode(ball_scan()[0], "MR")
    with pytest.raises(ResultNotFinite):
        segmenter.segment(scan, PROMPT)


def test_why_a_modality_was_taken_is_stated() -> None:
    scan = from_image(ct(1024))
    assert scan.modality == "MR"
    assert scan.modality_reason == "as its values do not look like Hounsfield units"
    assert from_image(ct()).modality_reason == "as its values look like Hounsfield units"
    assert from_image(ct(), "CT").modality_reason == "as given"
    assert list(from_image(ct()).notes) == []


def test_a_dicom_ct_that_cannot_be_in_hounsfield_units_is_refused() -> None:
    for offset in (63000, 1024):
        image = ct(offset)
        image.SetMetaData(MODALITY_TAG, "CT")
        with pytest.raises(ModalityMismatch, match="Hounsfield"):
            from_image(image)


def test_a_ct_with_1024_added_is_told_from_an_mr(shared_data: Path) -> None:
    for name, group in (("sts_033_ct", "sarcoma"), ("lung1", "chest")):
        image = sitk.ReadImage(str(shared_data / group / name / "image.nii.gz"))
        moved = sitk.Cast(sitk.Maximum(image, -1024), sitk.sitkInt16) + 1024
        scan = from_image(moved)
        assert scan.modality == "MR"
        assert any("a CT with 1024 added" in note for note in scan.notes)
    for name in ("sarcoma/sts_033_t1", "sarcoma/sts_004_t1", "brain/brain1"):
        scan = from_image(sitk.ReadImage(str(shared_data / name / "image.nii.gz")))
        assert list(scan.notes) == []
