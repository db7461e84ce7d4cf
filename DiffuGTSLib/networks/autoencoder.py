"""The variational autoencoder of the foundation model, with the three feature stages of AOVA.

One code for MAISI's sizes and the embedded ones; the parameter names are MAISI's (METHOD.md 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from DiffuGTSLib.networks.device import Conv3d


class Conv(nn.Module):
    """A 3D convolution under the name that MAISI's checkpoints give it (`conv`)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        pad = kernel // 2 if padding is None else padding
        self.conv: nn.Module = Conv3d(in_channels, out_channels, kernel, stride, pad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class WrappedConv(nn.Module):
    """A convolution two names deep (`conv.conv`), as MAISI's autoencoder stores it."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.conv = Conv(in_channels, out_channels, kernel, stride, padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def group_norm(groups: int | None, channels: int, eps: float) -> nn.Module:
    """GroupNorm, or nothing where a configuration has no normalisation."""
    return nn.Identity() if groups is None else nn.GroupNorm(groups, channels, eps)


class ResBlock(nn.Module):
    """Twice normalisation, SiLU, convolution, and the way around them."""

    def __init__(self, in_channels: int, out_channels: int, groups: int | None, eps: float) -> None:
        super().__init__()
        self.norm1 = group_norm(groups, in_channels, eps)
        self.conv1 = WrappedConv(in_channels, out_channels)
        self.norm2 = group_norm(groups, out_channels, eps)
        self.conv2 = WrappedConv(out_channels, out_channels)
        self.nin_shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.nin_shortcut = WrappedConv(in_channels, out_channels, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class Downsample(nn.Module):
    """Halves each axis: zero padding at the upper ends, then a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = WrappedConv(channels, channels, stride=2, padding=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1) * 3))


class Upsample(nn.Module):
    """Doubles each axis: trilinear and a convolution, or a transposed convolution."""

    def __init__(self, channels: int, transposed: bool) -> None:
        super().__init__()
        self.conv = WrappedConv(channels, channels)
        self.transposed = transposed
        if transposed:
            self.conv.conv.conv = nn.ConvTranspose3d(channels, channels, 3, 2, 1, output_padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.transposed:
            x = F.interpolate(x, scale_factor=2.0, mode="trilinear")
        return self.conv(x)


class Encoder(nn.Module):
    """(N, 1, X, Y, Z) -> (N, latent, X/4, Y/4, Z/4) with three levels.

    `stage_ends` are the indices of the blocks that end a level (2, 5, 8 in MAISI): AOVA's features.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], res_blocks: Sequence[int],
        latent_channels: int, groups: int | None, eps: float,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = [WrappedConv(in_channels, channels[0])]
        self.stage_ends: list[int] = []
        width = channels[0]
        for level, out in enumerate(channels):
            for _ in range(res_blocks[level]):
                blocks.append(ResBlock(width, out, groups, eps))
                width = out
            self.stage_ends.append(len(blocks) - 1)
            if level < len(channels) - 1:
                blocks.append(Downsample(width))
        blocks.append(group_norm(groups, width, eps))
        blocks.append(WrappedConv(width, latent_channels))
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, x: torch.Tensor, features: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Encodes; where a list is given, the outputs of the stage ends are appended to it."""
        for index, block in enumerate(self.blocks):
            x = block(x)
            if features is not None and index in self.stage_ends:
                features.append(x)
        return x


class Decoder(nn.Module):
    """(N, latent, X/4, Y/4, Z/4) -> (N, 1, X, Y, Z): the encoder's levels in reverse."""

    def __init__(
        self, out_channels: int, channels: Sequence[int], res_blocks: Sequence[int],
        latent_channels: int, groups: int | None, eps: float, transposed: bool,
    ) -> None:
        super().__init__()
        width = channels[-1]
        blocks: list[nn.Module] = [WrappedConv(latent_channels, width)]
        for level in reversed(range(len(channels))):
            for _ in range(res_blocks[level]):
                blocks.append(ResBlock(width, channels[level], groups, eps))
                width = channels[level]
            if level > 0:
                blocks.append(Upsample(width, transposed))
        blocks.append(group_norm(groups, width, eps))
        blocks.append(WrappedConv(width, out_channels))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Autoencoder(ModelMixin, ConfigMixin):
    """The variational autoencoder: scan <-> latent, 4x down an axis.

    Args:
        num_channels: width of each level; MAISI (64, 128, 256).
        num_res_blocks: residual blocks of each level; MAISI (2, 2, 2).
        latent_channels: MAISI 4.
        norm_num_groups: groups of GroupNorm; MAISI 32. None leaves all normalisation out: the
            embedded model does, and so encodes a crop as it encodes the whole.
        norm_eps: MAISI 1e-6.
        use_convtranspose: upsample by a transposed convolution; MAISI False. The embedded model
            does, since interpolation followed by a convolution cannot place detail inside a block.
    """

    @register_to_config
    def __init__(
        self,
        num_channels: Sequence[int] = (64, 128, 256),
        num_res_blocks: Sequence[int] = (2, 2, 2),
        latent_channels: int = 4,
        norm_num_groups: int | None = 32,
        norm_eps: float = 1e-6,
        use_convtranspose: bool = False,
        in_channels: int = 1,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        common = (tuple(num_channels), tuple(num_res_blocks), latent_channels, norm_num_groups,
                  norm_eps)
        self.encoder = Encoder(in_channels, *common)
        self.decoder = Decoder(out_channels, *common, use_convtranspose)
        self.quant_conv_mu = Conv(latent_channels, latent_channels, kernel=1)
        self.quant_conv_log_sigma = Conv(latent_channels, latent_channels, kernel=1)
        self.post_quant_conv = Conv(latent_channels, latent_channels, kernel=1)

    @property
    def downscale(self) -> int:
        """How many voxels an axis of the latent's voxel spans."""
        return 2 ** (len(self.config.num_channels) - 1)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scan (N, 1, X, Y, Z) -> mean and standard deviation of the latent (N, L, X/4, Y/4, Z/4).

        Raises:
            ValueError: an axis is no multiple of the downscaling (4).
        """
        return self._moments(self._checked(x), None)

    def encode_with_features(
        self, x: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Scan -> mean latent and the stage ends F_l: (N, C_l, X/2^l, Y/2^l, Z/2^l), l = 0, 1, 2.

        Source: METHOD.md 2. The mean, not a sample: the noise would be seen in the residuals.
        """
        features: list[torch.Tensor] = []
        mean, _ = self._moments(self._checked(x), features)
        return mean, tuple(features)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Latent (N, L, x, y, z), unscaled -> scan (N, 1, 4x, 4y, 4z)."""
        return self.decoder(self.post_quant_conv(z))

    def _moments(
        self, x: torch.Tensor, features: list[torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.encoder(x, features)
        log_variance = torch.clamp(self.quant_conv_log_sigma(h), -30.0, 20.0)
        return self.quant_conv_mu(h), torch.exp(log_variance / 2)

    def _checked(self, x: torch.Tensor) -> torch.Tensor:
        if any(n % self.downscale for n in x.shape[2:]):
            raise ValueError(
                f"each axis must be a multiple of {self.downscale}, got {tuple(x.shape[2:])}"
            )
        return x
