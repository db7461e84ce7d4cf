"""Streamed feature maps: plane by plane along X, so that a layer never needs its maps at once.

A map is either stored, or computed in slabs each time it is needed. Every output plane of a layer
is computed from all the planes that it depends on, and a normalisation takes its statistics from
the whole map: the result is that of the whole volume, by construction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from DiffuGTSLib.networks.device import convolve
from DiffuGTSLib.networks.tiling import Range, spans


class Planes(ABC):
    """A feature map (1, C, X, Y, Z) that is read in slabs of planes along X.

    Args:
        shape: of the whole map.
        device: where its slabs lie.
        source_elements: in memory for one plane of it, of the widest map that it is made from.
    """

    def __init__(
        self, shape: Sequence[int], device: torch.device, source_elements: float = 0.0
    ) -> None:
        if len(shape) != 5 or shape[0] != 1:
            raise ValueError(f"one map of shape (1, C, X, Y, Z) is needed, got {tuple(shape)}")
        self.shape = tuple(shape)
        self.device = device
        self.plane_elements = max(float(shape[1] * shape[3] * shape[4]), source_elements)

    @property
    def length(self) -> int:
        """The number of planes, X."""
        return self.shape[2]

    @abstractmethod
    def windows(self, ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        """The planes of each range, (1, C, n, Y, Z); both ends of the ranges never go back."""

    def slabs(self, planes: int) -> Iterator[torch.Tensor]:
        """The whole map in slabs of that many planes; the last may be thinner."""
        return self.windows(spans(self.length, planes))


class Stored(Planes):
    """A map in memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor.shape, tensor.device)
        self.tensor = tensor

    def windows(self, ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        for first, end in ranges:
            yield self.tensor[:, :, first:end]


class Computed(Planes):
    """A map that is computed in slabs each time it is read; only what overlaps is kept.

    Args:
        shape: of the whole map.
        source: what it is made from.
        make: computes the planes of each of the ranges, which follow each other from plane 0 on.
    """

    def __init__(
        self, shape: Sequence[int], source: Planes,
        make: Callable[[Sequence[Range]], Iterator[torch.Tensor]],
    ) -> None:
        # Below a Downsample, a plane takes two of the source's; above an Upsample, half a one.
        source_elements = source.plane_elements * source.length / shape[2]
        super().__init__(shape, source.device, source_elements)
        self._make = make

    def windows(self, ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        ends = sorted({end for _, end in ranges})
        slabs = self._make(list(zip([0, *ends[:-1]], ends, strict=True)))
        held: torch.Tensor | None = None
        made = 0
        for index, (first, end) in enumerate(ranges):
            if end > made:
                new = next(slabs)
                held = new if held is None else torch.cat((held, new), 2)
                del new
                made = end
            assert held is not None
            window = held[:, :, held.shape[2] - (made - first):]
            if index + 1 < len(ranges):
                # A copy of what the next window needs, or the whole slab would stay in memory.
                held = window[:, :, ranges[index + 1][0] - first:].clone()
            given = [window]
            del window  # the receiver alone holds it, and may let go of it early
            yield given.pop()


def store(planes: Planes, slab: int) -> Stored:
    """A map in memory, computed in slabs of `slab` planes."""
    out: torch.Tensor | None = None
    first = 0
    for made in planes.slabs(slab):
        if out is None:
            out = torch.empty(
                planes.shape, dtype=made.dtype, device=made.device,
                memory_format=torch.channels_last_3d,
            )
        out[:, :, first : first + made.shape[2]] = made
        first += made.shape[2]
        del made  # here and below: before the next slab is computed, not after
    assert out is not None
    return Stored(out)


def store_over(old: Stored, planes: Planes, slab: int, reach: int) -> Stored:
    """As `store`, into the memory of the map from which `planes` are made.

    Args:
        old: of the same shape; its content is lost.
        planes: plane i of them depends on the planes i - reach to i + reach of `old`.
        reach: smaller than `slab`.
    """
    if old.shape != planes.shape:
        raise ValueError(f"{planes.shape} does not fit over {old.shape}")
    # The last planes wait: the next slab is still made from what lies in their place.
    waiting = old.tensor[:, :, :0]
    first = 0
    for made in planes.slabs(slab):
        end = first + made.shape[2]
        ready = max(first, end - reach)
        old.tensor[:, :, first - waiting.shape[2] : first] = waiting
        old.tensor[:, :, first:ready] = made[:, :, : ready - first]
        waiting = made[:, :, ready - first:].clone()
        first = end
        del made
    old.tensor[:, :, first - waiting.shape[2] : first] = waiting
    return old


@dataclass(frozen=True)
class Moments:
    """Mean and variance by channel, float32 (C,): those of the channel's group."""

    mean: torch.Tensor
    variance: torch.Tensor


def moments(planes: Planes, groups: int, slab: int) -> Moments:
    """The statistics of a GroupNorm over the whole map, gathered slab by slab."""
    voxels, means, variances = [], [], []
    for made in planes.slabs(slab):
        voxels.append(made[0, 0].numel())
        mean, variance = _channel_moments(made)
        means.append(mean)
        variances.append(variance)
        del made
    share = torch.tensor(voxels, dtype=torch.float64) / sum(voxels)
    weights = share[:, None, None].to(means[0].device)
    # (slabs, groups, channels of a group): the variance within each part and that of their means.
    by_part, within = (torch.stack(values).double().unflatten(1, (groups, -1))
                       for values in (means, variances))
    mean = (weights * by_part).sum(0).mean(1)
    variance = (weights * (within + (by_part - mean[:, None]) ** 2)).sum(0).mean(1)
    each = by_part.shape[2]
    return Moments(*(value.repeat_interleave(each).float() for value in (mean, variance)))


def _channel_moments(slab: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel of a slab, float32 (C,)."""
    over = (0, 2, 3, 4)
    if slab.dtype == torch.float32:
        variance, mean = torch.var_mean(slab, over, correction=0)
        return mean, variance
    # Half precision: summed in float32 without a copy of the slab.
    voxels = slab[0, 0].numel()
    mean = slab.sum(over, dtype=torch.float32) / voxels
    norm = torch.linalg.vector_norm(slab, dim=over, dtype=torch.float32)
    return mean, (norm**2 / voxels - mean**2).clamp_min(0)


def normalised(norm: nn.Module, x: torch.Tensor, statistics: Moments | None) -> torch.Tensor:
    """A slab after a GroupNorm whose statistics are known, or after none (nn.Identity)."""
    if statistics is None or not isinstance(norm, nn.GroupNorm):
        return x
    # With the statistics given, a BatchNorm computes the same, in one pass and in float32 within.
    return F.batch_norm(
        x, statistics.mean, statistics.variance, norm.weight.float(), norm.bias.float(),
        training=False, eps=norm.eps,
    )


def convolved(
    layer: nn.Conv3d, x: torch.Tensor, first: int, wanted: Range, length: int
) -> torch.Tensor:
    """Planes of a convolution of kernel 3 or 1, stride 1, which keeps the size.

    Args:
        x: planes of the input from plane `first` on; at least those around the wanted ones.
        wanted: planes of the output.
        length: planes of the whole input, beyond which there are zeros.
    """
    reach = layer.kernel_size[0] // 2
    low, high = wanted[0] - reach, wanted[1] + reach
    x = x[:, :, max(0, low) - first : min(length, high) - first]
    if low < 0 or high > length:
        x = F.pad(x, (0, 0, 0, 0, max(0, -low), max(0, high - length)))
    return convolve(x.to(layer.weight.dtype), layer.weight, layer.bias, (0, reach, reach))
