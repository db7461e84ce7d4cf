"""Blocks of the anomaly-aware attention: adapters, units of its context, what it sees of the image.

Source: METHOD.md 2, 4 and 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

SOFT_TISSUE = (0.42, 0.62)  # -160 to 240 HU on the scale of [-1000, 1000]
VIEWS = 2


class Adapter(nn.Module):
    """Two linear layers beside the frozen features: F' = a T(F) + (1 - a) F."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.first = nn.Conv3d(channels, channels, 1)
        self.second = nn.Conv3d(channels, channels, 1)
        self.ratio = ratio

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        adapted = self.second(F.silu(self.first(x)))
        return self.ratio * adapted + (1 - self.ratio) * x


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each voxel: no statistics over space, so any crop fits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = x.movedim(1, -1)
        normed = F.layer_norm(moved, moved.shape[-1:], self.weight, self.bias)
        return normed.movedim(-1, 1)


class Unit(nn.Module):
    """Convolution, norm, SiLU. The norm makes the step size fit layers of every width.

    Args:
        groups: of a GroupNorm, at most; 0 for a norm over the channels of each voxel.
    """

    def __init__(
        self, channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 8
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, out, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.GroupNorm(math.gcd(groups, out), out) if groups else ChannelNorm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.norm(self.conv(x)))


class ContextBlock(nn.Module):
    """A residual block of two convolutions that starts as the identity."""

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.first = Unit(channels, channels, groups=groups)
        self.second = nn.Conv3d(channels, channels, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x))


class ContextAttention(nn.Module):
    """Self-attention among all voxels of the coarsest level; no positions, so any size fits."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, *size = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            part.reshape(n, -1, self.heads, c // self.heads).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, c)
        return x + self.out(mixed).transpose(1, 2).reshape(n, c, *size)


class TextReducer(nn.Module):
    """An MLP from the whitened text to a level's keys, of length sqrt(C)."""

    def __init__(self, text_channels: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(text_channels, 64), nn.SiLU(), nn.Linear(64, channels)
        )

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        keys = self.layers(t)
        return F.normalize(keys, dim=-1) * math.sqrt(keys.shape[-1])


class ImagePath(nn.Module):
    """What the attention sees of the scan itself, besides the frozen features.

    The small autoencoder keeps what tells a lesion from its organ, but on a scale where a network
    sees next to nothing of it: 30 HU are 0.015 of the range of a CT. So soft tissue has a channel
    of its own. At 4 mm and coarser, a voxel sees all voxels of the scan inside it as channels.

    Args:
        half: channels of the encoder's stage end at half the resolution.
        channels: of this path at 1/2 and at 1/4 of the resolution.
    """

    def __init__(self, half: int, channels: Sequence[int]) -> None:
        super().__init__()
        at_half, at_quarter = channels
        self.join2 = Unit(half + 8 * VIEWS, at_half, groups=0)
        self.block2 = ContextBlock(at_half, groups=0)
        self.down4 = Unit(at_half, at_quarter, stride=2, groups=0)

    def at_half(self, half: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """From adapted features (N, C_1, X/2, ...) and the views of the image (N, 2, X, ...)."""
        return self.block2(self.join2(torch.cat([half, folded(views)], 1)))

    def at_quarter(self, seen: torch.Tensor) -> torch.Tensor:
        """From what `at_half` returned: (N, channels, X/4, ...)."""
        return self.down4(seen)


def views_of(image: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
    """The scan as the attention sees it, (N, 2, X, Y, Z): all of its range, and soft tissue alone.

    Args:
        image: (N, 1, X, Y, Z), normalised.
        modality: (N,), index into MODALITIES. An MR has its darker half in place of soft tissue.
    """
    ct = (modality == 0).view(-1, 1, 1, 1, 1)
    low, high = SOFT_TISSUE
    window = torch.where(ct, (image - low) / (high - low), image * 2).clamp(0, 1)
    return torch.cat([image.clamp(-0.5, 2.0), window], 1) * 2 - 1


def folded(x: torch.Tensor) -> torch.Tensor:
    """(N, C, X, Y, Z) -> (N, 8 C, X/2, Y/2, Z/2): the voxels of each cube of two as channels."""
    n, c, *size = x.shape
    a, b, d = (length // 2 for length in size)
    cubes = x.reshape(n, c, a, 2, b, 2, d, 2).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return cubes.reshape(n, 8 * c, a, b, d)


def upsample(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Trilinear to the size of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode="trilinear")
