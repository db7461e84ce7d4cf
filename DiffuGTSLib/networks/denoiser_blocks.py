"""The blocks and levels of the denoising UNet, under the parameter names of MAISI's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from DiffuGTSLib.networks.autoencoder import Conv


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of one network share.

    Attributes:
        embedding: length of the embedding of time and conditioning.
        groups: groups of GroupNorm.
        eps: epsilon of GroupNorm.
        include_fc: a linear layer after each attention.
        resblock_updown: change the resolution in residual blocks, not in plain convolutions.
    """

    embedding: int
    groups: int
    eps: float
    include_fc: bool
    resblock_updown: bool


def zeroed_conv(in_channels: int, out_channels: int) -> Conv:
    """A convolution that starts at zero, so that a fresh block changes nothing."""
    layer = Conv(in_channels, out_channels)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def doubled(x: torch.Tensor) -> torch.Tensor:
    """(N, C, X, Y, Z) -> (N, C, 2X, 2Y, 2Z), each voxel repeated."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def halved(x: torch.Tensor) -> torch.Tensor:
    """(N, C, X, Y, Z) -> (N, C, X/2, Y/2, Z/2), the mean of each 2 x 2 x 2."""
    if x.dtype == torch.float32:  # else the sum would round
        # Unlike the pooling functions it leaves a channels-last map so, and is 10 times as fast.
        corners = [x[:, :, i::2, j::2, k::2] for i, j, k in product((0, 1), repeat=3)]
        return sum(corners[1:], start=corners[0]) / 8
    # Not avg_pool3d: it knows no half precision on CPUs.
    return F.adaptive_avg_pool3d(x, (x.shape[2] // 2, x.shape[3] // 2, x.shape[4] // 2))


def activated(x: torch.Tensor) -> torch.Tensor:
    """SiLU of a map that nothing else reads, in its memory where no gradient is taken."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def added(x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """x + h, in the memory of `h`, which nothing else reads, where the sum would be laid out so."""
    alike = h.dtype == x.dtype and h.stride() == x.stride()
    return h.add_(x) if alike else x + h


class ResBlock(nn.Module):
    """A residual block conditioned on the time; optionally changes the resolution on its way."""

    def __init__(
        self, in_channels: int, out_channels: int, options: BlockOptions,
        resample: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(options.groups, in_channels, options.eps)
        self.conv1 = Conv(in_channels, out_channels)
        self.time_emb_proj = nn.Linear(options.embedding, out_channels)
        self.norm2 = nn.GroupNorm(options.groups, out_channels, options.eps)
        self.conv2 = zeroed_conv(out_channels, out_channels)
        self.skip_connection: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip_connection = Conv(in_channels, out_channels, kernel=1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = activated(self.norm1(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        shift = self.time_emb_proj(F.silu(embedding))[:, :, None, None, None]
        h = self.conv1(h).add_(shift)
        h = self.conv2(activated(self.norm2(h)))
        return added(self.skip_connection(x), h)


class Attention(nn.Module):
    """Multi-head self-attention over a sequence (N, L, C)."""

    def __init__(self, channels: int, head_channels: int, include_fc: bool) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.out_proj: nn.Module = nn.Linear(channels, channels) if include_fc else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        h = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(h.transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Self-attention between all voxels, and the way around it."""

    def __init__(self, channels: int, head_channels: int, options: BlockOptions) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(options.groups, channels, options.eps)
        self.attn = Attention(channels, head_channels, options.include_fc)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.attn(self.norm(x).flatten(2).transpose(1, 2))
        return added(x, h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halves each axis by a convolution of stride 2; the time plays no part."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv(channels, channels, stride=2)

    def forward(self, x: torch.Tensor, _embedding: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Doubles each axis, then a convolution; the time plays no part."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.postconv = Conv(channels, channels)

    def forward(self, x: torch.Tensor, _embedding: torch.Tensor) -> torch.Tensor:
        return self.postconv(doubled(x))


class Level(nn.Module):
    """The residual blocks of one level on one side, each with its attention where there is one."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, head_channels: int | None,
        options: BlockOptions,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(n, out_channels, options) for n in in_channels)
        self.attentions = nn.ModuleList()
        if head_channels is not None:
            self.attentions.extend(
                AttentionBlock(out_channels, head_channels, options) for _ in in_channels
            )

    def block(self, index: int, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        x = self.resnets[index](x, embedding)
        return self.attentions[index](x) if len(self.attentions) else x


class DownLevel(Level):
    """A level on the way down; leaves what the way up will need in `skips`."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, head_channels: int | None,
        options: BlockOptions, last: bool,
    ) -> None:
        super().__init__(in_channels, out_channels, head_channels, options)
        self.downsampler: nn.Module | None = None
        if not last:
            self.downsampler = (
                ResBlock(out_channels, out_channels, options, halved)
                if options.resblock_updown else Downsample(out_channels)
            )

    def forward(
        self, x: torch.Tensor, embedding: torch.Tensor, skips: list[torch.Tensor]
    ) -> torch.Tensor:
        for index in range(len(self.resnets)):
            x = self.block(index, x, embedding)
            skips.append(x)
        if self.downsampler is not None:
            x = self.downsampler(x, embedding)
            skips.append(x)
        return x


class UpLevel(Level):
    """A level on the way up; each block takes one of `skips`, the latest first."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, head_channels: int | None,
        options: BlockOptions, last: bool,
    ) -> None:
        super().__init__(in_channels, out_channels, head_channels, options)
        self.upsampler: nn.Module | None = None
        if not last:
            self.upsampler = (
                ResBlock(out_channels, out_channels, options, doubled)
                if options.resblock_updown else Upsample(out_channels)
            )

    def forward(
        self, x: torch.Tensor, embedding: torch.Tensor, skips: list[torch.Tensor]
    ) -> torch.Tensor:
        for index in range(len(self.resnets)):
            x = self.block(index, torch.cat((x, skips.pop()), dim=1), embedding)
        return x if self.upsampler is None else self.upsampler(x, embedding)


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, head_channels: int, options: BlockOptions) -> None:
        super().__init__()
        self.resnet_1 = ResBlock(channels, channels, options)
        self.attention = AttentionBlock(channels, head_channels, options)
        self.resnet_2 = ResBlock(channels, channels, options)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return self.resnet_2(self.attention(self.resnet_1(x, embedding)), embedding)


def way_down(
    widths: Sequence[int], blocks: Sequence[int], heads: Sequence[int | None],
    options: BlockOptions,
) -> nn.ModuleList:
    """The levels from the finest to the coarsest; `heads` is None where a level does not attend."""
    levels = nn.ModuleList()
    before = widths[0]
    for level, width in enumerate(widths):
        inputs = [before] + [width] * (blocks[level] - 1)
        last = level == len(widths) - 1
        levels.append(DownLevel(inputs, width, heads[level], options, last))
        before = width
    return levels


def way_up(
    widths: Sequence[int], blocks: Sequence[int], heads: Sequence[int | None],
    options: BlockOptions,
) -> nn.ModuleList:
    """The levels from the coarsest to the finest, each with one block more than on the way down."""
    levels = nn.ModuleList()
    before = widths[-1]
    for level in reversed(range(len(widths))):
        width = widths[level]
        # The last block of a level meets what came down into it: the width of the level above.
        skips = [width] * blocks[level] + [widths[max(level - 1, 0)]]
        inputs = [before + skips[0]] + [width + n for n in skips[1:]]
        levels.append(UpLevel(inputs, width, heads[level], options, last=level == 0))
        before = width
    return levels
