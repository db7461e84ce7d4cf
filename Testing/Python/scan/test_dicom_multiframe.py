"""Enhanced DICOM files are read as they say they lie, in whatever order their frames are."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from support.dicom_files import write_enhanced, write_series
from support.tiny_model import ball_scan

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.scan import volume


@pytest.fixture
def scan() -> sitk.Image:
    """A CT-like scan, oblique."""
    image = sitk.Cast(ball_scan()[0], sitk.sitkInt16) - 1000
    turn = sitk.VersorTransform((0, 0, 1), 0.2)
    image.SetDirection(turn.GetMatrix())
    return image


def same(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether two images hold the same values at the same places."""
    place = sitk.Resample(one, other, sitk.Transform(), sitk.sitkNearestNeighbor, -5000)
    return np.array_equal(sitk.GetArrayFromImage(place), sitk.GetArrayFromImage(other))


@pytest.mark.parametrize("order", [
    range(32), range(31, -1, -1), np.random.default_rng(0).permutation(32),
], ids=["upwards", "downwards", "shuffled"])
def test_the_order_of_the_frames_does_not_matter(tmp_path, scan, order):
    read = volume.read(write_enhanced(tmp_path / "scan.dcm", scan, order))
    assert read.modality == "CT"
    assert read.image.GetSize() == scan.GetSize()
    assert same(read.image, scan)


def test_a_folder_with_one_enhanced_file_is_read_too(tmp_path, scan):
    write_enhanced(tmp_path / "study" / "IM000", scan)
    assert same(volume.read(tmp_path / "study").image, scan)


@pytest.mark.parametrize("order", [[*range(10), *range(12, 32)], [*range(32), 5]],
                         ids=["gap", "twice"])
def test_frames_that_make_no_volume_are_refused(tmp_path, scan, order):
    with pytest.raises(UnreadableImage):
        volume.read(write_enhanced(tmp_path / "scan.dcm", scan, order))


def test_the_file_itself_is_no_longer_needed_and_leaves_no_tags(tmp_path, scan):
    read = volume.read(write_enhanced(tmp_path / "scan.dcm", scan))
    assert list(read.image.GetMetaDataKeys()) == ["0008|0060"]


def test_one_series_of_several_in_a_folder_can_be_read(tmp_path, scan):
    write_series(tmp_path, scan, 1)
    write_series(tmp_path, scan + 7, 2)
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(tmp_path)):
        read = volume.read(tmp_path, series=uid).image
        assert same(read, scan) or same(read, scan + 7)
    with pytest.raises(UnreadableImage, match="no longer"):
        volume.read(tmp_path, series="1.2.3")


def test_padding_of_frames_is_air(tmp_path, scan):
    scan[:, :5] = 3000
    data = pydicom.dcmread(write_enhanced(tmp_path / "scan.dcm", scan))
    data.add_new("PixelPaddingValue", "US", 4024)
    data.save_as(tmp_path / "scan.dcm")
    scan[:, :5] = -1024
    assert same(volume.read(tmp_path / "scan.dcm").image, scan)
