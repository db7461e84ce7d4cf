"""Whether a scan can be run at all, checked before weights are loaded and voxels are read.

The figures are those of the memory plan. Torch, whose import takes seconds, is needed only where
the scan does not fit on the CPU and there may be a GPU.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import ModelDamaged, TooLarge
from DiffuGTSLib.models import Card
from DiffuGTSLib.models.store import REINSTALL, WEIGHTS
from DiffuGTSLib.pipeline.memory_plan import Planner
from DiffuGTSLib.pipeline.scan_size import SizeLimits
from DiffuGTSLib.scan.header import ScanGrid

PARTS = ("vae", "unet", "aova")


def check_package(grid: ScanGrid, folder: Path, device: str) -> None:
    """Refuses a scan that a model package cannot run on this machine, from headers and
    configurations alone.

    Args:
        folder: of the package; of its weights, only how many there are is read.
        device: as `choose_device` takes it.

    Raises:
        TooLarge: no plan fits; the message names what is needed and what can be used.
        DeviceMissing: there is no such device.
        ModelDamaged: the package's card, a configuration or the header of a file of weights
            cannot be read.
    """
    card = Card.read(folder)
    try:
        limits = SizeLimits.of(
            card.spacing_mm, card.least_crop, card.samples, *(_config(folder, p) for p in PARTS))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged("a config.json") from error
    weights = sum(_weights(folder / part / WEIGHTS) for part in PARTS)
    try:
        Planner(limits, "cpu", weights).check(grid)  # the CPU comes last, whatever the device
    except TooLarge:
        if device == "cpu":
            raise
        from DiffuGTSLib.networks import choose_device

        Planner(limits, choose_device(device), weights).check(grid)


def _config(folder: Path, part: str) -> Mapping[str, Any]:
    try:
        entries = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(f"{part}/config.json") from error
    if not isinstance(entries, dict):
        raise _damaged(f"{part}/config.json")
    return entries


def _weights(path: Path) -> int:
    """How many weights a safetensors file holds, by its header: its length in 8 bytes, then JSON
    with the shape of each tensor."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, path.stat().st_size)))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items()
                   if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(f"{path.parent.name}/{path.name}") from error


def _damaged(what: str) -> ModelDamaged:
    return ModelDamaged(f"The model package is damaged: {what} cannot be read.", REINSTALL)
