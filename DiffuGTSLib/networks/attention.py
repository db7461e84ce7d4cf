"""Anomaly-aware open-vocabulary attention: from frozen features and texts to AOVA maps.

Source: METHOD.md 2, with the context path and the organ gate, chosen by text, that the embedded
model needs (METHOD.md 4 and 8). Everything here is trained; the features come from the frozen
encoder.

What normalises over space sees a large scan in tiles about as large as its training windows.

Over a whole chest at once, the attention's context responded less to lung lesions than in a window
(Dice 0.14 against 0.20, attention alone, on four synthetic lesions in training scans).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from DiffuGTSLib.networks.attention_blocks import (
    VIEWS,
    Adapter,
    ChannelNorm,
    ContextAttention,
    ContextBlock,
    ImagePath,
    TextReducer,
    Unit,
    upsample,
    views_of,
)
from DiffuGTSLib.networks.tiling import TILE, blending_weights, starts

MODALITIES = ("CT", "MR")
CLOSING = 5  # voxels of the gate's grid


@dataclass(frozen=True)
class Texts:
    """Embeddings of the prompts, one row each.

    Attributes:
        normal, abnormal: (T, E), the organ's normal and abnormal state.
        gate: (T, E), the organ itself.
    """

    normal: torch.Tensor
    abnormal: torch.Tensor
    gate: torch.Tensor


@dataclass(frozen=True)
class Maps:
    """What the attention yields, as logits.

    Attributes:
        anomaly: (N, T, X, Y, Z), abnormal against normal, summed over levels.
        gate: (N, T, X, Y, Z), inside the organ that the prompt names.
    """

    anomaly: torch.Tensor
    gate: torch.Tensor

    def probability(self) -> torch.Tensor:
        """The AOVA map: sigmoid(abnormal - normal), gated by the anatomy; (N, T, X, Y, Z)."""
        return torch.sigmoid(self.anomaly.float()) * torch.sigmoid(self.gate.float())


@dataclass(frozen=True)
class Level:
    """What the attention makes of one level of a scan.

    Attributes:
        features: adapted features concatenated with their context, (N, 2 C_l, ...).
        context: what the next finer level takes of it, (N, C_(l-1), ...), on this level's grid.
        gate: queries of the organ gate (N, G, ...); of the coarsest level, its part of them.
    """

    features: torch.Tensor
    context: torch.Tensor
    gate: torch.Tensor


class ContextPath(nn.Module):
    """Sees farther than the encoder: levels at 1/4, 1/8 and 1/16, and back up to the scan's grid.

    Args:
        features: channels of the encoder's stage ends (at 1, 1/2, 1/4).
        widths: channels at 1/4, 1/8, 1/16.
        image: channels of the image path at 1, 1/2 and 1/4; none without one.
        tile: voxels an axis of the tiles in which 1/4 and below are computed.
    """

    def __init__(
        self, features: Sequence[int], widths: Sequence[int], image: Sequence[int] = (),
        tile: int = TILE,
    ) -> None:
        super().__init__()
        fine, half, quarter = features
        w4, w8, w16 = widths
        thin, seen2, seen4 = image or (fine, 0, 0)
        self.tile = tile
        self.image = ImagePath(half, (seen2, seen4)) if image else None
        self.enter = Unit(quarter + seen4, w4)
        self.down8 = Unit(w4, w8, stride=2)
        self.block8 = ContextBlock(w8)
        self.down16 = Unit(w8, w16, stride=2)
        self.modality = nn.Embedding(len(MODALITIES), w16)
        self.coarse = nn.Sequential(
            ContextBlock(w16), ContextAttention(w16), ContextBlock(w16), ContextAttention(w16)
        )
        self.join8 = Unit(w16 + w8, w8)
        self.up_block8 = ContextBlock(w8)
        self.join4 = Unit(w8 + w4, w4)
        self.up_block4 = ContextBlock(w4)
        self.narrow2 = nn.Conv3d(w4, half, 1)
        self.join2 = Unit(2 * half + seen2, half, groups=0)
        self.up_block2 = ContextBlock(half, groups=0)
        self.narrow1 = nn.Conv3d(half, thin, 1)
        self.join1: nn.Module = Unit(2 * fine, fine, kernel=1, groups=0)
        if image:  # convolutions at the scan's resolution cost most: few channels there
            self.join1 = nn.Sequential(
                nn.Conv3d(thin + fine + VIEWS, thin, 1), nn.SiLU(), Unit(thin, fine, groups=0))
        # Bounded context keeps the attention's logits bounded; without it training diverged.
        self.bounds = nn.ModuleList(ChannelNorm(c) for c in (half, w4))

    def at_quarter(
        self, quarter: torch.Tensor, seen: torch.Tensor | None, modality: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Context at 1/4 from features there, what the image path saw there and modality (N,);
        and what `at_half` takes of it."""
        x4 = by_tiles(lambda tile: self._below_quarter(tile, modality), _joined(quarter, seen),
                      self.tile)
        return self.bounds[1](x4), self.narrow2(x4)

    def at_half(
        self, half: torch.Tensor, seen: torch.Tensor | None, from_coarse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Context at 1/2 from features there and what the image path saw; and what `at_full`
        takes of it."""
        upsampled = upsample(from_coarse, half)
        x2 = self.up_block2(self.join2(_joined(torch.cat([upsampled, half], 1), seen)))
        return self.bounds[0](x2), self.narrow1(x2)

    def at_full(
        self, fine: torch.Tensor, views: torch.Tensor | None, from_half: torch.Tensor
    ) -> torch.Tensor:
        """Context at the scan's resolution from features there and the views of the image."""
        return self.join1(_joined(torch.cat([upsample(from_half, fine), fine], 1), views))

    def _below_quarter(self, quarter: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
        """The levels from 1/4 down to 1/16 and back; their norms take in all that they see."""
        x4 = self.enter(quarter)
        x8 = self.block8(self.down8(x4))
        x16 = self.down16(x8) + self.modality(modality)[:, :, None, None, None]
        x16 = self.coarse(x16)
        x8 = self.up_block8(self.join8(torch.cat([upsample(x16, x8), x8], 1)))
        return self.up_block4(self.join4(torch.cat([upsample(x8, x4), x4], 1)))


def _joined(x: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    return x if seen is None else torch.cat([x, seen.to(x.dtype)], 1)


def closed(x: torch.Tensor, width: int) -> torch.Tensor:
    """Grey closing by a cube of `width` voxels: holes that a lesion leaves in a gate are filled.

    Beyond the edge the outermost voxels go on, so that nothing is joined to the edge.
    """
    wide = F.pad(x, (width,) * 6, mode="replicate")
    near = -_highest(-_highest(wide, width), width)
    return near[..., width:-width, width:-width, width:-width]


def _highest(x: torch.Tensor, width: int) -> torch.Tensor:
    for axis in range(3):
        kernel, pads = [1, 1, 1], [0, 0, 0]
        kernel[axis], pads[axis] = width, width // 2
        x = F.max_pool3d(x, kernel, 1, pads)
    return x


class AnomalyAttention(ModelMixin, ConfigMixin):
    """Cross-attention between voxels (queries) and texts (keys), with context and an organ gate.

    Args:
        feature_channels: of the encoder's three stage ends.
        text_dim: of the frozen text encoder.
        text_rank: directions kept when the texts are centred and whitened.
        context_channels: of the context path at 1/4, 1/8, 1/16.
        adapter_ratio: a in F' = a T(F) + (1 - a) F.
        gate_channels: width of the organ gate's queries and keys.
        mirrors: axes (0 to the right, 1 anterior, 2 superior) along each of which a scan is seen
            mirrored, too; what is seen of all is averaged (encoding.py).
        image_channels: of the image path at 1, 1/2 and 1/4; empty where the frozen features are all
            that the attention sees, as METHOD.md 2 has it.
        tile: voxels an axis of the context's tiles at 1/4, about as many as training windows have.
    """

    @register_to_config
    def __init__(
        self,
        feature_channels: Sequence[int] = (16, 32, 64),
        text_dim: int = 384,
        text_rank: int = 48,
        context_channels: Sequence[int] = (64, 96, 128),
        adapter_ratio: float = 0.1,
        gate_channels: int = 32,
        mirrors: Sequence[int] = (),
        image_channels: Sequence[int] = (),
        tile: int = TILE,
    ) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(c, adapter_ratio) for c in feature_channels)
        self.context = ContextPath(
            feature_channels, context_channels, image_channels, tile)
        self.queries = nn.ModuleList(
            nn.Conv3d(2 * c, c, 1, bias=False) for c in feature_channels
        )
        self.reducers = nn.ModuleList(TextReducer(text_rank, c) for c in feature_channels)
        # What is abnormal whatever the organ (METHOD.md 8): added to every abnormal - normal key.
        self.generic = nn.ParameterList(
            nn.Parameter(torch.randn(c) / math.sqrt(c)) for c in feature_channels
        )
        self.gate_query = nn.Conv3d(feature_channels[1], gate_channels, 1)
        # What organ it is shows at 1/4, where its edge is at 1/2.
        self.gate_context = nn.Conv3d(feature_channels[2], gate_channels, 1)
        nn.init.zeros_(self.gate_context.weight)
        self.gate_reducer = TextReducer(text_rank, gate_channels)
        self.anomaly_bias = nn.Parameter(torch.tensor(-2.0))
        self.gate_bias = nn.Parameter(torch.tensor(-2.0))
        self.register_buffer("text_mean", torch.zeros(text_dim))
        self.register_buffer("text_basis", torch.eye(text_dim, text_rank))
        for level, channels in enumerate(feature_channels):
            self.register_buffer(f"feature_mean{level}", torch.zeros(channels))
            self.register_buffer(f"feature_scale{level}", torch.ones(channels))

    def set_statistics(
        self, texts: torch.Tensor, means: Sequence[torch.Tensor], deviations: Sequence[torch.Tensor]
    ) -> None:
        """Fixes the whitening of texts (T, E) and the standardisation of each level's features.

        Texts of one encoder crowd together (cosine 0.76-0.86 between normal and abnormal of one
        organ, METHOD.md 2); centred and whitened, what differs between them is what is left.
        """
        mean = texts.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((texts - mean).T).double())
        rank = self.config.text_rank
        kept = values.flip(0)[:rank].clamp_min(1e-6)
        self.text_mean.copy_(mean)
        self.text_basis.copy_((vectors.flip(1)[:, :rank] / kept.sqrt()).float())
        for level, (average, deviation) in enumerate(zip(means, deviations, strict=True)):
            getattr(self, f"feature_mean{level}").copy_(average)
            getattr(self, f"feature_scale{level}").copy_(1 / deviation.clamp_min(1e-3))

    def whiten(self, text: torch.Tensor) -> torch.Tensor:
        """(T, E) -> (T, rank): centred, whitened, unit length times sqrt(rank)."""
        moved = (text - self.text_mean) @ self.text_basis
        return F.normalize(moved, dim=-1) * math.sqrt(moved.shape[-1])

    def visual(
        self, features: Sequence[torch.Tensor], modality: torch.Tensor, image: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What of the scan does not depend on the prompt: computed once per scan.

        Args:
            features: stage ends of the encoder, (N, C_l, X/2^l, Y/2^l, Z/2^l).
            modality: (N,), index into MODALITIES.
            image: (N, 1, X, Y, Z), the normalised scan itself.

        Returns:
            Adapted features concatenated with their context, (N, 2 C_l, ...) a level; and the
            gate's queries (N, G, X/2, Y/2, Z/2).
        """
        fine, half, quarter = features
        views = self.views(image, modality)
        seen = self.seen_at_half(half, views)
        coarse = self.coarse_level(quarter, self.seen_at_quarter(seen), modality)
        middle = self.half_level(half, seen, coarse.context, coarse.gate)
        finest = self.fine_level(fine, views, middle.context)
        return [finest, middle.features, coarse.features], middle.gate

    @property
    def sees_image(self) -> bool:
        """Whether the context sees the scan itself, beside the frozen features."""
        return self.context.image is not None

    @property
    def finest_context(self) -> int:
        """Channels of the context that the finest level takes of the one at half the resolution."""
        return int(self.context.narrow1.out_channels)

    def views(self, image: torch.Tensor, modality: torch.Tensor) -> torch.Tensor | None:
        """Channels of the scan (N, 1, X, Y, Z) for the image path; None without one."""
        return views_of(image.float(), modality) if self.sees_image else None

    def seen_at_half(
        self, half: torch.Tensor, views: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What the image path sees at half the resolution; of a slab, three outermost planes are
        wrong.

        Args:
            half: the encoder's stage end there, (N, C_1, X/2, Y/2, Z/2).
            views: of the image, for the same region.
        """
        if self.context.image is None or views is None:
            return None
        return self.context.image.at_half(self._adapted(half, 1), views.to(half.dtype))

    def seen_at_quarter(self, seen: torch.Tensor | None) -> torch.Tensor | None:
        """The same at a quarter of the resolution, from what was seen at half of it."""
        if self.context.image is None or seen is None:
            return None
        return self.context.image.at_quarter(seen)

    def coarse_level(
        self, quarter: torch.Tensor, seen: torch.Tensor | None, modality: torch.Tensor
    ) -> Level:
        """The level at 1/4 of the resolution, which has to be seen whole.

        Args:
            quarter: the encoder's stage end there, (N, C_2, X/4, Y/4, Z/4).
            seen: what the image path saw there.
            modality: (N,), index into MODALITIES.
        """
        adapted = self._adapted(quarter, 2)
        context, from_coarse = self.context.at_quarter(adapted, seen, modality)
        return Level(torch.cat([adapted, context], 1), from_coarse, self.gate_context(context))

    def half_level(
        self, half: torch.Tensor, seen: torch.Tensor | None, context: torch.Tensor,
        gate: torch.Tensor,
    ) -> Level:
        """The level at half the resolution; of a slab, the outermost planes are wrong.

        Args:
            half: the encoder's stage end there, (N, C_1, X/2, Y/2, Z/2).
            seen: what the image path saw there.
            context, gate: of the coarse level, for the same region.
        """
        adapted = self._adapted(half, 1)
        own, from_half = self.context.at_half(adapted, seen, context)
        queries = self.gate_query(own)
        gate = queries + upsample(gate, queries)
        return Level(torch.cat([adapted, own], 1), from_half, gate)

    def fine_level(
        self, fine: torch.Tensor, views: torch.Tensor | None, context: torch.Tensor
    ) -> torch.Tensor:
        """Concatenated features (N, 2 C_0, X, Y, Z) at the scan's resolution.

        Args:
            fine: the encoder's first stage end, (N, C_0, X, Y, Z).
            views: of the image, for the same region.
            context: of the level at half the resolution, for the same region.
        """
        adapted = self._adapted(fine, 0)
        return torch.cat([adapted, self.context.at_full(adapted, views, context)], 1)

    def attend(
        self, features: Sequence[torch.Tensor], gate_queries: torch.Tensor, texts: Texts
    ) -> Maps:
        """Cross-attention of `visual`'s output with the texts, upsampled and summed over levels.

        A_l = W_q F'_l . W_k t / sqrt(C_l); since only abnormal - normal is needed, W_q^T (k_a -
        k_n + generic) is folded into one vector a prompt before the voxels are touched.
        """
        size = features[0].shape[2:]
        total: torch.Tensor | None = None
        for level in reversed(range(len(features))):
            normal, abnormal = self.keys_of_level(texts, level)
            query = self.queries[level].get_parameter("weight").flatten(1)  # (C_l, 2 C_l)
            apart = abnormal - normal + self.generic[level]
            folded = apart @ query / math.sqrt(query.shape[0])
            scores = F.conv3d(features[level], folded[:, :, None, None, None])
            total = scores if total is None else scores + upsample(total, scores)
        assert total is not None
        anomaly = total.float() + self.anomaly_bias
        gate = closed(self.gates(gate_queries, texts), CLOSING)
        return Maps(anomaly, F.interpolate(gate, size=size, mode="trilinear"))

    def gates(self, gate_queries: torch.Tensor, texts: Texts) -> torch.Tensor:
        """Logits of being inside the prompt's organ, (N, T, X/2, Y/2, Z/2)."""
        keys = self.gate_reducer(self.whiten(texts.gate)) / math.sqrt(gate_queries.shape[1])
        return F.conv3d(gate_queries, keys[:, :, None, None, None]).float() + self.gate_bias

    def keys_of_level(self, texts: Texts, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """W_k t of the normal and the abnormal texts for one level, (T, C_l) each."""
        reduce = self.reducers[level]
        return reduce(self.whiten(texts.normal)), reduce(self.whiten(texts.abnormal))

    def forward(
        self, features: Sequence[torch.Tensor], modality: torch.Tensor, image: torch.Tensor,
        texts: Texts,
    ) -> Maps:
        """Features (N, C_l, ...), modality (N,), image (N, 1, ...), texts (T, E) -> maps
        (N, T, X, Y, Z)."""
        return self.attend(*self.visual(features, modality, image), texts)

    def _adapted(self, feature: torch.Tensor, level: int) -> torch.Tensor:
        """Standardised and adapted."""
        mean = getattr(self, f"feature_mean{level}")[:, None, None, None]
        scale = getattr(self, f"feature_scale{level}")[:, None, None, None]
        return self.adapters[level]((feature - mean.to(feature.dtype)) * scale.to(feature.dtype))


def by_tiles(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, tile: int = TILE,
) -> torch.Tensor:
    """`function`, which keeps the grid, in tiles that overlap by half and fade into each other.

    What was learned in windows finds lesions in the middle sooner than at the border: with a hard
    change from tile to tile, a large tumor had a waist where two of them met.

    Args:
        x: (N, C, X, Y, Z), axes multiples of STEP where they are tiled.
    """
    axes = [starts(n, tile) for n in x.shape[2:]]
    if all(len(axis) == 1 for axis in axes):
        return function(x)
    weights = [blending_weights(axis, n, tile) for axis, n in zip(axes, x.shape[2:], strict=True)]
    out: torch.Tensor | None = None
    for corner in product(*(zip(*pair, strict=True) for pair in zip(axes, weights, strict=True))):
        at = tuple(slice(start, start + len(weight)) for start, weight in corner)
        part = function(x[(slice(None), slice(None), *at)])
        if out is None:
            out = part.new_zeros(*part.shape[:2], *x.shape[2:])
        for axis, (_, weight) in enumerate(corner):
            shape = [-1 if i == axis else 1 for i in range(3)]
            part = part * torch.tensor(weight, dtype=part.dtype, device=part.device).view(shape)
        out[(slice(None), slice(None), *at)] += part
    assert out is not None
    return out
