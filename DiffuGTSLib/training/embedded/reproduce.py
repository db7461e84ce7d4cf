"""Reproduction of the embedded model, from the scans to its scores, with the time of each part."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from DiffuGTSLib.files import write_json
from DiffuGTSLib.models import Card, find
from DiffuGTSLib.models.catalogue import EMBEDDED
from DiffuGTSLib.training.embedded.build import EmbeddedBuild, build_parallel

RECORD = "reproduce.json"
# Parts of one stage do not depend on each other.
STAGES = (("vae",), ("unet", "aova"), ("package",), ("fuse",), ("validate",), ("record",))
NAMES = tuple(part for stage in STAGES for part in stage)


class BuildTimes:
    """Which parts are finished and how long each took, kept in the folder of runs.

    The time of a killed run counts up to its last line of progress.
    """

    def __init__(self, runs: Path) -> None:
        self.path = runs / RECORD
        self.parts: dict[str, dict[str, Any]] = {}
        self.seconds = 0.0  # in total; less than the sum of the parts where some ran in parallel
        if self.path.exists():
            record = json.loads(self.path.read_text(encoding="utf-8"))
            self.parts = record["parts"]
            self.seconds = record.get("seconds", sum(p["seconds"] for p in self.parts.values()))
        self._started: dict[str, float] = {}  # of the running parts, since the last update
        self._updated = time.monotonic()

    def finished(self, part: str) -> bool:
        """Whether the part is built."""
        return bool(self.parts.get(part, {}).get("finished"))

    def start(self, *parts: str) -> None:
        """Starts the time of these parts."""
        self._updated = time.monotonic()
        self._started = dict.fromkeys(parts, self._updated)

    def update(self, part: str, finished: bool = False) -> None:
        """Writes the time that the part has taken until now."""
        now = time.monotonic()
        before = self.parts.get(part, {}).get("seconds", 0.0)
        self.parts[part] = {"seconds": before + now - self._started[part], "finished": finished}
        self.seconds += now - self._updated
        self._started[part] = self._updated = now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"parts": self.parts, "seconds": self.seconds})


def reproduce(
    build: EmbeddedBuild, output: Path, threads: int, log: Callable[[str], None] = print,
    only: list[str] | None = None,
) -> None:
    """Builds all parts that are not yet built, then logs their times, and the scores beside those
    of the committed model. With two threads or more, independent parts are built in parallel.

    Args:
        output: model/ and validation/ are written here.
        log: receives each line of progress.
        only: validation cases to score; such scores are not written into the card.
    """
    times, model = BuildTimes(build.runs), output / "model"

    def on_line(part: str, line: str) -> None:
        log(f"{part}: {line}")
        times.update(part)

    def package(build: EmbeddedBuild) -> None:
        shutil.rmtree(model, ignore_errors=True)  # may be incomplete, from a killed run
        build.package(model)

    methods: dict[str, Callable[[EmbeddedBuild], object]] = {
        "vae": lambda build: build.vae(),
        "unet": lambda build: build.unet(),
        "aova": lambda build: build.aova(),
        "package": package,
        "fuse": lambda build: build.fuse(model),
        "validate": lambda build: build.validate(output / "validation", str(model), only, threads),
        "record": lambda build: build.record(output / "validation", model),
    }
    for stage in STAGES if threads > 1 else [(name,) for name in NAMES]:
        if stage == ("record",) and only:
            log("record: left out, as a part of the scans is no validation of the model")
            continue
        for part in stage:
            log(f"{part}: {'is already built' if times.finished(part) else 'starts'}")
        parts = [part for part in stage if not times.finished(part)]
        times.start(*parts)
        if len(parts) > 1:
            build_parallel(build, parts, threads, on_line, partial(times.update, finished=True))
            continue
        for part in parts:
            methods[part](replace(build, log=partial(on_line, part)))
            times.update(part, finished=part != "validate" or not only)
    for line in (*time_lines(times), *score_lines(output / "validation" / "scores.json")):
        log(line)


def time_lines(times: BuildTimes) -> list[str]:
    """The time of each part, and in total."""
    seconds = {name: times.parts[name]["seconds"] for name in NAMES if name in times.parts}
    lines = [f"{name:10s} {value / 60:7.1f} min" for name, value in seconds.items()]
    return [*lines, f"{'total':10s} {times.seconds / 60:7.1f} min"]


def score_lines(scores: Path) -> list[str]:
    """Mean Dice of each group of validation scans, beside that in the committed model's card."""
    committed = Card.read(find(EMBEDDED)).scores
    lines = [f"{'mean Dice':14s} reproduced  committed"]
    for group in json.loads(scores.read_text(encoding="utf-8"))["groups"]:
        if "dsc" in group["means"]:
            before = committed.get(group["name"])
            known = f"{before:.3f}" if isinstance(before, float) else "-"
            mean = group["means"]["dsc"]["mean"]
            lines.append(f"{group['name']:14s} {mean:10.3f}  {known:>9s}")
    return lines
