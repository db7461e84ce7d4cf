"""Training of the embedded denoiser: rectified flow, inpainting of healthy tissue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from DiffuGTSLib.networks import Autoencoder, Denoiser
from DiffuGTSLib.networks.schedules import training_pair
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.scan_table import window_shares
from DiffuGTSLib.training.data.windows import LabelledVolume
from DiffuGTSLib.training.loop import Loop, LoopConfig

EMBEDDED_CONFIG = {
    "in_channels": 13,  # the latent, and the inpainting mask
    "out_channels": 12,
    "num_channels": (32, 64, 80),
    "attention_levels": (False, False, True),
    "num_head_channels": 16,
    "num_res_blocks": 1,
    "norm_num_groups": 8,
    "num_class_embeds": 12,
    "include_fc": True,
}
CLASS_LABELS = {0: 1, 1: 8}  # modality (CT, MR) -> MAISI's class (ct 1, mri 8)
WINDOW = 16  # latent voxels an axis: 128 mm
BATCH = 4
COPIES = 5


@dataclass(frozen=True)
class LatentScan:
    """The scaled latent (L, x, y, z) of a training scan, and its healthy tissue (x, y, z)."""

    latent: torch.Tensor
    healthy: torch.Tensor
    kind: str
    label: int


def centre_latents(autoencoder: Autoencoder, volumes: Iterable[LabelledVolume]) -> float:
    """Moves the latents' mean to 0, channel by channel, inside the autoencoder's 1x1 convolutions.

    Nothing else about the autoencoder changes: decode(encode(x)) stays what it was.

    Returns:
        The scale factor that brings the latents to unit deviation over all channels.
    """
    with torch.no_grad():
        latents = [encode_scan(autoencoder, v.stack[0]) for v in volumes]
        flat = torch.cat([z.flatten(1) for z in latents], 1)
        mean = flat.mean(1)
        shift = mean.to(autoencoder.device)
        autoencoder.quant_conv_mu.get_parameter("conv.bias").sub_(shift)
        after = autoencoder.post_quant_conv
        weight = after.get_parameter("conv.weight").flatten(1)
        after.get_parameter("conv.bias").add_(weight @ shift)
        return float(1 / (flat - mean[:, None]).std())


def encode_scan(autoencoder: Autoencoder, image: torch.Tensor) -> torch.Tensor:
    """(X, Y, Z), normalised -> mean latent (L, X/4, Y/4, Z/4), axes cropped to multiples of 4."""
    cropped = image[tuple(slice(0, n // 4 * 4) for n in image.shape)][None, None]
    device = autoencoder.device
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16):
        x = cropped.to(device).contiguous(memory_format=torch.channels_last_3d)
        mean, _ = autoencoder.encode(x)
    return mean[0].float().cpu()


def encode_copies(
    autoencoder: Autoencoder, volumes: Iterable[LabelledVolume], scale: float, copies: int,
    seed: int,
) -> list[LatentScan]:
    """Latents of `copies` deformed versions of each scan, in random MR contrasts."""
    scans = []
    for number, volume in enumerate(volumes):
        for copy in range(copies):
            generator = np.random.default_rng([seed, number, copy])
            size = [n // 4 * 4 for n in volume.stack.shape[1:]]
            if min(size) < 16:
                continue
            stack = augment.deformed_window(volume.stack, size, None, generator, mirror_x=True)
            image = stack[0].numpy()
            if volume.modality == 1:
                image = augment.random_contrast(image, generator)
            latent = encode_scan(autoencoder, torch.from_numpy(np.ascontiguousarray(image)))
            lesion = F.max_pool3d((stack[2] + stack[3]).clamp(0, 1)[None, None], 4)[0, 0] > 0
            lesion = F.max_pool3d(lesion.float()[None, None], 3, 1, 1)[0, 0]
            scans.append(LatentScan((latent * scale).half(), 1 - lesion, volume.kind.name,
                                    CLASS_LABELS[volume.modality]))
    return scans


def _window(
    scan: LatentScan, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random cube of WINDOW latent voxels; zero, and not counted, beyond the scan."""
    short = [max(0, WINDOW - n) for n in scan.healthy.shape]
    pads = (0, short[2], 0, short[1], 0, short[0])
    latent, healthy = F.pad(scan.latent.float(), pads), F.pad(scan.healthy, pads)
    starts = [int(generator.integers(0, n - WINDOW + 1)) for n in healthy.shape]
    cube = tuple(slice(s, s + WINDOW) for s in starts)
    return latent[(slice(None), *cube)], healthy[cube]


