"""A side in a prompt halves the search, without cutting a lesion at the midline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.tiny_model import write_tiny_model

from DiffuGTSLib.pipeline.inpainting import midline, on_one_side
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.scan.canonical import Canonical, to_canonical


def body(width: int, start: int = 0, size: int = 100, spacing: float = 4.0) -> Canonical:
    """A CT of 100 x 20 x 10 voxels whose body takes `width` voxels along x, from `start`."""
    voxels = np.full((10, 20, size), -1000, np.int16)
    voxels[:, :, start : start + width] = 40
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((spacing, spacing, spacing))
    return to_canonical(image, "CT", (spacing, spacing, spacing))


def test_the_midline_is_the_middle_of_the_body() -> None:
    # The image's x axis leads to the left, the canonical one to the right.
    assert midline(body(60, start=10)) == pytest.approx(99 - (10 + 29.5), abs=1)
    assert midline(body(60, start=30)) == pytest.approx(99 - (30 + 29.5), abs=1)


@pytest.mark.parametrize("scan", [body(30, start=30), body(60, start=0), body(60, start=40)])
def test_a_part_of_the_body_has_no_midline(scan: Canonical) -> None:
    assert midline(scan) is None


def test_the_other_side_is_left_out() -> None:
    attention = np.zeros((40, 8, 8), np.float32)
    attention[5:9, 2:5, 2:5] = 0.9
    attention[30:34, 2:5, 2:5] = 0.8
    left, right = (on_one_side(attention, side, 19.5, 0.25) for side in ("left", "right"))
    assert left[:20].max() == np.float32(0.9)
    assert not left[20:].any()
    assert right[20:].max() == np.float32(0.8)
    assert not right[:20].any()


def test_a_lesion_across_the_midline_stays_whole() -> None:
    attention = np.zeros((40, 8, 8), np.float32)
    attention[12:24, 2:5, 2:5] = 0.9
    np.testing.assert_array_equal(on_one_side(attention, "left", 19.5, 0.25), attention)
    right = on_one_side(attention, "right", 19.5, 0.25)
    assert not right[:20].any()
    assert right[20:24, 2:5, 2:5].all()


def test_the_result_says_whether_the_side_was_used(tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path / "tiny"), "cpu")
    wide, narrow = body(80, 10), body(30, 30)
    for scan, note in ((wide, "Only the left side was searched."),
                       (narrow, "“left” was not used: the scan does not show both sides alike.")):
        voxels = scan.tensor[0, 0].numpy().transpose(2, 1, 0) * 2000 - 1000
        noise = np.random.default_rng(0).normal(0, 5, voxels.shape)
        image = sitk.GetImageFromArray((voxels + noise).astype(np.int16))
        image.SetSpacing((4.0, 4.0, 4.0))
        result = segmenter.segment(segmenter.encode(image, "CT"), "left kidney tumor")
        assert note in result.notes
