"""In whole chests, what lies outside the lungs is no tumor of the lung; elsewhere all is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.phantom_chest import chest

from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.pipeline import EncodedScan, Segmenter
from DiffuGTSLib.pipeline.encoding import Encoding
from DiffuGTSLib.pipeline.organ_search import in_the_lungs
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.scan.canonical import to_canonical


def encoded(length: int = 120, modality: str = "CT") -> EncodedScan:
    """The phantom as a scan of 2 mm that no network has seen."""
    hounsfield = np.rint(chest(length) * 2000 - 1000).astype(np.int16)
    image = sitk.GetImageFromArray(hounsfield.transpose(2, 1, 0))
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    nothing = torch.zeros(0)
    return EncodedScan(to_canonical(image, modality, (2.0, 2.0, 2.0)), Encoding(nothing, [], None),
                       nothing, image, "chest", 1)


def places(scan: EncodedScan) -> dict[str, tuple[slice, slice, slice]]:
    """Boxes in the lung, across its edge by a third, and far outside it."""
    middle, across = slice(44, 52), slice(60, 66)
    return {"inside": (slice(20, 28), middle, slice(20, 28)),
            "across": (slice(30, 48), middle, across),
            "outside": (slice(44, 52), slice(78, 82), slice(90, 98))}


def attention_in(scan: EncodedScan, *names: str) -> np.ndarray:
    attention = np.full(tuple(scan.canonical.tensor.shape[2:]), 0.01, np.float32)
    for name in names:
        attention[places(scan)[name]] = 0.9
    return attention


def test_what_reaches_into_a_lung_is_kept_whole_and_the_rest_is_left_out() -> None:
    scan, notes = encoded(), []
    assert scan.lungs is not None
    boxes = places(scan)
    assert 0.1 < scan.lungs[boxes["across"]].mean() < 0.6
    assert not scan.lungs[boxes["outside"]].any()
    before = attention_in(scan, "inside", "across", "outside")
    after = in_the_lungs(before, scan, understand("lung tumor"), 0.25, 0.5, notes.append)
    for name in ("inside", "across"):
        assert (after[boxes[name]] == np.float32(0.9)).all()
    assert not after[boxes["outside"]].any()
    assert not after[48, 48, 10]  # the mediastinum is not searched
    assert after[24, 48, 100] == np.float32(0.01)
    assert after.dtype == before.dtype
    assert notes == ["One place outside the lungs was left out."]


def test_only_what_could_have_been_a_lesion_is_told_of() -> None:
    scan, notes = encoded(), []
    faint = attention_in(scan, "outside") * np.float32(0.4)
    after = in_the_lungs(faint, scan, understand("lung tumor"), 0.25, 0.5, notes.append)
    assert not after[places(scan)["outside"]].any()
    assert notes == []


def test_a_large_part_beside_the_lung_goes_with_its_small_part_inside() -> None:
    scan, notes = encoded(), []
    assert scan.lungs is not None
    attention = attention_in(scan)
    attention[33:60, 40:56, 40:60] = 0.9
    attention[30:33, 47:49, 49:51] = 0.9
    assert 0 < scan.lungs[attention > 0.5].mean() < 0.1
    after = in_the_lungs(attention, scan, understand("lung tumor"), 0.25, 0.5, notes.append)
    assert not (after > 0.25).any()
    assert len(notes) == 1


@pytest.mark.parametrize(("prompt", "scan"), [
    ("liver tumor", encoded()), ("lung tumor", encoded(length=40)),
    ("lung tumor", encoded(modality="MR")), ("pleural tumor", encoded()),
    ("mesothelioma", encoded()),
], ids=["another organ", "no whole chest", "MR", "pleura", "mesothelioma"])
def test_elsewhere_everything_is_kept(prompt: str, scan: EncodedScan) -> None:
    attention, notes = np.full(tuple(scan.canonical.tensor.shape[2:]), 0.01, np.float32), []
    attention[44:52, 78:82, 30:38] = 0.9
    after = in_the_lungs(attention, scan, understand(prompt), 0.25, 0.5, notes.append)
    np.testing.assert_array_equal(after, attention)
    assert notes == []


@pytest.mark.parametrize(("name", "least"), [("lung1", 0.65), ("lidc0314", 0.75)])
def test_real_chests_keep_their_tumor_and_little_else(
    shared_data: Path, name: str, least: float
) -> None:
    folder = shared_data / "chest" / name
    segmenter = Segmenter.from_pretrained("embedded", "cpu")
    scan = segmenter.encode(sitk.ReadImage(str(folder / "image.nii.gz")), "CT")
    result = segmenter.segment(scan, "lung tumor")
    tumor = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "tumor.nii.gz"))) > 0
    assert dice(sitk.GetArrayFromImage(result.mask) > 0, tumor) > least
    assert any("outside the lungs" in note for note in result.notes)
    assert sum(lesion.volume_ml for lesion in result.lesions[1:]) < 2
    everywhere = sitk.Image(scan.image.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(scan.image)
    given = segmenter.segment(scan, "lung tumor", within=everywhere)
    assert not any("outside the lungs" in note for note in given.notes)
