"""How fast MAISI's networks are here, beside MONAI's stock classes and the arithmetic floor.

    python Testing/Benchmarks/foundation.py [SIZE]...      sizes as 64 or 512x512x256

Random weights: time and memory do not depend on them. On a GPU the floor is that of METHOD.md's
costs at what the GPU computes in bfloat16, measured here by a matrix product. MONAI runs with
NVIDIA's settings: on a GPU in half precision, in splits, saving memory; what of that a CPU cannot
do is left out there.

On a CPU both sides run each part in turns, so that what else the machine does hits both, and the
least counts. With OMP_WAIT_POLICY=PASSIVE, which keeps waiting threads from counting as busy, the
ratio of processor times holds on a machine that others use, too.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from rich.console import Console
from rich.table import Table

from DiffuGTSLib.errors import TooLarge, is_out_of_memory
from DiffuGTSLib.models.convert import MAISI_AUTOENCODER, MAISI_RFLOW
from DiffuGTSLib.networks import Autoencoder, Denoiser
from DiffuGTSLib.networks import tiled_autoencoder as tiles
from DiffuGTSLib.networks.tiling import Tiling
from DiffuGTSLib.pipeline.memory_plan import Planner, release
from DiffuGTSLib.pipeline.scan_size import SizeLimits

Size = tuple[int, int, int]
# What MAISI's networks compute (METHOD.md 1).
ENCODE_MFLOP = 1.51  # a voxel of the scan
DECODE_MFLOP = 3.24
STEP_MFLOP = 9.04  # a voxel of the latent, all but the products of self-attention
# FLOP a latent voxel, times the latent's voxels: 5 attentions of 256 channels at 1/4 of the
# latent's resolution and 6 of 512 at 1/8, each 4 C N^2 for N tokens.
ATTENTION_FLOP = 5 * 4 * 256 / 64**2 + 6 * 4 * 512 / 512**2
DOWNSCALE = 4
STEPS = 30  # of a whole run: encode, so many steps over all of the latent, two decodings
GPU_SIZES: list[Size] = [(256, 256, 256), (512, 512, 256)]
CPU_SIZES: list[Size] = [(64, 64, 64), (128, 128, 128)]
LONGEST = 120.0  # seconds on a CPU for a size that was not asked for, by the floor
GPU_REPEATS = 5
CPU_REPEATS = {"encode": 1, "decode": 1, "step": 7}  # the long ones need no second look
LABEL = torch.tensor([1])
SPACING = torch.tensor([[150.0, 150.0, 150.0]])


@dataclass(frozen=True)
class Measured:
    """Seconds of one part; on a GPU bytes at its peak, on a CPU seconds of all processors. None of
    them where memory ran out."""

    seconds: float | None
    peak: int | None = None
    processor: float | None = None


@dataclass(frozen=True)
class Side:
    """One implementation: `None` stands for what it has not."""

    name: str
    encode: Callable[[torch.Tensor], object]
    decode: Callable[[torch.Tensor], object]
    step: Callable[[torch.Tensor], object]


def measure(run: Callable[[], object], device: str) -> Measured:
    """The median of some runs after one to warm up."""
    seconds = []
    try:
        run()
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(GPU_REPEATS if device == "cuda" else 1):
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            seconds.append(time.perf_counter() - started)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        gc.collect()
        release(device)
        return Measured(None)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return Measured(sorted(seconds)[len(seconds) // 2], peak)


def in_turns(run: Callable[[Side], object], sides: Sequence[Side], repeats: int) -> list[Measured]:
    """The least of some runs of each side on a CPU, one side after the other."""
    found: list[list[tuple[float, float]]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, times in zip(sides, found, strict=True):
            wall, processor = time.perf_counter(), time.process_time()
            run(side)
            times.append((time.perf_counter() - wall, time.process_time() - processor))
    return [Measured(min(wall for wall, _ in times), processor=min(p for _, p in times))
            for times in found]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def speed(device: str) -> float:
    """FLOP a second of a matrix product, in the type that the networks compute in here."""
    n, dtype = (8192, torch.bfloat16) if device == "cuda" else (1536, torch.float32)
    a = torch.randn(n, n, device=device, dtype=dtype)
    runs = [measure(lambda: a @ a, device).seconds for _ in range(10)]
    return 2 * n**3 / min(seconds for seconds in runs if seconds is not None)


def floors(size: Size) -> dict[str, float]:
    """FLOP of each part (METHOD.md 1)."""
    voxels = math.prod(size)
    latent = voxels // DOWNSCALE**3
    encode, decode = voxels * ENCODE_MFLOP * 1e6, voxels * DECODE_MFLOP * 1e6
    step = latent * (STEP_MFLOP * 1e6 + ATTENTION_FLOP * latent)
    return {"encode": encode, "decode": decode, "step": step,
            "whole run": encode + 2 * decode + STEPS * step}


def ours(device: str, dtype: torch.dtype, size: Size) -> tuple[Side, str]:
    """DiffuGTS's networks, cut as its own plan for this machine says; and the plan in words."""
    autoencoder = Autoencoder(**MAISI_AUTOENCODER).eval()
    denoiser = Denoiser(**MAISI_RFLOW).eval()
    for network in (autoencoder, denoiser):
        network.to(device, dtype)
        network.to(memory_format=torch.channels_last_3d)
    tiling = plan(device, size)

    def encode(x: torch.Tensor) -> object:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if tiling is None:
            return autoencoder.encode(x)
        return tiles.encode(autoencoder, x, tiling)[0]

    def decode(z: torch.Tensor) -> object:
        return autoencoder.decode(z) if tiling is None else tiles.decode(autoencoder, z, tiling)

    def step(z: torch.Tensor) -> object:
        return denoiser(z, torch.full((1,), 500.0, device=device), class_labels=LABEL.to(device),
                        spacing=SPACING.to(z))

    cut = "in one piece" if tiling is None else f"in slabs {tiling}"
    return Side("DiffuGTS", encode, decode, step), cut


