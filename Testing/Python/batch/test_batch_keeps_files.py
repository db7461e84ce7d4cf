"""What a batch leaves alone: its inputs, and what others keep in its output folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import SimpleITK as sitk
from support.batch_runs import REPOSITORY, InThisProcess, statuses, table, write_scan
from support.dicom_files import write_series
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.batch import processor
from DiffuGTSLib.batch.case import BatchFailure, BatchSettings, Case, Outcome
from DiffuGTSLib.batch.driver import run_batch
from DiffuGTSLib.batch.local_executor import LocalExecutor
from DiffuGTSLib.batch.output_folder import (
    CaseRow,
    FolderNotEmpty,
    OtherRun,
    write_tables,
)
from DiffuGTSLib.batch.processor import CaseProcessor
from DiffuGTSLib.channel import ChannelClosed
from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.pipeline.options import Options


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return Options(str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")), "cpu")


def run(inputs: list[Path], folder: Path, options: Options, resume: bool = False) -> None:
    run_batch(inputs, [PROMPT], BatchSettings(options, folder), InThisProcess(), resume=resume)


def test_a_run_does_not_replace_its_own_table(tmp_path: Path, options: Options) -> None:
    write_scan(tmp_path / "scan.nrrd")
    own = tmp_path / "cases.csv"
    own.write_text("image\nscan.nrrd\n")
    with pytest.raises(OutputNotWritten, match=r"the table cases\.csv itself"):
        run([own], tmp_path, options)
    assert own.read_text(encoding="utf-8") == "image\nscan.nrrd\n"
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


def test_a_case_runs_again_where_the_mask_to_search_in_has_changed(
    tmp_path: Path, options: Options
) -> None:
    write_scan(tmp_path / "a.nrrd")
    whole = sitk.Image([48, 48, 32], sitk.sitkUInt8) + 1
    whole.CopyInformation(ball_scan()[0])
    sitk.WriteImage(whole, str(tmp_path / "organ.nrrd"))
    (tmp_path / "t.csv").write_text("image,within\na.nrrd,organ.nrrd\n")
    found = tmp_path / "out" / "segmentations" / "a.seg.nrrd"
    run([tmp_path / "t.csv"], tmp_path / "out", options)
    first = found.read_bytes()
    run([tmp_path / "t.csv"], tmp_path / "out", options, resume=True)
    assert found.read_bytes() == first
    empty = whole * 0
    empty[0, 0, 0] = 1
    sitk.WriteImage(empty, str(tmp_path / "organ.nrrd"))
    run([tmp_path / "t.csv"], tmp_path / "out", options, resume=True)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(found))).max() == 0


def test_a_mask_among_the_segmentations_is_refused(tmp_path: Path, options: Options) -> None:
    write_scan(tmp_path / "a.nrrd")
    mask = write_scan(tmp_path / "out" / "segmentations" / "a.nii.gz")
    (tmp_path / "t.csv").write_text(f"image,within\na.nrrd,{mask}\n")
    with pytest.raises(OutputNotWritten, match=r"The mask a\.nii\.gz lies where"):
        run([tmp_path / "t.csv"], tmp_path / "out", options)


def test_a_result_that_is_no_json_fails_its_case_alone(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [write_scan(tmp_path / f"{name}.nrrd", seed) for seed, name in enumerate("ab")]
    true = processor.described
    broken = iter([True])
    monkeypatch.setattr(processor, "described", lambda results: [
        entry | ({"highest_score": float("nan")} if next(broken, False) else {})
        for entry in true(results)])
    run(scans, tmp_path / "out", options)
    assert sorted(statuses(tmp_path / "out").values()) == ["done", "failed"]


def test_no_cell_of_the_tables_is_a_formula(tmp_path: Path, options: Options) -> None:
    case = Case("=cmd|' /C calc'!A0", Path("@SUM(1+1)"), ("-2+3", "tumor"))
    write_tables(tmp_path, [CaseRow(case, "failed", None, BatchFailure("x", "+1 is no scan."))])
    (row,) = table(tmp_path / "cases.csv")
    assert (row["case"], row["image"]) == (" =cmd|' /C calc'!A0", " @SUM(1+1)")
    assert (row["prompts"], row["error"]) == (" -2+3; tumor", " +1 is no scan.")


def test_numbers_in_the_tables_stay_numbers(tmp_path: Path, options: Options) -> None:
    scan = write_scan(tmp_path / "a.nrrd")
    run([scan], tmp_path / "out", options)
    rows = table(tmp_path / "out" / "lesions.csv")
    assert [float(row["centroid_a_mm"]) for row in rows]
    assert not any(row["centroid_a_mm"].startswith(" ") for row in rows)


@pytest.mark.parametrize("outcome", [
    {"prompts": 5}, {"prompts": [{}]}, {"files": {}}, {"seconds": "x"}, {"error": {"code": 1}},
])
def test_a_foreign_record_runs_its_case_again(
    tmp_path: Path, options: Options, outcome: dict[str, object]
) -> None:
    scan, folder = write_scan(tmp_path / "a.nrrd"), tmp_path / "out"
    record = folder / "records" / "a.json"
    (folder / "records").mkdir(parents=True)
    whole = Outcome("a", "done", files={"segmentation": "segmentations/a.seg.nrrd"}).as_dict()
    record.write_text(json.dumps({"case": Case("a", scan, (PROMPT,)).as_dict(), "stamp": [],
                                  "outcome": whole | outcome}))
    run([scan], folder, options)
    assert statuses(folder) == {"a": "done"}


def test_twelve_jobs_for_one_scan_are_one_process(options: Options, tmp_path: Path) -> None:
    executor = LocalExecutor(jobs=12)
    try:
        executor.start(BatchSettings(options, tmp_path), 1)
        assert len(executor._workers) == 1
    finally:
        executor.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it notices before it writes")
def test_a_stopped_child_ends_with_the_batch(tmp_path: Path) -> None:
    """Woken later, it would write into the folder of the run that has gone on meanwhile."""
    code = ("import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'from DiffuGTSLib.channel import "
            "Parent; Parent(); print(1, flush=True); import time; time.sleep(60)'],\n"
            "                         stdout=subprocess.PIPE)\n"
            "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                              env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    child.suspend()
    parent.kill()
    parent.wait()
    gone, _left = psutil.wait_procs([child], timeout=20)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_an_orphan_does_not_finish_a_case(
    tmp_path: Path, options: Options
) -> None:
    def orphaned() -> None:
        raise ChannelClosed

    scan = write_scan(tmp_path / "a.nrrd")
    processor = CaseProcessor(BatchSettings(options, tmp_path), check=orphaned)
    outcome = processor.process(Case("a", scan, (PROMPT,)), lambda *step: None, threading.Event())
    assert outcome.status != "done"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.nrrd"]
