"""Values that no scan of its modality has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.errors import ModalityMismatch, NoContent, ResultNotFinite
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.scan.modality import MODALITY_TAG
from DiffuGTSLib.scan.volume import check, from_image


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


def mr(share: float, hot: float, block: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """An MR with hot voxels, and where they are."""
    rng = np.random.default_rng(2)
    voxels = rng.gamma(4, 30, (20, 40, 40)).astype(np.float32)
    places = rng.random(voxels.shape) < share
    if block:
        places = np.arange(voxels.size).reshape(voxels.shape) < share * voxels.size
    voxels[places] = hot
    return voxels, places


@pytest.mark.parametrize("hot", [1e10, 65535, -1e20])
@pytest.mark.parametrize("share", [0.002, 0.01, 0.04])
@pytest.mark.parametrize("block", [False, True])
def test_percents_of_hot_voxels_are_clipped(share: float, hot: float, block: bool) -> None:
    voxels, places = mr(share, hot, block)
    scan = from_image(sitk.GetImageFromArray(voxels), "MR")
    kept = sitk.GetArrayFromImage(scan.image)
    np.testing.assert_array_equal(kept[~places], voxels[~places])
    assert np.abs(kept[places]).max() < 1000
    assert scan.notes[0].startswith(f"{places.sum()} voxels are far outside")


@pytest.mark.parametrize("count", [28, 31, 32, 33, 34, 320])
def test_as_many_hot_voxels_as_the_percentile_are_clipped(count: int) -> None:
    voxels, _ = mr(0, 0)
    voxels.ravel()[:count] = 1e30
    scan = from_image(sitk.GetImageFromArray(voxels), "MR")
    assert sitk.GetArrayFromImage(scan.image).max() < 1000


def test_a_small_bright_body_is_no_outlier() -> None:
    voxels = np.random.default_rng(3).rayleigh(4, (40, 80, 80)).astype(np.float32)
    ball = np.linalg.norm(np.indices(voxels.shape) - 20.0, axis=0)
    voxels += 900 * np.clip(11.5 - ball, 0, 3) / 3
    scan = from_image(sitk.GetImageFromArray(voxels), "MR")
    assert np.mean(ball < 11) < 0.03
    np.testing.assert_array_equal(sitk.GetArrayFromImage(scan.image), voxels)
    assert list(scan.notes) == []


def test_a_bright_body_on_a_constant_background_is_no_outlier() -> None:
    voxels, _ = mr(0, 0)
    voxels[:18], voxels[18:, :32] = 0.25, 0.25
    scan = from_image(sitk.GetImageFromArray(voxels), "MR")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(scan.image), voxels)


def test_values_over_many_orders_of_magnitude_are_said() -> None:
    voxels, places = mr(0.01, 0)
    voxels[places] = np.geomspace(500, 1e10, int(places.sum()))
    notes = from_image(sitk.GetImageFromArray(voxels), "MR").notes
    assert any("more than a thousand times brighter" in note for note in notes)


@pytest.mark.parametrize(("hot", "taken"), [(32767, 3071), (30710, 3071), (-32768, -1024)])
def test_ct_values_beyond_tissue_are_clipped(hot: int, taken: int) -> None:
    voxels = sitk.GetArrayFromImage(ct()).astype(np.int16)
    voxels[3, :8, :8] = hot
    scan = from_image(sitk.GetImageFromArray(voxels))
    assert (sitk.GetArrayFromImage(scan.image)[3, :8, :8] == taken).all()
    assert scan.notes[0].startswith("64 voxels are far outside what tissue")


def test_the_pads_of_scanners_stay() -> None:
    voxels = sitk.GetArrayFromImage(ct()).astype(np.int16)
    voxels[:, :3], voxels[0, 0, 0] = -3024, 3071
    scan = from_image(sitk.GetImageFromArray(voxels))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(scan.image), voxels)
    assert list(scan.notes) == []


def test_a_mask_is_no_scan_and_few_values_are_said() -> None:
    voxels = np.arange(8000).reshape(20, 20, 20)
    with pytest.raises(NoContent, match=r"two values only \(0 and 1\)"):
        check(sitk.GetImageFromArray((voxels > 5000).astype(np.uint8)))
    labels = from_image(check(sitk.GetImageFromArray((voxels // 2000).astype(np.uint8))))
    assert "4 different values only" in labels.notes[0]


def test_a_scan_smaller_than_any_body_is_said() -> None:
    image = ct()
    image.SetSpacing((0.1, 0.2, 0.22))
    (note,) = from_image(image).notes
    assert "4 x 8 x 4.4 mm in all" in note


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
