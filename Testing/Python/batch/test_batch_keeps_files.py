"""What a batch leaves alone: its inputs, and what others keep in its output folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.batch_runs import InThisProcess, statuses, write_scan
from support.dicom_files import write_series
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.batch.case import BatchSettings
from DiffuGTSLib.batch.driver import run_batch
from DiffuGTSLib.batch.output_folder import FolderNotEmpty, OtherRun
from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.pipeline.options import Options


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")), "cpu")


def run(inputs: list[Path], folder: Path, options: Options, resume: bool = False) -> None:
    run_batch(inputs, [PROMPT], BatchSettings(options, folder), InThisProcess(), resume=resume)


def test_a_run_does_not_replace_its_own_table(tmp_path: Path, options: Options) -> None:
    write_scan(tmp_path / "scan.nrrd")
    table = tmp_path / "cases.csv"
    table.write_text("image\nscan.nrrd\n")
    with pytest.raises(OutputNotWritten, match=r"the table cases\.csv itself"):
        run([table], tmp_path, options)
    assert table.read_text(encoding="utf-8") == "image\nscan.nrrd\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.csv", "scan.nrrd"]


def test_a_scan_among_the_segmentations_is_refused(tmp_path: Path, options: Options) -> None:
    scan = write_scan(tmp_path / "out" / "segmentations" / "a.nii.gz")
    with pytest.raises(OutputNotWritten, match="lies where this run would write"):
        run([scan], tmp_path / "out", options)


def test_the_folder_of_a_series_is_no_output_folder(tmp_path: Path, options: Options) -> None:
    series = write_series(tmp_path / "series", ball_scan()[0])
    before = sorted(series.iterdir())
    with pytest.raises(OutputNotWritten, match="that of the scans"):
        run([series], series, options)
    assert sorted(series.iterdir()) == before


@pytest.mark.parametrize("name", ["cases.csv", "report.html", "segmentations/mask.nrrd"])
def test_results_of_others_are_not_replaced(tmp_path: Path, options: Options, name: str) -> None:
    scan = write_scan(tmp_path / "scan.nrrd")
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("a study of ours")
    with pytest.raises(FolderNotEmpty, match="which is not of a run of this program"):
        run([scan], tmp_path / "out", options, resume=True)
    assert path.read_text(encoding="utf-8") == "a study of ours"


@pytest.mark.parametrize("text", ["{}", "[]", "5", '{"program": "DiffuGTS"}', "[" * 9999, "\0"])
def test_a_foreign_ledger_is_named(tmp_path: Path, options: Options, text: str) -> None:
    scan = write_scan(tmp_path / "scan.nrrd")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(text)
    with pytest.raises(OtherRun, match="is not from this program, or is damaged"):
        run([scan], tmp_path / "out", options, resume=True)


def test_results_stay_until_a_case_has_ended_again(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, folder = write_scan(tmp_path / "a.nrrd"), tmp_path / "out"
    run([scan], folder, options)
    result = folder / "segmentations" / "a.seg.nrrd"
    before = result.read_bytes()
    write_scan(scan, seed=7)  # the scan has changed, so that it runs again
    monkeypatch.setattr(InThisProcess, "run", lambda *arguments: iter(()))  # cancelled at once
    run([scan], folder, options, resume=True)
    assert result.read_bytes() == before
    assert statuses(folder) == {"a": "waiting"}
