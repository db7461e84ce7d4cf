"""Reproduction of the embedded model: parts in sequence, each once, with their times."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from DiffuGTSLib.training.embedded.build import EmbeddedBuild
from DiffuGTSLib.training.embedded.reproduce import NAMES, RECORD, BuildTimes, reproduce


@dataclass(frozen=True)
class NotingBuild(EmbeddedBuild):
    """A build whose parts only note their name; those in `breaks` are interrupted once."""

    done: list[str] = field(default_factory=list)
    breaks: list[str] = field(default_factory=list)

    def _note(self, part: str) -> None:
        self.log(f"{part} is running")
        if part in self.breaks:
            self.breaks.remove(part)
            raise KeyboardInterrupt
        self.done.append(part)

    def vae(self, training=None) -> None:
        self._note("vae")

    def unet(self, training=None) -> None:
        self._note("unet")

    def aova(self, training=None) -> None:
        self._note("aova")

    def package(self, output: Path) -> None:
        assert not output.exists()
        (output / "vae").mkdir(parents=True)
        self._note("package")

    def fuse(self, model: Path) -> None:
        self._note("fuse")

    def validate(self, output, model, only=None, threads=2, docs=None) -> None:
        self._note("validate")
        groups = [{"name": "sarcoma CT", "means": {"dsc": {"mean": 0.375}}},
                  {"name": "wrong organ", "means": {}}]
        output.mkdir(exist_ok=True)
        (output / "scores.json").write_text(json.dumps({"groups": groups}))

    def record(self, output: Path, model: Path) -> None:
        self._note("record")


def run(
    tmp_path: Path, *breaks: str, only: list[str] | None = None
) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    build = NotingBuild([tmp_path], tmp_path / "runs", breaks=list(breaks))
    try:
        reproduce(build, tmp_path / "out", 1, lines.append, only)
    except KeyboardInterrupt:
        lines.append("interrupted")
    return build.done, lines


def test_the_parts_are_built_in_order_and_their_times_logged(tmp_path: Path) -> None:
    done, lines = run(tmp_path)
    assert done == list(NAMES)
    assert [line.split()[0] for line in lines if line.endswith(" min")] == [*NAMES, "total"]


def test_scores_are_shown_beside_the_committed_models(tmp_path: Path) -> None:
    scores = [line.split() for line in run(tmp_path)[1] if line.startswith("sarcoma CT")]
    assert scores[0][2] == "0.375"
    assert float(scores[0][3]) > 0


def test_a_part_of_the_validation_is_not_recorded(tmp_path: Path) -> None:
    part, lines = run(tmp_path, only=["lung1"])
    assert part == [name for name in NAMES if name != "record"]
    assert any(line.startswith("record: left out") for line in lines)
    assert run(tmp_path)[0] == ["validate", "record"]


@pytest.mark.parametrize("part", ["aova", "package", "fuse"])
def test_finished_parts_are_not_built_again(tmp_path: Path, part: str) -> None:
    before, lines = run(tmp_path, part)
    assert lines[-1] == "interrupted"
    after, _ = run(tmp_path)
    assert [*before, *after] == list(NAMES)
    assert after[0] == part


def test_the_time_of_an_interrupted_run_counts(tmp_path: Path) -> None:
    run(tmp_path, "unet")
    record = tmp_path / "runs" / RECORD
    parts = json.loads(record.read_text(encoding="utf-8"))["parts"]
    assert not parts["unet"]["finished"]
    parts["unet"]["seconds"] = 7200.0
    record.write_text(json.dumps({"parts": parts}))
    run(tmp_path)
    assert BuildTimes(tmp_path / "runs").parts["unet"]["seconds"] >= 7200
