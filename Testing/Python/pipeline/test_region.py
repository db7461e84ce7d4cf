"""A mask that limits the search: what is read as one, and what it does to a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.pipeline import EncodedScan, Options, Segmenter
from DiffuGTSLib.scan.region import Region, RegionFile, RegionUnusable, as_region
from DiffuGTSLib.scan.segmentation_file import COLOURS, write_segmentation


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
    assert "Searched only in the given region (" in " ".join(part.notes)
    assert not (part.evidence.mask & (part.evidence.attention == 0)).any()


def test_nothing_is_found_in_a_region_beside_the_tumor(
    segmenter: Segmenter, scan: EncodedScan
) -> None:
    ball = ball_scan()[1]
    away = np.zeros_like(ball)
    away[2:8, 2:10, 2:10] = True
    result = segmenter.segment(scan, PROMPT, within=mask(away))
    assert not result.found
    assert "Searched only in the given region (" in " ".join(result.notes)


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
    one, other = (as_region(image).on_grid(scan.canonical) for image in (ball, fine))
    assert (one & other).sum() > 0.8 * one.sum()


def test_a_region_that_holds_nothing_of_the_scan_is_refused(scan: EncodedScan) -> None:
    far = mask(ball_scan()[1])
    far.SetOrigin((5000.0, 0.0, 0.0))
    for region, words in ((far, "holds nothing of the scan"),
                          (mask(np.zeros_like(ball_scan()[1])), "is empty")):
        with pytest.raises(RegionUnusable, match=words):
            as_region(region).notes_on(scan.canonical.source)
    with pytest.raises(RegionUnusable, match="holds nothing of the scan"):
        as_region(far).on_grid(scan.canonical)


def test_an_empty_region_is_named_as_empty(segmenter: Segmenter, scan: EncodedScan) -> None:
    with pytest.raises(RegionUnusable, match="is empty"):
        segmenter.segment(scan, PROMPT, within=mask(np.zeros_like(ball_scan()[1])))


@pytest.mark.parametrize("name", ["liver.nii.gz", "liver.nrrd", "liver.mha"])
def test_files_of_labels_are_read(name: str, tmp_path: Path) -> None:
    ball = ball_scan()[1]
    sitk.WriteImage(mask(ball * 7), str(tmp_path / name))
    read = RegionFile(tmp_path / name).read()
    assert np.array_equal(sitk.GetArrayFromImage(read.image), ball)
    assert read.name == f"the mask {name}"


def test_segments_in_layers_are_read_together(tmp_path: Path) -> None:
    ball = ball_scan()[1].astype(np.uint8)
    layers = sitk.GetImageFromArray(np.stack([ball, np.roll(ball, 5, 0)], -1), isVector=True)
    layers.CopyInformation(ball_scan()[0])
    sitk.WriteImage(layers, str(tmp_path / "two.seg.nrrd"))
    read = sitk.GetArrayFromImage(RegionFile(tmp_path / "two.seg.nrrd").read().image)
    assert np.array_equal(read > 0, (ball | np.roll(ball, 5, 0)) > 0)


def test_what_is_no_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="gone"):
        RegionFile(tmp_path / "gone.nii.gz").read()
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08 nothing")
    with pytest.raises((UnreadableImage, RegionUnusable), match="cut"):
        RegionFile(tmp_path / "cut.nii.gz").read()
    sitk.WriteImage(sitk.Image(4, 4, sitk.sitkUInt8), str(tmp_path / "flat.mha"))
    with pytest.raises(RegionUnusable, match="not one 3D image"):
        RegionFile(tmp_path / "flat.mha").read()
    with pytest.raises(UnreadableImage, match="is a folder, not a file"):
        RegionFile(tmp_path).read()


def values(kind: str) -> np.ndarray:
    """Voxels that are no mask's."""
    random = np.random.default_rng(0)
    return {
        "negative values": random.integers(-1000, 1000, (8, 9, 10)).astype(np.int16),
        "not whole numbers": random.random((8, 9, 10), np.float32),
        "more than 1000": np.arange(1500).reshape(10, 10, 15).astype(np.uint16),
        "looks like a scan": random.integers(0, 255, (8, 9, 10)).astype(np.uint8),
        "NaN": np.full((8, 9, 10), np.nan, np.float32),
    }[kind]


@pytest.mark.parametrize("words", ["negative values", "not whole numbers", "more than 1000",
                                   "looks like a scan", "NaN"])
