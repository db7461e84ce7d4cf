"""The autoencoder in slabs, for scans whose feature maps do not fit into memory.

The result is that of the whole scan: convolutions see all the planes that they depend on, and the
group norms' statistics are those of the whole map (slabs.py). What is not stored is computed
again when it is needed; a `Tiling` says what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from DiffuGTSLib.networks.autoencoder import (
    Autoencoder,
    Downsample,
    ResBlock,
    Upsample,
    WrappedConv,
)
from DiffuGTSLib.networks.slabs import (
    Computed,
    Moments,
    Planes,
    Stored,
    convolved,
    moments,
    normalised,
    store,
    store_over,
)
from DiffuGTSLib.networks.tiling import Range, Tiling, around

BLOCK_REACH = 2  # planes at either side that a residual block's two convolutions see


def encode(
    autoencoder: Autoencoder, x: torch.Tensor, tiling: Tiling,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[torch.Tensor, list[Planes]]:
    """As `Autoencoder.encode_with_features` of one scan.

    Args:
        x: (1, 1, X, Y, Z).
        progress: called after each block with the blocks done and their total; what it raises
            stops the run.

    Returns:
        The mean latent (1, L, X/4, Y/4, Z/4) and the stage ends F_l. A stage end that is not
        stored is computed again, from `x`, each time its planes are read.

    Raises:
        ValueError: more than one scan, or an axis is no multiple of the downscaling.
    """
    if any(n % autoencoder.downscale for n in x.shape[2:]):
        raise ValueError(
            f"each axis must be a multiple of {autoencoder.downscale}, got {tuple(x.shape[2:])}"
        )
    walk = _Walk(tiling)
    features: list[Planes] = []
    planes: Planes = Stored(x)
    level = 0
    for index, block in enumerate(autoencoder.encoder.blocks):
        level += isinstance(block, Downsample)
        planes = walk.through(block, planes, level)
        if index in autoencoder.encoder.stage_ends:
            features.append(planes)
        if progress is not None:
            progress(index + 1, len(autoencoder.encoder.blocks))
    latent = walk.stored(planes).tensor
    return autoencoder.quant_conv_mu(latent), features


def decode(autoencoder: Autoencoder, z: torch.Tensor, tiling: Tiling) -> torch.Tensor:
    """As `Autoencoder.decode` of one latent (1, L, x, y, z), unscaled -> (1, 1, 4x, 4y, 4z)."""
    walk = _Walk(tiling)
    weight = cast(nn.Conv3d, autoencoder.post_quant_conv.conv).weight
    planes: Planes = Stored(autoencoder.post_quant_conv(z.to(weight.dtype)))
    level = len(autoencoder.config.num_channels) - 1
    for block in autoencoder.decoder.blocks:
        level -= isinstance(block, Upsample)
        planes = walk.through(block, planes, level)
    return walk.stored(planes).tensor


class _Walk:
    """Goes through an autoencoder's blocks, storing what the tiling says."""

    def __init__(self, tiling: Tiling) -> None:
        self.tiling = tiling

    def through(self, block: nn.Module, planes: Planes, level: int) -> Planes:
        """The map after a block; `level` is that of the block's output."""
        if isinstance(block, ResBlock):
            return self._residual(block, planes, level)
        if isinstance(block, (nn.GroupNorm, nn.Identity)):
            return _normalised(planes, block, self._statistics(block, planes))
        if isinstance(block, Upsample):
            after = _upsampled(planes, block)
        elif isinstance(block, Downsample):
            after = _downsampled(planes, block)
        else:
            after = _plain(planes, _layer(cast(WrappedConv, block)))
        # Where blocks alone are stored, the next one is made from this map: it is but passed on,
        # unless it is the small one below a Downsample.
        keeps = level >= self.tiling.layers_from or (
            isinstance(block, Downsample) and level >= self.tiling.blocks_from
        )
        return self.stored(after) if keeps else after

    def stored(self, planes: Planes) -> Stored:
        """The map in memory."""
        return planes if isinstance(planes, Stored) else store(planes, self._slab(planes))

    def _slab(self, planes: Planes) -> int:
        return self.tiling.slab(planes.plane_elements)

    def _residual(self, block: ResBlock, x: Planes, level: int) -> Planes:
        slab, length = self._slab(x), x.length
        first = _Half(block.norm1, _layer(block.conv1), self._statistics(block.norm1, x), length)
        middle = first.on(x)
        if level >= self.tiling.layers_from:
            middle = store(middle, slab)
        second = _Half(
            block.norm2, _layer(block.conv2), self._statistics(block.norm2, middle), length
        )
        if isinstance(middle, Stored):
            after = _block_from_middle(block, x, middle, second)
        else:
            after = _block(block, x, first, second)
        if level < self.tiling.blocks_from:
            return after
        if isinstance(x, Stored) and x.shape == after.shape:
            return store_over(x, after, slab, BLOCK_REACH)
        return store(after, slab)

    def _statistics(self, norm: nn.Module, planes: Planes) -> Moments | None:
        if not isinstance(norm, nn.GroupNorm):
            return None
        return moments(planes, norm.num_groups, self._slab(planes))


