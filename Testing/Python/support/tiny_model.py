"""A real model package with tiny, untrained networks, whose attention finds a bright ball.

The pipeline runs through all its parts in about a second; what it paints means nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from DiffuGTSLib.models.card import Card, Fusion
from DiffuGTSLib.models.package import save
from DiffuGTSLib.networks.attention import AnomalyAttention
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.prompt.parsing import understand

PROMPT = "brain tumor"
RADIUS_MM = 12.0
CENTRE_RAS_MM = (10.0, -6.0, 4.0)


def ball_scan() -> tuple[sitk.Image, np.ndarray]:
    """An MR-like scan (96 x 96 x 96 mm) with a bright ball; and the ball as (z, y, x) bool."""
    z, y, x = (np.indices((32, 48, 48)) * np.array([3.0, 2, 2])[:, None, None, None])
    right, anterior, superior = 47 - x, 47 - y, z - 46.5  # LPS voxel axes
    place = zip((right, anterior, superior), CENTRE_RAS_MM, strict=True)
    ball = sum((axis - centre) ** 2 for axis, centre in place) <= RADIUS_MM**2
    noise = np.random.default_rng(0).normal(0, 3, ball.shape)
    image = sitk.GetImageFromArray((np.where(ball, 200, 60) + noise).astype(np.int16))
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetOrigin((-47.0, -47.0, -46.5))
    return image, ball


def write_tiny_model(folder: Path, steps: int = 3) -> Path:
    """Writes the package; the same one each time."""
    torch.manual_seed(4)
    # By keyword: diffusers takes positional arguments for defaults when a model is made again.
    vae = Autoencoder(num_channels=(8, 16, 16), num_res_blocks=(1, 1, 1), norm_num_groups=8)
    unet = Denoiser(
        num_channels=(16, 32), attention_levels=(False, False), num_head_channels=16,
        num_res_blocks=1, norm_num_groups=8, num_class_embeds=16,
    )
    aova = AnomalyAttention(
        feature_channels=(8, 16, 16), context_channels=(16, 16, 16), gate_channels=8
    )
    aova.gate_bias.data.fill_(20.0)  # open everywhere
    for query in aova.queries:  # the untrained context says nothing of brightness
        query.weight.data[:, query.weight.shape[0]:] = 0
    fusion = Fusion(dict.fromkeys(("attention", "both"), (0.0, 1.0, 0.0, 0.0)), 1.0, 1.0)
    card = Card(
        "tiny", "Apache-2.0", ("CT", "MR"), (2.0, 2.0, 2.0), 1.0, {"CT": 1, "MR": 8}, 0.5,
        steps, 1, 1, {"CT": fusion, "MR": fusion},
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    save(folder, card, vae, unet, aova, scheduler)
    _calibrate(folder, aova)
    save(folder, card, vae, unet, aova, scheduler)
    return folder


def _calibrate(folder: Path, aova: AnomalyAttention) -> None:
    """Scales the untrained map so that the ball lies above 0.5 and the rest below."""
    segmenter = Segmenter.from_pretrained(folder, "cpu")
    image, ball = ball_scan()
    scan = segmenter.encode(image, "MR")
    map_ = segmenter.attend(scan, understand(PROMPT))
    logit = np.log(map_ / (1 - map_))
    where = sitk.GetImageFromArray(ball.astype(np.uint8))
    where.CopyInformation(image)
    inside = sitk.GetArrayFromImage(sitk.Resample(
        where, scan.canonical.geometry, sitk.Transform(), sitk.sitkNearestNeighbor)).T > 0
    x, y, z = inside.shape
    middle = logit[:x, :y, :z][inside].mean(), np.median(logit[:x, :y, :z][~inside])
    scale = 9.0 / (middle[0] - middle[1])
    with torch.no_grad():  # the map's logit is linear in the queries and the bias
        for query in aova.queries:
            query.weight.mul_(scale)
        aova.anomaly_bias.mul_(scale).add_(3.0 - middle[0] * scale)
