"""What a batch writes, does once, does again and refuses; with the real networks, in this process.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from support.batch_runs import BlockedScans, InThisProcess, statuses, table, voxels, write_scan
from support.dicom_files import write_enhanced, write_series
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.batch.case import BatchSettings
from DiffuGTSLib.batch.driver import run_batch
from DiffuGTSLib.batch.output_folder import OtherRun
from DiffuGTSLib.batch.processor import NETWORK_STAGES
from DiffuGTSLib.cli.batch import print_summary
from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.pipeline.options import Options

OTHER = "glioma"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def settings(model, tmp_path) -> BatchSettings:
    return BatchSettings(Options(str(model), "cpu"), tmp_path / "out")


def with_options(settings: BatchSettings, **changes: object) -> BatchSettings:
    return replace(settings, options=replace(settings.options, **changes))


class Ran:
    """A batch that has run in this process: its summary, its events, the cases that were run."""

    def __init__(self, inputs, settings, *prompts, resume=False, at=None) -> None:
        """`at` is a kind of event, and what to do then, given what cancels the batch."""
        self.events = []
        executor, cancelled = InThisProcess(), threading.Event()

        def on_event(event):
            self.events.append(event)
            if at is not None and event["type"] == at[0]:
                at[1](cancelled)

        self.summary = run_batch(inputs, prompts or (PROMPT,), settings, executor, resume=resume,
                                 on_event=on_event, cancelled=cancelled)
        self.started = executor.started

    def of(self, kind, **fields):
        return [event for event in self.events if event["type"] == kind
                and all(event[name] == value for name, value in fields.items())]


def test_two_prompts_share_one_encoding_and_one_file(settings, tmp_path):
    scan = write_scan(tmp_path / "a.nrrd")
    plain = replace(settings, suffix=".nii.gz", maps=True)
    ran = Ran([scan], plain, f"{PROMPT}; {OTHER}")
    assert len(ran.of("progress", stage="encode", done=0)) == 1
    assert len(ran.of("progress", stage="attention", done=0)) == 2
    (done,) = ran.of("case-done")
    assert [one["title"] for one in done["prompts"]] == [PROMPT, OTHER]
    labels = sitk.ReadImage(done["segmentation"])
    assert set(np.unique(sitk.GetArrayFromImage(labels))) == set(range(done["lesions"] + 1))
    assert (settings.folder / "maps" / "a" / "2_attention.nii.gz").is_file()
    assert len(list((settings.folder / "thumbnails").iterdir())) == 2


def test_the_networks_work_on_one_case_while_others_are_read(settings, tmp_path):
    scans = [write_scan(tmp_path / f"{name}.nrrd", seed) for seed, name in enumerate("abcd")]
    ran = Ran(scans, settings)
    steps = [event for event in ran.of("progress") if event["stage"] in NETWORK_STAGES]
    changes = [one["case"] != two["case"] for one, two in pairwise(steps)]
    assert sum(changes) == len(scans) - 1
    first_write = ran.events.index(ran.of("progress", stage="write")[0])
    read_before = {event["case"] for event in ran.events[:first_write]
                   if event.get("stage") == "read"}
    assert len(read_before) == 3


def test_a_series_of_a_dicom_folder_gets_a_dicom_segmentation(settings, tmp_path):
    first, second = ball_scan()[0], sitk.Flip(ball_scan()[0], [True, False, False])
    second.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    write_series(tmp_path / "study", first, 1, "MR")
    write_series(tmp_path / "study", second, 2, "MR")
    write_scan(tmp_path / "plain.nrrd")
    Ran([tmp_path / "study", tmp_path / "plain.nrrd"], replace(settings, dicom_seg=True))
    assert statuses(settings.folder) == dict.fromkeys(("study-1", "study-2", "plain"), "done")
    assert len(list((settings.folder / "segmentations").glob("*.dcm"))) == 2
    for number in (1, 2):
        path = settings.folder / "segmentations" / f"study-{number}.dcm"
        made = highdicom.seg.segread(path)
        whole = made.get_volume(combine_segments=True, allow_missing_positions=True)
        labels = voxels(settings.folder, f"study-{number}")
        assert {s.segment_label for s in map(made.get_segment_description, [1])} == {
            "brain tumor 1"}
        assert int((whole.array > 0).sum()) == int((labels > 0).sum())
    assert not np.array_equal(voxels(settings.folder, "study-1"),
                              voxels(settings.folder, "study-2"))


def test_a_scan_that_allows_no_dicom_segmentation_keeps_its_other_outputs(settings, tmp_path):
    study = write_series(tmp_path / "study", ball_scan()[0], 1, "MR")
    for path in study.iterdir():
        data = pydicom.dcmread(path)
        del data.FrameOfReferenceUID
        data.save_as(path)
    ran = Ran([study], replace(settings, dicom_seg=True))
    (done,) = ran.of("case-done")
    assert voxels(settings.folder, "study").any()
    assert [path.suffix for path in (settings.folder / "segmentations").iterdir()] == [".nrrd"]
    (note,) = done["notes"]
    assert note.startswith("There is no DICOM segmentation. The scan's DICOM files lack")
    assert "There is no DICOM segmentation." in (settings.folder / "report.html").read_text("utf-8")
    print_summary(ran.summary, said := io.StringIO())
    assert f"1 case: {note}" in said.getvalue()
    again = Ran([study], replace(settings, dicom_seg=True), resume=True)
    assert not again.started
    assert again.summary.rows[0].outcome.notes == [note]


def test_a_multi_frame_scan_is_a_case_like_any_other(settings, tmp_path):
    body = sitk.Cast(ball_scan()[0], sitk.sitkInt16) - 1000
    write_enhanced(tmp_path / "scan.dcm", body, range(31, -1, -1))
    Ran([tmp_path / "scan.dcm"], with_options(replace(settings, dicom_seg=True), modality="CT"))
    assert statuses(settings.folder) == {"scan": "done"}


def test_a_case_runs_again_when_its_scan_or_prompt_has_changed(settings, tmp_path):
    same, changed, bad = (write_scan(tmp_path / f"{name}.nrrd") for name in ("a", "b", "c"))
    content = bad.read_bytes()
    bad.write_bytes(content[:300])
    assert Ran([same, changed, bad], settings).summary.failed == 1
    write_scan(changed, 5)
    bad.write_bytes(content)
    again = Ran([same, changed, bad], settings, resume=True)
    assert sorted(again.started) == ["b", "c"]
    assert statuses(settings.folder) == dict.fromkeys("abc", "done")
    other = Ran([same], settings, OTHER, resume=True)
    assert (other.started, len(statuses(settings.folder))) == (["a"], 3)


def test_resuming_with_another_prompt_loses_no_result(settings, tmp_path):
    scan = write_scan(tmp_path / "a.nrrd")
    Ran([tmp_path], settings)
    (done,) = Ran([scan], settings, OTHER, resume=True).of("case-done")
    assert [one["title"] for one in done["prompts"]] == [PROMPT, OTHER]
    assert Ran([scan], settings, OTHER, resume=True).started == []
    assert table(settings.folder / "cases.csv")[0]["prompts"] == f"{PROMPT}; {OTHER}"


def test_a_failure_loses_no_result_and_is_said(settings, tmp_path):
    scan = write_scan(tmp_path / "a.nrrd")
    result = settings.folder / "segmentations" / "a.seg.nrrd"
    Ran([scan], settings)
    scan.rename(tmp_path / "away.nrrd")
    ran = Ran([scan], settings, resume=True)
    assert (ran.summary.failed, statuses(settings.folder)) == (1, {"a": "failed"})
    assert result.exists()
    (tmp_path / "away.nrrd").rename(scan)
    assert Ran([scan], settings, resume=True).summary.kept == 1


def test_counts_add_up_to_the_table_after_an_input_was_removed(settings, tmp_path):
    scans = [write_scan(tmp_path / "in" / f"{name}.nrrd") for name in "ab"]
    Ran([tmp_path / "in"], settings)
    scans[1].unlink()
    summary = Ran([tmp_path / "in"], settings, resume=True).summary
    print_summary(summary, said := io.StringIO())
    assert (summary.kept, summary.others, len(table(settings.folder / "cases.csv"))) == (1, 1, 2)
    assert "1 done before, 1 of scans that are not among the inputs" in said.getvalue()


def test_a_link_to_a_scan_is_no_other_case(settings, tmp_path):
    scan = write_scan(tmp_path / "in" / "b.nrrd")
    (tmp_path / "in" / "a.nrrd").symlink_to(scan)
    assert Ran([tmp_path / "in"], settings).started == ["b"]


def test_the_sequence_in_a_table_goes_before_that_of_all_scans(model, settings, tmp_path):
    """This model distinguishes T1 from FLAIR, and has to know which one it gets."""
    names = shutil.copytree(model, tmp_path / "named")
    card = Card.read(names)
    replace(card, class_labels={"CT": 1, "MR/t1": 8, "MR/flair": 9}).write(names)
    for name in "abc":
        write_scan(tmp_path / f"{name}.nrrd")
    (tmp_path / "t.csv").write_text("image,sequence\na.nrrd,t1\nb.nrrd,\nc.nrrd,t2\n")
    named = with_options(settings, model=str(names))
    ran = Ran([tmp_path / "t.csv"], named)
    assert {event["case"]: event["code"] for event in ran.of("case-failed")} == dict.fromkeys(
        "bc", "sequence-unknown")
    shared = with_options(replace(named, folder=tmp_path / "shared"), sequence="t1")
    Ran([tmp_path / "t.csv"], shared)
    assert statuses(shared.folder) == {"a": "done", "b": "done", "c": "failed"}
    (tmp_path / "t.csv").write_text("image,sequence\na.nrrd,t1\nb.nrrd,\nc.nrrd,flair\n")
    assert Ran([tmp_path / "t.csv"], shared, resume=True).started == ["c"]


@pytest.mark.parametrize("field", ["name", "segmentation"])
def test_a_record_cannot_remove_what_lies_elsewhere(settings, tmp_path, field):
    scan, record = write_scan(tmp_path / "a.nrrd"), settings.folder / "records" / "a.json"
    Ran([scan], settings)
    document = json.loads(record.read_text(encoding="utf-8"))
    owner = document["case"] if field == "name" else document["outcome"]["files"]
    owner[field] = "../../other" if field == "name" else "../other.json"
    record.write_text(json.dumps(document))
    (tmp_path / "other.json").write_text("not of this run")
    assert Ran([scan], settings, OTHER, resume=True).started == ["a"]
    assert (tmp_path / "other.json").exists()


def test_a_lost_segmentation_or_a_damaged_record_is_made_again(settings, tmp_path):
    scans = [write_scan(tmp_path / f"{name}.nrrd") for name in "abc"]
    Ran(scans, settings)
    (settings.folder / "segmentations" / "a.seg.nrrd").unlink()
    (settings.folder / "records" / "b.json").write_text('{"case": ')
    assert sorted(Ran(scans, settings, resume=True).started) == ["a", "b"]


def test_results_of_other_options_do_not_get_into_one_folder(settings, tmp_path):
    scan = write_scan(tmp_path / "a.nrrd")
    Ran([scan], settings)
    with pytest.raises(OtherRun, match="seed, maps"):
        Ran([scan], with_options(replace(settings, maps=True), seed=7), resume=True)
    assert len(json.loads((settings.folder / "run.json").read_text(encoding="utf-8"))["parts"]) == 1


def test_a_cancelled_batch_keeps_what_is_done_and_says_what_waits(settings, tmp_path):
    blocked = BlockedScans(tmp_path / "scans")

    def cancel(cancelled):
        cancelled.set()
        blocked.open()

    summary = Ran(blocked.paths, settings, at=("case-done", cancel)).summary
    assert (summary.exit_code, summary.done, summary.waiting) == (130, 1, 4)
    assert statuses(settings.folder) == dict.fromkeys("bcde", "waiting") | {"a": "done"}
    assert [path.name for path in (settings.folder / "segmentations").iterdir()] == ["a.seg.nrrd"]
    assert table(settings.folder / "cases.csv")[0]["image"] == str(blocked.paths[0])
    print_summary(summary, said := io.StringIO())
    assert "4 waiting, go on with --resume" in said.getvalue()


def test_the_summary_names_what_was_left_out(settings, tmp_path):
    write_scan(tmp_path / "scans" / "a.nrrd")
    (tmp_path / "scans" / "notes.txt").write_text("no image")
    print_summary(Ran([tmp_path / "scans"], settings).summary, said := io.StringIO())
    assert said.getvalue().splitlines()[1] == "Left out, as they are no scans: 1 (notes.txt)."


def test_a_scan_that_changes_while_it_is_segmented_runs_again(settings, tmp_path):
    scan = write_scan(tmp_path / "a.nrrd")
    Ran([scan], settings, at=("case-started", lambda cancelled: os.utime(scan, (1, 1))))
    assert Ran([scan], settings, resume=True).started == ["a"]
    assert Ran([scan], settings, resume=True).started == []


def test_no_file_of_the_earlier_run_is_left_of_a_case_that_runs_again(settings, tmp_path):
    scan = write_scan(tmp_path / "a.nrrd")
    Ran([scan], replace(settings, maps=True), PROMPT, OTHER)
    scan.write_bytes(scan.read_bytes()[:300])
    ran = Ran([scan], replace(settings, maps=True), resume=True)
    assert statuses(settings.folder) == {"a": "failed"}
    assert ran.summary.failed == 1
    folders = ("segmentations", "thumbnails", "maps")
    assert not [path for name in folders for path in (settings.folder / name).rglob("*.*")]


def test_events_report_the_progress_of_the_whole_batch(settings, tmp_path):
    scans = [write_scan(tmp_path / f"{name}.nrrd", seed) for seed, name in enumerate("ab")]
    events = Ran(scans, settings).events
    kinds = [event["type"] for event in events]
    overall = [event["overall"] for event in events if event["type"] == "progress"]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    assert overall == sorted(overall)
    assert 0 <= overall[0] <= overall[-1] <= 1
    assert json.dumps(events)


@pytest.mark.parametrize(("limit", "finished"), [(5_000, 0), (40_000, 4)])
def test_files_that_cannot_be_written_stop_the_run_and_leave_nothing_half(
    settings, tmp_path, limit, finished
):
    """At 5 kB no picture can be written, at 40 kB only the report of four cases cannot."""
    resource = pytest.importorskip("resource")
    scans = [write_scan(tmp_path / f"{name}.nrrd", seed) for seed, name in enumerate("abcd")]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OutputNotWritten, match=f"{finished} of 4 cases"):
            Ran(scans, settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = [path for path in settings.folder.rglob("*") if path.is_file()]
    assert sum(path.name.endswith(".seg.nrrd") for path in left) == finished
    assert sum(path.suffix == ".jpg" for path in left) == finished
    again = Ran(scans, settings, resume=True)
    assert (len(again.started), again.summary.exit_code) == (4 - finished, 0)


def test_a_folder_that_cannot_be_written_to_is_reported_at_once(settings, tmp_path):
    scan = write_scan(tmp_path / "a.nrrd")
    settings.folder.write_text("a file")
    with pytest.raises(OutputNotWritten):
        Ran([scan], settings)