def _layer(wrapped: WrappedConv) -> nn.Conv3d:
    return cast(nn.Conv3d, wrapped.conv.conv)


def _wide(planes: Planes, channels: int) -> tuple[int, ...]:
    """The map's shape with that many channels."""
    return (1, channels, *planes.shape[2:])


def _normalised(planes: Planes, norm: nn.Module, statistics: Moments | None) -> Planes:
    def make(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        source = planes.windows(ranges)
        for _ in ranges:
            yield normalised(norm, next(source), statistics)

    return Computed(planes.shape, planes, make)


def _plain(planes: Planes, layer: nn.Conv3d) -> Planes:
    """After a convolution that keeps the size."""
    length = planes.length

    def make(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        near = around(ranges, layer.kernel_size[0] // 2, length)
        source = planes.windows(near)
        for wanted, (low, _) in zip(ranges, near, strict=True):
            yield convolved(layer, next(source), low, wanted, length)

    return Computed(_wide(planes, layer.out_channels), planes, make)


@dataclass(frozen=True)
class _Half:
    """Half of a residual block: normalisation, SiLU, convolution."""

    norm: nn.Module
    layer: nn.Conv3d
    statistics: Moments | None
    length: int

    def of(self, x: torch.Tensor, first: int, wanted: Range) -> torch.Tensor:
        """The wanted planes from the planes of `x`, which start at `first`."""
        normed = normalised(self.norm, x, self.statistics)
        x = F.silu(normed, inplace=normed is not x)
        del normed
        return convolved(self.layer, x, first, wanted, self.length)

    def on(self, planes: Planes) -> Planes:
        """What the next normalisation sees."""
        def make(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
            near = around(ranges, 1, self.length)
            source = planes.windows(near)
            for wanted, (low, _) in zip(ranges, near, strict=True):
                yield self.of(next(source), low, wanted)

        return Computed(_wide(planes, self.layer.out_channels), planes, make)


def _block_from_middle(block: ResBlock, x: Planes, middle: Stored, second: _Half) -> Planes:
    """A residual block whose first half is stored."""
    def make(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        near = around(ranges, 1, second.length)
        halves, inputs = middle.windows(near), x.windows(ranges)
        for wanted, (low, _) in zip(ranges, near, strict=True):
            yield second.of(next(halves), low, wanted).add_(block.nin_shortcut(next(inputs)))

    return Computed(middle.shape, x, make)


def _block(block: ResBlock, planes: Planes, first: _Half, second: _Half) -> Planes:
    """A residual block of which nothing is stored."""
    def made(x: torch.Tensor, low: int, wanted: Range) -> torch.Tensor:
        (inner,) = around([wanted], 1, first.length)
        h = second.of(first.of(x, low, inner), inner[0], wanted)
        return h.add_(block.nin_shortcut(x[:, :, wanted[0] - low : wanted[1] - low]))

    def make(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        near = around(ranges, BLOCK_REACH, first.length)
        source = planes.windows(near)
        for wanted, (low, _) in zip(ranges, near, strict=True):
            yield made(next(source), low, wanted)

    return Computed(_wide(planes, second.layer.out_channels), planes, make)


def _downsampled(planes: Planes, block: Downsample) -> Planes:
    """After the halving of each axis: output plane i sees the planes 2i to 2i + 2."""
    layer, length = _layer(block.conv), planes.length

    def make(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        source = planes.windows([(2 * first, min(2 * end + 1, length)) for first, end in ranges])
        for _, end in ranges:
            yield layer(F.pad(next(source), (0, 1, 0, 1, 0, max(0, 2 * end + 1 - length))))

    half = [n // 2 for n in planes.shape[2:]]
    return Computed((1, layer.out_channels, *half), planes, make)


def _upsampled(planes: Planes, block: Upsample) -> Planes:
    """After the doubling of each axis, trilinear and convolution or transposed convolution."""
    layer, length = _layer(block.conv), planes.length

    def transposed(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        near = [(first // 2, min(end // 2 + 1, length)) for first, end in ranges]
        source = planes.windows(near)
        for (first, end), (low, _) in zip(ranges, near, strict=True):
            yield layer(next(source))[:, :, first - 2 * low : end - 2 * low]

    def interpolated(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        # The doubled plane u lies between the planes (u - 1) // 2 and the next one.
        near = [(max(0, (low - 1) // 2), min(length, (high - 2) // 2 + 2))
                for low, high in around(ranges, 1, 2 * length)]
        source = planes.windows(near)
        for wanted, (low, _) in zip(ranges, near, strict=True):
            yield convolved(layer, F.interpolate(next(source), scale_factor=2.0, mode="trilinear"),
                            2 * low, wanted, 2 * length)

    twice = [2 * n for n in planes.shape[2:]]
    make = transposed if block.transposed else interpolated
    return Computed((1, layer.out_channels, *twice), planes, make)
