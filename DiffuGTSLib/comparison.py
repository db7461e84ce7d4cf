"""A crop of a scan beside its pseudo-healthy twin (METHOD.md 3, step 3, and METHOD.md 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from DiffuGTSLib.foundation import tiling as tiles
from DiffuGTSLib.foundation.autoencoder import Autoencoder
from DiffuGTSLib.foundation.planes import Planes, Stored
from DiffuGTSLib.foundation.tiling import Tiling
from DiffuGTSLib.residual import pixel_residual, summed, unlikeness


@dataclass(frozen=True)
class Comparison:
    """What differs in a crop, all float32 (X, Y, Z) on the normalised intensity scale.

    Attributes:
        healthy: mean of the pseudo-healthy samples.
        pixel, feature: residuals.
        spread: standard deviation of the samples.
    """

    healthy: torch.Tensor
    pixel: torch.Tensor
    feature: torch.Tensor
    spread: torch.Tensor


def compare(
    autoencoder: Autoencoder, latent: torch.Tensor, healthy: Sequence[torch.Tensor],
    tiling: Tiling | None = None,
) -> Comparison:
    """The residuals of a crop against its pseudo-healthy samples.

    Args:
        latent: of the crop, unscaled, (1, L, x, y, z).
        healthy: the samples' latents, unscaled.
        tiling: how a large crop is cut; None for the whole at once.
    """
    rebuilt = _decoded(autoencoder, latent, tiling)
    samples = [_decoded(autoencoder, z, tiling) for z in healthy]
    mean = torch.stack(samples).mean(0)
    far = _features_apart(autoencoder, rebuilt, mean, tiling)
    near = torch.stack([pixel_residual(rebuilt, sample) for sample in samples]).mean(0)
    spread = torch.stack(samples).std(0, unbiased=False)
    return Comparison(mean[0, 0], near[0, 0], far, spread[0, 0])


def _decoded(
    autoencoder: Autoencoder, latent: torch.Tensor, tiling: Tiling | None
) -> torch.Tensor:
    z = latent.to(autoencoder.dtype)
    whole = autoencoder.decode(z) if tiling is None else tiles.decode(autoencoder, z, tiling)
    return whole.float()


def _features_apart(
    autoencoder: Autoencoder, ours: torch.Tensor, theirs: torch.Tensor, tiling: Tiling | None
) -> torch.Tensor:
    """The feature residual, slab by slab: the widened copies that it needs never are whole."""
    levels = []
    for pair in zip(*(_stage_ends(autoencoder, x, tiling) for x in (ours, theirs)), strict=True):
        slab = pair[0].length if tiling is None else tiling.slab(pair[0])
        slabs = zip(*(planes.slabs(slab) for planes in pair), strict=True)
        level, first = ours.new_empty(1, 1, *pair[0].shape[2:]), 0
        for a, b in slabs:
            level[:, :, first : first + a.shape[2]] = unlikeness(a, b)
            first += a.shape[2]
        levels.append(level)
    return summed(levels, ours.shape[2:])


def _stage_ends(
    autoencoder: Autoencoder, x: torch.Tensor, tiling: Tiling | None
) -> list[Planes]:
    if tiling is None:
        features = autoencoder.encode_with_features(x.to(autoencoder.dtype))[1]
        return [Stored(feature) for feature in features]
    return tiles.encode(autoencoder, x, tiling)[1]
