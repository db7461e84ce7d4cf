"""The worker: a real child process with a real (tiny) model, over its real pipes."""

from __future__ import annotations

import os

import numpy as np
import pytest
import SimpleITK as sitk
from support.tiny_model import PROMPT, ball_scan, write_tiny_model
from support.worker_process import WorkerProcess, segment, stages

MAPS = ("attention", "pseudo_healthy", "residual", "uncertainty", "probability")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def shared_worker(model):
    worker = WorkerProcess(model)
    worker.ready = worker.until("ready")[-1]
    yield worker
    worker.stop()


@pytest.fixture
def worker(shared_worker):
    """The worker that all tests share; it is idle."""
    assert shared_worker.process.poll() is None
    return shared_worker


@pytest.fixture
def own_worker(model):
    """A worker that the test may end."""
    worker = WorkerProcess(model)
    worker.until("ready")
    yield worker
    worker.stop()


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nrrd"
    sitk.WriteImage(ball_scan()[0], str(path))
    return path


def unfinished(folder):
    return [path.name for path in folder.rglob(".*")]


def test_ready_tells_versions_device_and_model(worker):
    assert worker.ready["model"] == "tiny"
    assert worker.ready["device"] == "cpu"
    assert {"version", "python", "torch"} <= set(worker.ready)
    assert 0 < worker.ready["memory_free_gb"] <= worker.ready["memory_total_gb"]


