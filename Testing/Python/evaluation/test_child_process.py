"""The scoring process: what happens when it dies, is interrupted, or loses its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.datasets.folder import read_dataset
from DiffuGTSLib.evaluation.child_process import (
    CaseFailure,
    ModelUnusable,
    ScoringProcess,
    attempt,
)
from DiffuGTSLib.evaluation.evaluate import evaluate
from DiffuGTSLib.evaluation.scoring import (
    CaseScores,
    EvaluationSettings,
    peak_gpu_memory_gb,
    peak_memory_gb,
)
from DiffuGTSLib.pipeline.options import Options


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One scan without a tumor, as a hundred cases: more than a test waits for."""
    folder = tmp_path_factory.mktemp("data")
    sitk.WriteImage(ball_scan()[0], str(folder / "ball.nii.gz"))
    (folder / "CASES.json").write_text(json.dumps([
        {"name": f"c{number}", "image": "ball.nii.gz", "mask": None, "prompt": PROMPT,
         "modality": "MR"} for number in range(100)]))
    return folder


def test_a_process_that_is_killed_costs_one_case(model, tmp_path, data):
    case = read_dataset(data).cases[0]
    settings = EvaluationSettings(Options(model, "cpu"), figures=False)
    with ScoringProcess(settings, tmp_path) as process:
        assert isinstance(process.score(case), CaseScores)
        first = process._child
        os.kill(first.pid, signal.SIGKILL)
        failure = process.score(case)
        assert isinstance(failure, CaseFailure)
        assert (failure.case, failure.code) == ("c0", "worker-died")
        assert "exit code -9" in failure.message
        assert "ran out of memory" in failure.message
        assert isinstance(process.score(case), CaseScores)
        second = process._child
    assert not psutil.pid_exists(first.pid)
    assert not psutil.pid_exists(second.pid)


def test_a_model_that_cannot_be_loaded_ends_the_evaluation(tmp_path, data):
    broken = write_tiny_model(tmp_path / "broken")
    (broken / "vae" / "config.json").write_text("{}")
    settings = EvaluationSettings(Options(str(broken), "cpu"))
    with pytest.raises(ModelUnusable, match=r"vae/config\.json"):
        evaluate(read_dataset(data), tmp_path / "out", settings)


@contextmanager
def running(data, model, output):
    """The command in a process group of its own, after its first case, and its children."""
    command = [sys.executable, "-m", "DiffuGTSLib.cli", "evaluate", str(data), "--output",
               str(output), "--model", model, "--device", "cpu", "--no-figures"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as parent:
        try:
            while not (line := parent.stderr.readline()).startswith("[1/100]"):
                assert line, "the command ended early"
            yield parent, psutil.Process(parent.pid).children(recursive=True)
        finally:
            parent.kill()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups that get Ctrl+C")
def test_ctrl_c_ends_the_command_and_its_child_without_a_traceback(data, model, tmp_path):
    with running(data, model, tmp_path / "out") as (parent, children):
        os.killpg(parent.pid, signal.SIGINT)
        _, errors = parent.communicate(timeout=60)
        assert parent.returncode == 130
        assert "Traceback" not in errors
        assert errors.splitlines()[-1] == "The run was cancelled."
        assert children
        assert psutil.wait_procs(children, timeout=10)[1] == []


def test_the_child_does_not_outlive_a_parent_that_is_killed(data, model, tmp_path):
    with running(data, model, tmp_path / "out") as (parent, children):
        parent.kill()
        assert children
        assert psutil.wait_procs(children, timeout=20)[1] == []


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_is_reported_as_such(error):
    def fail():
        raise error

    failure = attempt("c0", fail)
    assert (failure.case, failure.code) == ("c0", "out-of-memory")
    assert failure.message == "There is not enough memory for this scan."


def test_a_mistake_in_the_program_names_its_line():
    failure = attempt("c0", lambda: {}["missing"])
    assert failure.code == "internal"
    assert "KeyError in test_child_process.py, line" in failure.hint


def test_the_peak_of_memory_grows_with_what_is_held():
    before = peak_memory_gb()
    held = np.ones(int(1e9 * (before + 0.2) / 8))
    assert peak_memory_gb() >= held.nbytes / 1e9
    assert peak_memory_gb() < before + held.nbytes / 1e9 + 0.2


def test_a_cpu_has_no_gpu_memory():
    assert peak_gpu_memory_gb("cpu") is None
