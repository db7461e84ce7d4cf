"""Batches that are killed, crowded, out of disk, or whose processes die; and that go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from batch_runs import EventStream, batch, statuses, table, voxels, write_scan
from tiny_model import PROMPT, write_tiny_model

from DiffuGTSLib.batch_case import Case, Settings
from DiffuGTSLib.batch_processes import Processes

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scans")
    return [write_scan(folder / f"{name}.nrrd", seed) for seed, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def resumed(model, scans, tmp_path_factory):
    """A batch that was killed after its first case, and what happened then."""
    output = tmp_path_factory.mktemp("out")
    stream = EventStream(scans, output, model)
    first = stream.until("case-done")["case"]
    crowded = batch(scans, output, model, "--resume")
    stream.process.kill()
    stream.process.wait()
    (output / "segmentations" / f".{'0' * 32}.nrrd").write_bytes(b"half")
    record = output / "records" / f"{first}.json"
    before = record.stat().st_mtime_ns
    asked = EventStream(scans, output, model, "--resume")
    asked.until("case-done")
    asked.process.stdin.write('{"type": "cancel"}\n')
    asked.process.stdin.flush()
    cancelled = asked.until("finished") | {"code": asked.process.wait(60)}
    again = EventStream(scans, output, model, "--resume")
    events = {kind: again.until(kind) for kind in ("started", "finished")}
    again.process.wait(60)
    return {"output": output, "first": first, "crowded": crowded, "events": events,
            "cancelled": cancelled,
            "untouched": record.stat().st_mtime_ns == before, "code": again.process.returncode}


def test_a_second_batch_into_the_same_folder_is_refused(resumed):
    assert resumed["crowded"].returncode == 1
    assert "Another batch" in resumed["crowded"].stderr


def test_a_killed_batch_goes_on_without_doing_a_case_again(resumed):
    started, finished = resumed["events"]["started"], resumed["events"]["finished"]
    kept = [case["name"] for case in started["cases"] if case["status"] == "done"]
    assert resumed["first"] in kept
    assert resumed["untouched"]
    assert finished["done"] + finished["kept"] == len(NAMES)
    assert resumed["code"] == 0


def test_a_line_on_stdin_cancels_a_batch(resumed):
    cancelled = resumed["cancelled"]
    assert (cancelled["cancelled"], cancelled["exit_code"], cancelled["code"]) == (True, 130, 130)
    assert cancelled["kept"] >= 1


def test_ctrl_c_ends_a_batch_in_good_order(model, scans, tmp_path):
    stream = EventStream(scans, tmp_path, model)
    stream.until("case-started")
    stream.process.send_signal(signal.SIGINT)
    assert stream.until("finished")["cancelled"]
    assert stream.process.wait(60) == 130
    assert "waiting" in statuses(tmp_path).values()


def test_a_resumed_batch_has_every_row_once_and_nothing_unfinished(resumed):
    output = resumed["output"]
    assert statuses(output) == dict.fromkeys(NAMES, "done")
    lesions = [(row["case"], row["label"]) for row in table(output / "lesions.csv")]
    assert len(set(lesions)) == len(lesions)
    assert sorted(path.name for path in (output / "segmentations").iterdir()) == [
        f"{name}.seg.nrrd" for name in NAMES]
    parts = json.loads((output / "run.json").read_text())["parts"]
    assert [part["state"] for part in parts] == ["running", "cancelled", "finished"]


def test_the_children_of_a_killed_batch_end_too(resumed):
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
    mine = str(resumed["output"]).encode()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")
             if os.access(path, os.R_OK)]
    assert not any(mine in line for line in lines)


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


def test_a_full_disk_stops_the_batch_and_spares_what_is_finished(small_disk, model, scans):
    disk, grow = small_disk
    done = batch(scans, disk / "out", model)
    assert done.returncode == 1
    assert "disk" in done.stderr
    assert "--resume" in done.stderr
    records = {path.stem for path in (disk / "out" / "records").glob("*.json")}
    assert 0 < len(records) < len(NAMES)
    assert all(voxels(disk / "out", name).any() for name in records)
    assert grow()
    assert batch(scans, disk / "out", model, "--resume").returncode == 0
    assert statuses(disk / "out") == dict.fromkeys(NAMES, "done")


def test_two_processes_do_the_same_as_one_and_survive_a_death(
    one_thread, resumed, model, scans, tmp_path
):
    """Case "a" dies with its process each time, as if memory ran out; the others do not mind."""
    executor = Processes(jobs=2)
    settings = Settings(str(model), "cpu", folder=tmp_path)
    starts: list[str] = []

    def listen(case: str, stage: str, *step: float) -> None:
        if stage == "start":
            starts.append(case)
            if case == "a":
                (child,) = (one for one in executor._places if "a" in one.cases)
                os.kill(child.process.pid, signal.SIGKILL)

    cases = [Case(path.stem, path, (PROMPT,)) for path in scans]
    try:
        executor.start(settings)
        outcomes = {one.case: one for one in executor.run(cases, listen, threading.Event())}
    finally:
        executor.close()
    assert {name: one.status for name, one in outcomes.items()} == {
        "a": "failed", "b": "done", "c": "done", "d": "done"}
    assert outcomes["a"].error.code == "worker-died"
    assert starts.count("a") == 2
    for name in ("b", "c", "d"):
        assert np.array_equal(voxels(tmp_path, name), voxels(resumed["output"], name))
