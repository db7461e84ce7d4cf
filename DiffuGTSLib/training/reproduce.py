"""The embedded model again, from the scans to its scores: part after part, with their times."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from DiffuGTSLib.card import Card
from DiffuGTSLib.catalogue import EMBEDDED
from DiffuGTSLib.store import find
from DiffuGTSLib.training.workshop import Workshop
from DiffuGTSLib.whole_file import write_json

RECORD = "reproduce.json"
NAMES = ("vae", "unet", "aova", "package", "fuse", "validate")


class Clock:
    """Which parts are finished and how long each took, kept in the folder of runs.

    The time of a run that was killed counts up to the last line of its log.
    """

    def __init__(self, runs: Path) -> None:
        self.path = runs / RECORD
        self.parts: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.parts = json.loads(self.path.read_text(encoding="utf-8"))["parts"]
        self._part, self._since = "", 0.0

    def finished(self, part: str) -> bool:
        """Whether the part needs not be made again."""
        return bool(self.parts.get(part, {}).get("finished"))

    def run(self, part: str, work: Callable[[], None]) -> None:
        """Does the work of a part and notes its time; a finished part is left alone."""
        if self.finished(part):
            return
        self._part, self._since = part, time.monotonic()
        work()
        self.tick(finished=True)

    def tick(self, finished: bool = False) -> None:
        """Notes the time that has gone by."""
        now = time.monotonic()
        before = self.parts.get(self._part, {}).get("seconds", 0.0)
        self.parts[self._part] = {"seconds": before + now - self._since, "finished": finished}
        self._since = now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"parts": self.parts})


def reproduce(
    shop: Workshop, output: Path, threads: int, tell: Callable[[str], None] = print,
    only: list[str] | None = None,
) -> None:
    """Makes all parts that are not yet made; at the end the times, and the scores beside the
    committed model's.

    Args:
        output: model/ and validation/ are written here.
        only: validation cases to score.
    """
    clock = Clock(shop.runs)

    def log(line: str) -> None:
        tell(line)
        clock.tick()

    shop, model = replace(shop, tell=log), output / "model"

    def package() -> None:
        shutil.rmtree(model, ignore_errors=True)  # half of one, of a run that was killed
        shop.package(model)

    def validate() -> None:
        shop.validate(output / "validation", str(model), only, threads)

    work = (shop.vae, shop.unet, shop.aova, package, lambda: shop.fuse(model), validate)
    for name, part in zip(NAMES, work, strict=True):
        tell(f"{name}: {'made already' if clock.finished(name) else 'begins'}")
        clock.run(name, part)
    for line in (*times(clock), *compared(output / "validation" / "scores.json")):
        tell(line)


def times(clock: Clock) -> list[str]:
    """How long each part took, and all of them."""
    seconds = {name: clock.parts[name]["seconds"] for name in NAMES}
    lines = [f"{name:10s} {value / 60:7.1f} min" for name, value in seconds.items()]
    return [*lines, f"{'together':10s} {sum(seconds.values()) / 60:7.1f} min"]


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
