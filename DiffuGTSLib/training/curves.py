"""What a training says of itself while it runs: a text log, a curve for programs, TensorBoard."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import PackageMissing

LOG = "log.txt"
CURVE = "curve.jsonl"
EVENTS = "tensorboard"


class Curves:
    """Writes figures by step into a folder; a resumed training takes back what it does again.

    Args:
        folder: log.txt, curve.jsonl and, where asked for, tensorboard/ are written here.
        step: where the training (re)starts; what an earlier, killed run wrote beyond is dropped.
        seconds: that the training has taken up to there.
        tensorboard: whether to write live curves for TensorBoard.
        tell: is given each line of the log.

    Raises:
        PackageMissing: TensorBoard is asked for, but not installed.
    """

    def __init__(
        self, folder: Path, step: int = 0, seconds: float = 0.0, tensorboard: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self._started = time.monotonic() - seconds
        self._tell = tell
        self._events = _tensorboard(folder / EVENTS, step) if tensorboard else None
        _keep(folder / LOG, lambda line: int(line.split(maxsplit=1)[0]) <= step)
        _keep(folder / CURVE, lambda line: json.loads(line)["step"] <= step)

    @property
    def seconds(self) -> float:
        """That the training has taken, without what was lost by kills."""
        return time.monotonic() - self._started

    def add(self, step: int, figures: Mapping[str, float], kind: str = "train") -> None:
        """Notes figures of a step; `kind` is "train" or "validation"."""
        values = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        line = f"{step:6d} {self.seconds / 60:7.1f} min  {kind:10s} {values}"
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(line + "\n")
        entry = {"step": step, "kind": kind, "figures": dict(figures)}
        with (self.folder / CURVE).open("a", encoding="utf-8") as curve:
            curve.write(json.dumps(entry) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)
            self._events.flush()
        if self._tell is not None:
            self._tell(line)

    def close(self) -> None:
        """Ends the event file."""
        if self._events is not None:
            self._events.close()


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The entries of a training's curve: step, kind and figures, in their order."""
    path = folder / CURVE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _tensorboard(folder: Path, step: int) -> Any:
    """An event writer that hides what an earlier run wrote beyond `step`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PackageMissing(
            "Live curves need TensorBoard, which is not installed.",
            "Run: pip install tensorboard, or set tensorboard = false.",
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _keep(path: Path, wanted: Callable[[str], bool]) -> None:
    """Drops lines that are not wanted, and one that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if line.endswith("\n") and wanted(line):
                kept.append(line)
        except (ValueError, IndexError, KeyError):
            continue
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)
