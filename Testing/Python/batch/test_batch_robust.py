"""Batches that are killed, started twice, out of disk, or whose processes die; and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from support.batch_runs import BlockedScans, EventStream, batch, statuses, table, voxels, write_scan
from support.gates import Gate
from support.tiny_model import PROMPT, write_tiny_model

from DiffuGTSLib.batch.case import BatchSettings, Case
from DiffuGTSLib.batch.local_executor import LocalExecutor
from DiffuGTSLib.pipeline.options import Options


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def blocked(tmp_path_factory) -> BlockedScans:
    return BlockedScans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def killed(model, blocked, tmp_path_factory):
    """A batch that was killed while it worked on its second case and a second one tried."""
    output = tmp_path_factory.mktemp("out")
    stream = EventStream(blocked.paths, output, model)
    stream.until("case-done")
    second = batch(blocked.paths, output, model, "--resume")
    children = psutil.Process(stream.process.pid).children(recursive=True)
    stream.process.kill()
    stream.process.wait()
    blocked.open()
    left = psutil.wait_procs(children, timeout=300)[1]
    blocked.shut()
    return SimpleNamespace(output=output, second=second, children=children, left=left)


@pytest.fixture(scope="module")
def resumed(model, blocked, killed):
    """What happened to it then: it was resumed, cancelled, and resumed once more."""
    output, record = killed.output, killed.output / "records" / "a.json"
    (output / "segmentations" / f".diffugts-gone-1-{'0' * 12}.nrrd").write_bytes(b"half")
    before = record.stat().st_mtime_ns
    first = EventStream(blocked.paths, output, model, "--resume")
    first.until("case-started")
    first.cancel()
    blocked.open()
    cancelled = first.until("finished") | {"code": first.process.wait(300)}
    again = EventStream(blocked.paths, output, model, "--resume")
    events = {kind: again.until(kind) for kind in ("started", "finished")}
    return SimpleNamespace(
        output=output, cancelled=cancelled, **events, code=again.process.wait(300),
        untouched=record.stat().st_mtime_ns == before)


def test_a_second_batch_into_the_same_folder_is_refused(killed):
    assert killed.second.returncode == 1
    assert "Another batch" in killed.second.stderr


def test_the_children_of_a_killed_batch_end_too(killed):
    assert killed.children
    assert not killed.left


def test_a_killed_batch_resumes_without_repeating_a_case(resumed, blocked):
    kept = {case["name"] for case in resumed.started["cases"] if case["status"] == "done"}
    assert "a" in kept
    assert resumed.untouched
    assert resumed.finished["done"] + resumed.finished["kept"] == len(blocked.names)
    assert resumed.code == 0


def test_a_line_on_stdin_cancels_a_batch(resumed):
    cancelled = resumed.cancelled
    assert (cancelled["cancelled"], cancelled["exit_code"], cancelled["code"]) == (True, 130, 130)
    assert cancelled["kept"] == 1
    assert cancelled["waiting"] >= 1


def test_ctrl_c_ends_a_batch_cleanly(model, tmp_path):
    blocked = BlockedScans(tmp_path / "scans")
    stream = EventStream(blocked.paths, tmp_path / "out", model)
    stream.until("case-done")
    stream.process.send_signal(signal.SIGINT)
    stream.until_ending()
    blocked.open()
    assert stream.until("finished")["cancelled"]
    assert stream.process.wait(300) == 130
    found = statuses(tmp_path / "out")
    assert (found["a"], found[blocked.names[-1]]) == ("done", "waiting")


@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh here")
def test_a_child_that_still_waits_for_another_machine_ends_with_its_stdin(tmp_path):
    """The other machine takes the connection and never says a word; ssh would wait 10 s."""
    settings = BatchSettings(Options(), tmp_path, host="somewhere")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ssh = f"ssh -F none -p {silent.getsockname()[1]} -o HostName=127.0.0.1"
        child = subprocess.Popen(
            [sys.executable, "-m", "DiffuGTSLib.batch.local_child"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"DIFFUGTS_SSH": ssh, "DIFFUGTS_CACHE": str(tmp_path / "cache")})
        first = {"type": "settings", "settings": settings.as_dict(), "slot": 0}
        child.stdin.write(json.dumps(first).encode() + b"\n")
        child.stdin.flush()
        connection, _ = silent.accept()
        ssh_there = psutil.Process(child.pid).children()
        assert ssh_there
        child.stdin.close()
        assert child.wait(8) == 130
        assert not psutil.wait_procs(ssh_there, timeout=2)[1]
        connection.close()
    child.stdout.close()
    assert not list((tmp_path / "cache").rglob("sending/*"))


def test_a_resumed_batch_has_every_row_once_and_nothing_unfinished(resumed, blocked):
    output = resumed.output
    assert statuses(output) == dict.fromkeys(blocked.names, "done")
    lesions = [(row["case"], row["label"]) for row in table(output / "lesions.csv")]
    assert len(set(lesions)) == len(lesions)
    assert sorted(path.name for path in (output / "segmentations").iterdir()) == [
        f"{name}.seg.nrrd" for name in blocked.names]


def test_the_run_records_each_time_that_it_was_started(resumed):
    parts = json.loads((resumed.output / "run.json").read_text(encoding="utf-8"))["parts"]
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


def test_a_full_disk_stops_the_batch_and_keeps_what_is_finished(small_disk, model, tmp_path):
    disk, grow = small_disk
    blocked = BlockedScans(tmp_path / "scans")
    stream = EventStream(blocked.paths, disk / "out", model)
    stream.until("case-done")
    blocked.open()
    assert stream.until("error")["code"] == "output-not-written"
    said = stream.process.communicate()[1]
    assert (stream.process.returncode, "disk" in said, "--resume" in said) == (1, True, True)
    records = {path.stem for path in (disk / "out" / "records").glob("*.json")}
    assert 0 < len(records) < len(blocked.names)
    assert all(voxels(disk / "out", name).any() for name in records)
    assert grow()
    assert batch(blocked.paths, disk / "out", model, "--resume").returncode == 0
    assert statuses(disk / "out") == dict.fromkeys(blocked.names, "done")


def test_two_processes_do_the_same_as_one_and_survive_a_death(
    one_thread, resumed, model, blocked, tmp_path
):
    """Case "x" kills its process each time, as if memory ran out; others are not affected."""
    executor = LocalExecutor(jobs=2)
    settings = BatchSettings(Options(str(model), "cpu"), tmp_path)
    starts: list[str] = []

    def on_progress(case: str, stage: str, *step: float) -> None:
        if stage == "start":
            starts.append(case)
            if case == "x":
                (child,) = (one for one in executor._workers if "x" in one.cases)
                os.kill(child.process.pid, signal.SIGKILL)

    paths = [Gate(write_scan(tmp_path / "x.nrrd")).path, *blocked.paths[:3]]
    cases = [Case(path.stem, path, (PROMPT,)) for path in paths]
    try:
        executor.start(settings, len(cases))
        outcomes = {one.case: one for one in executor.run(cases, on_progress, threading.Event())}
    finally:
        executor.close()
    assert {name: one.status for name, one in outcomes.items()} == {
        "x": "failed", "a": "done", "b": "done", "c": "done"}
    assert outcomes["x"].error.code == "worker-died"
    assert starts.count("x") == 2
    for name in "abc":
        assert np.array_equal(voxels(tmp_path, name), voxels(resumed.output, name))
