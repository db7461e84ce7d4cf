"""The embedded model again, from the scans to its scores: part after part, with their times."""

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
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.catalogue import EMBEDDED
from DiffuGTSLib.models.store import find
from DiffuGTSLib.training.embedded import build
from DiffuGTSLib.training.embedded.build import Workshop

RECORD = "reproduce.json"
# Those of one stage do not need each other.
STAGES = (("vae",), ("unet", "aova"), ("package",), ("fuse",), ("validate",))
NAMES = tuple(part for stage in STAGES for part in stage)


class Clock:
    """Which parts are finished and how long each took, kept in the folder of runs.

    The time of a run that was killed counts up to the last line of its log.
    """

    def __init__(self, runs: Path) -> None:
        self.path = runs / RECORD
        self.parts: dict[str, dict[str, Any]] = {}
        self.seconds = 0.0  # of all of them; less than their sum where some ran side by side
        if self.path.exists():
            record = json.loads(self.path.read_text(encoding="utf-8"))
            self.parts = record["parts"]
            self.seconds = record.get("seconds", sum(p["seconds"] for p in self.parts.values()))
        self._since: dict[str, float] = {}  # of the parts that are being made
        self._noted = time.monotonic()

    def finished(self, part: str) -> bool:
        """Whether the part needs not be made again."""
        return bool(self.parts.get(part, {}).get("finished"))

    def begin(self, *parts: str) -> None:
        """From here on time goes by for these parts."""
        self._noted = time.monotonic()
        self._since = dict.fromkeys(parts, self._noted)

    def tick(self, part: str, finished: bool = False) -> None:
        """Notes the time that has gone by."""
        now = time.monotonic()
        before = self.parts.get(part, {}).get("seconds", 0.0)
        self.parts[part] = {"seconds": before + now - self._since[part], "finished": finished}
        self.seconds += now - self._noted
        self._since[part] = self._noted = now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"parts": self.parts, "seconds": self.seconds})


def reproduce(
    shop: Workshop, output: Path, threads: int, tell: Callable[[str], None] = print,
    only: list[str] | None = None,
) -> None:
    """Makes all parts that are not yet made; at the end the times, and the scores beside the
    committed model's. With two threads or more, parts that do not need each other are made side
    by side.

    Args:
        output: model/ and validation/ are written here.
        only: validation cases to score.
    """
    clock, model = Clock(shop.runs), output / "model"

    def log(part: str, line: str) -> None:
        tell(f"{part}: {line}")
        clock.tick(part)

    def package(shop: Workshop) -> None:
        shutil.rmtree(model, ignore_errors=True)  # half of one, of a run that was killed
        shop.package(model)

    work: dict[str, Callable[[Workshop], object]] = {
        "vae": lambda shop: shop.vae(), "unet": lambda shop: shop.unet(),
        "aova": lambda shop: shop.aova(), "package": package, "fuse": lambda shop: shop.fuse(model),
        "validate": lambda shop: shop.validate(output / "validation", str(model), only, threads),
    }
    for stage in STAGES if threads > 1 else [(name,) for name in NAMES]:
        for part in stage:
            tell(f"{part}: {'made already' if clock.finished(part) else 'begins'}")
        parts = [part for part in stage if not clock.finished(part)]
        clock.begin(*parts)
        if len(parts) > 1:
            build.make(shop, parts, threads, log, partial(clock.tick, finished=True))
            continue
        for part in parts:
            work[part](replace(shop, tell=partial(log, part)))
            clock.tick(part, finished=True)
    for line in (*times(clock), *compared(output / "validation" / "scores.json")):
        tell(line)


def times(clock: Clock) -> list[str]:
    """How long each part took, and all of them."""
    seconds = {name: clock.parts[name]["seconds"] for name in NAMES}
    lines = [f"{name:10s} {value / 60:7.1f} min" for name, value in seconds.items()]
    return [*lines, f"{'together':10s} {clock.seconds / 60:7.1f} min"]


def compared(scores: Path) -> list[str]:
    """Mean Dice of each group of validation scans, beside what the committed model's card says."""
    committed = Card.read(find(EMBEDDED)).scores
    lines = [f"{'mean Dice':14s} reproduced  committed"]
    for group in json.loads(scores.read_text(encoding="utf-8"))["groups"]:
        if "dsc" in group["means"]:
            before = committed.get(group["name"])
            known = f"{before:.3f}" if isinstance(before, float) else "-"
            mean = group["means"]["dsc"]["mean"]
            lines.append(f"{group['name']:14s} {mean:10.3f}  {known:>9s}")
    return lines
