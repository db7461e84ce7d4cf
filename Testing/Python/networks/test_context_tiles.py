"""Context by tiles: nothing lost or abrupt between them, small scans uncut."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from DiffuGTSLib.networks.attention import by_tiles
from DiffuGTSLib.networks.tiling import STEP, TILE, starts


@pytest.mark.parametrize("length", range(TILE + STEP, 140, STEP))
def test_the_tiles_of_an_axis_overlap_and_reach_its_end(length: int) -> None:
    begins = starts(length)
    assert (begins[0], begins[-1] + TILE) == (0, length)
    assert all(begin % STEP == 0 for begin in begins)
    assert all(STEP <= after - before <= TILE - 2 * STEP
               for before, after in itertools.pairwise(begins))


@pytest.mark.parametrize("length", range(TILE + STEP, 140, STEP))
def test_every_voxel_counts_once_in_all(length: int) -> None:
    x = torch.rand(1, 1, length, 8, 8)
    assert torch.allclose(by_tiles(lambda part: part, x), x, atol=1e-6)


def test_tiles_that_disagree_fade_into_each_other() -> None:
    """Each tile answers with its own number: along the axis no step is large."""
    number = itertools.count()

    def answer(part: torch.Tensor) -> torch.Tensor:
        return torch.full_like(part, float(next(number) % 2))

    steps = by_tiles(answer, torch.zeros(1, 1, 60, 8, 8))[0, 0, :, 4, 4].diff().abs()
    assert 0 < steps.max() < 0.2


def test_a_local_function_gives_the_same_in_tiles() -> None:
    x, kernel = torch.randn(1, 2, 40, 28, 52), torch.randn(3, 2, 3, 3, 3)
    whole = F.conv3d(x, kernel, padding=1)
    tiled = by_tiles(lambda part: F.conv3d(part, kernel, padding=1), x)
    assert torch.allclose(tiled, whole, atol=1e-5)


def test_a_small_scan_is_not_tiled() -> None:
    sizes = []

    def see(part: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(part.shape[2:]))
        return part

    by_tiles(see, torch.zeros(1, 1, 24, 20, 24))
    assert sizes == [(24, 20, 24)]
    sizes.clear()
    by_tiles(see, torch.zeros(1, 1, 28, 20, 24))
    assert sizes == [(24, 20, 24)] * 2, "no tile is larger than what was learned"
