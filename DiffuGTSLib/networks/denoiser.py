"""The denoising UNet of the foundation model, on latents, and its conditioning.

One code for MAISI's sizes and the embedded ones; the parameter names are MAISI's (METHOD.md 1). So
is the conditioning: spacing in mm x 100, body regions one-hot x 100, a class of modality and
sequence, and classifier-free guidance against the class 0, "unknown".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from DiffuGTSLib.networks.autoencoder import Conv
from DiffuGTSLib.networks.denoiser_blocks import (
    BlockOptions,
    MiddleBlock,
    way_down,
    way_up,
    zeroed_conv,
)

REGIONS = 4
"""Body regions: head and neck, thorax, abdomen, pelvis and legs."""
TIMESTEPS, MIN_LEVEL = 1000.0, 0.02
UNKNOWN = 0
# The uppermost and the lowest body region of a prompt's anatomy, as indices into head and neck,
# thorax, abdomen, pelvis and legs. Where it may be anywhere: the trunk, of which MAISI saw most.
REGION_SPANS = {
    "head": (0, 0), "thorax": (1, 1), "abdomen": (2, 2), "pelvis": (3, 3), "any": (1, 2),
}


def embed_timesteps(timesteps: torch.Tensor, length: int) -> torch.Tensor:
    """Timesteps (N,), float, -> (N, length): cosines, then sines, of periods 2 pi to 20000 pi."""
    half = length // 2
    ramp = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    phase = timesteps.float()[:, None] * torch.exp(-math.log(10000.0) * ramp)
    return torch.cat((phase.cos(), phase.sin()), dim=1)


def perceptron(in_features: int, out_features: int) -> nn.Sequential:
    """Linear, SiLU, linear: what each conditioning goes through."""
    return nn.Sequential(
        nn.Linear(in_features, out_features), nn.SiLU(), nn.Linear(out_features, out_features)
    )


class Denoiser(ModelMixin, ConfigMixin):
    """The denoising UNet: noisy latent and level -> velocity (rectified flow) or noise (DDPM).

    Args:
        num_channels: width of each level; MAISI (64, 128, 256, 512).
        attention_levels: which levels attend; MAISI the two lowest. The middle always does.
        num_head_channels: channels of an attention head, for all levels or one a level (only those
            that attend are read, and the last, by the middle block); MAISI 32.
        num_res_blocks: residual blocks on the way down, for all levels or one a level; MAISI 2.
            The way up has one more.
        norm_num_groups: groups of GroupNorm; MAISI 32.
        norm_eps: MAISI 1e-6.
        num_class_embeds: number of classes (of modality and sequence), None for none.
        include_fc: a linear layer after each attention; rflow True, ddpm False.
        resblock_updown: change the resolution in residual blocks; rflow True, ddpm False.
        include_top_region_index_input: takes the uppermost body region; ddpm True.
        include_bottom_region_index_input: takes the lowest body region; ddpm True.
        include_spacing_input: takes the voxel spacing.
        continues: of a rectified flow that was trained to inpaint: what the layers give is added
            to the continuation of the surroundings, and the sum is x0. The input is the noisy
            latent, the mask and that continuation (pipeline/inpainting.py): 2 C + 1 channels.

    Raises:
        ValueError: the lists differ in length, or a width is no multiple of the groups or heads.

    Source: METHOD.md 1.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        num_channels: Sequence[int] = (64, 128, 256, 512),
        attention_levels: Sequence[bool] = (False, False, True, True),
        num_head_channels: int | Sequence[int] = 32,
        num_res_blocks: int | Sequence[int] = 2,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-6,
        num_class_embeds: int | None = None,
        include_fc: bool = False,
        resblock_updown: bool = False,
        include_top_region_index_input: bool = False,
        include_bottom_region_index_input: bool = False,
        include_spacing_input: bool = False,
        continues: bool = False,
    ) -> None:
        super().__init__()
        widths = tuple(num_channels)
        heads = _one_a_level("num_head_channels", num_head_channels, len(widths))
        blocks = _one_a_level("num_res_blocks", num_res_blocks, len(widths))
        _check_widths(widths, attention_levels, heads, norm_num_groups)
        time = 4 * widths[0]
        self.conv_in = Conv(in_channels, widths[0])
        self.time_embed = perceptron(widths[0], time)
        if num_class_embeds is not None:
            self.class_embedding = nn.Embedding(num_class_embeds, time)
        inputs = 0
        if include_top_region_index_input:
            self.top_region_index_layer = perceptron(REGIONS, time)
            inputs += 1
        if include_bottom_region_index_input:
            self.bottom_region_index_layer = perceptron(REGIONS, time)
            inputs += 1
        if include_spacing_input:
            self.spacing_layer = perceptron(3, time)
            inputs += 1
        options = BlockOptions(
            time * (1 + inputs), norm_num_groups, norm_eps, include_fc, resblock_updown
        )
        attending = [n if on else None for n, on in zip(heads, attention_levels, strict=True)]
        self.down_blocks = way_down(widths, blocks, attending, options)
        self.middle_block = MiddleBlock(widths[-1], heads[-1], options)
        self.up_blocks = way_up(widths, blocks, attending, options)
        self.out = nn.Sequential(
            nn.GroupNorm(norm_num_groups, widths[0], norm_eps),
            nn.SiLU(),
            zeroed_conv(widths[0], out_channels),
        )

    @property
    def downscale(self) -> int:
        """What each axis of the latent must be a multiple of."""
        return 2 ** (len(self.config.num_channels) - 1)

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        class_labels: torch.Tensor | None = None,
        top_region: torch.Tensor | None = None,
        bottom_region: torch.Tensor | None = None,
        spacing: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One look at a noisy latent; conditionings that the configuration does not take are left.

        Args:
            x: noisy latent (N, C, X, Y, Z), multiplied by the scale factor.
            timesteps: (N,) or one for all, float, 0 (clean) to 1000 (noise).
            class_labels: (N,), integer.
            top_region: (N, 4), one-hot x 100.
            bottom_region: (N, 4), one-hot x 100.
            spacing: (N, 3), mm x 100.

        Returns:
            (N, C, X, Y, Z): x0 - eps from a rectified flow, eps from a DDPM.

        Raises:
            ValueError: a conditioning is missing, or an axis is no multiple of `downscale`.
        """
        if any(n % self.downscale for n in x.shape[2:]):
            raise ValueError(
                f"each axis must be a multiple of {self.downscale}, got {tuple(x.shape[2:])}"
            )
        given, x = x, x.to(self.dtype)  # the weights of a GPU run are bfloat16
        embedding = self._time_and_class(x, timesteps, class_labels)
        embedding = self._with_inputs(embedding, top_region, bottom_region, spacing)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            h = level(h, embedding, skips)
        h = self.middle_block(h, embedding)
        for level in self.up_blocks:
            h = level(h, embedding, skips)
        output = self.out(h).to(given.dtype)
        return self._velocity(given, output, timesteps) if self.config.continues else output

    def _velocity(
        self, shown: torch.Tensor, added: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """x0 - eps, which is (x0 - x_t) / t, where x0 is the continuation and what is added."""
        latents = added.shape[1]
        level = torch.atleast_1d(timesteps).to(shown) / TIMESTEPS
        level = level.clamp_min(MIN_LEVEL).view(-1, 1, 1, 1, 1)
        return (shown[:, latents + 1:] + added - shown[:, :latents]) / level

    def _time_and_class(
        self, x: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor | None
    ) -> torch.Tensor:
        timesteps = torch.atleast_1d(timesteps).to(x.device).expand(len(x))
        waves = embed_timesteps(timesteps, self.config.num_channels[0])
        embedding = self.time_embed(waves.to(x))
        if self.config.num_class_embeds is None:
            return embedding
        return embedding + self.class_embedding(_needed("class_labels", class_labels)).to(x)

    def _with_inputs(
        self, embedding: torch.Tensor, top_region: torch.Tensor | None,
        bottom_region: torch.Tensor | None, spacing: torch.Tensor | None,
    ) -> torch.Tensor:
        parts = [embedding]
        if self.config.include_top_region_index_input:
            top = _needed("top_region", top_region).to(embedding)
            parts.append(self.top_region_index_layer(top))
        if self.config.include_bottom_region_index_input:
            bottom = _needed("bottom_region", bottom_region).to(embedding)
            parts.append(self.bottom_region_index_layer(bottom))
        if self.config.include_spacing_input:
            parts.append(self.spacing_layer(_needed("spacing", spacing).to(embedding)))
        return torch.cat(parts, dim=1)


def _one_a_level(name: str, value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    values = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(values) != levels:
        raise ValueError(f"{name} must be one number or {levels}, one a level, got {values}")
    return values


def _check_widths(
    widths: Sequence[int], attention_levels: Sequence[bool], heads: Sequence[int], groups: int
) -> None:
    if len(attention_levels) != len(widths):
        raise ValueError(
            f"attention_levels must have one entry a level ({len(widths)}), "
            f"got {len(attention_levels)}"
        )
    if any(width % groups for width in widths):
        raise ValueError(f"num_channels {tuple(widths)} must be multiples of {groups} groups")
    for level, width in enumerate(widths):
        attends = attention_levels[level] or level == len(widths) - 1
        if attends and (heads[level] < 1 or width % heads[level]):
            raise ValueError(f"{width} channels do not divide into heads of {heads[level]}")


def _needed(name: str, value: torch.Tensor | None) -> torch.Tensor:
    if value is None:
        raise ValueError(f"this denoiser is conditioned on {name}: give it")
    return value


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of one scan and prompt; what the denoiser does not take is left out.

    Attributes:
        class_label: of modality and sequence.
        spacing_mm: of the grid that the latent belongs to (not of the latent), X, Y, Z.
        regions: indices of the uppermost and the lowest body region.
        guidance: of classifier-free guidance; 0 for none. The output is u + guidance (c - u),
            where c is the denoiser's for the class and u the one for the class "unknown".
    """

    class_label: int = UNKNOWN
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    regions: tuple[int, int] = REGION_SPANS["any"]
    guidance: float = 0.0

    def predict(
        self, denoiser: Denoiser, z: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """The denoiser's output for a noisy latent z (N, C, X, Y, Z) at `timestep`, guided.

        Two passes where it is guided: one after the other, so that memory is that of one. Guidance
        multiplies a difference, which is taken in float32 also where the denoiser computes in half
        precision. The output has z's own type.
        """
        output = self._pass(denoiser, z, timestep, self.class_label)
        if self._guides(denoiser):
            blind = self._pass(denoiser, z, timestep, UNKNOWN)
            output = blind + self.guidance * (output - blind)
        return output.to(z.dtype)

    def passes(self, denoiser: Denoiser) -> int:
        """How often the denoiser runs in a step."""
        return 2 if self._guides(denoiser) else 1

    def _pass(
        self, denoiser: Denoiser, z: torch.Tensor, timestep: torch.Tensor, label: int
    ) -> torch.Tensor:
        inputs = self._inputs(denoiser, z, label)
        return denoiser(z, timestep, **inputs).float()

    def _guides(self, denoiser: Denoiser) -> bool:
        return self.guidance > 0 and denoiser.config.num_class_embeds is not None

    def _inputs(self, denoiser: Denoiser, z: torch.Tensor, label: int) -> dict[str, torch.Tensor]:
        """The keyword arguments of the denoiser, for each of the batch."""
        count, config = len(z), denoiser.config
        inputs = {}
        if config.num_class_embeds is not None:
            inputs["class_labels"] = torch.full((count,), label, device=z.device)
        if config.include_spacing_input:
            spacing = torch.tensor([self.spacing_mm], device=z.device) * 100.0
            inputs["spacing"] = spacing.expand(count, -1)
        top, bottom = (
            torch.eye(REGIONS, device=z.device)[region].expand(count, -1) * 100.0
            for region in self.regions
        )
        if config.include_top_region_index_input:
            inputs["top_region"] = top
        if config.include_bottom_region_index_input:
            inputs["bottom_region"] = bottom
        return inputs
