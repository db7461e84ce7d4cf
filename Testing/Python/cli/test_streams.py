"""The command line where its streams are closed or full, or Ctrl+C comes early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
MODELS = [sys.executable, "-m", "DiffuGTSLib.cli", "models", "list"]
FULL = Path("/dev/full")


def shell(line: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line, "bash", *command], capture_output=True, text=True,
                          cwd=REPOSITORY, timeout=120, check=False)


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("more", "said"), [
    ((), ["The disk is full.", "Hint: Free some space on it."]),
    (("--json",), ["The results could not be written to stdout.",
                   "Hint: Free some space on the disk, or write to another file."]),
])
def test_a_full_disk_behind_stdout_is_one_sentence(more: tuple[str, ...], said: list[str]) -> None:
    done = shell('"$@" > /dev/full', *MODELS, *more)
    assert done.returncode == 1
    assert done.stderr.splitlines() == said


def test_closed_streams_do_no_harm() -> None:
    done = shell('"$@" 2>&-', *MODELS, "--json")
    assert done.returncode == 0
    assert "models" in json.loads(done.stdout)
    failing = [sys.executable, "-m", "DiffuGTSLib.cli", "models", "show", "none"]
    done = shell('"$@" 2>&- <&-', *failing)
    assert (done.returncode, done.stdout) == (1, "")
    assert shell('"$@" >&-', *failing).stderr.startswith("There is no model called “none”.")


@pytest.mark.parametrize("seconds", [0.15, 0.4])
def test_ctrl_c_while_packages_are_imported_has_no_traceback(seconds: float) -> None:
    # Not before Python itself has started, which nothing here can catch.
    code = "import sys; print('up', flush=True); from DiffuGTSLib.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "segment", "x.nrrd", "-p", "liver tumor", "-o", "y.nrrd"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    # It was quicker, and found no scan: then it has said so, and ends with 1, or by the signal.
    quicker = process.returncode in (1, -signal.SIGINT) and "x.nrrd" in said
    assert quicker or process.returncode == 130
    assert "Traceback" not in said


def test_ctrl_c_inside_code_that_ignores_exceptions_ends_the_run() -> None:
    code = """
import sys, time, types
class Ignoring:
    def __del__(self): raise KeyboardInterrupt
def run():
    Ignoring()
    time.sleep(30)
sys.modules["DiffuGTSLib.cli.app"] = types.SimpleNamespace(main=run)
from DiffuGTSLib.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=REPOSITORY, timeout=25, check=False)
    assert (done.returncode, done.stderr) == (130, "The run was cancelled.\n")