def random_mask(generator: np.random.Generator) -> torch.Tensor:
    """An inpainting mask, (x, y, z) float: up to three ellipsoids; one time in ten, everything."""
    if generator.random() < 0.1:
        return torch.ones(WINDOW, WINDOW, WINDOW)
    mask = np.zeros((WINDOW,) * 3, bool)
    grid = np.stack(np.meshgrid(*[np.arange(WINDOW)] * 3, indexing="ij"), -1)
    for _ in range(int(generator.integers(1, 4))):
        radii = np.exp(generator.uniform(np.log(1.0), np.log(6.0))) * generator.uniform(0.7, 1.3, 3)
        centre = generator.uniform(0, WINDOW - 1, 3)
        mask |= (((grid - centre) / radii) ** 2).sum(-1) <= 1
    return torch.from_numpy(mask).float()


def noise_levels(count: int) -> torch.Tensor:
    """(count,) in 0..1: logit-normal, shifted towards noise; a third close to pure noise.

    The first sampling steps decide the mean of the inpainted tissue. With little training there
    (one window in 200 above 0.95), the network inpainted brains too dark.
    """
    usual = torch.sigmoid(0.4 + torch.randn(count))
    return torch.where(torch.rand(count) < 0.33, 0.9 + 0.1 * torch.rand(count), usual)


def train(
    scans: Sequence[LatentScan], config: LoopConfig,
    network: Mapping[str, Any] = EMBEDDED_CONFIG, shares: Mapping[str, float] | None = None,
) -> Denoiser:
    """Trains the denoiser to inpaint masked regions, given the clean latent around them.

    A plain denoiser of this size and training inpainted nearly black (METHOD.md 8): at high noise
    it has no information on the tissue around. Given the clean surroundings and the mask as input,
    it continues them. The loss counts healthy voxels only, so that it never learns tumors.

    Args:
        network: arguments of Denoiser.
        shares: how often each kind of scan is drawn.
    """
    torch.manual_seed(config.seed)
    model = Denoiser(**network).to(config.device)
    model.to(memory_format=torch.channels_last_3d)
    shares = window_shares() if shares is None else shares
    kinds = [k for k in shares if any(s.kind == k for s in scans)]
    groups = {k: [s for s in scans if s.kind == k] for k in kinds}
    rates = np.array([shares[k] for k in kinds])
    rates /= rates.sum()

    def loss(step: int, generator: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        drawn = []
        for kind in generator.choice(kinds, size=BATCH, p=rates):
            scan = groups[kind][generator.integers(len(groups[kind]))]
            drawn.append((*_window(scan, generator), scan.label))
        z0 = torch.stack([d[0] for d in drawn]).to(config.device)
        z0 = z0.contiguous(memory_format=torch.channels_last_3d)
        healthy = torch.stack([d[1] for d in drawn])[:, None].to(config.device)
        labels = torch.tensor([d[2] for d in drawn], device=config.device)
        s = noise_levels(BATCH).to(config.device)
        noisy, target, timesteps = training_pair(z0, torch.randn_like(z0), s)
        masks = torch.stack([random_mask(generator) for _ in range(BATCH)])
        mask = masks[:, None].to(config.device)
        inputs = torch.cat([torch.where(mask > 0, noisy, z0), mask], 1)
        inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
        with config.autocast():
            output = model(inputs, timesteps, class_labels=labels)
        counted = healthy * mask
        errors = (output.float() - target) ** 2 * counted
        value = errors.sum() / (counted.sum().clamp_min(1) * z0.shape[1])
        return value, {"counted": float(counted.mean())}

    Loop(config, model, loss).run()
    return model