def test_a_scan_or_a_probability_map_is_no_mask(words: str, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(values(words)), str(tmp_path / "ct.nrrd"))
    with pytest.raises(RegionUnusable, match=words) as refused:
        RegionFile(tmp_path / "ct.nrrd").read()
    assert "ct.nrrd" in refused.value.message


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint32])
def test_a_map_of_many_labels_is_a_mask(kind: type, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(150), 20).reshape(10, 10, 30).astype(kind)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "all.nii.gz"))
    assert RegionFile(tmp_path / "all.nii.gz").read().name == "the 149 labels of all.nii.gz"


@pytest.fixture
def organs(tmp_path: Path) -> Path:
    """Two segments as 3D Slicer writes them: the halves of the ball."""
    ball = ball_scan()[1]
    labels = mask(half(ball, lower=True) + 2 * half(ball, lower=False))
    write_segmentation(labels, tmp_path / "organs.seg.nrrd", ["liver", "spleen"],
                       [COLOURS[0], COLOURS[1]], ["", ""])
    sitk.WriteImage(labels, str(tmp_path / "organs.nii.gz"))
    return tmp_path


@pytest.mark.parametrize(("file", "segment", "name"), [
    ("organs.seg.nrrd", "spleen", "“spleen” of organs.seg.nrrd"),
    ("organs.seg.nrrd", "Spleen", "“spleen” of organs.seg.nrrd"),
    ("organs.seg.nrrd", "Segment_2", "“spleen” of organs.seg.nrrd"),
    ("organs.nii.gz", "2", "label 2 of organs.nii.gz"),
])
def test_one_segment_or_label_of_a_file_is_read(
    organs: Path, file: str, segment: str, name: str
) -> None:
    read = RegionFile(organs / file, segment).read()
    assert np.array_equal(sitk.GetArrayFromImage(read.image), half(ball_scan()[1], lower=False))
    assert read.name == name


def test_without_a_segment_all_are_searched_and_counted(organs: Path) -> None:
    read = RegionFile(organs / "organs.seg.nrrd").read()
    assert np.array_equal(sitk.GetArrayFromImage(read.image), ball_scan()[1])
    assert read.name == "the 2 segments of organs.seg.nrrd"


@pytest.mark.parametrize(("file", "segment", "hint"), [
    ("organs.seg.nrrd", "kidney", "liver, spleen"), ("organs.nii.gz", "7", "1, 2"),
    ("organs.nii.gz", "liver", "1, 2"), ("organs.nii.gz", "0", "1, 2"),
])
def test_a_segment_that_is_not_there_is_answered_with_those_that_are(
    organs: Path, file: str, segment: str, hint: str
) -> None:
    with pytest.raises(RegionUnusable, match=f"no .* “{segment}” in {file}") as refused:
        RegionFile(organs / file, segment).read()
    assert hint in refused.value.hint


def test_the_note_names_the_mask_and_its_volume(scan: EncodedScan) -> None:
    region = Region(mask(ball_scan()[1]), "“liver” of a.seg.nrrd")
    ml = ball_scan()[1].sum() * np.prod(region.image.GetSpacing()) / 1000
    assert region.notes_on(scan.canonical.source) == [
        f"Searched only in “liver” of a.seg.nrrd ({ml:.1f} ml)."]


def test_a_mask_that_lies_partly_outside_the_scan_is_noted(scan: EncodedScan) -> None:
    whole = np.ones_like(ball_scan()[1])
    shifted = mask(whole)
    step = 0.25 * shifted.GetSize()[0] * shifted.GetSpacing()[0]
    x, y, z = shifted.GetOrigin()
    shifted.SetOrigin((x + step, y, z))
    assert as_region(shifted).notes_on(scan.canonical.source)[1].startswith("25 % of that lies")
    assert len(as_region(mask(whole)).notes_on(scan.canonical.source)) == 1


def test_a_mask_of_another_scan_is_refused_before_any_network_runs(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    far = mask(ball_scan()[1])
    far.SetOrigin((5000.0, 0.0, 0.0))
    sitk.WriteImage(far, str(tmp_path / "far.nrrd"))
    stages: list[str] = []
    with pytest.raises(RegionUnusable):
        list(segmenter.segment_all(ball_scan()[0], [PROMPT], Options(modality="MR"),
                                   within=RegionFile(tmp_path / "far.nrrd"),
                                   progress=lambda stage, done, total: stages.append(stage)))
    assert set(stages) <= {"read"}
