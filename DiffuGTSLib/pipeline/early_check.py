"""."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from DiffuGTSLib.errors import ModelDamaged
from DiffuGTSLib.models.store import REINSTALL, read_card
from DiffuGTSLib.pipeline.scan_size import MAPS_AT_MOST, Room
from DiffuGTSLib.scan.header import ScanGrid

if TYPE_CHECKING:
    from DiffuGTSLib.pipeline.memory_plan import Networks

FLOAT_BYTES = 4


def check_package(grid: ScanGrid, folder: Path, device: str) -> None:
    """Refuses a scan that a model package cannot run on this machine, from headers and
    configurations alone.

    Args:
        folder: of the package; its weights are not read.
        device: as `choose_device` takes it.

    Raises:
        TooLarge: no plan fits; the message names what is needed and what is there.
        DeviceMissing: there is no such device.
        ModelDamaged: the package's card or a configuration cannot be read.
    """
    card, configs = read_card(folder), {p: _config(folder, p) for p in ("vae", "unet", "aova")}
    try:
        levels = [len(configs[part]["num_channels"]) - 1 for part in ("vae", "unet")]
        (a, b, c), (x, y, z) = card.get("least_crop", (0, 0, 0)), card["spacing_mm"]
        room = Room((x, y, z), 2 ** sum(levels), (a, b, c), int(card["samples"]))
        map_bytes = math.prod(room.size(grid)) * configs["vae"]["num_channels"][0] * FLOAT_BYTES
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged("card.json or a config.json") from error
    # The CPU always comes last. Torch, whose import takes seconds, need not be asked of that.
    if 2 * MAPS_AT_MOST * map_bytes < psutil.virtual_memory().available:
        return
    from DiffuGTSLib.networks.device import choose_device
    from DiffuGTSLib.pipeline.memory_plan import Planner

    networks = _outlines(configs)
    room.check(Planner(networks, choose_device(device), networks.weights), grid)


def _outlines(configs: dict[str, dict[str, Any]]) -> Networks:
    """A package's networks without content."""
    import torch

    from DiffuGTSLib.networks.attention import AnomalyAttention
    from DiffuGTSLib.networks.autoencoder import Autoencoder
    from DiffuGTSLib.networks.denoiser import Denoiser
    from DiffuGTSLib.pipeline.memory_plan import Networks

    made: list[Any] = []
    kinds: dict[str, Any] = {"vae": Autoencoder, "unet": Denoiser, "aova": AnomalyAttention}
    try:
        with torch.device("meta"):
            for part, kind in kinds.items():
                own = {k: v for k, v in configs[part].items() if not k.startswith("_")}
                made.append(kind(**own).requires_grad_(False).eval())
    except (TypeError, ValueError) as error:
        raise _damaged("a config.json") from error
    return Networks(*made)


def _config(folder: Path, part: str) -> dict[str, Any]:
    try:
        entries = json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(f"{part}/config.json") from error
    if not isinstance(entries, dict):
        raise _damaged(f"{part}/config.json")
    return entries


def _damaged(what: str) -> ModelDamaged:
    return ModelDamaged(f"The model package is damaged: {what} cannot be read.", REINSTALL)
