"""Geometry that contradicts itself, and masks that lie on the scan in every reader.

nibabel and pydicom write and read what SimpleITK is checked by.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from support.dicom_files import write_series

from DiffuGTSLib.errors import DiffuGTSError, ModalityMismatch, UnreadableImage
from DiffuGTSLib.scan import as_scan, volume
from DiffuGTSLib.scan.dicom_padding import without_padding
from DiffuGTSLib.scan.nifti import Forms, check_forms, keep_forms, states_sides
from DiffuGTSLib.scan.segmentation_file import write_image, write_segmentation

AFFINE = np.array([[-1.95, 0, 0, 90], [0, 1.95, 0, -120], [0, 0, 3.27, 30], [0, 0, 0, 1]])
SHAPE = (20, 24, 16)
SHIFT = np.eye(4)
SHIFT[:3, 3] = 30, -20, 10
TURN = np.eye(4)
TURN[:2, :2] = [[np.cos(0.35), -np.sin(0.35)], [np.sin(0.35), np.cos(0.35)]]
FLIP = np.diag([-1.0, 1, 1, 1])


def ct(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(3)
    voxels = rng.normal(-900, 20, shape)
    voxels[5:15, 5:15] = rng.normal(40, 20, voxels[5:15, 5:15].shape)
    return voxels.astype(np.int16)


def nifti(
    path: Path, sform: np.ndarray | None, qform: np.ndarray | None,
    codes: tuple[int, int] = (1, 1), pixdim: tuple[float, float, float] | None = None,
    voxels: np.ndarray | None = None, endian: str = "<",
) -> Path:
    header = nib.Nifti1Header(endianness=endian)
    image = nib.Nifti1Image(ct() if voxels is None else voxels, None, header)
    image.set_sform(sform, codes[0] if sform is not None else 0)
    image.set_qform(qform, codes[1] if qform is not None else 0)
    if pixdim or (qform is None and sform is not None):
        # nibabel sets it with the qform alone.
        pixdim = pixdim or (1.95, 1.95, 3.27)
        image.header["pixdim"][1:4] = pixdim
    nib.save(image, path)
    return path


def forms(path: Path) -> tuple[list[float], int, list[float], int]:
    """sform, its code, qform, its code, as nibabel reads them."""
    image = nib.load(path)
    sform, qform = image.header.get_sform(), image.header.get_qform()
    return (np.round(sform, 3).tolist(), int(image.header["sform_code"]),
            np.round(qform, 3).tolist(), int(image.header["qform_code"]))


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize(
    ("sform", "qform", "codes"),
    [(AFFINE, AFFINE, (1, 1)), (SHIFT @ AFFINE, AFFINE, (2, 1)), (TURN @ AFFINE, AFFINE, (2, 1)),
     (AFFINE, None, (4, 0)), (None, AFFINE, (0, 3)), (None, None, (0, 0))],
    ids=["same", "shifted", "turned", "sform", "qform", "neither"],
)  # fmt: skip
def test_a_written_nifti_carries_the_forms_of_the_scan(
    tmp_path: Path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int], endian: str
) -> None:
    path = nifti(tmp_path / "scan.nii.gz", sform, qform, codes, endian=endian)
    scan = volume.read(path)
    mask = keep_forms(scan.image, sitk.Cast(scan.image > 0, sitk.sitkUInt8))
    written = write_segmentation(mask, tmp_path / "mask.nii.gz", ["a"], [(1, 0, 0)], [""])
    assert forms(written) == forms(path)
    np.testing.assert_allclose(nib.load(written).affine, nib.load(path).affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(nib.load(written).dataobj),
                                  np.asarray(nib.load(path).dataobj) > 0)


def test_maps_carry_them_too_and_other_formats_stay_as_they_are(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii.gz", SHIFT @ AFFINE, AFFINE, (2, 1))
    scan = volume.read(path)
    values = keep_forms(scan.image, sitk.Cast(scan.image, sitk.sitkFloat32) * 0.5)
    assert forms(write_image(values, tmp_path / "map.nii.gz")) == forms(path)
    again = sitk.ReadImage(str(write_image(values, tmp_path / "map.nrrd")))
    np.testing.assert_allclose(again.GetSpacing(), scan.image.GetSpacing(), rtol=1e-6)


def test_two_spacings_are_refused_with_both_values(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii.gz", AFFINE, AFFINE, pixdim=(1.0, 1.0, 1.0))
    with pytest.raises(UnreadableImage) as caught:
        volume.read(path)
    assert "1 x 1 x 1 mm (pixdim)" in caught.value.message
    assert "1.95 x 1.95 x 3.27 mm (sform)" in caught.value.message


def test_a_small_difference_of_spacings_is_noted(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii.gz", AFFINE, None, pixdim=(1.951, 1.95, 3.27))
    assert "slightly different voxel spacings" in volume.read(path).notes[0]


def test_two_orientations_are_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii.gz", FLIP @ AFFINE, AFFINE, (2, 1))
    with pytest.raises(UnreadableImage, match=r"RAS \(sform\) and LAS \(qform\)"):
        volume.read(path)


@pytest.mark.parametrize("change", [SHIFT, TURN], ids=["shifted", "turned"])
def test_two_places_are_noted(tmp_path: Path, change: np.ndarray) -> None:
    path = nifti(tmp_path / "scan.nii.gz", change @ AFFINE, AFFINE, (2, 1))
    (note,) = volume.read(path).notes
    assert "mm apart" in note
    assert change is not SHIFT or "37.4 mm" in note


@pytest.mark.parametrize(("code", "followed"), [(1, "sform"), (2, "qform"), (4, "qform")])
def test_a_note_says_which_form_other_formats_follow(
    tmp_path: Path, code: int, followed: str
) -> None:
    scan = volume.read(nifti(tmp_path / "scan.nii.gz", SHIFT @ AFFINE, AFFINE, (code, 1)))
    mask = keep_forms(scan.image, sitk.Cast(scan.image > 0, sitk.sitkUInt8))
    written = write_image(mask, tmp_path / "mask.nrrd")
    offset = {"sform": SHIFT @ AFFINE, "qform": AFFINE}[followed][:3, 3]
    origin = np.array(sitk.ReadImage(str(written)).GetOrigin())
    assert np.allclose(origin * [-1, -1, 1], offset, atol=1e-3)
    assert f".seg.nrrd, follow the {followed}" in scan.notes[0]
    assert "written NIfTI files carry both" in scan.notes[0]


def test_a_scan_without_forms_does_not_know_its_sides(tmp_path: Path) -> None:
    scan = volume.read(nifti(tmp_path / "scan.nii.gz", None, None))
    assert "which side is left is a guess" in scan.notes[0]
    assert not states_sides(scan.image)
    assert states_sides(volume.read(nifti(tmp_path / "b.nii.gz", AFFINE, None)).image)


def test_a_scan_in_order_has_no_notes(tmp_path: Path) -> None:
    assert list(volume.read(nifti(tmp_path / "scan.nii.gz", AFFINE, AFFINE)).notes) == []
    assert list(volume.read(write_series(tmp_path / "series", phantom())).notes) == []


def test_the_qform_is_read_as_nibabel_reads_it(tmp_path: Path) -> None:
    for change in (np.eye(4), FLIP, TURN, TURN @ FLIP):
        path = nifti(tmp_path / "scan.nii.gz", None, change @ AFFINE)
        found = Forms.of(path)
        assert found is not None
        np.testing.assert_allclose(found.qform, nib.load(path).header.get_qform(), atol=1e-3)
        assert check_forms(found) == []


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha"])
def test_sheared_axes_are_refused_in_every_format(tmp_path: Path, name: str) -> None:
    image = phantom()
    sitk.WriteImage(image, str(tmp_path / "even.nrrd"))
    volume.read(tmp_path / "even.nrrd")
    path = tmp_path / name
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    old, new = {
        "scan.nrrd": (b"(2,0,0) (0,2,0) (0,0,3)", b"(2,0,0) (0.4,2,0) (0,0,3)"),
        "scan.mha": (b"TransformMatrix = 1 0 0 0 1 0", b"TransformMatrix = 1 0 0 0.2 0.98 0"),
    }[name]
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(UnreadableImage, match="right angles"):
        volume.read(path)


def phantom() -> sitk.Image:
    image = sitk.GetImageFromArray(ct().transpose(2, 1, 0))
    image.SetSpacing((2, 2, 3))
    return image


def changed(folder: Path, index: int, **values: object) -> Path:
    """A series, of which one slice has other values."""
    write_series(folder, phantom())
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        if data.InstanceNumber == index + 1:
            for name, value in values.items():
                setattr(data, name, value)
            data.save_as(file)
    return folder


@pytest.mark.parametrize(
    ("values", "said"),
    [({"PixelSpacing": [2.1, 2.1]}, "differ in pixel spacing: 2 x 2 mm, but 2.1 x 2.1 mm in 1_"),
     ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "differ in orientation"),
     ({"Rows": 12, "Columns": 40}, "differ in size: 20 x 24 pixels, but 40 x 12 pixels in 1_"),
     ({"ImagePositionPatient": [0, 0, 16.9]}, "not evenly spaced"),
     ({"ImagePositionPatient": [1.5, 0, 15]}, "not evenly spaced")],
    ids=["spacing", "orientation", "size", "uneven", "aside"],
)  # fmt: skip
def test_odd_slices_are_refused_and_named(
    tmp_path: Path, values: dict[str, object], said: str
) -> None:
    with pytest.raises(UnreadableImage) as caught:
        volume.read(changed(tmp_path / "series", 5, **values))
    assert said in caught.value.message


def test_tilted_slices_are_refused(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", phantom())
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.ImagePositionPatient[1] += 0.1 * (data.InstanceNumber - 1)
        data.save_as(file)
    with pytest.raises(UnreadableImage, match=r"a tilted gantry: by 1\.5 mm"):
        volume.read(folder)


def test_inverted_slices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModalityMismatch, match="MONOCHROME1"):
        volume.read(changed(tmp_path / "series", 5, PhotometricInterpretation="MONOCHROME1"))


def edited(folder: Path, edit: Callable[[pydicom.Dataset], None]) -> Path:
    """A series, each slice of it changed."""
    write_series(folder, phantom())
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        edit(data)
        data.save_as(file)
    return folder


@pytest.mark.parametrize("imager", [False, True])
def test_slices_that_do_not_say_how_large_pixels_are_are_refused(
    tmp_path: Path, imager: bool
) -> None:
    def without(data: pydicom.Dataset) -> None:
        del data.PixelSpacing
        if imager:
            data.ImagerPixelSpacing = [2, 2]

    with pytest.raises(UnreadableImage, match="do not say how large their pixels are"):
        volume.read(edited(tmp_path / "series", without))


def test_slices_of_two_patients_are_refused_without_their_names(tmp_path: Path) -> None:
    folder = changed(tmp_path / "series", 5, PatientID="other")
    with pytest.raises(UnreadableImage, match="slices of 2 patients") as caught:
        volume.read(folder)
    assert "other" not in caught.value.message.replace("another", "")
    assert "1_35_005.dcm is of another one" in caught.value.message


def test_a_slice_that_breaks_off_is_named(tmp_path: Path) -> None:
    file = sorted(write_series(tmp_path / "series", phantom()).iterdir())[3]
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(UnreadableImage, match=f"The DICOM slice {file.name} in series is damaged"):
        volume.read(file.parent)


@pytest.mark.parametrize(("pad", "signed"), [(63536, 0), (-2000, 1), (63536, 1), (1064, 0)])
def test_padding_of_a_ct_is_air(tmp_path: Path, pad: int, signed: int) -> None:
    def padded(data: pydicom.Dataset) -> None:
        stored = np.frombuffer(data.PixelData, np.uint16).reshape(data.Rows, data.Columns).copy()
        stored[:3] = pad % 2**16
        data.PixelRepresentation, data.PixelData = signed, stored.tobytes()
        data.add_new("PixelPaddingValue", "SS" if pad < 0 else "US", pad)

    scan = volume.read(edited(tmp_path / "series", padded))
    expected = ct().transpose(2, 1, 0)
    expected[:, :3] = -1024
    np.testing.assert_array_equal(sitk.GetArrayFromImage(scan.image), expected)
    assert scan.modality == "CT"
    assert list(scan.notes) == []


def test_padding_of_an_mr_is_its_darkest_value_and_tissue_stays() -> None:
    voxels = np.random.default_rng(0).integers(5, 90, (4, 12, 12)).astype(np.int16)
    voxels[:, :2], voxels[:, 2], voxels[1, 6, 6] = 500, 400, 500
    cleaned = without_padding(voxels, [(500.0, 500.0)] * 3 + [None], "MR")
    assert cleaned is not None
    assert (cleaned[:3, :2] == 5).all()
    np.testing.assert_array_equal(cleaned[:3, 2:], voxels[:3, 2:])
    np.testing.assert_array_equal(cleaned[3], voxels[3])


def test_padding_does_not_make_hounsfield_units(tmp_path: Path) -> None:
    def moved(data: pydicom.Dataset) -> None:
        data.RescaleIntercept = 0
        data.add_new("PixelPaddingValue", "US", 63536)
        stored = np.frombuffer(data.PixelData, np.uint16).copy()
        stored[:50] = 63536
        data.PixelData = stored.tobytes()

    with pytest.raises(ModalityMismatch, match="Hounsfield"):
        volume.read(edited(tmp_path / "series", moved))


def test_each_slice_has_its_own_rescaling(tmp_path: Path) -> None:
    folder = changed(tmp_path / "series", 0, RescaleIntercept=0, RescaleSlope=1)
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        if data.InstanceNumber == 1:  # the same HU, stored otherwise
            stored = np.clip(ct()[:, :, 0].T, 0, None)
            data.PixelData = stored.astype(np.uint16).tobytes()
            data.save_as(file)
    voxels = sitk.GetArrayFromImage(volume.read(folder).image)
    expected = ct().transpose(2, 1, 0).astype(np.int32)
    expected[0] = np.clip(expected[0], 0, None)
    np.testing.assert_array_equal(voxels, expected)


def test_fractions_in_later_slices_are_kept(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", phantom(), modality="CT")
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        if data.InstanceNumber > 1:
            data.RescaleSlope, data.RescaleIntercept = 0.5, -1024
            data.save_as(file)
    voxels = sitk.GetArrayFromImage(volume.read(folder).image)
    stored = ct().transpose(2, 1, 0).astype(np.float64) + 1024
    np.testing.assert_allclose(voxels[0], stored[0] - 1024, atol=1e-3)
    np.testing.assert_allclose(voxels[1:], stored[1:] * 0.5 - 1024, atol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_no_number_in_a_nifti_is_refused(
    tmp_path: Path, value: float, suffix: str
) -> None:
    voxels = ct().astype(np.float32)
    voxels[:3] = value
    with pytest.raises(DiffuGTSError) as caught:
        volume.read(nifti(tmp_path / f"scan{suffix}", AFFINE, AFFINE, voxels=voxels))
    assert caught.value.code == "not-finite"


@pytest.mark.parametrize("damage", [b"1S.0", b"1\xdc5 ", b"nan ", b"1:2.", b"    "])
def test_a_slice_whose_place_is_no_number_is_refused_in_a_sentence(
    tmp_path: Path, damage: bytes
) -> None:
    write_series(tmp_path / "scan", phantom())
    file = sorted((tmp_path / "scan").iterdir())[3]
    content = file.read_bytes()
    at = content.index(b"\x20\x00\x32\x00DS") + 8  # the value of the position
    file.write_bytes(content[:at] + damage + content[at + len(damage):])
    with pytest.raises(UnreadableImage, match=r"damaged|do not say|evenly"):
        as_scan(tmp_path / "scan", "MR")
