"""The surroundings of a hole in a latent, continued into it: what inpainting starts from.

The solution of Laplace's equation with the known part as its border, to a few per cent: coarse to
fine, so that a hole of any size is filled in a few sweeps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_SWEEPS = 12
_SMALLEST = 2


def continued(latent: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The latent with a smooth continuation of its known part where `mask` is 1.

    Args:
        latent: (N, C, x, y, z); what it holds inside the mask does not matter.
        mask: (N, 1, x, y, z), 0 or 1.

    Returns:
        (N, C, x, y, z), equal to `latent` outside the mask; 0 where nothing is known at all.
    """
    known = 1 - mask
    kept = torch.where(mask > 0, torch.zeros_like(latent), latent)
    return torch.where(mask > 0, _filled(kept, known), latent)


def _filled(kept: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Everywhere: the values where `known` is 1, and what follows from them elsewhere.

    Args:
        kept: values times `known`, (N, C, x, y, z).
        known: (N, 1, x, y, z), 0 to 1: the share of a voxel that is known.
    """
    first = torch.zeros_like(kept)
    if max(kept.shape[2:]) > _SMALLEST and bool((known == 0).any()):
        window = [min(2, n) for n in kept.shape[2:]]
        share = F.avg_pool3d(known, window, ceil_mode=True, count_include_pad=False)
        sums = F.avg_pool3d(kept * known, window, ceil_mode=True, count_include_pad=False)
        coarse = _filled(sums / share.clamp_min(1e-6), (share > 0).to(kept))
        first = F.interpolate(coarse, size=kept.shape[2:], mode="trilinear")
    values = torch.where(known > 0, kept, first)
    for _ in range(_SWEEPS):
        padded = F.pad(values, (1,) * 6, mode="replicate")
        around = F.avg_pool3d(padded, 3, 1)
        values = torch.where(known > 0, kept, around)
    return values
