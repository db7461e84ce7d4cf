"""The files of a worker's job: as SimpleITK would write them, without the zeros."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.errors import Cancelled, OutputNotWritten
from DiffuGTSLib.worker.job_files import JobFiles, write_nrrd

KINDS = (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)


def oblique(array: np.ndarray) -> sitk.Image:
    """An image whose geometry takes all digits of its numbers."""
    image = sitk.GetImageFromArray(array)
    turn = sitk.Euler3DTransform([0, 0, 0], 0.31, -0.12, 1.7)
    image.SetDirection(turn.GetMatrix())
    image.SetSpacing([0.1 + 0.2, 1 / 3, 2.5])
    image.SetOrigin([-123.456789012345, 1e-7, 98765.4321])
    return image


def grown(shape: tuple[int, int, int], kind: type[np.generic]) -> np.ndarray:
    """Zeros, but for two boxes, the very first and the very last voxel."""
    array = np.zeros(shape, kind)
    array[3:5, 10:30, 7:19] = 1
    array[7, :, :] = 3
    array[0, 0, 0], array[-1, -1, -1] = 5, 7
    return array


@pytest.mark.parametrize("kind", KINDS)
def test_same_image_as_written_by_simpleitk(tmp_path: Path, kind: type[np.generic]) -> None:
    """Independent implementation: SimpleITK's own file, read by SimpleITK."""
    image = oblique(grown((11, 53, 47), kind))
    write_nrrd(image, tmp_path / "ours.nrrd")
    sitk.WriteImage(image, str(tmp_path / "theirs.nrrd"), useCompression=False)
    ours, theirs = (sitk.ReadImage(str(tmp_path / f"{name}.nrrd")) for name in ("ours", "theirs"))
    assert ours.GetPixelID() == theirs.GetPixelID()
    assert np.array_equal(sitk.GetArrayViewFromImage(ours), sitk.GetArrayViewFromImage(image))
    for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(ours, geometry)() == getattr(theirs, geometry)()


@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 32, 32), (1, 64, 64), (9, 71, 65)])
@pytest.mark.parametrize("fill", [0.0, -0.0, 2.5])
def test_every_bit_whatever_the_size(
    tmp_path: Path, shape: tuple[int, int, int], fill: float
) -> None:
    """Smaller than a block, whole blocks, and blocks with a rest; -0.0 keeps its sign."""
    array = np.full(shape, fill, np.float32)
    write_nrrd(sitk.GetImageFromArray(array), tmp_path / "a.nrrd")
    assert (tmp_path / "a.nrrd").read_bytes().endswith(b"\n\n" + array.tobytes())


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems fill holes in files")
def test_zeros_take_no_space(tmp_path: Path) -> None:
    array = np.zeros((64, 128, 128), np.float32)
    array[30:34, 60:70, 60:70] = 1
    write_nrrd(sitk.GetImageFromArray(array), tmp_path / "a.nrrd")
    status = (tmp_path / "a.nrrd").stat()
    if status.st_blocks * 512 >= status.st_size:
        pytest.skip("this file system keeps no holes in files")
    assert status.st_blocks * 512 < array.nbytes / 20


def test_an_image_written_before_gets_a_further_name(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "job")
    image = sitk.GetImageFromArray(grown((9, 40, 40), np.float32))
    first = files.write({"preview": lambda: image}, lambda: None)["preview"]
    again = files.write({"result": lambda: image, "copy": lambda: sitk.Image(image)},
                        lambda: None)
    assert os.path.samefile(first, again["result"])
    assert Path(again["copy"]).read_bytes() == Path(first).read_bytes()
    assert not os.path.samefile(first, again["copy"])


def test_a_file_that_is_gone_is_written_anew(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "job")
    array = grown((9, 40, 40), np.float32)
    image = sitk.GetImageFromArray(array)
    Path(files.write({"preview": lambda: image}, lambda: None)["preview"]).unlink()
    result = files.write({"result": lambda: image}, lambda: None)["result"]
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(result)), array)


def test_cancelled_between_files_leaves_nothing(tmp_path: Path) -> None:
    calls = iter([None, Cancelled()])

    def check() -> None:
        if (error := next(calls)) is not None:
            raise error

    image = sitk.GetImageFromArray(np.ones((4, 5, 6), np.float32))
    with pytest.raises(Cancelled):
        JobFiles(tmp_path).write({"a": lambda: image, "b": lambda: image}, check)
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_made_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    def fail() -> sitk.Image:
        raise RuntimeError("as of ITK")

    image = sitk.GetImageFromArray(np.ones((4, 5, 6), np.float32))
    with pytest.raises(RuntimeError, match="as of ITK"):
        JobFiles(tmp_path).write({"a": lambda: image, "b": fail}, lambda: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to the size of files")
def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Files may not grow beyond 8 KB, as on a full disk."""
    import resource
    import signal

    image = sitk.GetImageFromArray(np.ones((16, 32, 32), np.float32))
    kept, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, kept[1]))
    try:
        with pytest.raises(OutputNotWritten):
            JobFiles(tmp_path).write({"a": lambda: image}, lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
