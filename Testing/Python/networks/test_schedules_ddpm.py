"""DDPM's own steps, the reference for DDIM: closed forms on Gaussian data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.noise_schedules import DEVIATION, MEAN, best_noise, ddim, ddpm, normal

from DiffuGTSLib.networks.schedules import Ddpm, load_schedule


def sample(schedule: Ddpm, z: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    for index in range(len(schedule)):
        output = best_noise(z, schedule.levels[index])
        z = schedule.step(output, index, z, generator)
    return z


# The smaller of DDPM's two variances is right in the limit of many steps only.
@pytest.mark.parametrize(("steps", "tolerance"), [(200, 0.1), (1000, 0.03)])
def test_sampling_reaches_the_mean_and_deviation_of_the_data(steps: int, tolerance: float) -> None:
    z = sample(ddpm(steps), normal(0, 20000, 1))
    assert z.mean() == pytest.approx(MEAN, abs=0.02)
    assert z.std() == pytest.approx(DEVIATION, rel=tolerance)


def test_its_levels_are_those_of_ddim() -> None:
    reference, short = ddpm(100), ddim(100)
    assert torch.equal(reference.levels, short.levels)
    assert torch.equal(reference.timesteps, short.timesteps)


def test_its_last_step_adds_no_noise_and_the_others_do() -> None:
    schedule, z = ddpm(10), normal(1)
    last, other = (
        [schedule.step(0 * z, index, z, torch.Generator().manual_seed(seed)) for seed in (1, 2)]
        for index in (9, 4)
    )
    assert torch.equal(*last)
    assert not torch.equal(*other)


def test_the_same_generator_gives_the_same_sample() -> None:
    assert torch.equal(sample(ddpm(20), normal(3), 5), sample(ddpm(20), normal(3), 5))


def test_blending_leaves_the_unknown_part_to_the_network() -> None:
    schedule, z0, noise = ddpm(), normal(1, 20000, 1), normal(2, 20000, 1)
    unknown = (torch.arange(20000) % 2)[:, None]
    z, generator = noise, torch.Generator().manual_seed(0)
    for index in range(len(schedule)):
        z = schedule.step(best_noise(z, schedule.levels[index]), index, z, generator)
        z = unknown * z + (1 - unknown) * schedule.noised(z0, noise, index + 1)
    assert torch.equal(z[::2], z0[::2])
    assert z[1::2].mean() == pytest.approx(MEAN, abs=0.02)
    assert z[1::2].std() == pytest.approx(DEVIATION, rel=0.05)


def test_a_package_may_ask_for_it(tmp_path: Path) -> None:
    ddpm(10).scheduler.save_pretrained(tmp_path)
    loaded = load_schedule(tmp_path)(20, 64**3)
    assert isinstance(loaded, Ddpm)
    assert torch.equal(loaded.levels, ddpm(20).levels)