def plan(device: str, size: Size) -> Tiling | None:
    """How a crop of that size is run here, by the memory plan."""
    limits = SizeLimits.of(
        (1.5, 1.5, 1.5), (0, 0, 0), 1, MAISI_AUTOENCODER, MAISI_RFLOW, {})
    return next(Planner(limits, device).crop(size, 1, device)).tiling


def monai(device: str, dtype: torch.dtype, size: Size) -> Side:
    """MONAI's stock classes; NVIDIA's settings on a GPU."""
    gpu = device == "cuda"
    autoencoder = AutoencoderKlMaisi(
        spatial_dims=3, attention_levels=(False,) * 3, use_flash_attention=gpu, norm_float16=gpu,
        num_splits=4 if gpu else 1, dim_split=1, save_mem=gpu, **MAISI_AUTOENCODER,
    ).eval().to(device)
    denoiser = DiffusionModelUNetMaisi(
        spatial_dims=3, use_flash_attention=gpu, **MAISI_RFLOW).eval().to(device)

    def precise() -> AbstractContextManager[object]:
        return torch.autocast("cuda", torch.float16) if gpu else torch.autocast(
            "cpu", dtype, enabled=False) if dtype == torch.float32 else nullcontext()

    def inside(run: Callable[[], object]) -> object:
        with precise():
            return run()

    return Side(
        "MONAI",
        lambda x: inside(lambda: autoencoder.encode(x.float())),
        lambda z: inside(lambda: autoencoder.decode(z.float())),
        lambda z: inside(lambda: denoiser(
            z.float(), torch.full((1,), 500.0, device=device), class_labels=LABEL.to(device),
            spacing_tensor=SPACING.to(device))),
    )


Parts = dict[str, Measured]


def parts(side: Side, dtype: torch.dtype, size: Size) -> Parts:
    """Each part of one side on a GPU, and the whole run."""
    x, z = _inputs("cuda", dtype, size)

    def whole() -> None:
        side.encode(x)
        for _ in range(STEPS):
            side.step(z)
        side.decode(z)
        side.decode(z)

    return {"encode": measure(lambda: side.encode(x), "cuda"),
            "decode": measure(lambda: side.decode(z), "cuda"),
            "step": measure(lambda: side.step(z), "cuda"),
            "whole run": measure(whole, "cuda")}


