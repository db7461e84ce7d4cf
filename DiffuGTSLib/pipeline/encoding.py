"""A scan as the networks see it, and a prompt's maps of it (METHOD.md 1 and 2).

Small scans go through the networks in one piece; mirrored, too, where the model wants that. Of
large ones, the attention's two finer levels are computed in slabs: the finest one for each prompt,
the one at half the resolution once or for each prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from DiffuGTSLib.networks import AnomalyAttention, Autoencoder, Texts
from DiffuGTSLib.networks import tiled_autoencoder as tiles
from DiffuGTSLib.networks.attention import CLOSING, Maps, closed
from DiffuGTSLib.networks.device import precision
from DiffuGTSLib.networks.slabs import Computed, Planes, Stored, store
from DiffuGTSLib.networks.tiling import GATE_MARGIN, Range, Tiling, around, spans

# Planes by which slabs overlap, since what is computed at a slab's ends depends on planes beyond.
# At the finest level: three for the two interpolations from the coarser ones, one for the
# convolution. At half the resolution: one for the interpolation, six for the convolutions.
# Multiples of 4 at the finest level, even at half the resolution.
MARGIN = 4
HALF_MARGIN = 8
StepsDone = Callable[[int, int], None]


@dataclass(frozen=True)
class FineLevels:
    """What the attention's two finer levels are computed from, in slabs.

    Attributes:
        finest: F_0 of the autoencoder, (1, C_0, X, Y, Z).
        half: the attention's level at half the resolution, concatenated along the channels: its
            features (2 C_1), the gate's queries (G) and the context for the finest level.
        image: the normalised scan, (1, 1, X, Y, Z).
        modality: (1,), index into MODALITIES.
    """

    finest: Planes
    half: Planes
    image: torch.Tensor
    modality: torch.Tensor


@dataclass(frozen=True)
class Encoding:
    """What a prompt's maps are computed from.

    Attributes:
        latent: mu(E(I)), unscaled, (1, L, X/4, Y/4, Z/4).
        features: adapted features concatenated with their context, a tensor a level; the coarsest
            level alone where there is `fine`.
        gate_queries: (1, G, X/2, Y/2, Z/2); none where there is `fine`.
        fine: the finer levels of a scan that was encoded in slabs.
        slab: planes of the slabs in which maps are computed, a multiple of 4; None for one piece.
    """

    latent: torch.Tensor
    features: list[torch.Tensor]
    gate_queries: torch.Tensor | None
    fine: FineLevels | None = None
    slab: int | None = None

    @property
    def length(self) -> int:
        """Planes of the finest level, X."""
        return self.fine.finest.length if self.fine else self.features[0].shape[2]


def encode(
    autoencoder: Autoencoder, attention: AnomalyAttention, x: torch.Tensor,
    modality: torch.Tensor, tiling: Tiling | None = None, progress: StepsDone | None = None,
) -> Encoding:
    """Latent, features and their context: what of a scan depends on no prompt.

    In one piece, the scan is also seen mirrored along each of the attention's `mirrors`. A map's
    logits are linear in the concatenated features and in the gate's queries, so that the mean of
    these gives the mean of the maps, at no cost for further prompts.

    Args:
        x: (1, 1, X, Y, Z), each axis a multiple of 16.
        modality: (1,), index into MODALITIES.
        tiling: how a large scan is tiled; None for one piece.
        progress: called with the steps done and their total; what it raises stops the run.
    """
    report = progress or (lambda done, total: None)
    device = x.device.type
    if tiling is None:
        with precision(device):
            latent, stage_ends = autoencoder.encode_with_features(x.to(autoencoder.dtype))
            steps = 2 + len(attention.config.mirrors)
            report(1, steps)
            levels, gate_queries = attention.visual(stage_ends, modality, x)
            del stage_ends
            report(2, steps)
            for done, axis in enumerate(attention.config.mirrors, 3):
                _add_mirrored(autoencoder, attention, x, modality, axis, [*levels, gate_queries])
                report(done, steps)
            for seen in (*levels, gate_queries):
                seen /= 1 + len(attention.config.mirrors)
        return Encoding(latent, levels, gate_queries)
    with precision(device):
        latent, planes = tiles.encode(autoencoder, x, tiling, report)
        coarsest, half = _coarser_levels(attention, planes, x, modality, tiling)
        if tiling.layers_from <= 1:
            half = store(half, _even_slab(tiling, half))
    fine = FineLevels(planes[0], half, x, modality)
    return Encoding(latent, [coarsest], None, fine, tiling.map_slab(x.shape[2:]))


def _add_mirrored(
    autoencoder: Autoencoder, attention: AnomalyAttention, x: torch.Tensor,
    modality: torch.Tensor, axis: int, seen: Sequence[torch.Tensor],
) -> None:
    """Adds what is seen of the scan mirrored along an axis, mirrored back, to what was `seen`."""
    mirrored = x.flip(2 + axis).to(autoencoder.dtype)
    levels, gate_queries = attention.visual(
        autoencoder.encode_with_features(mirrored)[1], modality, x.flip(2 + axis))
    for own, other in zip(seen, (*levels, gate_queries), strict=True):
        own += other.flip(2 + axis)


def _coarser_levels(
    attention: AnomalyAttention, stage_ends: Sequence[Planes], image: torch.Tensor,
    modality: torch.Tensor, tiling: Tiling,
) -> tuple[torch.Tensor, Planes]:
    """The coarsest level's features, in one piece, and `FineLevels.half`."""
    half, quarter = stage_ends[1:]

    def seen_of(x: torch.Tensor, low: int, high: int) -> torch.Tensor | None:
        return attention.seen_at_half(
            x, attention.views(_planes(image, 2 * low, 2 * high), modality))

    def slab(x: torch.Tensor, low: int, high: int) -> torch.Tensor:
        context, gate = (_planes(y, low // 2, high // 2) for y in (coarse.context, coarse.gate))
        level = attention.half_level(x, seen_of(x, low, high), context, gate)
        return torch.cat([level.features, level.gate, level.context], 1)

    def make(ranges: Sequence[Range]) -> Iterator[torch.Tensor]:
        wider = around(ranges, HALF_MARGIN, half.length)
        source = half.windows(wider)
        for (first, end), (low, high) in zip(ranges, wider, strict=True):
            # Nothing of a slab may stay alive here while the next one is computed.
            yield _planes(slab(next(source), low, high), first - low, end - low)

    seen = None
    if attention.sees_image:
        seen = _seen_at_quarter(attention, half, seen_of, _even_slab(tiling, half))
    coarse = attention.coarse_level(next(quarter.slabs(quarter.length)), seen, modality)
    channels = 2 * half.shape[1] + coarse.gate.shape[1] + attention.finest_context
    return coarse.features, Computed((1, channels, *half.shape[2:]), half, make)


def _even_slab(tiling: Tiling, half: Planes) -> int:
    return max(2, tiling.slab(half.plane_elements) // 2 * 2)


def _seen_at_quarter(
    attention: AnomalyAttention, half: Planes,
    seen_of: Callable[[torch.Tensor, int, int], torch.Tensor | None], slab: int,
) -> torch.Tensor:
    """What the attention's image path sees at a quarter of the resolution, in one piece."""
    ranges = spans(half.length, slab)
    wider = around(ranges, HALF_MARGIN, half.length)
    source, parts = half.windows(wider), []
    for (first, end), (low, high) in zip(ranges, wider, strict=True):
        quarter = attention.seen_at_quarter(seen_of(next(source), low, high))
        assert quarter is not None
        parts.append(_planes(quarter, (first - low) // 2, (end - low) // 2).clone())
    return torch.cat(parts, 2)


def maps(
    attention: AnomalyAttention, encoding: Encoding, texts: Texts
) -> Iterator[Maps]:
    """The maps of a prompt, (1, T, n, Y, Z) each: slabs that follow each other along X."""
    rows = (texts.normal, texts.abnormal, texts.gate)
    texts = Texts(*(row.to(attention.dtype) for row in rows))
    ranges = spans(encoding.length, encoding.slab or encoding.length)
    wider = around(ranges, MARGIN, encoding.length)
    widest = around(ranges, GATE_MARGIN, encoding.length)
    inputs = _inputs(attention, encoding, wider, widest)
    for (first, end), (low, high), (gate_low, gate_high) in zip(
        ranges, wider, widest, strict=True
    ):
        levels, queries = next(inputs)
        with precision(texts.gate.device.type):
            inner = _planes(queries, (low - gate_low) // 2, (high - gate_low) // 2)
            made = attention.attend(levels, inner, texts)
            # The gate of a slab is wrong at its ends: it is computed again from more planes.
            complete = (gate_low, gate_high) == (low, high)
            gate = made.gate if complete else _gate(attention, queries, texts)
        del levels
        yield Maps(_planes(made.anomaly, first - low, end - low),
                   _planes(gate, first - gate_low, end - gate_low))


def gate_map(
    attention: AnomalyAttention, encoding: Encoding, texts: Texts
) -> torch.Tensor | None:
    """The organ gate alone, logits (1, T, X, Y, Z); None of a scan that was encoded in slabs."""
    if encoding.gate_queries is None:
        return None
    rows = (texts.normal, texts.abnormal, texts.gate)
    with precision(texts.gate.device.type):
        return _gate(attention, encoding.gate_queries,
                     Texts(*(row.to(attention.dtype) for row in rows)))


def _gate(attention: AnomalyAttention, queries: torch.Tensor, texts: Texts) -> torch.Tensor:
    gate = closed(attention.gates(queries, texts), CLOSING)
    return F.interpolate(gate, scale_factor=2, mode="trilinear")


def _inputs(
    attention: AnomalyAttention, encoding: Encoding, ranges: Sequence[Range],
    gate_ranges: Sequence[Range],
) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
    """The three levels' features for ranges of the finest level's planes, and the gate's queries
    for the wider ranges around them."""
    halves, gate_halves = _halved(ranges), _halved(gate_ranges)
    quarters = Stored(encoding.features[-1]).windows(_halved(halves))
    if encoding.fine is None:
        assert encoding.gate_queries is not None
        finest, half = (Stored(level) for level in encoding.features[:2])
        gates = Stored(encoding.gate_queries).windows(gate_halves)
        levels = zip(finest.windows(ranges), half.windows(halves), quarters, strict=True)
        yield from ((list(level), next(gates)) for level in levels)
        return
    fine, config = encoding.fine, attention.config
    device = encoding.latent.device.type
    finest_slabs, half_slabs = fine.finest.windows(ranges), fine.half.windows(gate_halves)
    widths = [2 * config.feature_channels[1], config.gate_channels, attention.finest_context]
    for (low, high), (gate_low, _) in zip(halves, gate_halves, strict=True):
        with precision(device):
            features, gates, context = next(half_slabs).split(widths, 1)
            features, context = (
                _planes(y, low - gate_low, high - gate_low) for y in (features, context)
            )
            coarser = [features, next(quarters)]
            # No name for the finest level: it would stay alive while the next slab is computed.
            views = attention.views(_planes(fine.image, 2 * low, 2 * high), fine.modality)
            yield [attention.fine_level(next(finest_slabs), views, context), *coarser], gates


def _halved(ranges: Sequence[Range]) -> list[Range]:
    """Ranges of the planes at half the resolution."""
    return [(low // 2, high // 2) for low, high in ranges]


def _planes(x: torch.Tensor, first: int, end: int) -> torch.Tensor:
    return x[:, :, first:end]
