"""Context by tiles: nothing lost between them, small scans uncut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from DiffuGTSLib.context_tiles import MARGIN, STEP, TILE, WHOLE, by_tiles, spans


@pytest.mark.parametrize("length", range(WHOLE + STEP, 140, STEP))
def test_the_kept_parts_cover_an_axis_once(length: int) -> None:
    kept = [keep for _, keep in spans(length, TILE, MARGIN, WHOLE)]
    assert [i for part in kept for i in range(part.start, part.stop)] == list(range(length))


@pytest.mark.parametrize("length", range(WHOLE + STEP, 140, STEP))
def test_a_tile_sees_a_margin_beyond_what_is_kept(length: int) -> None:
    for seen, keep in spans(length, TILE, MARGIN, WHOLE):
        assert seen.stop - seen.start == TILE
        assert keep.start - seen.start >= MARGIN or keep.start == 0
        assert seen.stop - keep.stop >= 0
        assert (seen.start % STEP, seen.stop <= length) == (0, True)


def test_a_local_function_gives_the_same_in_tiles() -> None:
    x, kernel = torch.randn(1, 2, 40, 28, 52), torch.randn(3, 2, 3, 3, 3)
    whole = F.conv3d(x, kernel, padding=1)
    tiled = by_tiles(lambda part: F.conv3d(part, kernel, padding=1), x)
    assert torch.allclose(tiled, whole, atol=1e-5)


def test_a_small_scan_is_not_cut() -> None:
    sizes = []

    def see(part: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(part.shape[2:]))
        return part

    by_tiles(see, torch.zeros(1, 1, 28, 20, 24))
    assert sizes == [(28, 20, 24)]