def test_a_run_tells_progress_then_a_preview_then_the_result(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "job")
    events = worker.until("result", "a")
    assert stages(events) == ["read", "encode", "attention", "inpaint", "residual", "lesions"]
    fractions = [e["fraction"] for e in events if e["type"] == "progress"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    kinds = [e["type"] for e in events]
    assert kinds.index("preview") < max(i for i, kind in enumerate(kinds) if kind == "progress")


def test_the_results_files_lie_on_the_scans_grid_and_labels_are_the_lesions(
    worker, scan, tmp_path
):
    segment(worker, scan, tmp_path / "job")
    result = worker.until("result", "a")[-1]
    image, ball = ball_scan()
    for name in ("mask", *MAPS):
        file = sitk.ReadImage(result[name])
        assert file.GetSize() == image.GetSize()
        assert file.GetOrigin() == image.GetOrigin()
    labels = sitk.GetArrayFromImage(sitk.ReadImage(result["mask"]))
    assert result["found"]
    assert labels.max() == len(result["lesions"])
    volume = (labels == 1).sum() * 0.012
    assert result["lesions"][0]["volume_ml"] == pytest.approx(volume)
    assert labels[ball].mean() > 0.7
    assert unfinished(tmp_path) == []


def test_the_preview_shows_attention_and_candidates(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "job")
    preview = next(e for e in worker.until("result", "a") if e["type"] == "preview")
    candidates = sitk.GetArrayFromImage(sitk.ReadImage(preview["candidates"]))
    attention = sitk.GetArrayFromImage(sitk.ReadImage(preview["attention"]))
    assert attention[candidates > 0].mean() > attention[candidates == 0].mean() + 0.3


def test_a_second_prompt_does_not_encode_again(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "one")
    assert "encode" in stages(worker.until("result", "a"))
    segment(worker, scan, tmp_path / "two", "b", "kidney tumor")
    assert stages(worker.until("result", "b"))[0] == "attention"


def test_a_scan_that_changed_on_disk_is_encoded_again(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "one")
    worker.until("result", "a")
    state = scan.stat()
    os.utime(scan, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    segment(worker, scan, tmp_path / "two", "b")
    assert "encode" in stages(worker.until("result", "b"))


def test_the_same_seed_gives_the_same_mask(worker, scan, tmp_path):
    masks = []
    for job in "ab":
        segment(worker, scan, tmp_path / job, job, seed=3)
        masks.append(sitk.ReadImage(worker.until("result", job)[-1]["mask"]))
    assert np.array_equal(*(sitk.GetArrayViewFromImage(mask) for mask in masks))


def test_a_new_threshold_needs_no_network(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "job")
    before = worker.until("result", "a")[-1]
    worker.send(type="threshold", id="t", result="a", threshold=0.9, folder=str(tmp_path / "t"))
    events = worker.until("result", "t")
    assert stages(events) in ([], ["lesions"])
    assert events[-1]["threshold"] == 0.9
    assert "attention" not in events[-1]
    volume, smaller = (e["lesions"][0]["volume_ml"] for e in (before, events[-1]))
    assert 0 < smaller < volume
    labels = sitk.GetArrayFromImage(sitk.ReadImage(events[-1]["mask"]))
    assert (labels == 1).sum() * 0.012 == pytest.approx(smaller)


def test_a_threshold_on_an_unknown_result_is_refused(worker, tmp_path):
    worker.send(type="threshold", id="t", result="none", threshold=0.4, folder=str(tmp_path))
    assert worker.until("error", "t")[-1]["code"] == "result-not-kept"


def test_several_prompts_come_one_result_each(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "job", prompt=[PROMPT, "kidney tumor"])
    first = worker.until("result", "a")[-1]
    second = worker.until("result", "a")[-1]
    assert (first["index"], first["count"], second["index"]) == (0, 2, 1)
    assert [first["title"], second["title"]] == ["brain tumor", "kidney tumor"]
    assert len({first["mask"], second["mask"]}) == 2


def test_a_cancel_stops_the_run_at_once_and_the_next_job_runs(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "long", "long", samples=100)
    while worker.until("progress", "long")[-1]["stage"] != "inpaint":
        pass
    worker.send(type="cancel", id="long")
    since = worker.until("cancelled", "long")
    # One denoising step may have been under way, and its event on the way.
    assert len([e for e in since if e["type"] == "progress"]) <= 2
    assert not list((tmp_path / "long").glob("mask*"))
    segment(worker, scan, tmp_path / "next", "next")
    assert worker.until("result", "next")[-1]["found"]


def test_a_waiting_job_is_cancelled_at_once(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "long", "long", samples=100)
    segment(worker, scan, tmp_path / "waiting", "waiting")
    worker.send(type="cancel", id="waiting")
    events = worker.until("cancelled", "waiting")
    assert "result" not in [e["type"] for e in events]
    worker.send(type="cancel", id="long")
    worker.until("cancelled", "long")
    assert not (tmp_path / "waiting").exists()


def test_cancelling_a_job_that_has_ended_is_no_error(worker, scan, tmp_path):
    worker.send(type="cancel", id="gone")
    segment(worker, scan, tmp_path / "job")
    assert worker.until("result", "a")[-1]["found"]


def test_garbage_is_refused_and_the_worker_goes_on(worker, scan, tmp_path):
    for line in (b"garbage", b"\xff\xfe", b"[1]", b'{"type": "dance"}'):
        worker.send_line(line)
        assert worker.until("error")[-1]["code"] == "bad-request"
    segment(worker, scan, tmp_path / "job")
    assert worker.until("result", "a")[-1]["found"]


def test_a_job_with_an_id_at_work_is_refused(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "long", "long", samples=100)
    segment(worker, scan, tmp_path / "twice", "long")
    assert worker.until("error", "long")[-1]["code"] == "bad-request"
    worker.send(type="cancel", id="long")
    worker.until("cancelled", "long")


def test_a_prompt_that_means_nothing_is_refused_before_the_scan_is_read(worker, scan, tmp_path):
    segment(worker, scan, tmp_path / "job", prompt=[PROMPT, "the weather in Paris"])
    events = worker.until("error", "a")
    assert stages(events) == []
    assert events[-1]["code"] == "prompt-not-understood"
    assert events[-1]["suggestions"] == []  # nothing is near
    assert "Known places: lung" in events[-1]["hint"]


def test_a_missing_scan_is_said_plainly(worker, tmp_path):
    segment(worker, tmp_path / "none.nrrd", tmp_path / "job")
    error = worker.until("error", "a")[-1]
    assert error["code"] == "unreadable-image"
    assert str(tmp_path) not in error["message"]


def test_a_folder_that_cannot_be_made_is_said_plainly(worker, scan, tmp_path):
    (tmp_path / "file").touch()
    segment(worker, scan, tmp_path / "file" / "job")
    assert worker.until("error", "a")[-1]["code"] == "output-not-written"


def test_names_beyond_ascii_work_and_the_events_stay_ascii(worker, tmp_path):
    folder = tmp_path / "Müller ü 患者"
    folder.mkdir()
    sitk.WriteImage(ball_scan()[0], str(folder / "scän.nrrd"))
    segment(worker, folder / "scän.nrrd", folder / "job")
    result = worker.until("result", "a")[-1]
    assert sitk.ReadImage(result["mask"]).GetSize() == (48, 48, 32)
    assert all(line.isascii() for line in worker.lines)


def test_the_worker_ends_when_stdin_closes(own_worker):
    assert own_worker.close_stdin() == 0


def test_the_worker_ends_on_quit(own_worker):
    own_worker.send(type="quit")
    assert own_worker.process.wait(timeout=120) == 0


def test_the_worker_ends_in_the_middle_of_a_run_and_leaves_nothing_half_written(
    own_worker, scan, tmp_path
):
    segment(own_worker, scan, tmp_path / "long", "long", samples=100)
    while own_worker.until("progress", "long")[-1]["stage"] != "inpaint":
        pass
    assert own_worker.close_stdin() == 0
    assert unfinished(tmp_path) == []


def test_the_worker_ends_when_nobody_reads_its_events(model, scan, tmp_path):
    worker = WorkerProcess(model, deaf=True)
    segment(worker, scan, tmp_path / "job", samples=100)
    assert worker.process.wait(timeout=120) == 0


def test_a_missing_model_is_told_and_ends_the_worker(tmp_path):
    worker = WorkerProcess(tmp_path / "no-model")
    assert worker.until("error")[-1]["code"] == "model-missing"
    assert worker.process.wait(timeout=120) == 1


BROKEN = """
import sys
from DiffuGTSLib.worker.server import WorkerServer
from DiffuGTSLib.channel import Channel

class Broken:
    device, text_encoder, model_name, fingerprint = "cpu", None, "broken", ""
    def segment_all(self, image, *_, **__):
        print("a library prints")
        raise ZeroDivisionError(f"cannot divide {image}")

WorkerServer(Channel()).serve(Broken)
"""


def test_a_mistake_in_the_program_is_told_and_the_worker_goes_on(scan, tmp_path):
    worker = WorkerProcess("", ["-c", BROKEN])
    worker.until("ready")
    for job in "ab":
        segment(worker, scan, tmp_path / "job", job)
        assert worker.until("error", job)[-1]["code"] == "internal"
    assert worker.close_stdin() == 0
    trace = b"".join(worker.stderr).decode()
    assert "ZeroDivisionError: cannot divide scan.nrrd" in trace
    assert "a library prints" in trace
    assert str(tmp_path) not in trace
