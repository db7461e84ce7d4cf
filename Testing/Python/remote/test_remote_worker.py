"""The worker on another machine: a real sshd on loopback, a real bridge, relay and worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk
from support.sshd import REPOSITORY, RUN, gpu, sshd
from support.tiny_model import ball_scan, write_tiny_model
from support.worker_process import WorkerProcess, segment, stages

from DiffuGTSLib.remote.address import Address
from DiffuGTSLib.remote.frames import FrameReader, FrameWriter

__all__ = ["gpu", "sshd"]
MAPS = ("mask", "attention", "pseudo_healthy", "residual", "uncertainty", "probability")
END_SECONDS = 10.0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def bridge_to(address, model):
    return WorkerProcess(model, [
        "-m", "DiffuGTSLib.remote", f"--host={address}", f"--model={model}", "--device=cpu"])


@pytest.fixture(scope="module")
def shared(one_thread, sshd, model):
    """A bridge that all tests share which leave it idle."""
    worker = bridge_to(sshd.install(RUN, "shared", "shared cache"), model)
    worker.until("ready")
    yield worker
    worker.stop()


@pytest.fixture
def bridge(gpu, model):
    """Starts bridges to an address, which a test may end; ends them."""
    started = []

    def start(address=gpu.address, ready=True, model=model):
        worker = bridge_to(address, model)
        started.append(worker)
        if ready:
            worker.ready = worker.until("ready")[-1]
        return worker

    yield start
    for worker in started:
        worker.stop()


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nrrd"
    sitk.WriteImage(ball_scan()[0], str(path))
    return path


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def failure(worker):
    """The error that ends a bridge."""
    event = worker.until("error")[-1]
    assert worker.process.wait(timeout=30) == 1
    return event


def gone(sshd):
    """Whether the other side has removed its folder in time."""
    deadline = time.monotonic() + END_SECONDS
    while sshd.sessions() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not sshd.sessions() and not processes(sshd)


def processes(sshd):
    """The relay and the worker of the other side, which know its cache."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/environ", "rb") as stream:
                if f"DIFFUGTS_CACHE={sshd.cache}".encode() in stream.read():
                    found.append(entry)
        except OSError:
            continue
    return found


def test_a_run_gives_the_same_voxels_as_a_worker_of_this_machine(shared, model, scan, tmp_path):
    worker, local = shared, WorkerProcess(model)
    local.until("ready")
    segment(worker, scan, tmp_path / "far", seed=3)
    segment(local, scan, tmp_path / "near", seed=3)
    far, near = (each.until("result", "a")[-1] for each in (worker, local))
    local.stop()
    for name in MAPS:
        assert np.array_equal(voxels(far[name]), voxels(near[name])), name
    assert far["lesions"] == near["lesions"]
    assert sorted(os.listdir(tmp_path / "far")) == sorted(os.listdir(tmp_path / "near"))


def test_progress_grows_from_sending_to_receiving_and_a_preview_comes_before_the_result(
    shared, scan, tmp_path
):
    worker = shared
    segment(worker, scan, tmp_path / "job")
    events = worker.until("result", "a")
    names = stages(events)
    assert names[0] == "sending"
    assert {"encode", "inpaint"} <= set(names)
    fractions = [event["fraction"] for event in events if event["type"] == "progress"]
    assert fractions == sorted(fractions)
    kinds = [event["type"] for event in events]
    assert kinds.index("preview") < kinds.index("result")


def test_a_second_prompt_sends_no_volume_and_does_not_encode(shared, scan, tmp_path):
    worker = shared
    segment(worker, scan, tmp_path / "a")
    worker.until("result", "a")
    segment(worker, scan, tmp_path / "b", job="b", prompt="kidney tumor")
    names = stages(worker.until("result", "b"))
    assert "sending" not in names
    assert "encode" not in names


def test_a_changed_scan_of_the_same_name_is_sent_again(shared, scan, tmp_path):
    worker = shared
    segment(worker, scan, tmp_path / "a")
    first = worker.until("result", "a")[-1]
    image = sitk.ReadImage(str(scan))
    sitk.WriteImage(image + 100, str(scan))
    segment(worker, scan, tmp_path / "b", job="b")
    events = worker.until("result", "b")
    assert "sending" in stages(events)
    other = voxels(events[-1]["pseudo_healthy"])
    assert not np.array_equal(voxels(first["pseudo_healthy"]), other)


def test_a_region_travels_and_limits_the_search(shared, scan, tmp_path):
    image = sitk.ReadImage(str(scan))
    left = np.zeros(sitk.GetArrayViewFromImage(image).shape, np.uint8)
    left[:, :, :12] = 1
    region = sitk.GetImageFromArray(left)
    region.CopyInformation(image)
    sitk.WriteImage(region, str(tmp_path / "region.nrrd"))
    segment(shared, scan, tmp_path / "a", within=str(tmp_path / "region.nrrd"))
    result = shared.until("result", "a")[-1]
    assert voxels(result["attention"])[:, :, 20:].max() == 0


