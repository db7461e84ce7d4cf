"""Batches that are killed, crowded, out of disk, or whose processes die; and that go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from support.batch_runs import EventStream, HeldScans, batch, statuses, table, voxels, write_scan
from support.gates import Gate
from support.tiny_model import PROMPT, write_tiny_model

from DiffuGTSLib.batch.case import Case, Settings
from DiffuGTSLib.batch.local_executor import Processes


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> HeldScans:
    return HeldScans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def killed(model, held, tmp_path_factory):
    """A batch that was killed while it worked on its second case and another one knocked."""
    output = tmp_path_factory.mktemp("out")
    stream = EventStream(held.paths, output, model)
    stream.until("case-done")
    crowded = batch(held.paths, output, model, "--resume")
    children = psutil.Process(stream.process.pid).children(recursive=True)
    stream.process.kill()
    stream.process.wait()
    held.open()
    left = psutil.wait_procs(children, timeout=300)[1]
    held.shut()
    return SimpleNamespace(output=output, crowded=crowded, children=children, left=left)


@pytest.fixture(scope="module")
def resumed(model, held, killed):
    """What happened to it then: it was resumed, cancelled, and resumed once more."""
    output, record = killed.output, killed.output / "records" / "a.json"
    (output / "segmentations" / f".{'0' * 32}.nrrd").write_bytes(b"half")
    before = record.stat().st_mtime_ns
    asked = EventStream(held.paths, output, model, "--resume")
    asked.until("case-started")
    asked.cancel()
    held.open()
    cancelled = asked.until("finished") | {"code": asked.process.wait(300)}
    again = EventStream(held.paths, output, model, "--resume")
    events = {kind: again.until(kind) for kind in ("started", "finished")}
    return SimpleNamespace(
        output=output, cancelled=cancelled, **events, code=again.process.wait(300),
        untouched=record.stat().st_mtime_ns == before)


def test_a_second_batch_into_the_same_folder_is_refused(killed):
    assert killed.crowded.returncode == 1
    assert "Another batch" in killed.crowded.stderr


def test_the_children_of_a_killed_batch_end_too(killed):
    assert killed.children
    assert not killed.left


def test_a_killed_batch_goes_on_without_doing_a_case_again(resumed, held):
    kept = {case["name"] for case in resumed.started["cases"] if case["status"] == "done"}
    assert "a" in kept
    assert resumed.untouched
    assert resumed.finished["done"] + resumed.finished["kept"] == len(held.names)
    assert resumed.code == 0


def test_a_line_on_stdin_cancels_a_batch(resumed):
    cancelled = resumed.cancelled
    assert (cancelled["cancelled"], cancelled["exit_code"], cancelled["code"]) == (True, 130, 130)
    assert cancelled["kept"] == 1
    assert cancelled["waiting"] >= 1


def test_ctrl_c_ends_a_batch_in_good_order(model, tmp_path):
    held = HeldScans(tmp_path / "scans")
    stream = EventStream(held.paths, tmp_path / "out", model)
    stream.until("case-done")
    stream.process.send_signal(signal.SIGINT)
    stream.until_ending()
    held.open()
    assert stream.until("finished")["cancelled"]
    assert stream.process.wait(300) == 130
    found = statuses(tmp_path / "out")
    assert (found["a"], found[held.names[-1]]) == ("done", "waiting")


def test_a_resumed_batch_has_every_row_once_and_nothing_unfinished(resumed, held):
    output = resumed.output
    assert statuses(output) == dict.fromkeys(held.names, "done")
    lesions = [(row["case"], row["label"]) for row in table(output / "lesions.csv")]
    assert len(set(lesions)) == len(lesions)
    assert sorted(path.name for path in (output / "segmentations").iterdir()) == [
        f"{name}.seg.nrrd" for name in held.names]


def test_the_run_tells_of_each_time_that_it_was_started(resumed):
    parts = json.loads((resumed.output / "run.json").read_text())["parts"]
    assert [part["state"] for part in parts] == ["broken off", "cancelled", "finished"]
    assert [part["done_before"] for part in parts][:2] == [0, 1]
    assert parts[0]["started"] <= parts[0]["ended"] <= parts[1]["started"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 88 kB where one can be mounted, and how to make it larger."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str, *more: str) -> bool:
        options = ",".join((f"size={size}", *more))
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk],
                              capture_output=True, check=False).returncode == 0

    if sys.platform != "linux" or not mount("88k"):
        pytest.skip("no small disk can be mounted here")
    yield disk, lambda: mount("20m", "remount")
    subprocess.run(["umount", "-l", disk], check=False)


def test_a_full_disk_stops_the_batch_and_spares_what_is_finished(small_disk, model, tmp_path):
    disk, grow = small_disk
    held = HeldScans(tmp_path / "scans")
    stream = EventStream(held.paths, disk / "out", model)
    stream.until("case-done")
    held.open()
    assert stream.until("error")["code"] == "output-not-written"
    said = stream.process.communicate()[1]
    assert (stream.process.returncode, "disk" in said, "--resume" in said) == (1, True, True)
    records = {path.stem for path in (disk / "out" / "records").glob("*.json")}
    assert 0 < len(records) < len(held.names)
    assert all(voxels(disk / "out", name).any() for name in records)
    assert grow()
    assert batch(held.paths, disk / "out", model, "--resume").returncode == 0
    assert statuses(disk / "out") == dict.fromkeys(held.names, "done")


def test_two_processes_do_the_same_as_one_and_survive_a_death(
    one_thread, resumed, model, held, tmp_path
):
    """Case "x" dies with its process each time, as if memory ran out; the others do not mind."""
    executor = Processes(jobs=2)
    settings = Settings(str(model), "cpu", folder=tmp_path)
    starts: list[str] = []

    def listen(case: str, stage: str, *step: float) -> None:
        if stage == "start":
            starts.append(case)
            if case == "x":
                (child,) = (one for one in executor._places if "x" in one.cases)
                os.kill(child.process.pid, signal.SIGKILL)

    paths = [Gate(write_scan(tmp_path / "x.nrrd")).path, *held.paths[:3]]
    cases = [Case(path.stem, path, (PROMPT,)) for path in paths]
    try:
        executor.start(settings)
        outcomes = {one.case: one for one in executor.run(cases, listen, threading.Event())}
    finally:
        executor.close()
    assert {name: one.status for name, one in outcomes.items()} == {
        "x": "failed", "a": "done", "b": "done", "c": "done"}
    assert outcomes["x"].error.code == "worker-died"
    assert starts.count("x") == 2
    for name in "abc":
        assert np.array_equal(voxels(tmp_path, name), voxels(resumed.output, name))
