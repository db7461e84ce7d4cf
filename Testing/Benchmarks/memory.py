"""How much memory the stages of a run take: what the constants of the memory plan are made from.

    python Testing/Benchmarks/memory.py            measures small scans, some minutes
    python Testing/Benchmarks/memory.py plan       what the plan gives MAISI on GPUs, from them

The bytes of all tensors alive at the peak of each stage, of the real code on a CPU, as a GPU's
allocator would give them out: in one piece, in slabs as thick as the scan and in thin ones. Unit:
feature maps at the scan's resolution, of as many channels as the autoencoder's first level. What
grows with the scan is "stored", what grows with the slab's part of it is "slab" (scan_size.py).
MAISI's networks are measured at a quarter of their width, which makes no difference in this unit.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Python"))
from support.memory_runs import Networks, stage_peaks

from DiffuGTSLib.models import load
from DiffuGTSLib.models.convert import MAISI_AUTOENCODER, MAISI_RFLOW
from DiffuGTSLib.networks import AnomalyAttention, Autoencoder, Denoiser, device
from DiffuGTSLib.networks.tiling import GATE_MARGIN, MIN_MAP_SLAB, Tiling
from DiffuGTSLib.pipeline import memory_plan
from DiffuGTSLib.pipeline.memory_plan import Planner
from DiffuGTSLib.pipeline.scan_size import PEAKS, SAMPLE_BYTES, Peak, Peaks, SizeLimits

GPUS_GB = {"8 GB": 6.4, "12 GB": 10.3, "24 GB": 21.9, "80 GB": 76.0}
SCANS = ((256, 256, 256), (512, 512, 256), (512, 512, 512))
SIZE = (128, 32, 32)
THIN = 8  # planes of the thin slabs
THICK = 2**40  # elements of a slab that is the whole map
def embedded() -> Networks:
    """The embedded model's networks."""
    package = load("embedded")
    return Networks(package.autoencoder, package.denoiser, package.attention)


def maisi() -> Networks:
    """MAISI's networks at a quarter of their width, with an attention; random weights."""
    narrow = {"norm_num_groups": 16}
    channels = tuple(n // 4 for n in MAISI_AUTOENCODER["num_channels"])
    denoiser = Denoiser(**MAISI_RFLOW | narrow | {
        "num_channels": [n // 4 for n in MAISI_RFLOW["num_channels"]], "num_head_channels": 16,
        "num_class_embeds": None, "include_spacing_input": False,
    })
    autoencoder = Autoencoder(**MAISI_AUTOENCODER | narrow | {"num_channels": channels})
    attention = AnomalyAttention(channels, context_channels=(64, 64, 64))
    return Networks(autoencoder, denoiser, attention)


def measure(networks: Networks, tiling: Tiling | None) -> Peaks:
    """The peaks of the stages."""
    elements = math.prod(SIZE) * networks.autoencoder.config.num_channels[0]
    map_bytes = elements * networks.autoencoder.dtype.itemsize
    sample = SAMPLE_BYTES * math.prod(SIZE)

    def maps(slab_elements: int) -> dict[str, float]:
        slabs = tiling and replace(tiling, slab_elements=slab_elements)
        peaks = stage_peaks(networks, SIZE, slabs)
        return {stage: count / map_bytes
                for stage, count in peaks._replace(crop=peaks.crop - sample)._asdict().items()}

    thick = maps(THICK)
    if tiling is None:
        return Peaks(Peak(thick["encode"]), Peak(thick["kept"]), Peak(thick["crop"]))
    # Two measurements, two unknowns of each stage; what attending stores is known.
    thin, part = maps(THIN * elements // SIZE[0]), THIN / SIZE[0]
    map_part = (MIN_MAP_SLAB + 2 * GATE_MARGIN) / SIZE[0]
    slabs = {stage: (thick[stage] - thin[stage]) / (1 - part) for stage in ("encode", "crop")}
    kept, beside = thick["kept"], thick["attend"] - thick["kept"]
    map_slab = (thin["attend"] - kept - part * beside) / (map_part - part)
    return Peaks(
        Peak(thick["encode"] - slabs["encode"], slabs["encode"]),
        Peak(kept, beside - map_slab, map_slab),
        Peak(thick["crop"] - slabs["crop"], slabs["crop"]),
    )


def cells(peaks: Peaks) -> list[str]:
    """The peak of each stage in words."""
    return [f"{p.stored:.2f} + {p.slab:.2f}" + (f" + {p.map_slab:.2f}" if p.map_slab else "")
            for p in (peaks.encode, peaks.attend, peaks.crop)]


def constants() -> Table:
    """Measured figures beside the constants of scan_size.py."""
    device.has_fast_bfloat16 = lambda: False  # no autocast: the maps are of the weights' type
    table = Table("maps: stored + slab + map_slab", "encode", "attend", "crop")
    for tiling, peaks in PEAKS.items():
        name = "in one piece" if tiling is None else f"layers from {tiling.layers_from}, " \
            f"blocks from {tiling.blocks_from}"
        for kind in (embedded, maisi):
            for dtype in (torch.float32, torch.bfloat16):
                networks = Networks(*(torch.nn.Module.to(n.eval(), dtype) for n in kind()))
                table.add_row(f"{name}: {kind.__name__}, {str(dtype).removeprefix('torch.')}",
                              *cells(measure(networks, tiling)))
        table.add_row(f"{name}: constants", *cells(peaks), end_section=True)
    return table


def plans() -> Table:
    """The plan for MAISI on GPUs, of which so much can be used; in bfloat16."""
    limits = SizeLimits((1.5, 1.5, 1.5), 32, (256, 256, 128), samples=2, channels=64)
    table = Table("", "can be used", *(" x ".join(map(str, size)) for size in SCANS))
    memory_plan.element_bytes = lambda device: 2
    memory_plan.free_bytes = lambda device: 10**15
    for name, usable in GPUS_GB.items():
        cells = []
        for size in SCANS:
            ways = [way for way in Planner(limits, "cuda").encoding(size) if way.device == "cuda"]
            fitting = [way for way in ways if way.need <= usable * 1e9]
            least = min(way.need for way in ways)
            cells.append(f"{fitting[0].how.removeprefix('on the GPU ')}, "
                         f"{fitting[0].need / 1e9:.1f} GB" if fitting else
                         f"refused or CPU ({least / 1e9:.1f} GB)")
        table.add_row(name, f"{usable} GB", *cells)
    return table


def main(arguments: list[str]) -> None:
    """Prints one of the tables."""
    Console(width=120).print(plans() if arguments == ["plan"] else constants())


if __name__ == "__main__":
    main(sys.argv[1:])
