"""How much memory MAISI takes on a GPU by each way of cutting: counted, not measured.

    python Testing/Benchmarks/plans.py [SIZE]...      sizes as 256 or 512x512x256

The library's own count (DiffuGTSLib/memory.py), on networks without content, in bfloat16. GB: at
the peak of encoding a scan and asking a prompt, with room for the smallest crop that may be
painted after it.
"""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table

from DiffuGTSLib.models.convert import MAISI_AUTOENCODER, MAISI_RFLOW
from DiffuGTSLib.networks.attention import AnomalyAttention
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.pipeline.memory_plan import TILINGS, Needs, Networks

SIZES = ("256x256x256", "512x512x256", "512x512x512")
CROP = (256, 256, 128)
SAMPLES = 2
CONTEXT = (256, 256, 256)  # channels of an attention for MAISI; none has been trained yet


def maisi() -> Networks:
    """The networks in MAISI's sizes, with random weights."""
    with torch.device("meta"):
        vae, unet = Autoencoder(**MAISI_AUTOENCODER), Denoiser(**MAISI_RFLOW)
    channels = tuple(vae.config.num_channels)
    return Networks(vae, unet, AnomalyAttention(channels, context_channels=CONTEXT))


def main(sizes: list[str]) -> None:
    """Prints the table."""
    needs = Needs(maisi(), "cuda", torch.bfloat16)
    smallest = min(needs.crop(CROP, SAMPLES, tiling) for tiling in (None, TILINGS[-1]))
    table = Table("GB", "in one piece", *(f"slabs {n}" for n in range(1, len(TILINGS))))
    for name in sizes or SIZES:
        sides = [int(side) for side in name.split("x")]
        size = (sides * 3)[:3]
        counts = (needs.encoding(tuple(size), tiling) for tiling in TILINGS)  # type: ignore[arg-type]
        table.add_row(name, *(f"{max(peak, kept + smallest) / 1e9:.1f}" for peak, kept in counts))
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
