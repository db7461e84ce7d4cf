"""Noise schedules: diffusers' schedulers, set up for MAISI and seen through one small interface.

`index` counts the denoising steps: step `index` leads from level `index` to level `index + 1`; the
last level, `len(schedule)`, is the clean latent. No call leaves a state behind, so that resampling
may jump back to any level.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from DiffuGTSLib.errors import ModelDamaged

TRAINING_STEPS = 1000
BASE_LATENT_VOXELS = 32**3
RECTIFIED_FLOW_SCHEDULER: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "time_shift_type": "linear",
}
DDIM_SCHEDULER: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}
DDPM_SCHEDULER: Final[dict[str, Any]] = {
    name: value for name, value in DDIM_SCHEDULER.items() if name != "set_alpha_to_one"
} | {"variance_type": "fixed_small"}


class Schedule(Protocol):
    """How a latent goes from noise to clean, in `len(schedule)` steps.

    Attributes:
        timesteps: (steps,), float: what the network is given before each step.
        levels: (steps + 1,), float, falling: the standard deviation of the noise in the latent
            before each step; the last one is 0.
    """

    timesteps: torch.Tensor
    levels: torch.Tensor

    def __len__(self) -> int: ...

    def step(
        self, output: torch.Tensor, index: int, z: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The latent at level `index + 1`, from the network's output for the one at level `index`.

        Args:
            output: the network's output (N, C, X, Y, Z) for `z` at `timesteps[index]`.
            index: 0 to steps - 1.
            z: latent at level `index`.
            generator: source of the noise where the scheduler adds any.

        Returns:
            Latent (N, C, X, Y, Z) of `z`'s own type, also where the network ran in half precision.
        """
        ...

    def noised(self, z0: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
        """The clean latent `z0` brought to the level before step `index`; `len` gives `z0` itself.

        After step `index` the known part is at level `index + 1` (METHOD.md 3, step 2).

        Raises:
            IndexError: the index is not in 0 to steps.
        """
        ...


class RectifiedFlow:
    """x_s = (1 - s) x0 + s eps, by Euler steps along the network's x0 - eps (METHOD.md 1).

    Args:
        scheduler: diffusers' own; where its configuration says `use_dynamic_shifting`, the levels
            are shifted for the latent's size, else by the configuration's own `shift`.
        steps: number of denoising steps.
        latent_voxels: voxels of the latent, X Y Z.

    Raises:
        ValueError: no step, or no voxel.
    """

    def __init__(
        self, scheduler: FlowMatchEulerDiscreteScheduler, steps: int, latent_voxels: int
    ) -> None:
        _check_steps(steps)
        shift = level_shift(latent_voxels) if scheduler.config.use_dynamic_shifting else None
        sigmas = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).tolist()
        scheduler.set_timesteps(sigmas=sigmas, mu=shift)
        self.scheduler = scheduler
        self.timesteps = scheduler.timesteps
        self.levels = scheduler.sigmas

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(
        self, output: torch.Tensor, index: int, z: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """See `Schedule.step`; diffusers' velocity is eps - x0, so the sign is flipped."""
        at_index = self._at(index, len(self) - 1)
        velocity = -output.to(z.dtype)
        return at_index.step(
            velocity, self.timesteps[index], z, generator=generator, return_dict=False
        )[0]

    def noised(self, z0: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
        """See `Schedule.noised`."""
        at_index = self._at(index, len(self))
        return at_index.scale_noise(z0, torch.zeros(1, device=z0.device), noise)

    def _at(self, index: int, highest: int) -> FlowMatchEulerDiscreteScheduler:
        """A copy about to take step `index`: diffusers' own counts its steps, and only onwards."""
        _check_index(index, highest)
        at_index = copy.copy(self.scheduler)
        at_index.set_begin_index(index)
        return at_index


class Ddim:
    """x_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps, by DDIM steps with the network's eps (METHOD.md 1).

    Args:
        scheduler: diffusers' own.
        steps: number of denoising steps, a divisor of the 1000 training steps: diffusers steps
            back by a whole number, and would miss its next level and the clean end otherwise.

    Raises:
        ValueError: the steps are no divisor of the training steps.
    """

    def __init__(self, scheduler: DDIMScheduler | DDPMScheduler, steps: int) -> None:
        _check_steps(steps)
        training_steps = scheduler.config.num_train_timesteps
        if training_steps % steps:
            raise ValueError(f"the number of steps must divide {training_steps}, got {steps}")
        scheduler.set_timesteps(steps)
        self.scheduler = scheduler
        self.timesteps = scheduler.timesteps.float()
        noise_variance = 1.0 - scheduler.alphas_cumprod[scheduler.timesteps]
        self.levels = torch.cat((noise_variance.sqrt(), torch.zeros(1)))

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(
        self, output: torch.Tensor, index: int, z: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """See `Schedule.step`."""
        _check_index(index, len(self) - 1)
        timestep = int(self.scheduler.timesteps[index])
        return self.scheduler.step(
            output.to(z.dtype), timestep, z, generator=generator, return_dict=False
        )[0]

    def noised(self, z0: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
        """See `Schedule.noised`."""
        _check_index(index, len(self))
        if index == len(self):
            return z0
        return self.scheduler.add_noise(z0, noise, self.scheduler.timesteps[index : index + 1])


class Ddpm(Ddim):
    """The same levels, by DDPM's own steps, which add noise: the reference that DDIM shortens.

    diffusers' scheduler can be respaced, unlike MONAI's (METHOD.md 1); its levels are those of
    `Ddim` for the same number of steps.
    """


def level_shift(latent_voxels: int) -> float:
    """How far the levels move towards noise: (latent voxels / 32^3)^(1/3), never below 1.

    For latents below MAISI's base size, 32^3, the formula would move the levels towards the clean
    end, away from those at which a lesion is removed [choice]: it is held at 1 there.

    Raises:
        ValueError: no voxel.
    """
    if latent_voxels < 1:
        raise ValueError(f"a latent has at least one voxel, got {latent_voxels}")
    return max(1.0, (latent_voxels / BASE_LATENT_VOXELS) ** (1 / 3))


def training_pair(
    z0: torch.Tensor, noise: torch.Tensor, s: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input and target of a rectified-flow denoiser in training.

    Args:
        z0: clean latents (N, C, X, Y, Z), multiplied by the scale factor.
        noise: standard normal, of the same shape.
        s: levels (N,) in 0 (clean) to 1 (noise).

    Returns:
        The noisy latents (1 - s) z0 + s eps; the target x0 - eps; the timesteps (N,), 1000 s.

    Source: METHOD.md 1.
    """
    level = s.to(z0)[:, None, None, None, None]
    return (1 - level) * z0 + level * noise, z0 - noise, s.float() * TRAINING_STEPS


def load_schedule(folder: Path) -> Callable[[int, int], Schedule]:
    """The schedule of a model package: a function of the steps and the latent's voxels.

    Args:
        folder: holds `scheduler_config.json`, written by diffusers' `save_pretrained`.

    Raises:
        ModelDamaged: the file is absent or unreadable, or names a scheduler that is not known.
    """
    try:
        config = DDIMScheduler.load_config(folder, local_files_only=True)
        if not isinstance(config, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDamaged(
            "The model's scheduler_config.json is missing or cannot be read.",
            "Download or convert the model again.",
        ) from error
    name = config.get("_class_name")
    if name == "FlowMatchEulerDiscreteScheduler":
        return lambda steps, latent_voxels: RectifiedFlow(
            FlowMatchEulerDiscreteScheduler.from_config(config), steps, latent_voxels
        )
    if name == "DDIMScheduler":
        return lambda steps, _latent_voxels: Ddim(DDIMScheduler.from_config(config), steps)
    if name == "DDPMScheduler":
        return lambda steps, _latent_voxels: Ddpm(DDPMScheduler.from_config(config), steps)
    raise ModelDamaged(
        f"The model's scheduler_config.json names the scheduler {name}, which is not known.",
        "Known are FlowMatchEulerDiscreteScheduler, DDIMScheduler and DDPMScheduler.",
    )


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"at least one denoising step is needed, got {steps}")


def _check_index(index: int, highest: int) -> None:
    if not 0 <= index <= highest:
        raise IndexError(f"level {index} is not in 0 to {highest}")
