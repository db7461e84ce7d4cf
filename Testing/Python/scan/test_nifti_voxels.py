"""NIfTI headers that state what voxels cannot be, and those that are fine."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.errors import NotFinite, UnreadableImage
from DiffuGTSLib.scan import volume
from DiffuGTSLib.scan.header import ScanGrid

DIM, DATATYPE, UNITS, PIXDIM, OFFSET, SLOPE, INTERCEPT = 40, 70, 123, 76, 108, 112, 116
VOXELS = np.random.default_rng(0).integers(0, 500, (20, 24, 16)).astype(np.int16)
AFFINE = np.diag([-2.0, 2, 3, 1])


def patched(folder: Path, *changes: tuple[int, str, float], suffix: str = ".nii") -> Path:
    """A file with other values at some places of its header."""
    path = folder / f"scan{suffix}"
    nibabel.save(nibabel.Nifti1Image(VOXELS, AFFINE), folder / "whole.nii")
    content = bytearray((folder / "whole.nii").read_bytes())
    for place, kind, value in changes:
        struct.pack_into(f"<{kind}", content, place, value)
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises((UnreadableImage, NotFinite)) as caught:
        volume.read(path, "MR")
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("offset", [0, 10, 348, 351, 352.5, float("nan"), float("inf"), -352])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_that_begin_in_the_header_are_refused(
    tmp_path: Path, offset: float, suffix: str
) -> None:
    said = refusal(patched(tmp_path, (OFFSET, "f", offset), suffix=suffix))
    assert f"begin at byte {offset:g} (vox_offset)" in said
    assert "Set vox_offset to 352" in said


@pytest.mark.parametrize(("slope", "intercept"), [
    (float("inf"), 0), (10, float("nan")), (10, float("inf")), (-float("inf"), 0)])
def test_a_rescaling_that_cannot_be_is_refused(
    tmp_path: Path, slope: float, intercept: float
) -> None:
    said = refusal(patched(tmp_path, (SLOPE, "f", slope), (INTERCEPT, "f", intercept)))
    assert f"scl_slope {slope:g}, scl_inter {intercept:g}" in said


@pytest.mark.parametrize("slope", [0, float("nan"), 1, 2.5])
def test_other_rescalings_are_as_nibabel_has_them(tmp_path: Path, slope: float) -> None:
    path = patched(tmp_path, (SLOPE, "f", slope), (INTERCEPT, "f", 0))
    scan = volume.read(path, "MR")
    assert list(scan.notes) == []
    np.testing.assert_allclose(sitk.GetArrayFromImage(scan.image).T, nibabel.load(path).get_fdata())


@pytest.mark.parametrize("given", ["scan.hdr", "scan.img"])
def test_pairs_of_files_are_checked_too(tmp_path: Path, given: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / "scan.hdr"))
    assert volume.read(tmp_path / given, "MR").image.GetSize() == (16, 24, 20)
    content = bytearray((tmp_path / "scan.hdr").read_bytes())
    struct.pack_into("<f", content, SLOPE, float("inf"))
    (tmp_path / "scan.hdr").write_bytes(content)
    assert "a rescaling that cannot be" in refusal(tmp_path / given)


@pytest.mark.parametrize("given", ["scan.hdr", "scan.img"])
def test_voxels_of_a_pair_are_looked_at_too(tmp_path: Path, given: str) -> None:
    """ITK reads NaN as 0, and fills up what is missing with 0."""
    voxels = VOXELS.astype(np.float32)
    for changed, said in ((float("nan"), "not numbers"), (1.0, "voxels are missing at its end")):
        voxels[7, 8, 9] = changed
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "scan.hdr"))
        if changed == 1:
            assert volume.read(tmp_path / given, "MR").image.GetSize() == (16, 24, 20)
            assert ScanGrid.stated(tmp_path / given).size == (16, 24, 20)
            content = (tmp_path / "scan.img").read_bytes()
            (tmp_path / "scan.img").write_bytes(content[: len(content) // 2])
        assert said in refusal(tmp_path / given)


def test_a_zipped_pair_is_read_and_checked(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / "scan.img.gz"))
    names = sorted(path.name for path in tmp_path.iterdir())
    header = next(tmp_path / name for name in names if ".hdr" in name)
    assert volume.read(header, "MR").image.GetSize() == (16, 24, 20)
    content = (tmp_path / "scan.img.gz").read_bytes()
    (tmp_path / "scan.img.gz").write_bytes(content[: len(content) // 2])
    assert "is damaged" in refusal(header)


def test_a_negative_slope_is_said(tmp_path: Path) -> None:
    path = patched(tmp_path, (SLOPE, "f", -2), (INTERCEPT, "f", 1))
    notes = volume.read(path, "MR").notes
    assert any("negative scl_slope (-2)" in note for note in notes)


@pytest.mark.parametrize(("change", "said"), [
    ((DIM + 2, "h", -5), "a negative size (-5 x 24 x 16 voxels)"),
    ((DIM, "h", 9), "9 dimensions"),
    ((DATATYPE, "h", 1536), "voxels of 128-bit floats, which are not read"),
    ((DATATYPE, "h", 77), "voxels of the unknown type 77"),
    ((PIXDIM + 12, "f", 0), "voxel spacing (2 x 2 x 0, pixdim) cannot be right"),
    ((UNITS, "B", 3), "states its spacing (2 x 2 x 3) in microns"),
    ((UNITS, "B", 1), "states its spacing (2 x 2 x 3) in metres"),
    ((280, "f", float("nan")), "sform of the NIfTI file holds what is no number"),
])  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, change: tuple[int, str, float], said: str
) -> None:
    assert said in refusal(patched(tmp_path, change))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_far_too_many_slices_are_missing_voxels_not_missing_memory(
    tmp_path: Path, suffix: str
) -> None:
    path = patched(tmp_path, (DIM + 6, "h", 30000), suffix=suffix)
    assert "voxels are missing at its end" in refusal(path)
    assert ScanGrid.stated(path) is None
    assert ScanGrid.stated(patched(tmp_path, suffix=suffix)) is not None


def test_the_hint_for_nifti_2_gives_nifti_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nibabel.save(nibabel.Nifti2Image(VOXELS, AFFINE), "scan.nii")
    command = refusal(tmp_path / "scan.nii").split('"')[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(command)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(volume.read(tmp_path / "scan1.nii.gz").image).T, VOXELS)


@pytest.mark.parametrize("named", ["SCAN.HDR", "SCAN.IMG"])
def test_a_pair_with_its_names_in_capitals_is_read(tmp_path: Path, named: str) -> None:
    nibabel.save(nibabel.Nifti1Pair(VOXELS, AFFINE), tmp_path / "scan.hdr")
    for suffix in (".hdr", ".img"):
        (tmp_path / f"scan{suffix}").rename(tmp_path / f"SCAN{suffix.upper()}")
    image = volume.read(tmp_path / named, "MR").image
    assert np.array_equal(sitk.GetArrayFromImage(image).T, VOXELS)
    (tmp_path / "SCAN.IMG" if named == "SCAN.HDR" else tmp_path / "SCAN.HDR").unlink()
    assert "which belongs to" in refusal(tmp_path / named)
