"""Images and segmentations written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.scan.segmentation_file import check_output, write_image, write_segmentation

OBLIQUE = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)
TUMOR = (
    "Segmentation category and type - DICOM master list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^108369006^Neoplasm~^^"
    "~Anatomic codes - DICOM master list~SCT^10200004^Liver~^^"
)


def two_lesions() -> sitk.Image:
    """Labels 1 and 2 on an oblique grid."""
    voxels = np.zeros((9, 10, 12), np.int32)
    voxels[2:4, 3:6, 1:5] = 1
    voxels[6, 7:9, 8:11] = 2
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((10.0, -20.0, 30.5))
    image.SetDirection(OBLIQUE)
    return image


def written(path: Path) -> sitk.Image:
    names = ["Läsion 1", "lesion 2"]
    colours = [(1.0, 0.5, 0.0), (0.0, 0.25, 1.0)]
    write_segmentation(two_lesions(), path, names, colours, [TUMOR, ""])
    return sitk.ReadImage(str(path))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd"])
def test_labels_and_geometry_come_back(tmp_path: Path, suffix: str) -> None:
    image, expected = written(tmp_path / f"Größe{suffix}"), two_lesions()
    assert image.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
    assert image.GetDirection() == pytest.approx(expected.GetDirection(), abs=1e-5)
    assert image.GetOrigin() == pytest.approx(expected.GetOrigin(), abs=1e-4)
    assert image.GetSpacing() == pytest.approx(expected.GetSpacing(), abs=1e-6)


def test_a_slicer_segmentation_names_each_segment(tmp_path: Path) -> None:
    image = written(tmp_path / "a.seg.nrrd")
    assert image.GetMetaData("Segmentation_MasterRepresentation") == "Binary labelmap"
    assert image.GetMetaData("Segment0_Name") == "Läsion 1"
    assert image.GetMetaData("Segment0_Color") == "1.000000 0.500000 0.000000"
    assert image.GetMetaData("Segment0_Tags") == f"TerminologyEntry:{TUMOR}|"
    assert image.GetMetaData("Segment1_ID") == "Segment_2"
    assert image.GetMetaData("Segment1_LabelValue") == "2"
    assert image.GetMetaData("Segment1_Layer") == "0"


def test_segments_of_one_layer_share_the_extent_of_all(tmp_path: Path) -> None:
    image = written(tmp_path / "a.seg.nrrd")
    assert image.GetMetaData("Segment0_Extent") == "1 10 3 8 2 6"
    assert image.GetMetaData("Segment1_Extent") == "1 10 3 8 2 6"


def test_the_reference_geometry_maps_voxels_to_ras(tmp_path: Path) -> None:
    text = written(tmp_path / "a.seg.nrrd").GetMetaData("Segmentation_ConversionParameters")
    name, geometry, rest = text.split("|")
    numbers = [float(part) for part in geometry.split(";") if part]
    left, posterior, superior = two_lesions().TransformIndexToPhysicalPoint((3, 4, 5))
    ras = np.array(numbers[:16]).reshape(4, 4) @ (3, 4, 5, 1)
    assert ras == pytest.approx((-left, -posterior, superior, 1))
    assert (name, numbers[16:], rest) == ("Reference image geometry", [0, 11, 0, 9, 0, 8], "&")


def test_a_slicer_segmentation_is_compressed(tmp_path: Path) -> None:
    written(tmp_path / "a.seg.nrrd")
    assert b"encoding: gzip" in (tmp_path / "a.seg.nrrd").read_bytes()


def test_a_segmentation_without_segments_can_be_written(tmp_path: Path) -> None:
    path = write_segmentation(two_lesions() * 0, tmp_path / "none.seg.nrrd", [], [], [])
    image = sitk.ReadImage(str(path))
    assert not sitk.GetArrayViewFromImage(image).any()
    assert not image.HasMetaDataKey("Segment0_ID")


def test_more_than_255_segments_need_16_bits(tmp_path: Path) -> None:
    labels = two_lesions() * 150
    write_segmentation(labels, tmp_path / "a.nrrd", ["x"] * 300, [(1, 0, 0)] * 300, [""] * 300)
    image = sitk.ReadImage(str(tmp_path / "a.nrrd"))
    assert image.GetPixelID() == sitk.sitkUInt16
    assert sitk.GetArrayViewFromImage(image).max() == 300


def test_a_label_without_a_name_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="label 2"):
        write_segmentation(two_lesions(), tmp_path / "a.nrrd", ["x"], [(1, 0, 0)], [""])


def test_no_tag_of_the_scan_is_written(tmp_path: Path) -> None:
    image = two_lesions()
    image.SetMetaData("0010|0010", "Doe^Jane")
    write_image(image, tmp_path / "a.nrrd")
    assert b"Doe" not in (tmp_path / "a.nrrd").read_bytes()
    assert image.HasMetaDataKey("0010|0010")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_an_image_of_floats_comes_back_exactly(tmp_path: Path, name: str) -> None:
    image = sitk.Cast(two_lesions(), sitk.sitkFloat32) / 3
    write_image(image, tmp_path / name)
    back = sitk.ReadImage(str(tmp_path / name))
    assert np.array_equal(sitk.GetArrayViewFromImage(back), sitk.GetArrayViewFromImage(image))


def test_an_old_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_text("old")
    write_image(two_lesions(), path)
    assert sitk.ReadImage(str(path)).GetSize() == (12, 10, 9)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.seg.nrrd"])
def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource", reason="file size limits exist on Unix only")
    (tmp_path / name).write_text("old")
    noise = np.random.default_rng(0).integers(0, 2, (40, 40, 40)).astype(np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(OutputNotWritten, match=rf"^{name} could not be written") as caught:
            write_segmentation(
                sitk.GetImageFromArray(noise), tmp_path / name, ["x"], [(1, 0, 0)], [""]
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.hint
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["a.png", "a.stl", "a", ".nii.gz", "a.seg.nii"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputNotWritten, match="suffix"):
        check_output(tmp_path / name)


def test_a_missing_folder_is_refused_before_a_run(tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritten, match="does not exist") as caught:
        check_output(tmp_path / "missing" / "a.nii.gz")
    assert str(tmp_path) not in caught.value.message


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").mkdir()
    with pytest.raises(OutputNotWritten, match="is a folder"):
        check_output(tmp_path / "a.nrrd")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody may write")
def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(OutputNotWritten, match="permission"):
        check_output(Path("/proc/self/a.nrrd"))


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    assert check_output(tmp_path / "a.nrrd") == tmp_path / "a.nrrd"
    assert list(tmp_path.iterdir()) == []
