"""Commands and Python on this machine, networks on another one: a real sshd on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import SimpleITK as sitk
from support.sshd import REPOSITORY, gpu, sshd
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.errors import Cancelled, ModelDamaged
from DiffuGTSLib.pipeline import Options, Segmenter
from DiffuGTSLib.remote.address import Address
from DiffuGTSLib.remote.segmenter import RemoteSegmenter, SidesUnknown
from DiffuGTSLib.scan import as_scan

__all__ = ["gpu", "sshd"]
pytestmark = pytest.mark.usefixtures("one_thread")
MAPS = ("attention", "pseudo_healthy", "residual", "uncertainty", "probability")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def scan():
    return as_scan(ball_scan()[0])


@pytest.fixture
def remote(gpu, model):
    segmenter = RemoteSegmenter(Address.parse(gpu.address), str(model), "cpu")
    yield segmenter
    segmenter.close()


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "DiffuGTSLib.cli", *map(str, arguments)], capture_output=True,
        text=True, check=False, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, timeout=300)


def test_results_are_those_of_this_machines_segmenter(remote, model, scan):
    options = Options(seed=5)
    (far,) = remote.segment_all(scan, [PROMPT], options)
    (near,) = Segmenter.from_pretrained(model, "cpu").segment_all(scan, [PROMPT], options)
    for name in MAPS:
        one, other = (sitk.GetArrayFromImage(getattr(each, name)) for each in (far, near))
        assert np.array_equal(one, other), name
    for name in ("mask", "labels"):
        one, other = (sitk.GetArrayFromImage(getattr(each, name)) for each in (far, near))
        assert np.array_equal(one, other), name
    assert far.lesions == near.lesions
    assert (far.found, far.modality, far.threshold) == (near.found, near.modality, near.threshold)
    assert far.highest_score == near.highest_score
    assert remote.device == "cpu on gpu"


def test_a_cancel_through_progress_stops_the_run_there(remote, scan):
    def stop(stage, done, total):
        if stage == "inpaint":
            raise Cancelled

    with pytest.raises(Cancelled):
        list(remote.segment_all(scan, [PROMPT], Options(samples=50), progress=stop))
    assert len(list(remote.segment_all(scan, [PROMPT]))) == 1


def test_a_lost_connection_is_made_again_for_the_next_scan(remote, gpu, scan):
    gpu.kill_connections()
    while remote._connection.running:
        threading.Event().wait(0.05)
    assert len(list(remote.segment_all(scan, [PROMPT]))) == 1


def test_another_model_after_a_lost_connection_is_refused(remote, gpu, model, scan):
    card = model / "card.json"
    before = card.read_text()
    card.write_text(before.replace('"threshold": 0.5', '"threshold": 0.4'))
    assert card.read_text() != before
    gpu.kill_connections()
    while remote._connection.running:
        threading.Event().wait(0.05)
    with pytest.raises(ModelDamaged):
        list(remote.segment_all(scan, [PROMPT]))
    card.write_text(before)


def test_a_side_is_refused_where_the_file_does_not_say_which_is_which(remote, scan, tmp_path):
    path = tmp_path / "bare.nii"
    sitk.WriteImage(scan.image, str(path))
    header = bytearray(path.read_bytes())
    header[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(header)
    bare = as_scan(path)
    with pytest.raises(SidesUnknown):
        list(remote.segment_all(bare, ["left kidney tumor"]))


def test_the_command_writes_the_same_segmentation(gpu, model, scan, tmp_path):
    image = tmp_path / "scan.nrrd"
    sitk.WriteImage(scan.image, str(image))
    common = ["segment", image, "-p", PROMPT, "--model", model, "--device", "cpu", "--json",
              "--maps"]
    far = run(*common, tmp_path / "far", "-o", tmp_path / "far.seg.nrrd", "--host", gpu.address)
    near = run(*common, tmp_path / "near", "-o", tmp_path / "near.seg.nrrd")
    assert far.returncode == near.returncode == 0, far.stderr
    assert (tmp_path / "far.seg.nrrd").read_bytes() == (tmp_path / "near.seg.nrrd").read_bytes()
    one, other = (json.loads(each.stdout)["prompts"][0] for each in (far, near))
    assert [one[key] for key in ("lesions", "names", "reliability", "modality")] == [
        other[key] for key in ("lesions", "names", "reliability", "modality")]
    assert sorted(os.listdir(tmp_path / "far")) == sorted(os.listdir(tmp_path / "near"))


def test_the_command_names_what_is_wrong(gpu, scan, tmp_path):
    image = tmp_path / "scan.nrrd"
    sitk.WriteImage(scan.image, str(image))
    done = run("segment", image, "-p", PROMPT, "-o", tmp_path / "m.nrrd", "--host", "gpu:/no/such")
    assert done.returncode == 1
    connecting, message, hint = done.stderr.splitlines()
    assert connecting == "Connecting to gpu ..."
    assert message == "There is no program /no/such on gpu."
    assert hint.startswith("Hint: ")
    assert not (tmp_path / "m.nrrd").exists()


@pytest.mark.parametrize("command", ["segment", "batch"])
def test_an_empty_host_is_refused_and_does_not_mean_this_machine(command, scan, tmp_path):
    image = tmp_path / "scan.nrrd"
    sitk.WriteImage(scan.image, str(image))
    done = run(command, image, "-p", PROMPT, "-o", tmp_path / "out", "--host", "")
    assert done.returncode == 2
    assert "names no computer" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_batch_on_a_host_gives_the_segmentations_of_this_machine(gpu, model, scan, tmp_path):
    for name in ("one", "two"):
        sitk.WriteImage(scan.image, str(tmp_path / f"{name}.nrrd"))
    common = ["batch", tmp_path / "one.nrrd", tmp_path / "two.nrrd", "-p", PROMPT, "--model", model,
              "--device", "cpu", "-o"]
    far = run(*common, tmp_path / "far", "--host", gpu.address)
    near = run(*common, tmp_path / "near")
    assert far.returncode == near.returncode == 0, far.stderr
    for name in ("one", "two"):
        one, other = (next((tmp_path / where).rglob(f"{name}.seg.nrrd")).read_bytes()
                      for where in ("far", "near"))
        assert one == other
    part = json.loads((tmp_path / "far" / "run.json").read_text())["parts"][0]
    assert part["device"] == "cpu on gpu"


def test_a_batch_on_a_host_and_a_cluster_is_refused(tmp_path):
    done = run("batch", tmp_path, "-p", PROMPT, "-o", tmp_path / "out", "--host", "gpu",
               "--cluster", "auto")
    assert done.returncode == 1
    assert 'option "host" has to be left out' in done.stderr
    assert not (tmp_path / "out").exists()


def test_check_says_what_is_there(gpu):
    done = run("remote", "check", gpu.host, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "embedded" in [each["name"] for each in found["models"] if each["ready"]]
    text = run("remote", "check", gpu.address).stdout
    assert "has DiffuGTS" in text
    assert "Models: embedded" in text
