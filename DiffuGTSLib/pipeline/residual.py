"""Residuals between a crop of a scan and its pseudo-healthy image (METHOD.md 3, step 3, and 4).

Both sides are decoded latents, so that the autoencoder's own error cancels. Only where a lesion's
boundary is drawn on the scan's own grid, the scan itself counts: a decoded one is blurred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.special import expit

from DiffuGTSLib.models.card import logits
from DiffuGTSLib.networks import Autoencoder
from DiffuGTSLib.networks import tiled_autoencoder as tiles
from DiffuGTSLib.networks.slabs import Planes, Stored
from DiffuGTSLib.networks.tiling import Tiling

# Of `at_half_contrast`: the calibrated score of what is a lesion for certain; the percentile of the
# certain voxels' contrast that is the lesion's; how far from half of it, as a share, the full
# logit counts; what all logits gain, so that half of the contrast is reached from inside. From 210
# lung tumors and nodules that the attention was trained on (docs/validation.md).
_CERTAIN = 0.5
_PERCENTILE, _RAMP, _GAIN = 75, 0.2, 0.5
_MIN_CONTRAST = 0.05  # on the normalised scale; less is noise


def pixel_residual(scan: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """P = |D(z) - D(z0)|, any shape, on the normalised intensity scale."""
    return (scan - healthy).abs()


def cosine_distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """1 - cos(F, F') of each voxel's features: (1, C, X, Y, Z) twice -> float32 (1, 1, X, Y, Z)."""
    return 1 - F.cosine_similarity(ours.float(), theirs.float(), dim=1, eps=1e-6)[:, None]


def sum_of_upsampled(levels: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """The sum of maps (1, 1, X/2^l, Y/2^l, Z/2^l), upsampled to `size`; never negative."""
    total = torch.zeros(1, 1, *size, device=levels[0].device)
    for level in levels:
        total += F.interpolate(level, size=tuple(size), mode="trilinear")
    return total[0, 0].clamp_min(0)


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


class Rebuilt:
    """A crop as the autoencoder gives it back, nothing inpainted: the side of a comparison that
    depends on no prompt.

    Args:
        latent: of the crop, unscaled, (1, L, x, y, z).
        tiling: how a large crop is tiled; None for one piece.

    Attributes:
        scan: D(z), float32 (1, 1, X, Y, Z), normalised intensity.
    """

    def __init__(
        self, autoencoder: Autoencoder, latent: torch.Tensor, tiling: Tiling | None = None
    ) -> None:
        self._autoencoder = autoencoder
        self._tiling = tiling
        self.scan = _decoded(autoencoder, latent, tiling)

    @cached_property
    def stage_ends(self) -> list[Planes]:
        """F_l(D(z)); not before they are needed, so that they are not beside the samples'
        decoding."""
        return _stage_ends(self._autoencoder, self.scan, self._tiling)


def compare(
    autoencoder: Autoencoder, rebuilt: Rebuilt, healthy: Sequence[torch.Tensor],
    tiling: Tiling | None = None,
) -> Comparison:
    """The residuals of a crop against its pseudo-healthy samples.

    Args:
        rebuilt: the crop, with nothing inpainted.
        healthy: the samples' latents, unscaled, (1, L, x, y, z).
        tiling: how a large crop is tiled; None for one piece.
    """
    samples = [_decoded(autoencoder, z, tiling) for z in healthy]
    mean = torch.stack(samples).mean(0)
    far = _features_apart(autoencoder, rebuilt, mean, tiling)
    near = torch.stack([pixel_residual(rebuilt.scan, sample) for sample in samples]).mean(0)
    spread = torch.stack(samples).std(0, unbiased=False)
    return Comparison(mean[0, 0], near[0, 0], far, spread[0, 0])


def at_half_contrast(score: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """The score of one candidate, moved so that the lesion ends at half of its contrast.

    By 1.5 logits up or 0.5 down at most: where the score is certain, it stays above or below one
    half. It is raised only around what is certain, so that no lesion at 0.5 is without a voxel that
    had more before.

    Args:
        score: calibrated, in [0, 1], (Z, Y, X); 0 outside the candidate.
        difference: of the scan and its pseudo-healthy image, without sign, normalised intensity.
    """
    core = score >= min(_CERTAIN, float(score.max()))
    contrast = max(float(np.percentile(difference[core], _PERCENTILE)), _MIN_CONTRAST)
    from_half = np.clip((difference / contrast - 0.5) / _RAMP, -1, 1)
    moved = np.where(score > 0, expit(logits(score) + _GAIN + from_half), 0)
    raisable = _around_what_is_certain(score, score > expit(-_GAIN - 1))
    moved = np.where(raisable, moved, np.minimum(moved, score))
    raised = _around_what_is_certain(score, moved > _CERTAIN) | (moved <= _CERTAIN)
    return np.where(raised, moved, np.minimum(moved, score)).astype(np.float32)


def _around_what_is_certain(score: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The connected parts of a region that hold a score above one half."""
    labels, count = ndimage.label(region, np.ones((3, 3, 3)))
    certain = np.asarray(ndimage.maximum(score, labels, np.arange(count + 1))) > _CERTAIN
    certain[0] = False
    return np.asarray(certain[labels])


def _decoded(
    autoencoder: Autoencoder, latent: torch.Tensor, tiling: Tiling | None
) -> torch.Tensor:
    z = latent.to(autoencoder.dtype)
    whole = autoencoder.decode(z) if tiling is None else tiles.decode(autoencoder, z, tiling)
    return whole.float()


def _features_apart(
    autoencoder: Autoencoder, rebuilt: Rebuilt, healthy: torch.Tensor, tiling: Tiling | None
) -> torch.Tensor:
    """F = sum over stages of 1 - cos(F_l(D(z)), F_l(D(z0))), (X, Y, Z).

    Slab by slab: the float32 copies that it needs never exist in one piece.
    """
    levels = []
    theirs = _stage_ends(autoencoder, healthy, tiling)
    for pair in zip(rebuilt.stage_ends, theirs, strict=True):
        slab = pair[0].length if tiling is None else tiling.slab(pair[0].plane_elements)
        slabs = zip(*(planes.slabs(slab) for planes in pair), strict=True)
        level, first = healthy.new_empty(1, 1, *pair[0].shape[2:]), 0
        for a, b in slabs:
            level[:, :, first : first + a.shape[2]] = cosine_distance(a, b)
            first += a.shape[2]
        levels.append(level)
    return sum_of_upsampled(levels, healthy.shape[2:])


def _stage_ends(
    autoencoder: Autoencoder, x: torch.Tensor, tiling: Tiling | None
) -> list[Planes]:
    if tiling is None:
        features = autoencoder.encode_with_features(x.to(autoencoder.dtype))[1]
        return [Stored(feature) for feature in features]
    return tiles.encode(autoencoder, x, tiling)[1]
