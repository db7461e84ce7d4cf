"""Reading and checking scans, from files and DICOM folders, sound and broken ones."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.errors import (
    DiffuGTSError,
    ModalityMismatch,
    NoContent,
    NotAScalarVolume,
    NotFinite,
    TooLarge,
    TooSmall,
    UnreadableImage,
)
from DiffuGTSLib.scan.nifti import FORMS_TAG
from DiffuGTSLib.scan.volume import check, read

OBLIQUE = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)
LEFT_HANDED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def mr_scan(size: tuple[int, int, int] = (12, 10, 8)) -> sitk.Image:
    """An MR-like volume, int16."""
    voxels = np.random.default_rng(0).integers(0, 900, size[::-1]).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.9, 1.1, 3.0))
    return image


def write_series(
    folder: Path, uid: str, slices: int = 6, gap: int | None = None, tilt: float = 0.0
) -> Path:
    """A CT series of `slices` axial slices; `gap` is left out, `tilt` shifts slice by slice."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(slices):
        if index == gap:
            continue
        image = sitk.Image([16, 12], sitk.sitkInt16) + (100 * index - 1000)
        image.SetSpacing((0.8, 0.8))
        tags = {
            "0008|0060": "CT", "0008|103e": "Abdomen", "0010|0010": "Doe^Jane",
            "0020|000d": "1.2.3", "0020|000e": uid, "0020|0013": str(index),
            "0008|0018": f"{uid}.{index}", "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0032": f"-5\\{7 + tilt * index}\\{2.5 * index}", "0018|0050": "2.5",
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        # Named against the order of their positions.
        writer.SetFileName(str(folder / f"{uid}-{99 - index}.dcm"))
        writer.Execute(image)
    return folder


def nifti(tmp_path: Path, changes: dict[int, tuple[str, tuple[float, ...]]]) -> Path:
    """An uncompressed NIfTI file with `changes` (offset: format, values) in its header."""
    path = tmp_path / "scan.nii"
    sitk.WriteImage(mr_scan(), str(path))
    content = bytearray(path.read_bytes())
    for offset, (form, values) in changes.items():
        struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)
    return path


def refusal(path: Path) -> DiffuGTSError:
    """The error that reading `path` raises, in one plain sentence without the folder."""
    with pytest.raises(DiffuGTSError) as caught:
        read(path)
    message = caught.value.message
    assert "\n" not in message
    assert str(path.parent) not in message
    assert "itk" not in message.lower()
    assert caught.value.hint
    return caught.value


def test_every_real_scan_is_read_with_its_modality_and_sequence(shared_data: Path) -> None:
    endings = {"_t1": "t1", "_t1c": "t1c", "_t2": "t2", "_fla": "flair", "_flair": "flair"}
    for case in json.loads((shared_data / "manifest.json").read_text(encoding="utf-8")):
        scan = read(shared_data / case["group"] / case["case"] / "image.nii.gz")
        found = [value for end, value in endings.items() if case["case"].endswith(end)]
        expected = (case["modality"], found[0] if found else "", case["size"])
        assert (scan.modality, scan.sequence, list(scan.image.GetSize())) == expected, case["case"]


@pytest.mark.parametrize("direction", [OBLIQUE, LEFT_HANDED])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_geometry_survives_reading(tmp_path: Path, direction: tuple, suffix: str) -> None:
    image = mr_scan()
    image.SetDirection(direction)
    image.SetOrigin((-20.5, 3.25, 100.0))
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    scan = read(tmp_path / f"scan{suffix}")
    assert scan.name == "scan"
    assert scan.image.GetDirection() == pytest.approx(direction, abs=1e-5)
    assert scan.image.GetOrigin() == pytest.approx(image.GetOrigin())
    assert scan.image.GetSpacing() == pytest.approx(image.GetSpacing())


def test_a_path_with_umlauts_and_spaces_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Köln 病人" / "größe t1.nii.gz"
    path.parent.mkdir()
    sitk.WriteImage(mr_scan(), str(path))
    assert read(path).sequence == "t1"


def test_a_single_time_point_loses_its_fourth_axis(tmp_path: Path) -> None:
    image = sitk.JoinSeries([mr_scan()])
    sitk.WriteImage(image, str(tmp_path / "one.nrrd"))
    assert read(tmp_path / "one.nrrd").image.GetSize() == (12, 10, 8)
    assert check(image).GetSize() == (12, 10, 8)


def test_a_dicom_folder_is_read_in_the_order_of_positions(tmp_path: Path) -> None:
    scan = read(write_series(tmp_path / "series", "1.2.3.4"))
    assert scan.modality == "CT"
    assert scan.name == "series"
    assert scan.image.GetSize() == (16, 12, 6)
    assert scan.image.GetSpacing() == pytest.approx((0.8, 0.8, 2.5))
    assert scan.image.GetOrigin() == pytest.approx((-5, 7, 0))
    assert scan.image[0, 0, 2] == -800


def test_no_dicom_tag_but_the_modality_stays(tmp_path: Path) -> None:
    scan = read(write_series(tmp_path / "series", "1.2.3.4"))
    assert scan.image.GetMetaDataKeys() == ("0008|0060",)


def test_no_text_of_a_nifti_header_stays(tmp_path: Path) -> None:
    path = nifti(tmp_path, {148: ("8s", (b"Jane Doe",))})
    assert sitk.ReadImage(str(path)).GetMetaData("descrip") == "Jane Doe"
    assert read(path).image.GetMetaDataKeys() == (FORMS_TAG,)  # numbers of the geometry only


def test_a_folder_with_two_series_names_their_number(tmp_path: Path) -> None:
    write_series(tmp_path, "1.2.3.4")
    error = refusal(write_series(tmp_path, "1.2.3.5"))
    assert "2 DICOM series" in error.message
    assert "--series: 1: Abdomen, CT, 6 slices of 16 x 12; 2: " in error.hint


