"""A scan as the networks see it, and the maps that a prompt gets from it (METHOD.md 1 and 2).

Small scans go through the networks whole; mirrored, too, where the model asks for that. Of large
ones, the attention's two finer levels are made in slabs: the finest one for each prompt, the one at
half the resolution once or for each prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle

from DiffuGTSLib.networks import tiled_autoencoder as tiles
from DiffuGTSLib.networks.attention import CLOSING, AnomalyAttention, Maps, Texts, closed
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.device import precision
from DiffuGTSLib.networks.slabs import Computed, Planes, Range, Stored, around, spans, store
from DiffuGTSLib.networks.tiled_autoencoder import Tiling

# Planes at a slab's ends that its neighbours give instead, since they see beyond the slab. At the
# finest level: three for the two interpolations from the coarser ones. For the gate: nine for its
# closing and interpolation. At half the resolution: one for the interpolation, three for the
# convolutions. Multiples of 4 at the finest level, even at half the resolution.
MARGIN = 4
GATE_MARGIN = 12
HALF_MARGIN = 6
LEAST_SLAB = 8
# The least sizes that the attention takes at a half and a quarter of the resolution.
SMALLEST_LEVELS = (8, 4)
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class FineLevels:
    """The attention's two finer levels, given out in slabs.

    Attributes:
        finest: F_0 of the autoencoder, (1, C_0, X, Y, Z).
        half: of the level at half the resolution, one after the other in the channels: the joined
            features (2 C_1), the gate's queries (G) and what the context path hands down to the
            finest level (C_0).
        modality: (1,), index into MODALITIES.
    """

    finest: Planes
    half: Planes
    modality: torch.Tensor


@dataclass(frozen=True)
class Encoding:
    """What prompts are asked of.

    Attributes:
        latent: mu(E(I)), unscaled, (1, L, X/4, Y/4, Z/4).
        joined: adapted features with their context, a tensor a level; the coarsest level alone
            where there is `fine`.
        gate_queries: (1, G, X/2, Y/2, Z/2); none where there is `fine`.
        fine: the finer levels of a scan that was encoded in slabs.
        slab: planes of the slabs in which maps are made, a multiple of 4; None for the whole.
    """

    latent: torch.Tensor
    joined: list[torch.Tensor]
    gate_queries: torch.Tensor | None
    fine: FineLevels | None = None
    slab: int | None = None

    @property
    def length(self) -> int:
        """Planes of the finest level, X."""
        return self.fine.finest.length if self.fine else self.joined[0].shape[2]


def encode(
    autoencoder: Autoencoder, attention: AnomalyAttention, x: torch.Tensor,
    modality: torch.Tensor, tiling: Tiling | None = None, tick: Tick | None = None,
) -> Encoding:
    """Latent, features and their context: what of a scan depends on no prompt.

    In one piece, the scan is also seen mirrored along each of the attention's `mirrors`. A map's
    logits are linear in the joined features and in the gate's queries, so that the mean of these
    gives the mean of the maps, at no cost for further prompts.

    Args:
        x: (1, 1, X, Y, Z), each axis a multiple of 16.
        modality: (1,), index into MODALITIES.
        tiling: how a large scan is cut; None for the whole at once.
        tick: told how many steps of how many are done; what it raises stops the run.
    """
    told = tick or (lambda done, total: None)
    device = x.device.type
    if tiling is None:
        with precision(device):
            latent, features = autoencoder.encode_with_features(x.to(autoencoder.dtype))
            steps = 2 + len(attention.config.mirrors)
            told(1, steps)
            levels, gate_queries = attention.visual(features, modality)
            del features
            told(2, steps)
            for done, axis in enumerate(attention.config.mirrors, 3):
                _add_mirrored(autoencoder, attention, x, modality, axis, [*levels, gate_queries])
                told(done, steps)
            for seen in (*levels, gate_queries):
                seen /= 1 + len(attention.config.mirrors)
        return Encoding(latent, levels, gate_queries)
    with precision(device):
        latent, planes = tiles.encode(autoencoder, x, tiling, told)
        joined, half = _context(attention, planes, modality)
        if tiling.layers_from <= 1:
            half = store(half, max(2, tiling.slab(half) // 2 * 2))
    slab = attending(tiling, x.shape[2:])
    return Encoding(latent, [joined], None, FineLevels(planes[0], half, modality), slab)


def _add_mirrored(
    autoencoder: Autoencoder, attention: AnomalyAttention, x: torch.Tensor,
    modality: torch.Tensor, axis: int, seen: Sequence[torch.Tensor],
) -> None:
    """Adds what is seen of the scan mirrored along an axis, turned back, to what was `seen`."""
    turned = x.flip(2 + axis).to(autoencoder.dtype)
    levels, gate_queries = attention.visual(autoencoder.encode_with_features(turned)[1], modality)
    for own, other in zip(seen, (*levels, gate_queries), strict=True):
        own += other.flip(2 + axis)


def attending(tiling: Tiling, size: Sequence[int]) -> int:
    """Planes of a slab in which the maps of a scan of that size are made, a multiple of 4."""
    # Its feature maps are of the width of F_0 and of twice that, several at a time.
    planes = tiling.slab_elements // (128 * size[1] * size[2])
    return max(LEAST_SLAB, planes // 4 * 4)


def _context(
    attention: AnomalyAttention, features: list[Planes], modality: torch.Tensor
) -> tuple[torch.Tensor, Planes]:
    """The coarsest level's joined features, whole, and `FineLevels.half`.

    What a level knows of the coarser ones, it knows through `narrow2`, `narrow1` and
    `gate_context` alone. So each level is asked for by itself: a few voxels stand for the others,
    and where the coarser one hands its context down, the true one takes the place of theirs.
    """
    finest, half, quarter = features
    handed_down: list[torch.Tensor] = []
    with _seen(attention.context.narrow2, handed_down), _seen(attention.gate_context, handed_down):
        coarsest = next(quarter.slabs(quarter.length))
        voxels = [coarsest.new_zeros(1, level.shape[1], 1, 1, 1) for level in (finest, half)]
        joined, queries = attention.visual([*voxels, coarsest], modality)
        context, organs = handed_down
    small = joined[2].new_zeros(1, quarter.shape[1], *[SMALLEST_LEVELS[1]] * 3)

    def slab(x: torch.Tensor, first: int, end: int) -> torch.Tensor:
        above, organ = (_planes(y, first // 2, end // 2) for y in (context, organs))
        handed: list[torch.Tensor] = []
        with _replaced(attention.context.narrow2, _doubled(above, x)), \
                _replaced(attention.gate_context, organ), \
                _seen(attention.context.narrow1, handed):
            levels, gates = attention.visual([voxels[0], x, small], modality)
        return torch.cat([levels[1], gates, handed[0]], 1)

    def make(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        near = around(ranges, HALF_MARGIN, half.length)
        source = half.windows(near)
        for (first, end), (low, high) in zip(ranges, near, strict=True):
            yield slab(next(source), low, high)[:, :, first - low : end - low]

    channels = 2 * half.shape[1] + queries.shape[1] + finest.shape[1]
    return joined[2], Computed((1, channels, *half.shape[2:]), half, make)


def maps(
    attention: AnomalyAttention, encoding: Encoding, texts: Texts
) -> Iterator[Maps]:
    """The maps of a prompt, (1, T, n, Y, Z) each: slabs that follow each other along X."""
    rows = (texts.normal, texts.abnormal, texts.gate)
    texts = Texts(*(row.to(attention.dtype) for row in rows))
    ranges = spans(encoding.length, encoding.slab or encoding.length)
    near = around(ranges, MARGIN, encoding.length)
    far = around(ranges, GATE_MARGIN, encoding.length)
    inputs = _inputs(attention, encoding, near, far)
    for (first, end), (low, high), (least, most) in zip(ranges, near, far, strict=True):
        levels, queries = next(inputs)
        with precision(texts.gate.device.type):
            inner = _planes(queries, (low - least) // 2, (high - least) // 2)
            made = attention.attend(levels, inner, texts)
            # The gate of a slab is wrong at its ends: it is made again from more planes.
            whole = (least, most) == (low, high)
            gate = made.gate if whole else _gate(attention, queries, texts)
        del levels
        yield Maps(_planes(made.anomaly, first - low, end - low),
                   _planes(gate, first - least, end - least))


def _gate(attention: AnomalyAttention, queries: torch.Tensor, texts: Texts) -> torch.Tensor:
    gate = closed(attention.gates(queries, texts), CLOSING)
    return F.interpolate(gate, scale_factor=2, mode="trilinear")


def _inputs(
    attention: AnomalyAttention, encoding: Encoding, near: Sequence[Range], far: Sequence[Range]
) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    """The joined features of ranges of the finest level's planes, and the gate's queries of wider
    ones around them."""
    finer, halves, wide = near, _halved(near), _halved(far)
    quarters = Stored(encoding.joined[-1]).windows(_halved(halves))
    if encoding.fine is None:
        assert encoding.gate_queries is not None
        finest, half = (Stored(level) for level in encoding.joined[:2])
        gates = Stored(encoding.gate_queries).windows(wide)
        levels = zip(finest.windows(finer), half.windows(halves), quarters, strict=True)
        yield from ((list(level), next(gates)) for level in levels)
        return
    fine, config = encoding.fine, attention.config
    device = encoding.latent.device.type
    finest_slabs, half_slabs = fine.finest.windows(finer), fine.half.windows(wide)
    widths = [2 * config.feature_channels[1], config.gate_channels, config.feature_channels[0]]
    for (low, high), (least, _) in zip(halves, wide, strict=True):
        with precision(device):
            x = next(finest_slabs)
            joined, gates, context = next(half_slabs).split(widths, 1)
            joined, context = (_planes(y, low - least, high - least) for y in (joined, context))
            yield [_finest(attention, x, context, fine.modality), joined, next(quarters)], gates


def _halved(ranges: Sequence[Range]) -> list[Range]:
    """Ranges of the planes at half the resolution."""
    return [(low // 2, high // 2) for low, high in ranges]


def _planes(x: torch.Tensor, first: int, end: int) -> torch.Tensor:
    return x[:, :, first:end]


def _finest(
    attention: AnomalyAttention, x: torch.Tensor, context: torch.Tensor, modality: torch.Tensor
) -> torch.Tensor:
    """The finest level's features with their context."""
    small = [
        x.new_zeros(1, channels, n, n, n)
        for channels, n in zip(attention.config.feature_channels[1:], SMALLEST_LEVELS, strict=True)
    ]
    with _replaced(attention.context.narrow1, _doubled(context, x)):
        return attention.visual([x, *small], modality)[0][0]


def _doubled(context: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(context, size=like.shape[2:], mode="trilinear")


def _seen(module: nn.Module, outputs: list[torch.Tensor]) -> RemovableHandle:
    """While it is held, what the module puts out is appended to `outputs`."""
    def look(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        outputs.append(output)

    return module.register_forward_hook(look)


def _replaced(module: nn.Module, output: torch.Tensor) -> RemovableHandle:
    """While it is held, the module puts out `output`."""
    return module.register_forward_hook(lambda *_: output)
