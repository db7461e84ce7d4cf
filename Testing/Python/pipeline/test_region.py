"""A mask that limits the search: what is read as one, and what it does to a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.pipeline.segmenter import EncodedScan, Segmenter
from DiffuGTSLib.scan.region import RegionUnusable, as_region, read_region, region_on_grid


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("tiny")), "cpu")


@pytest.fixture(scope="module")
def scan(segmenter: Segmenter) -> EncodedScan:
    return segmenter.encode(ball_scan()[0], "MR")


def mask(voxels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels.astype(np.uint8))
    image.CopyInformation(ball_scan()[0])
    return image


def half(of: np.ndarray, lower: bool) -> np.ndarray:
    """One half of the voxels of the ball, along x."""
    middle = int(np.median(np.nonzero(of)[2]))
    kept = of.copy()
    kept[:, :, middle:] = False
    return kept if lower else of & ~kept


def found(result) -> np.ndarray:
    return sitk.GetArrayFromImage(result.mask) > 0


def test_only_the_region_is_searched(segmenter: Segmenter, scan: EncodedScan) -> None:
    ball = ball_scan()[1]
    whole = segmenter.segment(scan, PROMPT)
    part = segmenter.segment(scan, PROMPT, within=mask(half(ball, lower=True)))
    assert found(whole)[half(ball, lower=False)].mean() > 0.5
    assert found(part)[half(ball, lower=True)].mean() > 0.5
    assert found(part)[half(ball, lower=False)].mean() < 0.2
    assert "Only the given region was searched." in part.notes
    assert not (part.evidence.mask & (part.evidence.attention == 0)).any()


def test_nothing_is_found_in_a_region_beside_the_tumor(
    segmenter: Segmenter, scan: EncodedScan
) -> None:
    ball = ball_scan()[1]
    away = np.zeros_like(ball)
    away[2:8, 2:10, 2:10] = True
    result = segmenter.segment(scan, PROMPT, within=mask(away))
    assert not result.found
    assert "Only the given region was searched." in result.notes


def test_the_models_own_gate_does_not_count_then(segmenter: Segmenter, scan: EncodedScan) -> None:
    attention = segmenter.package.attention
    before = attention.gate_bias.item()
    attention.gate_bias.data.fill_(-20.0)  # closed everywhere
    try:
        everywhere = mask(np.ones_like(ball_scan()[1]))
        assert not segmenter.segment(scan, PROMPT).found
        assert segmenter.segment(scan, PROMPT, within=everywhere).found
    finally:
        attention.gate_bias.data.fill_(before)


def test_a_region_of_another_grid_lies_where_it_is(
    segmenter: Segmenter, scan: EncodedScan
) -> None:
    ball = mask(ball_scan()[1])
    fine = sitk.Resample(ball, [n * 2 for n in ball.GetSize()], sitk.Transform(),
                         sitk.sitkNearestNeighbor, ball.GetOrigin(),
                         [s / 2 for s in ball.GetSpacing()], ball.GetDirection())
    one, other = (region_on_grid(as_region(image), scan.canonical) for image in (ball, fine))
    assert (one & other).sum() > 0.8 * one.sum()


def test_a_region_that_holds_nothing_of_the_scan_is_refused(scan: EncodedScan) -> None:
    far = mask(ball_scan()[1])
    far.SetOrigin((5000.0, 0.0, 0.0))
    for region in (far, mask(np.zeros_like(ball_scan()[1]))):
        with pytest.raises(RegionUnusable, match="holds nothing of the scan"):
            region_on_grid(as_region(region), scan.canonical)


@pytest.mark.parametrize("name", ["liver.nii.gz", "liver.nrrd", "liver.mha"])
def test_files_of_labels_are_read(name: str, tmp_path: Path) -> None:
    ball = ball_scan()[1]
    sitk.WriteImage(mask(ball * 7), str(tmp_path / name))
    read = read_region(tmp_path / name)
    assert np.array_equal(sitk.GetArrayFromImage(read), ball)


def test_segments_in_layers_are_read_together(tmp_path: Path) -> None:
    ball = ball_scan()[1].astype(np.uint8)
    layers = sitk.GetImageFromArray(np.stack([ball, np.roll(ball, 5, 0)], -1), isVector=True)
    layers.CopyInformation(ball_scan()[0])
    sitk.WriteImage(layers, str(tmp_path / "two.seg.nrrd"))
    read = sitk.GetArrayFromImage(read_region(tmp_path / "two.seg.nrrd"))
    assert np.array_equal(read > 0, (ball | np.roll(ball, 5, 0)) > 0)


def test_what_is_no_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="gone"):
        read_region(tmp_path / "gone.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08 nothing")
    with pytest.raises((UnreadableImage, RegionUnusable), match="cut"):
        read_region(tmp_path / "cut.nii.gz")
    sitk.WriteImage(sitk.Image(4, 4, sitk.sitkUInt8), str(tmp_path / "flat.mha"))
    with pytest.raises(RegionUnusable, match="not one 3D image"):
        read_region(tmp_path / "flat.mha")
