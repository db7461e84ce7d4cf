"""Training of the embedded denoiser: rectified flow, inpainting of healthy tissue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from DiffuGTSLib.networks import Autoencoder, Denoiser
from DiffuGTSLib.networks.denoiser import MIN_LEVEL
from DiffuGTSLib.networks.schedules import training_pair
from DiffuGTSLib.pipeline.inpainting import continued
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.scan_table import window_shares
from DiffuGTSLib.training.data.windows import LabelledVolume
from DiffuGTSLib.training.loop import Loop, LoopConfig

EMBEDDED_CONFIG = {
    "in_channels": 25,  # the latent, the inpainting mask, the continuation of the surroundings
    "out_channels": 12,
    "continues": True,
    "num_channels": (32, 64, 64),
    "attention_levels": (False, False, True),
    "num_head_channels": 16,
    "num_res_blocks": 1,
    "norm_num_groups": 8,
    "num_class_embeds": 12,
    "include_fc": True,
}
CLASS_LABELS = {0: 1, 1: 8}  # modality (CT, MR) -> MAISI's class (ct 1, mri 8)
WINDOW = 16  # latent voxels an axis: 128 mm
BATCH = 6
COPIES = 5
# Of the windows and of the holes, those that are laid into an organ.
ORGAN_WINDOWS, ORGAN_HOLES = 0.6, 0.7
# Added to the continuation's squared error, by which a window's own is divided.
_SMALL_ERROR = 0.01
_FEWEST_VOXELS = 3


@dataclass(frozen=True)
class LatentScan:
    """The scaled latent (L, x, y, z) of a scan; its healthy tissue and its organs (x, y, z)."""

    latent: torch.Tensor
    healthy: torch.Tensor
    organs: torch.Tensor
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
            organs = F.max_pool3d(stack[1:2][None].float(), 4)[0, 0] > 0
            scans.append(LatentScan((latent * scale).half(), 1 - lesion, organs.float(),
                                    volume.kind.name, CLASS_LABELS[volume.modality]))
    return scans


def _window(
    scan: LatentScan, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latent, healthy tissue and organs in a cube of WINDOW latent voxels.

    Zero, and not counted, beyond the scan.
    """
    short = [max(0, WINDOW - n) for n in scan.healthy.shape]
    pads = (0, short[2], 0, short[1], 0, short[0])
    latent, healthy, organs = (
        F.pad(each.float(), pads) for each in (scan.latent, scan.healthy, scan.organs))
    starts = [int(generator.integers(0, n - WINDOW + 1)) for n in healthy.shape]
    inside = torch.nonzero(organs)
    if len(inside) and generator.random() < ORGAN_WINDOWS:
        middle = inside[int(generator.integers(len(inside)))].tolist()
        starts = [int(np.clip(at - WINDOW // 2 + generator.integers(-4, 5), 0, n - WINDOW))
                  for at, n in zip(middle, healthy.shape, strict=True)]
    cube = tuple(slice(s, s + WINDOW) for s in starts)
    return latent[(slice(None), *cube)], healthy[cube], organs[cube]


def random_mask(organs: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """An inpainting mask, (x, y, z) float: up to three ellipsoids, most of them in an organ.

    Args:
        organs: (x, y, z), 1 inside an organ.
    """
    mask = np.zeros((WINDOW,) * 3, bool)
    grid = np.stack(np.meshgrid(*[np.arange(WINDOW)] * 3, indexing="ij"), -1)
    inside = np.argwhere(organs.numpy() > 0)
    for _ in range(int(generator.integers(1, 4))):
        radii = np.exp(generator.uniform(0.0, np.log(5.0))) * generator.uniform(0.7, 1.3, 3)
        centre = generator.uniform(0, WINDOW - 1, 3)
        if len(inside) and generator.random() < ORGAN_HOLES:
            centre = inside[generator.integers(len(inside))]
        mask |= (((grid - centre) / radii) ** 2).sum(-1) <= 1
    return torch.from_numpy(mask).float()


def noise_levels(count: int) -> torch.Tensor:
    """(count,) in 0..1: logit-normal, shifted towards noise; two in five close to pure noise.

    The first sampling steps decide the mean of the inpainted tissue.
    """
    usual = torch.sigmoid(0.4 + torch.randn(count))
    levels = torch.where(torch.rand(count) < 0.4, 0.9 + 0.1 * torch.rand(count), usual)
    return levels.clamp_min(MIN_LEVEL)


def train(
    scans: Sequence[LatentScan], config: LoopConfig,
    network: Mapping[str, Any] = EMBEDDED_CONFIG, shares: Mapping[str, float] | None = None,
) -> Denoiser:
    """Trains the denoiser to inpaint masked regions, given the clean latent around them.

    It starts from the smooth continuation of the surroundings (`pipeline.inpainting.continued`) and
    learns what to add to that. A network that had to find the level of the tissue itself painted
    livers 80 HU off (docs/validation.md). A window's squared error is divided by that of the
    continuation there: else edges and vessels of the lungs would be all that counts, and what is
    wrong by 30 HU in a liver nothing. Healthy voxels alone count, so that it never learns tumors.

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
        drawn = [groups[kind][generator.integers(len(groups[kind]))]
                 for kind in generator.choice(kinds, size=BATCH, p=rates)]
        windows = [_window(scan, generator) for scan in drawn]
        z0, healthy, organs = (torch.stack(parts) for parts in zip(*windows, strict=True))
        masks = torch.stack([random_mask(each, generator) for each in organs])[:, None]
        labels = torch.tensor([scan.label for scan in drawn], device=config.device)
        z0, mask = z0.to(config.device), masks.to(config.device)
        value = inpainting_loss(model, z0, mask, (healthy[:, None] * masks).to(config.device),
                                labels, config)
        return value, {"counted": float(masks.mean())}

    Loop(config, model, loss).run()
    return model


def inpainting_loss(
    model: Denoiser, z0: torch.Tensor, mask: torch.Tensor, counted: torch.Tensor,
    labels: torch.Tensor, config: LoopConfig,
) -> torch.Tensor:
    """The squared error of the x0 that the denoiser states, beside that of the continuation.

    Args:
        z0: latents, (N, L, x, y, z).
        mask: (N, 1, x, y, z), the holes.
        counted: (N, 1, x, y, z), the healthy part of them.
        labels: (N,), classes.
    """
    level = noise_levels(len(z0)).to(z0.device)
    noisy, _, timesteps = training_pair(z0, torch.randn_like(z0), level)
    smooth = continued(z0, mask)
    inputs = torch.cat([torch.where(mask > 0, noisy, z0), mask, smooth], 1)
    inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
    with config.autocast():
        velocity = model(inputs, timesteps, class_labels=labels)
    found = noisy + level.view(-1, 1, 1, 1, 1) * velocity.float()
    voxels = counted.sum((1, 2, 3, 4))

    def error(other: torch.Tensor) -> torch.Tensor:
        return ((other - z0) ** 2 * counted).sum((1, 2, 3, 4)) / (
            voxels.clamp_min(1) * z0.shape[1])

    ratios = error(found) / (error(smooth) + _SMALL_ERROR)
    enough = (voxels > _FEWEST_VOXELS).float()
    return (ratios * enough).sum() / enough.sum().clamp_min(1)
