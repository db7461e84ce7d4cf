"""Tags of DICOM files without ITK: as pydicom reads them, and in the order in which GDCM sorts."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileMetaDataset
from support.dicom_files import write_series
from support.tiny_model import ball_scan

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.scan.dicom import list_series, numbered_series, series_files
from DiffuGTSLib.scan.dicom_tags import is_dicom_file, read_tags
from DiffuGTSLib.scan.volume import read


def without_preamble(series: Path, folder: Path, implicit: bool = True) -> Path:
    """The same slices, as old archives keep them: no preamble, no meta information, no suffix."""
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(series.iterdir())):
        data = pydicom.dcmread(path)
        data.file_meta = FileMetaDataset()
        data.save_as(folder / f"IM{number:06d}", implicit_vr=implicit, little_endian=True,
                     enforce_file_format=False)
    return folder


def test_tags_are_those_that_pydicom_reads() -> None:
    compared = 0
    for name in (Path(pydicom.__file__).parent / "data" / "test_files").rglob("*.dcm"):
        tags = read_tags(name)
        try:
            data = pydicom.dcmread(name, defer_size=1024)
            syntax = data.file_meta.get("TransferSyntaxUID", "")
        except Exception:  # pydicom ships files that it cannot read itself
            continue
        if tags is None or not syntax:
            continue
        compared += 1
        assert tags.series == str(data.get("SeriesInstanceUID") or ""), name
        assert tags.modality == str(data.get("Modality") or "").upper(), name
        assert (tags.rows, tags.columns) == (data.get("Rows") or 0, data.get("Columns") or 0), name
        frames = str(data.get("NumberOfFrames") or 1)
        assert tags.frames == (int(frames) if frames.isdigit() else 1), name
    assert compared > 40


def test_slices_are_in_the_order_of_gdcm(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", ball_scan()[0])
    uid = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))[0]
    expected = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
    assert series_files(folder) == tuple(expected)
    assert series_files(tmp_path, uid) == tuple(expected)  # in a folder below


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_are_dicom(tmp_path: Path, implicit: bool) -> None:
    series = write_series(tmp_path / "a", ball_scan()[0])
    old = without_preamble(series, tmp_path / "b", implicit)
    assert all(is_dicom_file(path) for path in old.iterdir())
    difference = sitk.Abs(read(old).image - read(series).image)
    assert sitk.GetArrayViewFromImage(difference).max() == 0


@pytest.mark.parametrize("content", [b"", b"\x08\0", b"\x08\0\x05\0CS", b"\x02\0\0\0UL\4\0",
                                     b"\x08\0\x05\0" + b"\xff" * 200, bytes(128) + b"DICM",
                                     bytes(128) + b"DICM" + b"\x02\0\x10\0UI\xff\xff"])
def test_fragments_are_no_dicom_and_do_no_harm(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert read_tags(path) is None


def test_a_truncated_slice_has_no_image(tmp_path: Path) -> None:
    path = next(write_series(tmp_path / "a", ball_scan()[0]).iterdir())
    path.write_bytes(path.read_bytes()[:300])
    tags = read_tags(path)
    assert tags is None or not tags.has_pixels


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    image = ball_scan()[0]
    folder = write_series(tmp_path / "study", image, number=3)
    write_series(folder, image[:, :, :5], number=1, modality="MR")
    with pytest.raises(UnreadableImage, match="holds 2 DICOM series") as caught:
        read(folder)
    x, y, z = image.GetSize()
    assert f"1: without description, MR, 5 slices of {x} x {y}; 2: " in caught.value.hint
    assert "--series" in caught.value.hint
    assert [one.number for one in list_series(folder)] == ["1", "3"]
    assert read(folder, series=numbered_series(folder, 2)).image.GetSize() == (x, y, z)
    with pytest.raises(UnreadableImage, match="no DICOM series with the number 3"):
        numbered_series(folder, 3)