def test_another_threshold_of_a_result(shared, scan, tmp_path):
    worker = shared
    segment(worker, scan, tmp_path / "a")
    worker.until("result", "a")
    worker.send(type="threshold", id="t", result="a", threshold=0.99, folder=str(tmp_path / "t"))
    result = worker.until("result", "t")[-1]
    assert result["threshold"] == 0.99
    assert result["mask"].startswith(str(tmp_path / "t"))


def test_a_cancel_stops_the_run_there_and_the_next_one_works(shared, scan, tmp_path):
    worker = shared
    segment(worker, scan, tmp_path / "a", samples=50)
    worker.until("preview", "a")
    worker.send(type="cancel", id="a")
    assert worker.until("cancelled", "a")
    segment(worker, scan, tmp_path / "b", job="b")
    assert worker.until("result", "b")


def test_a_cancel_while_the_scan_is_sent(shared, tmp_path):
    large = tmp_path / "large.nrrd"
    large.write_bytes(os.urandom(200_000_000))
    worker = shared
    segment(worker, large, tmp_path / "a")
    assert worker.until("progress", "a")[-1]["stage"] == "sending"
    worker.send(type="cancel", id="a")
    assert worker.until("cancelled", "a")


def test_errors_of_the_other_side_keep_their_code(shared, scan, tmp_path):
    worker = shared
    segment(worker, scan, tmp_path / "a", prompt="beautiful weather")
    error = worker.until("error", "a")[-1]
    assert error["code"] == "prompt-not-understood"
    assert not error["message"].startswith("On ")


def test_an_error_about_the_other_machine_names_it(bridge, gpu):
    error = failure(bridge(gpu.address, ready=False, model="no-such-model"))
    assert error["code"] == "model-missing"
    assert error["message"].startswith("On gpu: ")


@pytest.mark.parametrize("stage", ["sending", "encode", "inpaint", "receiving"])
def test_a_link_that_drops_is_reported_and_nothing_is_left(bridge, gpu, scan, tmp_path, stage):
    if stage == "sending":
        scan.write_bytes(os.urandom(200_000_000))
    worker = bridge()
    segment(worker, scan, tmp_path / "a", samples=20 if stage == "inpaint" else 1)
    while (event := worker.until("progress", "a")[-1])["stage"] != stage:
        assert event["fraction"] < 1
    gpu.kill_connections()
    error = failure(worker)
    assert error["code"] == "connection-lost"
    assert error["message"] == "The connection to gpu is lost."
    assert gone(gpu)
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []


def test_a_silent_link_ends_on_both_sides(bridge, gpu, scan, tmp_path):
    worker = bridge()
    ssh = subprocess.run(["pgrep", "-P", str(worker.process.pid), "ssh"], capture_output=True,
                         text=True, check=True).stdout.split()
    os.kill(int(ssh[0]), signal.SIGSTOP)
    try:
        assert gone(gpu)
        assert failure(worker)["code"] == "connection-lost"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(ssh[0]), signal.SIGKILL)


def test_a_killed_bridge_leaves_nothing_on_the_other_side(bridge, gpu):
    bridge().process.kill()
    assert gone(gpu)


def test_what_a_killed_relay_left_goes_with_the_next_one(bridge, gpu):
    worker = bridge()
    left = gpu.sessions()
    for process in processes(gpu):
        os.kill(int(process), signal.SIGKILL)
    assert failure(worker)["code"] == "connection-lost"
    assert gpu.sessions() == left
    bridge()
    assert left[0] not in gpu.sessions()


def test_the_folder_is_the_users_alone_and_its_names_say_nothing(bridge, gpu, scan, tmp_path):
    named = tmp_path / "Müller^Anna 1961.nrrd"
    scan.rename(named)
    worker = bridge()
    segment(worker, named, tmp_path / "a", samples=20)
    worker.until("preview", "a")
    folder = gpu.sessions()[0]
    assert folder.stat().st_mode & 0o077 == 0
    assert [path.name for path in folder.rglob("*.nrrd")] == ["scan-1.nrrd"]


def test_a_changed_host_key(bridge, gpu):
    gpu.trust("other")
    error = failure(bridge(ready=False))
    assert error["code"] == "host-key-changed"


def test_an_unknown_host_key(bridge, gpu):
    (gpu.folder / "known").write_text("")
    assert failure(bridge(ready=False))["code"] == "host-key-unknown"


def test_a_refused_key_asks_for_no_password(bridge, gpu):
    (gpu.folder / "authorized").write_text((gpu.folder / "other.pub").read_text())
    try:
        assert failure(bridge(ready=False))["code"] == "key-refused"
    finally:
        (gpu.folder / "authorized").write_text((gpu.folder / "user.pub").read_text())


def test_no_diffugts_there(bridge, gpu):
    error = failure(bridge("gpu:/nowhere/diffugts", ready=False))
    assert error["code"] == "remote-program-missing"
    assert "/nowhere/diffugts on gpu" in error["message"]


