"""DICOM segmentations: the labels at their places, with codes, referring to their scan."""

from __future__ import annotations

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from support.dicom_files import write_enhanced, write_series
from support.tiny_model import ball_scan

from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.scan import volume
from DiffuGTSLib.scan.dicom_seg import DicomNotMade, is_dicom, write_dicom_segmentation

NAMES = ("liver tumor 1", "liver tumor 2")
TERMINOLOGY = (understand("liver tumor").terminology, understand("tumor").terminology)


@pytest.fixture(params=["series", "multi-frame"])
def source(request, tmp_path):
    """An oblique scan as DICOM, its files' folder or file, and labels on its grid."""
    image = sitk.Cast(ball_scan()[0], sitk.sitkInt16) - 1000
    image.SetDirection(sitk.VersorTransform((1, 0, 0), 0.3).GetMatrix())
    if request.param == "series":
        path = write_series(tmp_path / "scan", image)
    else:
        path = write_enhanced(tmp_path / "scan.dcm", image, range(31, -1, -1))
    scan = volume.read(path).image
    labels = np.zeros(scan.GetSize()[::-1], np.uint8)
    labels[3:9, 10:20, 5:9], labels[20:22, 30:31, 40:47] = 1, 2
    drawn = sitk.GetImageFromArray(labels)
    drawn.CopyInformation(scan)
    return path, drawn


def made(source, tmp_path):
    path, labels = source
    target = tmp_path / "out.dcm"
    write_dicom_segmentation(labels, path, "", target, NAMES, TERMINOLOGY, "tiny")
    return highdicom.seg.segread(target)


def test_the_labels_lie_where_they_did(source, tmp_path):
    segmentation = made(source, tmp_path)
    whole = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    labels = source[1]
    for label in (1, 2):
        index = np.argwhere(whole.array == label)
        placed = index @ whole.affine[:3, :3].T + whole.affine[:3, 3]
        voxels = np.argwhere(sitk.GetArrayFromImage(labels) == label)[:, ::-1]
        expected = [labels.TransformIndexToPhysicalPoint(voxel.tolist()) for voxel in voxels]
        assert np.allclose(np.sort(placed, axis=0), np.sort(expected, axis=0), atol=1e-3)


def test_the_segments_have_names_and_codes(source, tmp_path):
    segmentation = made(source, tmp_path)
    first, second = (segmentation.get_segment_description(number) for number in (1, 2))
    assert (first.segment_label, second.segment_label) == NAMES
    assert first.segmented_property_category.value == "49755003"
    assert first.anatomic_regions[0].meaning.lower() == "liver"
    assert len(second.anatomic_regions) == 0


def test_the_segmentation_belongs_to_its_scan_and_says_what_it_is_for(source, tmp_path):
    segmentation = made(source, tmp_path)
    path = source[0]
    scan = pydicom.dcmread(next(path.iterdir()) if path.is_dir() else path)
    assert segmentation.StudyInstanceUID == scan.StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == scan.FrameOfReferenceUID
    assert segmentation.SeriesInstanceUID != scan.SeriesInstanceUID
    assert "research" in segmentation.SeriesDescription


def test_a_scan_that_lacks_what_is_needed_is_refused_and_nothing_is_left(tmp_path):
    folder = write_series(tmp_path / "scan", ball_scan()[0])
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        del data.FrameOfReferenceUID
        data.save_as(path)
    labels = sitk.Cast(ball_scan()[0] > 100, sitk.sitkUInt8)
    with pytest.raises(DicomNotMade, match="lack FrameOfReferenceUID, which"):
        write_dicom_segmentation(labels, folder, "", tmp_path / "out.dcm", NAMES[:1],
                                 TERMINOLOGY[:1], "tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan"]


def test_an_anonymised_scan_has_a_segmentation(tmp_path):
    """Anonymisers remove elements that DICOM wants to be there, empty or not."""
    image = sitk.Cast(ball_scan()[0], sitk.sitkInt16) - 1000
    folder = write_series(tmp_path / "scan", image)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID",
                     "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
                     "Manufacturer", "PositionReferenceIndicator"):
            delattr(data, name)
        data.save_as(path)
    labels = sitk.Cast(volume.read(folder).image > -950, sitk.sitkUInt8)
    segmentation = made((folder, labels), tmp_path)
    assert segmentation.PatientID == ""
    whole = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    assert (whole.array > 0).sum() == (sitk.GetArrayViewFromImage(labels) > 0).sum() > 0


def test_what_is_dicom_is_told_from_what_is_not(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "b.nrrd").write_bytes(b"NRRD")
    assert [is_dicom(tmp_path / name) for name in (".", "a.dcm", "b.nrrd", "no")] == [
        True, True, False, False]
