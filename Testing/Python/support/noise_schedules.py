"""The schedules that the models were published with, and their known answers."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from DiffuGTSLib.networks.schedules import (
    DDIM_SCHEDULER,
    DDPM_SCHEDULER,
    RECTIFIED_FLOW_SCHEDULER,
    TRAINING_STEPS,
    Ddim,
    Ddpm,
    RectifiedFlow,
)

MEAN, DEVIATION = 1.5, 0.4


def rectified_flow(steps: int, latent_voxels: int) -> RectifiedFlow:
    """That of MAISI's rflow models (30 steps there) and of the embedded one."""
    scheduler = FlowMatchEulerDiscreteScheduler(**RECTIFIED_FLOW_SCHEDULER)
    return RectifiedFlow(scheduler, steps, latent_voxels)


def ddim(steps: int) -> Ddim:
    """That of MAISI's ddpm model, in a divisor of its 1000 steps."""
    return Ddim(DDIMScheduler(**DDIM_SCHEDULER), steps)


def ddpm(steps: int = TRAINING_STEPS) -> Ddpm:
    """That which MAISI's ddpm model was published with: all of its 1000 steps."""
    return Ddpm(DDPMScheduler(**DDPM_SCHEDULER), steps)


def normal(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(*(size or (2, 4, 2, 3, 5)), generator=torch.Generator().manual_seed(seed))


def best_noise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The expected eps where x = sqrt(1 - sigma^2) x0 + sigma eps."""
    signal = (1 - sigma**2).sqrt()
    return sigma * (x - signal * MEAN) / (signal**2 * DEVIATION**2 + sigma**2)