def test_a_missing_dicom_slice_is_refused(tmp_path: Path) -> None:
    error = refusal(write_series(tmp_path / "series", "1.2.3.4", gap=3))
    assert "not evenly spaced" in error.message


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    error = refusal(write_series(tmp_path / "series", "1.2.3.4", tilt=0.5))
    assert "tilted gantry" in error.message


def test_one_dicom_slice_hints_at_its_folder(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", "1.2.3.4")
    error = refusal(next(folder.glob("*.dcm")))
    assert isinstance(error, NotAScalarVolume)
    assert "folder" in error.hint


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "no DICOM series" in refusal(tmp_path).message


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "no DICOM series" in refusal(tmp_path).message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nothing.nii.gz").message == "nothing.nii.gz does not exist."


@pytest.mark.parametrize("content", [b"", b"just a text\n" * 100])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.nrrd", "scan.dcm", "scan"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert isinstance(error, UnreadableImage)
    what = "cannot be read as an image" if content else "is empty"
    assert error.message == f"{name} {what}."


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(mr_scan((40, 40, 40)), str(path), True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert isinstance(refusal(path), UnreadableImage)


def test_a_flipped_byte_in_a_compressed_nifti_is_refused(tmp_path: Path) -> None:
    sitk.WriteImage(mr_scan((80, 80, 80)), str(tmp_path / "scan.nii"))
    content = bytearray(gzip.compress((tmp_path / "scan.nii").read_bytes(), 0))
    content[-500] ^= 255
    (tmp_path / "scan.nii.gz").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "scan.nii.gz").message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path, {})
    path.chmod(0)
    assert "permission" in refusal(path).message


def test_axes_that_are_not_at_right_angles_are_refused(tmp_path: Path) -> None:
    shear = {252: ("<2h", (0, 1)), 280: ("<4f", (-1, 0.4, 0, 0))}
    assert "right angles" in refusal(nifti(tmp_path, shear)).message


@pytest.mark.parametrize("spacing", [0.0, float("nan"), 0.001, 80.0])
def test_an_impossible_spacing_in_a_file_is_refused(tmp_path: Path, spacing: float) -> None:
    path = nifti(tmp_path, {80: ("<f", (spacing,)), 252: ("<2h", (0, 0))})
    error = refusal(path)
    assert isinstance(error, UnreadableImage)
    assert "spacing" in error.message


def test_a_spacing_in_micrometres_is_understood(tmp_path: Path) -> None:
    path = nifti(tmp_path, {80: ("<3f", (900, 900, 3000)), 123: ("b", (3,)), 252: ("<2h", (0, 0))})
    assert read(path).image.GetSpacing() == pytest.approx((0.9, 0.9, 3.0))


def test_a_huge_header_is_refused_before_any_voxel_is_read(tmp_path: Path) -> None:
    path = nifti(tmp_path, {40: ("<4h", (3, 4000, 4000, 4000))})
    with path.open("r+b") as stream:
        stream.truncate(352 + 8 * 4000**3)  # holes: nothing is written
    error = refusal(path)
    assert isinstance(error, TooLarge)
    assert error.message.count("GB") == 2


def test_a_usable_image_is_returned_as_it_is() -> None:
    image = mr_scan()
    assert check(image) is image


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (sitk.Image([9, 9], sitk.sitkInt16), NotAScalarVolume),
        (sitk.Image([9, 9, 1], sitk.sitkInt16), NotAScalarVolume),
        (sitk.Image([9, 9, 9, 2], sitk.sitkInt16), NotAScalarVolume),
        (sitk.Image([9, 9, 9], sitk.sitkVectorUInt8, 3), NotAScalarVolume),
        (sitk.Image([9, 9, 9], sitk.sitkComplexFloat32), NotAScalarVolume),
        (sitk.Image([9, 9, 3], sitk.sitkInt16), TooSmall),
        (sitk.Image([3, 9, 9], sitk.sitkInt16), TooSmall),
        (sitk.Image([9, 9, 9], sitk.sitkInt16), NoContent),
    ],
)
def test_an_image_that_is_no_scan_is_refused(
    tmp_path: Path, image: sitk.Image, kind: type[DiffuGTSError]
) -> None:
    with pytest.raises(kind):
        check(image)
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    assert isinstance(refusal(tmp_path / "image.nii.gz"), kind)


def test_an_image_without_voxels_is_refused() -> None:
    with pytest.raises(NoContent, match="no voxels"):
        check(sitk.Image([0, 9, 9], sitk.sitkInt16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_voxel_that_is_not_finite_is_refused(value: float) -> None:
    image = sitk.Cast(mr_scan(), sitk.sitkFloat32)
    image[3, 4, 5] = float(value)
    with pytest.raises(NotFinite):
        check(image)


def test_an_impossible_spacing_in_memory_is_refused() -> None:
    image = mr_scan()
    image.SetSpacing((1.0, 1.0, 400.0))
    with pytest.raises(UnreadableImage, match="spacing"):
        check(image)


def test_the_told_modality_overrides_the_guess(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", "1.2.3.4")
    assert read(folder, modality="MR").modality == "MR"


def test_an_mr_scan_told_to_be_ct_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModalityMismatch, match="below -200"):
        read(nifti(tmp_path, {}), modality="CT")


def test_nothing_reaches_the_console(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    shear = {252: ("<2h", (0, 1)), 280: ("<4f", (-1, 0.4, 0, 0))}
    refusal(nifti(tmp_path, shear))
    refusal(tmp_path)
    refusal(write_series(tmp_path / "series", "1.2.3.4", gap=3))
    assert capfd.readouterr() == ("", "")