def parts_in_turns(sides: Sequence[Side], dtype: torch.dtype, size: Size) -> list[Parts]:
    """Each part of each side on a CPU, and the whole run as the sum of its parts."""
    x, z = _inputs("cpu", dtype, size)
    for side in sides:
        side.step(z)  # to warm up
    runs: dict[str, Callable[[Side], object]] = {
        "encode": lambda side: side.encode(x), "decode": lambda side: side.decode(z),
        "step": lambda side: side.step(z)}
    found = {part: in_turns(run, sides, CPU_REPEATS[part]) for part, run in runs.items()}
    each = [{part: measured[i] for part, measured in found.items()} for i in range(len(sides))]
    for one in each:
        walls, processors = ([getattr(one[part], name) for part in runs]
                             for name in ("seconds", "processor"))
        wall, processor = (e + 2 * d + STEPS * s for e, d, s in (walls, processors))
        one["whole run"] = Measured(wall, processor=processor)
    return each


def _inputs(device: str, dtype: torch.dtype, size: Size) -> tuple[torch.Tensor, torch.Tensor]:
    """A scan and a latent of that size."""
    latent = (n // DOWNSCALE for n in size)
    return (torch.rand(1, 1, *size, device=device, dtype=dtype),
            torch.randn(1, 4, *latent, device=device, dtype=dtype))


@torch.inference_mode()
def both(size: Size, device: str) -> tuple[Parts, Parts, str]:
    """DiffuGTS's parts and MONAI's, and in words how ours was run.

    Raises:
        TooLarge: it does not fit here.
    """
    if device == "cpu":
        side, cut = ours(device, torch.float32, size)
        sides = (side, monai(device, torch.float32, size))
        mine, theirs = parts_in_turns(sides, torch.float32, size)
        return mine, theirs, cut
    dtype = torch.bfloat16
    side, cut = ours(device, dtype, size)
    mine = parts(side, dtype, size)
    del side
    release(device)
    theirs = parts(monai(device, dtype, size), dtype, size)
    release(device)
    return mine, theirs, cut


def compare(size: Size, device: str, rate: float, longest: float) -> Table | str:
    """One table: a row a part, ours and MONAI's; or a sentence why it was left out."""
    named, flop = "x".join(map(str, size)), floors(size)
    # At about half of a matrix product's speed.
    runs = {part: 4 * count for part, count in CPU_REPEATS.items()}
    least = sum(count * flop[part] for part, count in runs.items()) / rate
    if least > longest:
        return f"{named} left out: about {least:.0f} s on this CPU, more than {longest:.0f} s."
    try:
        mine, theirs, cut = both(size, device)
    except TooLarge as error:
        return f"{named} left out: {error.message}"
    dtype = "bfloat16" if device == "cuda" else "float32"
    table = Table(title=f"{named}, {dtype}, ours {cut}; seconds")
    for column in ("", "floor", "DiffuGTS", "/ floor", "MONAI", "/ floor", "DiffuGTS / MONAI",
                   "by processor time", "peak GB", "MONAI's"):
        table.add_column(column, justify="left" if not column else "right")
    for part, count in flop.items():
        # A CPU's convolutions were faster than its matrix product, which is no floor then.
        floor = count / rate if device == "cuda" else None
        a, b = mine[part], theirs[part]
        table.add_row(
            part, _shown(floor), _shown(a.seconds), _shown(a.seconds, floor), _shown(b.seconds),
            _shown(b.seconds, floor), _shown(a.seconds, b.seconds),
            _shown(a.processor, b.processor), _shown(a.peak, 1e9), _shown(b.peak, 1e9),
        )
    return table


def _shown(value: float | None, of: float | None = 1.0) -> str:
    return "-" if value is None or of is None else f"{value / of:.3g}"


def main() -> None:
    """Prints a table a size."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    console = Console(width=110)
    rate = speed(device)
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
    console.print(f"{device}{threads}: {rate / 1e12:.3g} TFLOP/s in a matrix product")
    given = [[int(n) for n in text.split("x")] for text in sys.argv[1:]]
    sizes = [(g[0], g[-2] if len(g) == 3 else g[0], g[-1]) for g in given]
    longest = LONGEST if device == "cpu" and not sizes else math.inf
    for size in sizes or (GPU_SIZES if device == "cuda" else CPU_SIZES):
        console.print(compare(size, device, rate, longest))
    if device == "cpu":
        console.print("The whole run is the sum of its parts. No GPU here: 256x256x256 and "
                      "512x512x256 left out, and peak memory.")


if __name__ == "__main__":
    main()
