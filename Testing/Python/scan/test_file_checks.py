"""What is refused before ITK opens it, in a sentence that says what it is; and what is fine."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from support.batch_runs import write_scan

from DiffuGTSLib.errors import DiffuGTSError, UnreadableImage
from DiffuGTSLib.scan.file_checks import (
    all_files,
    check_file,
    file_states,
    is_regular,
    scan_mark,
    unzipped_bytes,
)
from DiffuGTSLib.scan.volume import read

NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 8 8 8\nencoding: raw\nendian: little\n"
MHD = "ObjectType = Image\nNDims = 3\nDimSize = 8 8 8\nElementType = MET_SHORT\n"
VOXELS = np.arange(512, dtype=np.int16).tobytes()


def refusal(path: Path) -> str:
    with pytest.raises(DiffuGTSError) as caught:
        check_file(path)
    return caught.value.message


def file(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(("name", "content", "what"), [
    ("scan.nii.gz", b"PK\x03\x04rest", "a zip archive"),
    ("scan.nii", b"<!DOCTYPE html><html>login", "a web page"),
    ("scan.nii.gz", b"\n <HTML>", "a web page"),
    ("scan.nii", (540).to_bytes(4, "little") + b"n+2\0" + bytes(600), "NIfTI-2"),
    ("scan.nii.gz", gzip.compress((540).to_bytes(4, "little") + bytes(600), mtime=0), "NIfTI-2"),
    ("scan.mgz", gzip.compress(b"\0\0\0\1" + bytes(300), mtime=0), "FreeSurfer"),
    ("scan.nii.gz", b"", "empty"),
    ("scan.nii.gz", b"version https://git-lfs.github.com/spec/v1", "not fetched"),
])
def test_files_of_other_kinds_are_named(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    assert what in refusal(file(tmp_path, name, content))


def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scan.nii.gz")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.nrrd"))
        for path in (tmp_path / "scan.nii.gz", tmp_path / "s.nrrd", Path("/dev/zero")):
            assert not is_regular(path)
            assert refusal(path).endswith("is a pipe, a socket or a device, not a file.")


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.nii.gz"))
    path.write_bytes(b"x")
    with pytest.raises(UnreadableImage, match="bytes that are not UTF-8"):
        read(path)


@pytest.mark.parametrize("data", [
    "/etc/passwd", "../out.raw", "a/../../out.raw", "C:\\\\x.raw", "..\\\\x.raw",
])
@pytest.mark.parametrize("kind", ["nhdr", "mhd"])
def test_a_header_may_not_point_out_of_its_folder(tmp_path: Path, kind: str, data: str) -> None:
    file(tmp_path.parent, "out.raw", VOXELS)
    text = f"{NRRD}data file: {data}\n" if kind == "nhdr" else f"{MHD}ElementDataFile = {data}\n"
    message = refusal(file(tmp_path, f"scan.{kind}", text))
    assert message == f"The header scan.{kind} names a file outside of its folder."


@pytest.mark.parametrize("lines", [
    "data file: gone.raw", "data file: LIST\na.raw\ngone.raw", "datafile: s%d.raw 1 3 1"])
def test_a_missing_voxel_file_is_named(tmp_path: Path, lines: str) -> None:
    for name in ("a.raw", "s1.raw", "s2.raw"):
        file(tmp_path, name, VOXELS)
    message = refusal(file(tmp_path, "scan.nhdr", f"{NRRD}{lines}\n"))
    assert "which holds the voxels of scan.nhdr, is missing" in message
    assert message.startswith(("The file gone.raw", "The file s3.raw"))


def test_a_pipe_behind_a_header_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "voxels.raw")
    path = file(tmp_path, "scan.mhd", f"{MHD}ElementDataFile = voxels.raw\n")
    assert "is no regular file" in refusal(path)
    os.mkfifo(tmp_path / "pair.img")
    assert "is no regular file" in refusal(file(tmp_path, "pair.hdr", bytes(348)))


@pytest.mark.parametrize("lines", [
    MHD.replace("8 8 8", "8 8 99999999999999999999"), MHD.replace("8 8 8", "-8 8 8"),
    MHD.replace("8 8 8", "1000000 1000000 1000000"), MHD.replace("NDims = 3", "NDims = -3"),
    MHD.replace("NDims = 3", "NDims = 999999999"), MHD.replace("8 8 8", "8 8"),
    MHD.replace("8 8 8", "8 8 nan"),
])
def test_absurd_headers_are_refused_unread(tmp_path: Path, lines: str) -> None:
    message = refusal(file(tmp_path, "scan.mha", f"{lines}ElementDataFile = LOCAL\n".encode()
                           + VOXELS))
    assert "states" in message or "dimensions; a scan has 3" in message


@pytest.mark.parametrize("data", ["s%d.raw 1 99999999 1", "s%d.raw 1 3 0", "%s%n 1 3 1", "a%9999d"])
def test_patterns_have_limits(tmp_path: Path, data: str) -> None:
    assert "pattern of" in refusal(file(tmp_path, "scan.nhdr", f"{NRRD}data file: {data}\n"))


def test_a_header_of_100_000_keys_is_refused(tmp_path: Path) -> None:
    keys = "".join(f"key{n}:=v\n" for n in range(100_000))
    path = file(tmp_path, "scan.nrrd", f"{NRRD}{keys}\n".encode() + VOXELS)
    assert "more lines than any scan needs" in refusal(path)


def test_detached_headers_that_are_fine_are_read(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(8000, dtype=np.int16).reshape(20, 20, 20))
    expected = sitk.GetArrayFromImage(image)
    for name in ("scan.mhd", "scan.nhdr", "scan.hdr"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert np.array_equal(sitk.GetArrayFromImage(read(tmp_path / name).image), expected)


@pytest.mark.parametrize("change", ["plain", "tail", "padded", "two members"])
def test_gz_files_that_are_fine_are_read(tmp_path: Path, change: str) -> None:
    whole = write_scan(tmp_path / "whole.nii.gz")
    content = whole.read_bytes()
    plain = gzip.decompress(content)
    path = file(tmp_path, "scan.nii.gz", {
        "plain": plain, "tail": content + b"<html>", "padded": content + bytes(5000),
        "two members": gzip.compress(plain[:1000], mtime=0) + gzip.compress(plain[1000:], mtime=0),
    }[change])
    assert unzipped_bytes(path) == len(plain)
    assert np.array_equal(sitk.GetArrayFromImage(read(path).image),
                          sitk.GetArrayFromImage(read(whole).image))


@pytest.mark.parametrize(("lines", "said"), [
    ("space directions: (1,0,0) (0,1,0) (0,0,nan)", "axes that are not all numbers"),
    ("space directions: (1,0,0) (1,0,0) (0,0,2)", "axes that lie in one plane or line"),
    ("space directions: (1,0,0) (0,1,0) (0,0,0)", "an axis of no length"),
    ('space units: "cm" "cm" "cm"', "states its lengths in cm (space units)"),
])
def test_axes_and_units_of_an_nrrd_that_cannot_be_are_named(
    tmp_path: Path, lines: str, said: str
) -> None:
    text = f"{NRRD}space: left-posterior-superior\n{lines}\n\n"
    assert said in refusal(file(tmp_path, "scan.nrrd", text.encode() + VOXELS))
    right = 'space directions: (2,0,0) (0,0,2) (0,2,0)\nspace units: "mm" "" "s"'
    fine = text.replace(lines, right)
    check_file(file(tmp_path, "fine.nrrd", fine.encode() + VOXELS))


@pytest.mark.parametrize(("matrix", "said"), [
    ("0 0 0 0 0 0 0 0 0", "an axis of no length"), ("1 0 0 0 1 0 0 0 x", "not all numbers"),
    ("1 0 0 1 0 0 0 0 1", "in one plane or line"),
    ("2 0 0 0 2 0 0 0 2", "not of unit length but 2, 2, 2 long"),
])
def test_axes_of_a_metaimage_that_cannot_be_are_named(
    tmp_path: Path, matrix: str, said: str
) -> None:
    text = f"{MHD}TransformMatrix = {matrix}\nElementDataFile = LOCAL\n"
    with pytest.raises(UnreadableImage, match=said):
        read(file(tmp_path, "scan.mha", text.encode() + VOXELS))


def test_a_gz_file_that_breaks_off_is_damaged(tmp_path: Path) -> None:
    content = write_scan(tmp_path / "whole.nii.gz").read_bytes()
    path = file(tmp_path, "scan.nii.gz", content[:-40])
    assert unzipped_bytes(path) is None
    with pytest.raises(UnreadableImage, match="voxels are missing at its end"):
        read(path)


def sheared(folder: Path, shear: float) -> Path:
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[0, 1] = 2 * shear
    values = np.random.default_rng(0).integers(0, 200, (100, 100, 40)).astype(np.int16)
    image = nibabel.Nifti1Image(values, None)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    image.header.set_zooms((2, 2, 2))
    nibabel.save(image, folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def test_a_shear_by_rounding_is_read_and_a_true_one_is_not(tmp_path: Path) -> None:
    image = read(sheared(tmp_path, 0.0003)).image
    axes = np.array(image.GetDirection()).reshape(3, 3)
    assert np.allclose(axes, np.eye(3), atol=3e-4)
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-6)
    with pytest.raises(UnreadableImage, match="not at right angles"):
        read(sheared(tmp_path, 0.02))


@pytest.mark.parametrize(("header", "content", "voxels"), [
    ("a.nhdr", NRRD + "data file: a.raw\n", ["a.raw"]),
    ("a.nhdr", NRRD + "data file: LIST\n1.raw\n2.raw\n", ["1.raw", "2.raw"]),
    ("a.nhdr", NRRD + "data file: s%02d.raw 3 5 1\n", ["s03.raw", "s04.raw", "s05.raw"]),
    ("a.mhd", MHD + "ElementDataFile = a.raw\n", ["a.raw"]),
    ("a.mha", MHD + "ElementDataFile = LOCAL\n", []),
    ("a.hdr", "header", ["a.img"]),
    ("a.nrrd", NRRD + "\nvoxels", []),
    ("a.nhdr", NRRD + "data file: gone.raw\n", []),
])
def test_what_is_changed_in_any_file_of_a_scan_changes_its_state(
    tmp_path: Path, header: str, content: str, voxels: list[str]
) -> None:
    path = file(tmp_path, header, content)
    others = [file(tmp_path, name, VOXELS) for name in voxels]
    file(tmp_path, "of_another.raw", VOXELS)
    assert sorted(all_files(path)) == sorted([path, *others])
    for changed in (path, *others):
        before = file_states(path)
        os.utime(changed, ns=(1, changed.stat().st_mtime_ns + 1))
        assert file_states(path) != before


def test_a_series_is_all_files_below_its_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    slices = [file(tmp_path, "1.dcm", b"a"), file(tmp_path / "below", "2.dcm", b"b")]
    assert sorted(all_files(tmp_path)) == sorted(slices)
    with pytest.raises(OSError, match="nothing"):
        file_states(tmp_path / "nothing")


def test_the_mark_of_a_scan_tells_contents_and_not_names(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(40, 60, 60)))
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        sitk.WriteImage(image, str(tmp_path / name))
        image[30, 30, 20] += name.startswith("b")  # in the middle of the file
    marks = [scan_mark(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz")]
    assert marks[0] == marks[1] != marks[2]
    first, again = tmp_path / "first", tmp_path / "again"
    for folder, order in ((first, "01"), (again, "10")):
        folder.mkdir()
        for name, content in zip(order, (b"slice", b"another"), strict=True):
            (folder / name).write_bytes(content)
    assert scan_mark(first) == scan_mark(again)
