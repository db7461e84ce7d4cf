"""Training of the embedded autoencoder (METHOD.md 1 and 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from DiffuGTSLib.networks import Autoencoder
from DiffuGTSLib.networks.autoencoder import Downsample, ResBlock, Upsample
from DiffuGTSLib.training.data.augment import random_contrast, random_patch
from DiffuGTSLib.training.data.cases import TrainingVolume
from DiffuGTSLib.training.data.scan_table import patch_shares
from DiffuGTSLib.training.loop import Loop, LoopConfig

EMBEDDED_CONFIG = {
    "num_channels": (16, 32, 64),
    "num_res_blocks": (1, 2, 2),
    "latent_channels": 12,
    "norm_num_groups": None,
    "use_convtranspose": True,
}
PATCH = 48
BATCH = 2
KL_WEIGHT = 1e-5


def initialise(model: Autoencoder, patches: torch.Tensor) -> None:
    """Starts the autoencoder as the principal component transform of 4x4x4 blocks.

    Residual branches start at zero; along the path around them the strided convolutions move each
    block of `patches` (N, 1, X, Y, Z) into channels and project it onto its first principal
    components; the decoder inverts that. So training starts at the quality of this linear code
    (validation: 35 dB CT, 33 dB MR with 12 components), which random weights took hours to reach.
    """
    for module in model.modules():
        if isinstance(module, ResBlock):
            for parameter in module.conv2.parameters():
                nn.init.zeros_(parameter)
            if not isinstance(module.nin_shortcut, nn.Identity):
                _pass_through(module.nin_shortcut.get_submodule("conv.conv"))
    variances, components = principal_components(patches)
    latent = model.config.latent_channels
    down, up = (
        [m.get_submodule("conv.conv.conv") for m in part.modules() if isinstance(m, kind)]
        for part, kind in ((model.encoder, Downsample), (model.decoder, Upsample))
    )
    with torch.no_grad():
        for convolution in (model.encoder.blocks[0], model.encoder.blocks[-1],
                            model.decoder.blocks[0], model.decoder.blocks[-1]):
            _pass_through(convolution.get_submodule("conv.conv"))
        down_weights, up_weights = (
            [m.get_parameter("weight") for m in part] for part in (down, up)
        )
        _block_to_channels(down_weights[0], torch.eye(8).reshape(8, 1, 2, 2, 2))
        rotation = components.reshape(64, 2, 2, 2, 2, 2, 2)  # component, then coarse and fine
        rotation = rotation.permute(0, 2, 4, 6, 1, 3, 5).reshape(64, 8, 2, 2, 2)
        _block_to_channels(down_weights[1], rotation[: down_weights[1].shape[0]])
        _block_to_channels(up_weights[0], rotation[:latent], offset=1)
        _block_to_channels(up_weights[1], torch.eye(8).reshape(8, 1, 2, 2, 2), offset=1)
        for convolution in (*down, *up):
            convolution.get_parameter("bias").zero_()
        # Half way to unit variance: details neither vanish in the posterior's noise nor dominate.
        scale = variances[:latent].clamp_min(1e-12) ** -0.25
        for pointwise, factor in (
            (model.quant_conv_mu, scale), (model.post_quant_conv, 1 / scale),
        ):
            weight = torch.diag(factor)[:, :, None, None, None]
            pointwise.get_parameter("conv.weight").copy_(weight)
            pointwise.get_parameter("conv.bias").zero_()
    nn.init.zeros_(model.quant_conv_log_sigma.get_parameter("conv.weight"))
    nn.init.constant_(model.quant_conv_log_sigma.get_parameter("conv.bias"), -6.0)


def principal_components(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Second moments (64,) and components (64, 64), largest first, of 4x4x4 blocks.

    A component's entries run over (X, Y, Z) inside the block.
    """
    blocks = patches[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).unfold(3, 4, 4).reshape(-1, 64)
    values, vectors = torch.linalg.eigh(blocks.double().T @ blocks.double() / len(blocks))
    return values.flip(0).float(), vectors.flip(1).T.float()


def _pass_through(convolution: nn.Module) -> None:
    """Identity for the first channels; channels beyond them keep their random weights."""
    weight = convolution.get_parameter("weight")
    out_channels, in_channels, *kernel = weight.shape
    same = min(out_channels, in_channels)
    centre = kernel[0] // 2
    with torch.no_grad():
        weight[:same] = 0
        for channel in range(same):
            weight[channel, channel, centre, centre, centre] = 1
        convolution.get_parameter("bias").zero_()


