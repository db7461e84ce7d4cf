"""Parts of the embedded model built in parallel, by real processes that end with each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.training.embedded.build import EmbeddedBuild, build_parallel
from DiffuGTSLib.training.embedded.reproduce import RECORD, reproduce

WAIT_SECONDS = 60
HERE = Path(__file__).parent


def wait_for(path: Path) -> str:
    until = time.monotonic() + WAIT_SECONDS
    while not (path.exists() and path.read_text(encoding="utf-8")):
        assert time.monotonic() < until, f"no {path.name}"
        time.sleep(0.05)
    return path.read_text(encoding="utf-8")


def is_gone(pid: int) -> bool:
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@dataclass(frozen=True)
class Meeting(EmbeddedBuild):
    """Each of two parts writes its process id and waits for the other's."""

    def _meet(self, own: str, other: str) -> None:
        (self.runs / own).write_text(str(os.getpid()))
        wait_for(self.runs / other)
        self.log(f"met {other}")

    def vae(self, training=None) -> None:
        self.runs.mkdir()

    def unet(self, training=None) -> None:
        self._meet("unet", "aova")

    def aova(self, training=None, wide=None) -> None:
        self._meet("aova", "unet")

    def package(self, output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)

    def fuse(self, model: Path) -> None:
        pass

    def validate(self, output, model, only=None, threads=2, docs=None) -> None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "scores.json").write_text(json.dumps({"groups": []}))

    def record(self, output, model) -> None:
        pass


@dataclass(frozen=True)
class Breaking(Meeting):
    """The attention raises an error; the denoiser would run for ever."""

    def unet(self, training=None) -> None:
        super().unet()
        time.sleep(10 * WAIT_SECONDS)

    def aova(self, training=None, wide=None) -> None:
        super().aova()
        raise TrainingImpossible("No scan shows a liver.", "Add one.")


@dataclass(frozen=True)
class Killed(Breaking):
    """The process of the attention is killed, as when memory runs out."""

    def aova(self, training=None, wide=None) -> None:
        Meeting.aova(self)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Endless(Meeting):
    """Both run for ever and log a line now and then."""

    def _meet(self, own: str, other: str) -> None:
        super()._meet(own, other)
        while True:
            time.sleep(0.1)
            self.log("still running")


def test_two_parts_are_built_in_parallel(tmp_path: Path) -> None:
    lines: list[str] = []
    build = Meeting([tmp_path], tmp_path / "runs")
    reproduce(build, tmp_path / "out", 2, lines.append)
    assert {"unet: met aova", "aova: met unet"} <= set(lines)
    record = json.loads((build.runs / RECORD).read_text(encoding="utf-8"))
    assert all(part["finished"] for part in record["parts"].values())
    assert record["seconds"] < sum(part["seconds"] for part in record["parts"].values())


def run_parallel(build: EmbeddedBuild) -> None:
    build.runs.mkdir(exist_ok=True)
    build_parallel(build, ("unet", "aova"), 2, lambda part, line: None, lambda part: None)


def test_an_error_of_one_part_ends_the_other(tmp_path: Path) -> None:
    build = Breaking(tmp_path, tmp_path / "runs")
    with pytest.raises(TrainingImpossible, match="No scan shows a liver") as caught:
        run_parallel(build)
    assert caught.value.hint == "Add one."
    assert is_gone(int((build.runs / "unet").read_text(encoding="utf-8")))


def test_a_process_that_was_killed_is_named(tmp_path: Path) -> None:
    build = Killed(tmp_path, tmp_path / "runs")
    with pytest.raises(TrainingImpossible, match=r"trained aova ended \(exit code -9\)"):
        run_parallel(build)
    assert is_gone(int((build.runs / "unet").read_text(encoding="utf-8")))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_nothing_goes_on_once_the_first_process_is_killed(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from test_parallel_build import Endless, run_parallel\n"
        "if __name__ == '__main__': "
        f"run_parallel(Endless(Path(), Path({str(tmp_path / 'runs')!r})))\n"
    )
    (tmp_path / "program.py").write_text(program)
    path = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[2])])
    first = subprocess.Popen([sys.executable, str(tmp_path / "program.py")],
                             env=os.environ | {"PYTHONPATH": path})
    try:
        others = [int(wait_for(tmp_path / "runs" / part)) for part in ("unet", "aova")]
    finally:
        first.kill()
        first.wait()
    assert all(is_gone(pid) for pid in others)