def test_a_diffugts_that_does_not_start(bridge, gpu):
    broken = gpu.install("echo 'ImportError: libfoo' >&2; exit 1", "broken")
    error = failure(bridge(broken, ready=False))
    assert error["message"] == "diffugts on gpu does not start: ImportError: libfoo"


def test_an_older_protocol(bridge, gpu):
    older = gpu.install(
        """echo '{"type": "hello", "protocol": 0, "version": "0.0.9"}'; cat > /dev/null""", "older")
    error = failure(bridge(older, ready=False))
    assert error["code"] == "remote-version"
    assert "gpu has DiffuGTS 0.0.9" in error["message"]


def test_what_a_shell_prints_before_does_not_disturb(bridge, gpu, scan, tmp_path):
    chatty = gpu.install(f"echo Welcome to the cluster; exec {gpu.program} \"$@\"", "chatty")
    worker = bridge(chatty)
    segment(worker, scan, tmp_path / "a")
    assert worker.until("result", "a")


def test_a_worker_that_dies_there_is_named(bridge, gpu, scan, tmp_path):
    worker = bridge()
    for process in processes(gpu):
        with open(f"/proc/{process}/cmdline") as stream:
            if "DiffuGTSLib.worker" in stream.read():
                os.kill(int(process), signal.SIGKILL)
    error = failure(worker)
    assert error["code"] == "worker-died"
    assert "signal 9" in error["message"]


def test_an_address_that_is_an_option_reaches_no_ssh(bridge):
    assert failure(bridge("-oProxyCommand=touch x", ready=False))["code"] == "bad-host"


EVIL = """exec {python} -c '
import json, sys, threading
def say(**message): print(json.dumps(message), flush=True)
from DiffuGTSLib import __version__
say(type="hello", protocol=1, version=__version__)
sys.stdin.readline()
say(type="event", event=dict(type="ready", id=None))
threading.Event().wait(3)
{say}
threading.Event().wait(60)
'"""


@pytest.mark.parametrize("say", [
    'say(type="event", event=dict(type="preview", id="a", attention="{victim}"))',
    'say(type="event", event=dict(type="preview", id="a", attention=dict(file="t-1")))',
    'say(type="incoming", job="a", bytes=1, files={{"../victim": "x"}})',
    'say(type="file", name="../victim", bytes=1, sha256="")',
])
def test_another_side_that_names_paths_is_refused(bridge, gpu, scan, tmp_path, say):
    victim = tmp_path / "victim.nrrd"
    victim.write_text("mine")
    script = EVIL.format(python=sys.executable, say=say.format(victim=victim))
    worker = bridge(gpu.install(script, "evil"))
    segment(worker, scan, tmp_path / "job")
    while (event := worker._events.get(timeout=60))["type"] != "error":
        assert event["type"] == "progress"
    assert event["code"] == "stream-damaged"
    assert victim.read_text() == "mine"


def test_ctrl_c_before_the_first_answer_ends_ssh(gpu, tmp_path):
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 51.7\n")
    hanging.chmod(0o755)
    worker = subprocess.Popen(
        [sys.executable, "-m", "DiffuGTSLib.remote", "--host=gpu"], stdin=subprocess.PIPE,
        env=os.environ | {"DIFFUGTS_SSH": str(hanging), "PYTHONPATH": str(REPOSITORY)})
    while not running("sleep 51.7"):
        time.sleep(0.1)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(timeout=30) == 130
    assert not running("sleep 51.7")


def running(command):
    return subprocess.run(["pgrep", "-xf", command], capture_output=True, check=False).stdout


ECHO = """exec {python} -c '
import os, sys
from pathlib import Path
from DiffuGTSLib.remote.frames import FrameReader, FrameWriter
source, sink = os.fdopen(0, "rb", buffering=0), os.fdopen(1, "wb", buffering=0)
folder = Path(os.environ["DIFFUGTS_CACHE"])
for message in FrameReader(source, folder.joinpath).messages():
    if message["type"] == "received":
        FrameWriter(sink).send_file(message["path"], "back")
        message["path"].unlink()
'"""


def test_a_volume_of_512_512_300_goes_there_and_back_bit_for_bit(gpu, tmp_path):
    voxels = np.random.default_rng(0).normal(0, 300, (300, 512, 512)).astype(np.int16)
    (tmp_path / "scan").write_bytes(voxels.tobytes())
    address = Address.parse(gpu.install(ECHO.format(python=sys.executable), "echo"))
    ssh = subprocess.Popen(address.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           bufsize=0)
    FrameWriter(ssh.stdin).send_file(tmp_path / "scan", "scan")
    for message in FrameReader(ssh.stdout, tmp_path.joinpath).messages():
        if message["type"] == "received":
            break
    ssh.stdin.close()
    assert ssh.wait(timeout=30) == 0
    assert np.array_equal(np.fromfile(tmp_path / "back", np.int16), voxels.ravel())
