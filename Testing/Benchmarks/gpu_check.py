"""Checks on a GPU of all that its own code paths do, in under eight minutes, as one table.

    python Testing/Benchmarks/gpu_check.py          exits with 1 where something is wrong

MAISI's networks with random weights. Where there is no GPU the CPU form runs: the same checks at
small sizes and a quarter of the width, and what only a GPU can show is named as skipped.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Python"))
import foundation
from support.live_bytes import LiveBytes
from support.memory_runs import Networks
from support.noise_schedules import rectified_flow
from support.random_networks import randomised, randomised_denoiser

from DiffuGTSLib.models.convert import MAISI_AUTOENCODER, MAISI_RFLOW
from DiffuGTSLib.networks import AnomalyAttention, Autoencoder, Denoiser
from DiffuGTSLib.networks import tiled_autoencoder as tiles
from DiffuGTSLib.networks.denoiser import Conditioning
from DiffuGTSLib.networks.denoiser_blocks import AttentionBlock, BlockOptions
from DiffuGTSLib.networks.device import storage_dtype
from DiffuGTSLib.networks.tiling import Tiling
from DiffuGTSLib.pipeline.encoding import encode
from DiffuGTSLib.pipeline.inpainting import inpaint
from DiffuGTSLib.pipeline.memory_plan import Plan, carry_out, release
from DiffuGTSLib.pipeline.residual import Rebuilt, compare
from DiffuGTSLib.pipeline.scan_size import TILINGS, SizeLimits
from DiffuGTSLib.progress import Progress

Size = tuple[int, int, int]
CHANNELS_LAST = torch.channels_last_3d
# Of the outputs' largest value: float32, summed in another order; of their deviation: bfloat16,
# whose 8 bits of mantissa pass through some 60 layers.
EXACT, ROUNDED = 2e-4, 0.1
THIN = Tiling(2**18, 1, 1)


@dataclass(frozen=True)
class Form:
    """What is checked at which sizes.

    Attributes:
        quarter: of the networks' width.
        parity: an axis of the cube on which outputs are compared.
        memory: sizes at which memory is measured.
        speed: sizes at which time is measured.
    """

    device: str
    quarter: bool
    parity: int
    memory: tuple[Size, Size, Size]
    speed: tuple[Size, ...]


GPU = Form("cuda", False, 64, ((128, 128, 128), (192, 192, 192), (256, 256, 256)),
           ((256, 256, 256), (512, 512, 256)))
CPU = Form("cpu", True, 32, ((64, 32, 32), (64, 64, 32), (64, 64, 64)), ((64, 64, 64),))


@dataclass(frozen=True)
class Row:
    """The outcome of one check: `good` is None where it was skipped."""

    what: str
    figures: str
    good: bool | None


def networks(quarter: bool) -> Networks:
    """MAISI's, with random weights in float32 on the CPU, and an attention."""
    divisor = 4 if quarter else 1
    groups = {"norm_num_groups": 32 // divisor}
    autoencoder = randomised(Autoencoder(**MAISI_AUTOENCODER | groups | {
        "num_channels": [n // divisor for n in MAISI_AUTOENCODER["num_channels"]]}))
    denoiser = randomised_denoiser(Denoiser(**MAISI_RFLOW | groups | {
        "num_channels": [n // divisor for n in MAISI_RFLOW["num_channels"]],
        "num_head_channels": 32 // divisor}))
    assert isinstance(autoencoder, Autoencoder)
    assert isinstance(denoiser, Denoiser)
    attention = AnomalyAttention(autoencoder.config.num_channels, context_channels=(64, 64, 64))
    made = Networks(autoencoder, denoiser, attention.eval())
    moved(made, "cpu", torch.float32)
    return made


def moved(made: Networks, device: str, dtype: torch.dtype) -> None:
    """All of them to a device, stored in that type."""
    for network in made:
        network.to(device, dtype)
        network.to(memory_format=CHANNELS_LAST)


def outputs(made: Networks, device: str, size: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What encoding, decoding and a step give on equal inputs; float32, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, size, size, size, generator=generator).to(device, dtype)
    z = torch.randn(1, 4, *(3 * [size // 4]), generator=generator).to(device, dtype)
    timestep = torch.tensor([500.0], device=device)
    found = {
        "encode": made.autoencoder.encode(x)[0],
        "decode": made.autoencoder.decode(z),
        "step": Conditioning(1, (1.5, 1.5, 1.5)).predict(made.denoiser, z, timestep),
    }
    return {name: value.float().cpu() for name, value in found.items()}


def apart(value: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, of the largest value; infinite where a value is not finite."""
    worst = float((value - expected).abs().max() / expected.abs().max())
    return worst if math.isfinite(worst) else math.inf


def off(value: torch.Tensor, expected: torch.Tensor) -> float:
    """The root mean square of the difference, of the deviation."""
    mean = float((value - expected).square().mean().sqrt() / expected.std())
    return mean if math.isfinite(mean) else math.inf


def check_outputs(form: Form, made: Networks) -> Iterator[Row]:
    """Float32 and bfloat16 on the device against the CPU: on a CPU against float64."""
    exact = torch.float32 if form.device == "cuda" else torch.float64
    moved(made, "cpu", exact)
    expected = outputs(made, "cpu", form.parity, exact)
    against = "the CPU" if form.device == "cuda" else "float64"
    for dtype, measure, limit in ((torch.float32, apart, EXACT), (torch.bfloat16, off, ROUNDED)):
        moved(made, form.device, dtype)
        found = outputs(made, form.device, form.parity, dtype)
        for part, value in found.items():
            error = measure(value, expected[part])
            name = str(dtype).removeprefix("torch.")
            yield Row(f"{part}, {name}, against {against}", f"{error:.1e} of {limit:.0e}",
                      error < limit)
        moved(made, "cpu", torch.float32)


def check_tiling(form: Form, made: Networks) -> Iterator[Row]:
    """In slabs as in one piece."""
    moved(made, form.device, torch.float32)
    generator = torch.Generator().manual_seed(1)
    size = (form.parity,) * 3
    x = torch.rand(1, 1, *size, generator=generator).to(form.device, memory_format=CHANNELS_LAST)
    z = torch.randn(1, 4, *(n // 4 for n in size), generator=generator).to(form.device)
    autoencoder = made.autoencoder
    pairs = {"encode": (tiles.encode(autoencoder, x, THIN)[0], autoencoder.encode(x)[0]),
             "decode": (tiles.decode(autoencoder, z, THIN), autoencoder.decode(z))}
    for part, (tiled, expected) in pairs.items():
        error = apart(tiled.cpu(), expected.cpu())
        yield Row(f"{part} in slabs, against in one piece", f"{error:.1e} of {EXACT:.0e}",
                  error < EXACT)


def check_attention(form: Form) -> Iterator[Row]:
    """Self-attention at the sizes of the two coarse levels under autocast."""
    for channels, axis in ((256, 16), (512, 8)):
        generator = torch.Generator().manual_seed(2)
        block = randomised(AttentionBlock(channels, 32, BlockOptions(4, 32, 1e-6, True, True)))
        x = torch.randn(1, channels, axis, axis, axis, generator=generator).to(form.device)
        block.to(form.device)
        expected = block(x)
        with torch.autocast(form.device, torch.bfloat16):
            error = off(block(x).float(), expected)
        yield Row(f"attention under autocast, {channels} channels, {axis}^3 tokens",
                  f"{error:.1e} of {ROUNDED:.0e}", error < ROUNDED)


def peak_of(run: Callable[[], object], device: str) -> int:
    """Bytes of tensors made by `run` that were alive at its peak."""
    if device == "cpu":
        with LiveBytes() as live:
            run()
        return live.peak
    release(device)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def check_memory(form: Form, made: Networks) -> Iterator[Row]:
    """The peak of encoding a scan, and of inpainting a crop, against what the plan allows."""
    dtype = storage_dtype(form.device)
    moved(made, form.device, dtype)
    limits = SizeLimits.of((1.5, 1.5, 1.5), (0, 0, 0), 1, *(n.config for n in made))
    for size in form.memory:
        for tiling in (None, TILINGS[-1]):
            if form.device == "cuda" and tiling is None and not limits.fits_in_one_piece(size):
                continue
            scan, crop = (peak_of(partial(run, made, size, tiling, form.device), form.device)
                          for run in (_encode, _crop))
            planned = (limits.encoding_bytes(size, tiling, dtype.itemsize)[0],
                       limits.crop_bytes(size, 1, tiling, dtype.itemsize))
            how = "one piece" if tiling is None else "slabs"
            for part, peak, need in zip(("encode", "crop"), (scan, crop), planned, strict=True):
                yield Row(f"memory, {part} {_named(size)} in {how}",
                          f"{peak / 1e9:.3g} of {need / 1e9:.3g} GB planned", peak <= need)


def _encode(made: Networks, size: Size, tiling: Tiling | None, device: str) -> object:
    x = torch.rand(1, 1, *size).to(device, memory_format=CHANNELS_LAST)
    modality = torch.tensor([0], device=device)
    return encode(made.autoencoder, made.attention, x, modality, tiling)


def _crop(made: Networks, size: Size, tiling: Tiling | None, device: str) -> object:
    latent = torch.randn(1, 4, *(n // made.autoencoder.downscale for n in size)).to(device)
    healthy = inpaint(made.denoiser, rectified_flow(1, latent[0, 0].numel()), latent,
                      torch.ones_like(latent[:, :1]), Conditioning(1), torch.Generator(),
                      Progress(), 0, 1)
    rebuilt = Rebuilt(made.autoencoder, latent, tiling)
    return compare(made.autoencoder, rebuilt, [healthy], tiling)


def check_fall_back(form: Form) -> Iterator[Row]:
    """Where memory runs out in a plan, the next is carried out, and a note says so."""
    notes: list[str] = []
    plans = [Plan(form.device, None, 0), Plan(form.device, TILINGS[-1], 0)]

    def run(plan: Plan) -> Plan:
        # More than any machine has, then what fits.
        torch.empty(2**50 if plan.tiling is None else 2**20, device=plan.device)
        return plan

    done = carry_out(iter(plans), run, "The scan was encoded", notes.append)
    yield Row("memory runs out: the next plan", " ".join(notes),
              done is plans[1] and len(notes) == 1)


def check_speed(form: Form) -> Iterator[Row]:
    """Encode, decode and a step beside MONAI's classes and the floor; wrong where ours fails."""
    rate = foundation.speed(form.device)
    for size in form.speed:
        mine, theirs, cut = foundation.both(size, form.device)
        floors = foundation.floors(size)
        for part in ("encode", "decode", "step"):
            a, b = mine[part].seconds, theirs[part].seconds
            figures = ["memory ran out" if a is None else f"{a:.3g} s"]
            if a is not None and form.device == "cuda":
                figures.append(f"{a * rate / floors[part]:.3g} x floor")
            if a is not None:
                figures.append("MONAI's ran out" if b is None else f"{a / b:.2f} x MONAI's")
            yield Row(f"time, {part} {_named(size)} {cut.split(' Tiling')[0]}", ", ".join(figures),
                      a is not None)


def skipped(form: Form) -> Iterator[Row]:
    """What the CPU form cannot show."""
    if form.device == "cpu":
        for what in ("kernels of CUDA and cuDNN against the CPU's", "a GPU's own allocator",
                     "time at 256x256x256 and 512x512x256, and the floor"):
            yield Row(what, "needs a GPU", None)


def _named(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def rows(form: Form) -> Iterator[Row]:
    """All checks; one that raises is a row, too."""
    made = networks(form.quarter)
    checks: list[Callable[[], Iterator[Row]]] = [
        lambda: check_outputs(form, made), lambda: check_tiling(form, made),
        lambda: check_attention(form), lambda: check_memory(form, made),
        lambda: check_fall_back(form), lambda: check_speed(form), lambda: skipped(form),
    ]
    names = ("outputs", "tiling", "attention", "memory", "fall-back", "time", "skipped")
    for name, check in zip(names, checks, strict=True):
        try:
            yield from check()
        except Exception as error:  # the other checks are still wanted
            yield Row(name, f"{type(error).__name__}: {error}"[:200], False)


@torch.inference_mode()
def main() -> None:
    """Prints the table; exits with 1 where something is wrong."""
    form = GPU if torch.cuda.is_available() else CPU
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    title = torch.cuda.get_device_name() if form is GPU else "CPU form: no GPU here"
    started, wrong = time.perf_counter(), 0
    table = Table("", "figures", "", title=f"{title}, torch {torch.__version__}")
    for row in rows(form):
        wrong += row.good is False
        table.add_row(row.what, row.figures,
                      "skipped" if row.good is None else "ok" if row.good else "WRONG")
    console = Console(width=130)
    console.print(table)
    console.print(f"{wrong} wrong, {time.perf_counter() - started:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
