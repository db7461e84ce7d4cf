"""Candidates and latent inpainting, with denoisers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from support.noise_schedules import rectified_flow

from DiffuGTSLib.errors import Cancelled
from DiffuGTSLib.networks.denoiser import Conditioning, Denoiser
from DiffuGTSLib.pipeline.inpainting import CandidateOptions, find_candidates, inpaint, latent_mask
from DiffuGTSLib.progress import Progress

SPACING = (2.0, 2.0, 2.0)


class Towards(Denoiser):
    """A denoiser that knows the answer: its velocity x0 - eps leads straight to `goal`."""

    def __init__(self, goal: torch.Tensor, in_channels: int) -> None:
        super().__init__(in_channels=in_channels, out_channels=goal.shape[1],
                         num_channels=(8, 8), attention_levels=(False, False),
                         num_head_channels=8, num_res_blocks=1, norm_num_groups=4)
        self.goal = goal
        self.seen: list[torch.Tensor] = []

    def forward(self, x, timesteps, **_):  # type: ignore[override]
        self.seen.append(x.clone())
        level = float(timesteps[0]) / 1000
        return (self.goal - x[:, : self.goal.shape[1]]) / level


def setting() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    latent, goal = torch.randn(1, 3, 8, 8, 8), torch.full((1, 3, 8, 8, 8), 5.0)
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., 2:5, 2:5, 2:5] = 1
    return latent, goal, mask


def paint(model: Denoiser, latent: torch.Tensor, mask: torch.Tensor, seed: int = 0,
          resamplings: int = 1, progress: Progress | None = None) -> torch.Tensor:
    return inpaint(model, rectified_flow(6, 512), latent, mask, Conditioning(),
                   torch.Generator().manual_seed(seed), progress or Progress(), 0, 6, resamplings)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("resamplings", [1, 3])
def test_paints_the_answer_inside_and_leaves_the_outside_to_the_bit(
    channels: int, resamplings: int
) -> None:
    latent, goal, mask = setting()
    painted = paint(Towards(goal, channels), latent, mask, resamplings=resamplings)
    inside = mask.expand_as(latent) > 0
    assert torch.equal(painted[~inside], latent[~inside])
    assert torch.allclose(painted[inside], goal[inside], atol=1e-4)


def test_a_plain_denoiser_sees_the_known_part_at_the_level_of_its_step() -> None:
    latent, goal, mask = setting()
    latent = torch.zeros_like(latent)  # then what is seen outside is the noise alone
    model = Towards(goal, 3)
    paint(model, latent, mask)
    outside = (mask == 0).expand_as(latent)
    levels = rectified_flow(6, 512).levels
    measured = [float(x[outside].std() / model.seen[0][outside].std()) for x in model.seen]
    assert measured == pytest.approx([float(s) for s in levels[:6]], abs=1e-4)


def test_a_hole_painting_denoiser_sees_the_known_part_clean_and_the_mask() -> None:
    latent, goal, mask = setting()
    model = Towards(goal, 4)
    paint(model, latent, mask)
    outside = (mask == 0).expand_as(latent)
    assert all(torch.equal(x[:, :3][outside], latent[outside]) for x in model.seen)
    assert all(torch.equal(x[:, 3:], mask) for x in model.seen)


def test_the_seed_decides() -> None:
    latent, _, mask = setting()
    torch.manual_seed(1)
    model = Denoiser(in_channels=4, out_channels=3, num_channels=(8, 8),
                     attention_levels=(False, False), num_head_channels=8, num_res_blocks=1,
                     norm_num_groups=4).requires_grad_(False)
    torch.nn.init.normal_(model.out[2].conv.weight, std=0.1)
    assert torch.equal(paint(model, latent, mask, 3), paint(model, latent, mask, 3))
    assert not torch.equal(paint(model, latent, mask, 3), paint(model, latent, mask, 4))


def test_a_cancel_stops_within_one_step() -> None:
    latent, goal, mask = setting()
    model, progress = Towards(goal, 3), Progress()

    def stop(_stage: str, done: int, _total: int) -> None:
        if done == 2:
            progress.cancel()

    progress = Progress(stop)
    with pytest.raises(Cancelled):
        paint(model, latent, mask, progress=progress)
    assert len(model.seen) == 2


def test_a_latent_voxel_touched_is_replaced() -> None:
    mask = torch.zeros(8, 8, 8, dtype=torch.bool)
    mask[3, 4, 7] = True
    assert torch.nonzero(latent_mask(mask, 4)[0, 0]).tolist() == [[0, 1, 1]]


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float) -> np.ndarray:
    axes = np.indices(shape)
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2


def test_candidates_are_dilated_and_lie_in_crops_the_networks_divide() -> None:
    probability = 0.9 * ball((96, 80, 112), (20, 60, 90), 5)
    found = find_candidates(probability, 0.5, SPACING, CandidateOptions())
    assert found.mask.sum() > found.cores.sum() == (probability > 0).sum()
    (box,) = found.boxes
    assert found.mask[box].sum() == found.mask.sum()
    assert all((s.stop - s.start) % 16 == 0 and s.start % 4 == 0 for s in box)


def test_weak_and_tiny_candidates_are_dropped() -> None:
    probability = 0.4 * ball((64, 64, 64), (20, 20, 20), 5)  # above 0.25, never reaches 0.5
    probability[50, 50, 50] = 0.9  # 0.008 ml
    assert not find_candidates(probability, 0.5, SPACING, CandidateOptions()).found


def test_only_the_strongest_candidates_are_kept() -> None:
    probability = np.zeros((64, 64, 64))
    for i, x in enumerate((8, 24, 40, 56)):
        probability += (0.6 + 0.1 * i) * ball((64, 64, 64), (x, 32, 32), 4)
    found = find_candidates(probability, 0.5, SPACING, CandidateOptions(max_count=2))
    assert not found.cores[8, 32, 32]
    assert not found.cores[24, 32, 32]
    assert found.cores[40, 32, 32]
    assert found.cores[56, 32, 32]


def test_neighbours_share_a_crop_and_distant_ones_do_not() -> None:
    near = 0.9 * (ball((240, 64, 64), (20, 30, 30), 4) | ball((240, 64, 64), (34, 30, 30), 4))
    far = near + 0.9 * ball((240, 64, 64), (220, 30, 30), 4)
    assert len(find_candidates(near, 0.5, SPACING, CandidateOptions()).boxes) == 1
    assert len(find_candidates(far, 0.5, SPACING, CandidateOptions()).boxes) == 2


def test_the_mask_is_the_box_dilation_of_all_cores_at_the_border_too() -> None:
    blobs = ball((64, 64, 64), (1, 20, 20), 5) | ball((64, 64, 64), (12, 20, 22), 4)
    blobs |= ball((64, 64, 64), (50, 60, 40), 6)
    found = find_candidates(0.9 * blobs, 0.5, SPACING, CandidateOptions())
    reach = [max(1, round(6.0 / s)) for s in SPACING]
    assert np.array_equal(found.cores, blobs)
    assert np.array_equal(
        found.mask, ndimage.maximum_filter(blobs, [2 * r + 1 for r in reach], mode="constant"))
