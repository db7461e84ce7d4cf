"""What a MAISI model needs and how fast it could be at best: computed, not measured.

From the costs of METHOD.md 1. What a machine really does, the benchmark measures.

    python -m DiffuGTSLib.expectations 8 12 24 80     the largest cubes without tiling, by GB
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from DiffuGTSLib.catalogue import Entry, entry

ENCODE_MFLOP = 1.51  # a voxel of the scan
DECODE_MFLOP = 3.24
STEP_MFLOP = 9.04  # a voxel of the latent, all but the products of self-attention
# FLOP a latent voxel, times the latent's voxels: 5 attentions of 256 channels at 1/4 of the
# latent's resolution and 6 of 512 at 1/8, each 4 C N^2 for N tokens.
ATTENTION_FLOP = 5 * 4 * 256 / 64**2 + 6 * 4 * 512 / 512**2
REFERENCE_TFLOPS = 790.0  # bfloat16, as measured on the GPU that METHOD.md's floors are for
DOWNSCALE = 4
# Untiled encoding at its widest: three maps of 64 channels at full size, in bfloat16, beside the
# features that are kept (64 at full size, 128 at half, 256 at a quarter), in bfloat16 too.
WORKING_BYTES = 3 * 64 * 2
FEATURE_BYTES = (64 + 128 / 8 + 256 / 64) * 2
CONTEXT_BYTES = 0.8e9  # of CUDA itself and its libraries, about
SIZES = ((256, 256, 256), (512, 512, 256), (512, 512, 512))


def step_flop(latent_voxels: int) -> float:
    """Of one pass of the denoiser over a latent."""
    return latent_voxels * (STEP_MFLOP * 1e6 + ATTENTION_FLOP * latent_voxels)


def expected(model: Entry, sizes: Sequence[Sequence[int]] = SIZES) -> dict[str, Any] | None:
    """Floors of time and the memory of an untiled run, as plain values; None if not known.

    `weights_gb`: of the networks in float32. `sizes`: for each, in seconds at 790 TFLOP/s,
    encoding, decoding and one denoising step of the whole (two passes where the model is guided);
    and GB without tiling.
    """
    if not model.networks:
        return None
    passes = 2 if model.guidance > 0 else 1
    weights = 4 * model.parameters
    rows = []
    for size in sizes:
        voxels = math.prod(size)
        latent = voxels // DOWNSCALE**3
        rows.append({
            "voxels": list(size),
            "encode_s": _seconds(voxels * ENCODE_MFLOP * 1e6),
            "decode_s": _seconds(voxels * DECODE_MFLOP * 1e6),
            "step_s": _seconds(passes * step_flop(latent)),
            "untiled_gb": round(
                (weights + voxels * (WORKING_BYTES + FEATURE_BYTES)) / 1e9, 1),
        })
    return {"weights_gb": round(weights / 1e9, 2), "sizes": rows}


def _seconds(flop: float) -> float:
    return round(flop / (REFERENCE_TFLOPS * 1e12), 5)


def largest_cube(model: Entry, gigabytes: float) -> int:
    """Voxels an axis of the largest scan that is encoded without tiling on such a GPU."""
    room = gigabytes * 1e9 - CONTEXT_BYTES - 4 * model.parameters
    side = (max(room, 0.0) / (WORKING_BYTES + FEATURE_BYTES)) ** (1 / 3)
    return int(side) // model.limits.multiple * model.limits.multiple


def main(arguments: Sequence[str]) -> None:
    """Prints, for GPUs of so many GB, the largest cube without tiling; as a Markdown table."""
    model = entry("maisi-ct")
    print("| GPU | largest scan without tiling | as a cube at 1.5 mm |")
    print("|---|---|---|")
    for gigabytes in map(float, arguments):
        side = largest_cube(model, gigabytes)
        print(f"| {gigabytes:g} GB | {side} x {side} x {side} | {side * 0.15:.0f} cm |")


if __name__ == "__main__":
    main(sys.argv[1:])
