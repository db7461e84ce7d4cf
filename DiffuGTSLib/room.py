"""Whether a scan can be run at all, asked before weights are loaded and voxels are read.

How large a run is follows from the scan's grid, which its header states, and from the sizes of
the networks, which the configurations of the model package state.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from DiffuGTSLib.errors import ModelDamaged
from DiffuGTSLib.package_files import REINSTALL, read_card
from DiffuGTSLib.scan_grid import Grid, Size, Triple

if TYPE_CHECKING:
    from DiffuGTSLib.memory import Networks, Plan, Planner

MULTIPLE = 16  # voxels: the coarsest level of the attention's context
SMALLEST = 48
LEAST_CROP_MM = 128.0
# Feature maps at the scan's resolution; the known models need 7 to 8 where nothing is cut.
MAPS_AT_MOST = 16
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Room:
    """The sizes of a model's runs, and the plans for them.

    Attributes:
        spacing_mm: of the model's grid.
        own_multiple: what each axis of a scan has to be a multiple of for the networks, in voxels.
        own_crop: voxels of the smallest crop that is painted, where the scan is larger.
        samples: pseudo-healthy ones of a crop.
    """

    spacing_mm: Triple
    own_multiple: int
    own_crop: Size
    samples: int

    @property
    def multiple(self) -> int:
        """What each axis of a scan is padded to a multiple of, in voxels."""
        return max(MULTIPLE, self.own_multiple)

    @property
    def smallest(self) -> int:
        """Voxels an axis of a scan has at least."""
        return -(-SMALLEST // self.multiple) * self.multiple

    def size(self, grid: Grid) -> Size:
        """Voxels of a scan on the model's grid."""
        return grid.in_model(self.spacing_mm, self.multiple, self.smallest)

    def plans(self, planner: Planner, size: Size) -> Iterator[Plan]:
        """How a scan of `size` voxels of the model's grid can be encoded, with room for the
        smallest crop that may be painted.

        Raises:
            TooLarge: no plan fits.
        """
        x, y, z = (min(n, least) for n, least in zip(size, self._least_crop(), strict=True))
        return planner.encoding(size, (x, y, z), self.samples)

    def check(self, planner: Planner, grid: Grid) -> None:
        """Raises TooLarge, with the figures, where no plan fits a scan on that grid."""
        next(self.plans(planner, self.size(grid)))

    def _least_crop(self) -> list[int]:
        lengths = zip(self.own_crop, self.spacing_mm, strict=True)
        wanted = (max(least, LEAST_CROP_MM / step) for least, step in lengths)
        return [math.ceil(n / self.multiple) * self.multiple for n in wanted]


def check_package(grid: Grid, folder: Path, device: str) -> None:
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
    from DiffuGTSLib.device import choose_device
    from DiffuGTSLib.memory import Planner

    networks = _outlines(configs)
    room.check(Planner(networks, choose_device(device), networks.weights), grid)


def _outlines(configs: dict[str, dict[str, Any]]) -> Networks:
    """A package's networks without content."""
    import torch

    from DiffuGTSLib.attention import AnomalyAttention
    from DiffuGTSLib.foundation.autoencoder import Autoencoder
    from DiffuGTSLib.foundation.denoiser import Denoiser
    from DiffuGTSLib.memory import Networks

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
