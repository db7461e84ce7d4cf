"""What a run may replace: files of its own, once the new ones are whole; nothing else."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import SimpleITK as sitk
from support.batch_runs import write_scan
from support.dicom_files import write_series
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.cli.segment import Outputs, segment_scan
from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.output.segments import MAPS
from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.progress import Callback, ProgressEstimator
from DiffuGTSLib.scan.phantom import make_phantom


@contextlib.contextmanager
def no_bar(estimator: ProgressEstimator, prompts: Sequence[str]) -> Iterator[Callback]:
    yield lambda stage, done, total: None


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")), "cpu")


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("link", [False, True])
def test_the_scan_is_never_the_output(tmp_path: Path, link: bool) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    output = tmp_path / "link.nii.gz" if link else scan
    if link:
        output.symlink_to(scan.name)
    with pytest.raises(OutputNotWritten, match="is the scan itself"):
        Outputs(output).check(scan)


def test_a_map_never_takes_the_place_of_the_scan(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "attention.nii.gz")
    with pytest.raises(OutputNotWritten, match=r"attention\.nii\.gz is the scan itself"):
        Outputs(tmp_path.parent / "mask.nrrd", tmp_path).check(scan)


def test_nothing_is_written_among_dicom_slices(tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", ball_scan()[0])
    with pytest.raises(OutputNotWritten, match="among the scan's own files"):
        Outputs(series / "mask.nrrd").check(series)


@pytest.mark.parametrize("name", ["mask.nrrd", "mask.nii.gz", "maps/attention.nii.gz", "o.png"])
def test_files_of_other_programs_stay(tmp_path: Path, name: str) -> None:
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith(".png"):
        path.write_bytes(b"\x89PNG of somebody")
    else:
        sitk.WriteImage(ball_scan()[0], str(path))
    mask = path if name.startswith("mask") else tmp_path / "new.nrrd"
    with pytest.raises(OutputNotWritten, match="this program did not write it"):
        Outputs(mask, tmp_path / "maps", tmp_path / "o.png").check(scan)


def test_phantoms_do_not_replace_a_scan(tmp_path: Path) -> None:
    write_scan(tmp_path / "image.nii.gz")
    before = digests(tmp_path)
    with pytest.raises(OutputNotWritten, match=r"image\.nii\.gz exists"):
        make_phantom("liver", spacing=(8.0, 8.0, 8.0)).write(tmp_path)
    assert digests(tmp_path) == before


def test_an_earlier_run_is_replaced_and_kept_where_the_new_one_fails(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    outputs = Outputs(tmp_path / "out" / "mask.nii.gz", tmp_path / "out", tmp_path / "out/o.png")
    (tmp_path / "out").mkdir()
    segment_scan(scan, [PROMPT], outputs, options, no_bar)
    first = digests(tmp_path / "out")
    assert set(first) == {"mask.nii.gz", "o.png", *(f"{name}.nii.gz" for name in MAPS)}
    again = segment_scan(scan, [PROMPT], outputs, options, no_bar)
    assert set(digests(tmp_path / "out")) == set(first)
    assert again.document["segmentation"] == str(outputs.segmentation)
    before = digests(tmp_path / "out")

    def full(*arguments: object, **more: object) -> None:
        raise OutputNotWritten("The disk is full.")

    monkeypatch.setattr("DiffuGTSLib.output.segments.write_segmentation", full)
    with pytest.raises(OutputNotWritten, match="disk is full"):
        segment_scan(scan, [PROMPT], outputs, options, no_bar)
    assert digests(tmp_path / "out") == before


def test_a_folder_for_maps_that_cannot_be_made_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputNotWritten, match="The folder maps cannot be made"):
        Outputs(None, tmp_path / "file" / "maps").check(None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_check_leaves_no_folder_for_maps_behind(tmp_path: Path) -> None:
    Outputs(None, tmp_path / "new" / "maps").check(None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    Outputs(None, tmp_path / "there").check(None)
    assert (tmp_path / "there").is_dir()