def _block_to_channels(weight: torch.Tensor, blocks: torch.Tensor, offset: int = 0) -> None:
    """Writes `blocks` (K, C, 2, 2, 2) into taps `offset` and on of the first channels."""
    first, second = blocks.shape[:2]
    taps = slice(offset, offset + 2)
    if offset:  # transposed: other inputs must not reach the channels that are written
        weight[:, :second] = 0
    else:
        weight[:first] = 0
    weight[:first, :second, taps, taps, taps] = blocks


class PatchSampler:
    """Draws training patches: groups by their shares, scans of a group with equal probability."""

    def __init__(
        self, volumes: Sequence[TrainingVolume], patch: int = PATCH,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        shares = patch_shares() if shares is None else shares
        self.patch = patch
        self.groups = {g: [v for v in volumes if v.case.kind.name == g] for g in shares}
        self.names = [g for g in shares if self.groups[g]]
        rates = np.array([shares[g] for g in self.names])
        self.shares = rates / rates.sum()

    def draw(self, generator: np.random.Generator) -> torch.Tensor:
        """A patch (1, X, Y, Z) that is not only air, randomly mirrored, in a random MR contrast."""
        for _ in range(8):
            group = self.groups[self.names[generator.choice(len(self.names), p=self.shares)]]
            volume = group[generator.integers(len(group))]
            patch = random_patch(volume.image, self.patch, generator)
            if (patch > 0.1).mean() > 0.1:
                break
        if volume.case.modality == "MR":
            patch = random_contrast(patch, generator)
        for axis in range(3):
            if generator.random() < 0.5:
                patch = np.flip(patch, axis)
        return torch.from_numpy(np.ascontiguousarray(patch, dtype=np.float32))[None]


def psnr(model: Autoencoder, patches: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of decode(mean) in dB, over all voxels of `patches`."""
    device = model.device
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        errors = [
            float(((model.decode(model.encode(p[None])[0]).float() - p) ** 2).mean())
            for p in patches.to(device)
        ]
    return float(-10 * np.log10(np.mean(errors)))


def validation_patches(
    volumes: Sequence[TrainingVolume], modality: str, count: int = 12
) -> torch.Tensor:
    """Fixed patches (N, 1, 48, 48, 48) of unseen scans, no augmentation."""
    generator = np.random.default_rng(1)
    chosen = [v for v in volumes if v.case.modality == modality]
    patches: list[torch.Tensor] = []
    while len(patches) < count:
        for _ in range(50):
            patch = random_patch(chosen[len(patches) % len(chosen)].image, PATCH, generator)
            if (patch > 0.1).mean() > 0.1:
                break
        patches.append(torch.from_numpy(patch.astype(np.float32))[None])
    return torch.stack(patches)


def train(
    volumes: Sequence[TrainingVolume], validation: Sequence[TrainingVolume], config: LoopConfig,
    network: Mapping[str, Any] = EMBEDDED_CONFIG, shares: Mapping[str, float] | None = None,
) -> Autoencoder:
    """Trains an autoencoder on `volumes`; the PSNR of `validation` is logged.

    Args:
        network: arguments of Autoencoder, without normalisation and with transposed convolutions.
        shares: how often each group of scans is drawn.
    """
    torch.manual_seed(config.seed)
    model = Autoencoder(**network)
    sampler = PatchSampler(volumes, shares=shares)
    generator = np.random.default_rng([config.seed, 0xB10C])
    initialise(model, torch.stack([sampler.draw(generator) for _ in range(200)]))
    model.to(config.device).to(memory_format=torch.channels_last_3d)
    held_out = {m: validation_patches(validation, m) for m in ("CT", "MR")
                if any(v.case.modality == m for v in validation)}

    def loss(step: int, generator: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        x = torch.stack([sampler.draw(generator) for _ in range(BATCH)]).to(config.device)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        with config.autocast():
            mean, sigma = model.encode(x)
            y = model.decode(mean + sigma * torch.randn_like(sigma))
        mean, sigma, difference = mean.float(), sigma.float(), y.float() - x
        # Charbonnier: quadratic below 0.02, linear above, so that bone edges do not dominate.
        rebuilt = (torch.sqrt(difference**2 + 4e-4) - 0.02).mean()
        divergence = 0.5 * (mean**2 + sigma**2 - 1 - 2 * torch.log(sigma)).mean()
        squared = difference.detach() ** 2
        figures = {"mse": float(squared.mean()), "kl": float(divergence.detach())}
        return rebuilt + KL_WEIGHT * divergence, figures

    def validate() -> dict[str, float]:
        return {f"psnr_{m}": psnr(model, p) for m, p in held_out.items()}

    Loop(config, model, loss, validate).run()
    return model
