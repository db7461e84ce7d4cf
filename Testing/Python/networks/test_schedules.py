"""The schedules against closed forms, against diffusers by hand and against MONAI's levels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from monai.networks.schedulers.rectified_flow import RFlowScheduler
from support.noise_schedules import (
    DEVIATION,
    MEAN,
    best_noise,
    ddim,
    normal,
    rectified_flow,
)

from DiffuGTSLib.errors import ModelDamaged
from DiffuGTSLib.networks.schedules import (
    Ddim,
    RectifiedFlow,
    Schedule,
    level_shift,
    load_schedule,
    training_pair,
)

MAISI_LATENT = 128 * 128 * 64


def best_velocity(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """The expected x0 - eps where x0 is N(MEAN, DEVIATION) and x = (1 - s) x0 + s eps."""
    excess = (x - (1 - s) * MEAN) / ((1 - s) ** 2 * DEVIATION**2 + s**2)
    return MEAN + (1 - s) * DEVIATION**2 * excess - s * excess


Predictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
FLOW = pytest.param(rectified_flow(50, MAISI_LATENT), best_velocity, id="rectified-flow")
DDIM = pytest.param(ddim(100), best_noise, id="ddim")
both = pytest.mark.parametrize(("schedule", "predict"), [FLOW, DDIM])


def sample(schedule: Schedule, predict: Predictor, z: torch.Tensor) -> torch.Tensor:
    for index in range(len(schedule)):
        z = schedule.step(predict(z, schedule.levels[index]), index, z)
    return z


@both
def test_sampling_reaches_the_mean_and_deviation_of_the_data(
    schedule: Schedule, predict: Predictor
) -> None:
    z = sample(schedule, predict, normal(0, 20000))
    assert z.mean() == pytest.approx(MEAN, abs=0.02)
    assert z.std() == pytest.approx(DEVIATION, rel=0.08)


@pytest.mark.parametrize(("steps", "tolerance"), [(50, 0.08), (500, 0.01)])
def test_more_steps_come_closer(steps: int, tolerance: float) -> None:
    z = sample(rectified_flow(steps, MAISI_LATENT), best_velocity, normal(0, 20000))
    assert z.std() == pytest.approx(DEVIATION, rel=tolerance)


@both
def test_levels_fall_to_zero(schedule: Schedule, predict: Predictor) -> None:
    assert len(schedule.levels) == len(schedule) + 1
    assert (schedule.levels.diff() < 0).all()
    assert schedule.levels[0] > 0.99
    assert schedule.levels[-1] == 0


@both
def test_timesteps_are_floats(schedule: Schedule, predict: Predictor) -> None:
    assert schedule.timesteps.dtype == torch.float32
    assert schedule.timesteps.shape == (len(schedule),)


def test_the_flow_starts_from_pure_noise() -> None:
    schedule = rectified_flow(10, MAISI_LATENT)
    assert torch.equal(schedule.noised(normal(1), normal(2), 0), normal(2))
    assert schedule.timesteps[0] == 1000.0


def test_the_flow_tells_the_network_a_thousand_times_the_level() -> None:
    schedule = rectified_flow(10, MAISI_LATENT)
    torch.testing.assert_close(schedule.timesteps, 1000 * schedule.levels[:-1])


def test_the_flow_mixes_by_the_level() -> None:
    schedule, z0, noise = rectified_flow(10, MAISI_LATENT), normal(1), normal(2)
    for index, s in enumerate(schedule.levels):
        torch.testing.assert_close(schedule.noised(z0, noise, index), (1 - s) * z0 + s * noise)


def test_ddim_mixes_by_the_cumulated_betas() -> None:
    schedule, z0, noise = ddim(20), normal(1), normal(2)
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    for index, timestep in enumerate(range(999, 0, -50)):
        a = kept[timestep].float()
        expected = a.sqrt() * z0 + (1 - a).sqrt() * noise
        assert schedule.timesteps[index] == timestep
        torch.testing.assert_close(schedule.noised(z0, noise, index), expected)


@both
def test_the_last_level_is_the_clean_latent(schedule: Schedule, predict: Predictor) -> None:
    assert torch.equal(schedule.noised(normal(1), normal(2), len(schedule)), normal(1))


@both
def test_a_step_with_the_true_noise_leads_to_the_next_level(
    schedule: Schedule, predict: Predictor
) -> None:
    z0, noise = normal(1), normal(2)
    output = z0 - noise if predict is best_velocity else noise
    for index in range(len(schedule)):
        z = schedule.step(output, index, schedule.noised(z0, noise, index))
        torch.testing.assert_close(
            z, schedule.noised(z0, noise, index + 1), atol=2e-4, rtol=1e-4
        )


@both
def test_blending_with_everything_known_gives_the_scan_back(
    schedule: Schedule, predict: Predictor
) -> None:
    z0, noise, unknown = normal(1), normal(2), torch.zeros(2, 1, 2, 3, 5)
    z = schedule.noised(z0, noise, 0)
    for index in range(len(schedule)):
        z = schedule.step(predict(z, schedule.levels[index]), index, z)
        z = unknown * z + (1 - unknown) * schedule.noised(z0, noise, index + 1)
    assert torch.equal(z, z0)


@both
def test_blending_leaves_the_unknown_part_to_the_network(
    schedule: Schedule, predict: Predictor
) -> None:
    z0, noise, unknown = normal(1, 20000), normal(2, 20000), torch.arange(20000) % 2
    z = noise
    for index in range(len(schedule)):
        z = schedule.step(predict(z, schedule.levels[index]), index, z)
        z = unknown * z + (1 - unknown) * schedule.noised(z0, noise, index + 1)
    assert torch.equal(z[::2], z0[::2])
    assert z[1::2].mean() == pytest.approx(MEAN, abs=0.02)


@both
def test_a_step_can_be_repeated_after_later_ones(schedule: Schedule, predict: Predictor) -> None:
    z, output = normal(1), normal(2)
    first = schedule.step(output, 3, z)
    schedule.step(output, 9, z)
    assert torch.equal(schedule.step(output, 3, z), first)


@both
def test_half_precision_outputs_keep_the_latents_own_type(
    schedule: Schedule, predict: Predictor
) -> None:
    z = schedule.step(normal(2).bfloat16(), 0, normal(1))
    assert z.dtype == torch.float32


@both
@pytest.mark.parametrize("index", [-1, 1000])
def test_refuses_levels_that_do_not_exist(
    schedule: Schedule, predict: Predictor, index: int
) -> None:
    with pytest.raises(IndexError, match="not in 0 to"):
        schedule.noised(normal(1), normal(2), index)
    with pytest.raises(IndexError, match="not in 0 to"):
        schedule.step(normal(2), index, normal(1))


def test_the_flow_is_diffusers_euler_by_hand() -> None:
    shift = (MAISI_LATENT / 32**3) ** (1 / 3)
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    theirs.set_timesteps(sigmas=[1.0, 0.8, 0.6, 0.4, 0.2])
    z = normal(3)
    expected = z
    for timestep in theirs.timesteps:
        velocity = -best_velocity(expected, timestep / 1000)
        expected = theirs.step(velocity, timestep, expected).prev_sample
    ours = sample(rectified_flow(5, MAISI_LATENT), best_velocity, z)
    torch.testing.assert_close(ours, expected)


def test_ddim_is_diffusers_ddim_by_hand() -> None:
    theirs = DDIMScheduler(
        1000, 0.0015, 0.0195, "scaled_linear", clip_sample=False, timestep_spacing="trailing"
    )
    theirs.set_timesteps(10)
    z = normal(3)
    expected = z
    for timestep in theirs.timesteps:
        sigma = (1 - theirs.alphas_cumprod[timestep]).sqrt()
        expected = theirs.step(best_noise(expected, sigma), timestep, expected).prev_sample
    torch.testing.assert_close(sample(ddim(10), best_noise, z), expected)


@pytest.mark.parametrize("size", [(64, 64, 32), (128, 128, 64), (96, 80, 64)])
def test_the_flow_has_monais_timesteps(size: tuple[int, int, int]) -> None:
    theirs = RFlowScheduler(
        use_discrete_timesteps=False, use_timestep_transform=True, base_img_size_numel=32**3
    )
    voxels = size[0] * size[1] * size[2]
    theirs.set_timesteps(30, input_img_size_numel=voxels)
    expected = torch.as_tensor(theirs.timesteps, dtype=torch.float32)
    ours = rectified_flow(30, voxels).timesteps
    # MONAI rounds its timesteps to half precision.
    torch.testing.assert_close(ours, expected, rtol=2**-11, atol=0.0)


@pytest.mark.parametrize(
    ("voxels", "shift"), [(64**3, 2.0), (32**3, 1.0), (16**3, 1.0), (1, 1.0)]
)
def test_levels_shift_towards_noise_for_large_latents_only(voxels: int, shift: float) -> None:
    assert level_shift(voxels) == pytest.approx(shift)
    halfway = shift * 0.5 / (1 + (shift - 1) * 0.5)
    assert rectified_flow(2, voxels).levels[1] == pytest.approx(halfway)


@pytest.mark.parametrize("steps", [30, 7, 1001])
def test_ddim_refuses_steps_that_do_not_divide_its_thousand(steps: int) -> None:
    with pytest.raises(ValueError, match="divide 1000"):
        ddim(steps)


@pytest.mark.parametrize("make", [lambda: rectified_flow(0, 1), lambda: ddim(0)])
def test_refuses_to_denoise_in_no_step(make: Callable[[], Schedule]) -> None:
    with pytest.raises(ValueError, match="at least one denoising step"):
        make()


def test_refuses_a_latent_without_voxels() -> None:
    with pytest.raises(ValueError, match="at least one voxel"):
        rectified_flow(5, 0)


def test_training_pairs_lie_on_the_way_and_point_to_the_scan() -> None:
    z0, noise, s = normal(1), normal(2), torch.tensor([0.25, 1.0])
    z, target, timesteps = training_pair(z0, noise, s)
    torch.testing.assert_close(z[0], 0.75 * z0[0] + 0.25 * noise[0])
    torch.testing.assert_close(z + s.view(2, 1, 1, 1, 1) * target, z0)
    assert timesteps.tolist() == [250.0, 1000.0]


def test_training_and_sampling_agree_on_level_and_timestep() -> None:
    schedule, z0, noise = rectified_flow(10, MAISI_LATENT), normal(1), normal(2)
    z, target, timesteps = training_pair(z0, noise, schedule.levels[4].repeat(2))
    torch.testing.assert_close(timesteps, schedule.timesteps[4].repeat(2))
    torch.testing.assert_close(z, schedule.noised(z0, noise, 4))
    torch.testing.assert_close(schedule.step(target, 4, z), schedule.noised(z0, noise, 5))


@pytest.mark.parametrize("schedule", [rectified_flow(20, MAISI_LATENT), ddim(20)])
def test_saved_and_loaded_it_is_the_same(
    tmp_path: Path, schedule: RectifiedFlow | Ddim
) -> None:
    schedule.scheduler.save_pretrained(tmp_path)
    loaded = load_schedule(tmp_path)(20, MAISI_LATENT)
    assert type(loaded) is type(schedule)
    assert torch.equal(loaded.levels, schedule.levels)
    assert torch.equal(loaded.timesteps, schedule.timesteps)


def test_a_package_may_fix_its_own_shift(tmp_path: Path) -> None:
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path)
    load = load_schedule(tmp_path)
    assert load(2, 64**3).levels[1] == pytest.approx(0.75)
    assert load(2, 16**3).levels[1] == pytest.approx(0.75)


def test_one_package_gives_schedules_of_different_lengths(tmp_path: Path) -> None:
    rectified_flow(5, 1).scheduler.save_pretrained(tmp_path)
    load = load_schedule(tmp_path)
    short, long = load(4, 32**3), load(8, 64**3)
    assert (len(short), len(long)) == (4, 8)
    torch.testing.assert_close(short.levels, torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


def test_a_missing_schedule_is_a_damaged_model(tmp_path: Path) -> None:
    with pytest.raises(ModelDamaged, match=r"scheduler_config\.json"):
        load_schedule(tmp_path / "absent")


def test_a_broken_schedule_is_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelDamaged, match=r"scheduler_config\.json"):
        load_schedule(tmp_path)


def test_a_schedule_of_another_kind_is_named(tmp_path: Path) -> None:
    EulerDiscreteScheduler().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "scheduler_config.json").read_text("utf-8"))["_class_name"]
    with pytest.raises(ModelDamaged, match="EulerDiscreteScheduler"):
        load_schedule(tmp_path)
