"""The autoencoder in slabs gives what the whole gives, in less memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from support.live_bytes import LiveBytes
from support.random_networks import SMALL, build, relative_error

from DiffuGTSLib.errors import Cancelled
from DiffuGTSLib.models.convert import MAISI_AUTOENCODER
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.slabs import Computed, Planes, Stored, moments, store_over
from DiffuGTSLib.networks.tiled_autoencoder import decode, encode
from DiffuGTSLib.networks.tiling import Tiling, spans

# Slabs of 4 planes, of about 10 planes, and the whole; storing all, blocks, next to nothing.
TILINGS = [
    Tiling(1, 0, 0), Tiling(1, 1, 0), Tiling(1, 1, 1), Tiling(1, 3, 3), Tiling(20_000, 2, 1),
    Tiling(10**9, 1, 0),
]
NETWORKS: dict[str, dict[str, Any]] = {
    "GroupNorm": {},
    "no norm": {"norm_num_groups": None},
    "transposed": {"use_convtranspose": True},
    "uneven": {"num_channels": (4, 8, 8), "num_res_blocks": (1, 2, 1)},
}
SIZES = [(36, 20, 12), (52, 8, 4), (4, 4, 4)]
each_tiling = pytest.mark.parametrize("tiling", TILINGS, ids=str)
each_network = pytest.mark.parametrize("network", NETWORKS)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))


def joined(planes: Planes, slab: int) -> torch.Tensor:
    return torch.cat(list(planes.slabs(slab)), 2)


@torch.inference_mode()
@each_tiling
@each_network
@pytest.mark.parametrize("size", SIZES)
def test_encodes_as_the_whole_does(
    tiling: Tiling, network: str, size: tuple[int, int, int]
) -> None:
    model, image = build(**NETWORKS[network]), noise(1, *size)
    latent, features = encode(model, image, tiling)
    expected, levels = model.encode_with_features(image)
    assert relative_error(latent, expected) < 1e-5
    for planes, level in zip(features, levels, strict=True):
        assert relative_error(joined(planes, 5), level) < 1e-5


@torch.inference_mode()
@each_tiling
@each_network
@pytest.mark.parametrize("size", SIZES)
def test_decodes_as_the_whole_does(
    tiling: Tiling, network: str, size: tuple[int, int, int]
) -> None:
    model, latent = build(**NETWORKS[network]), noise(4, *(n // 4 for n in size))
    assert relative_error(decode(model, latent, tiling), model.decode(latent)) < 1e-5


@torch.inference_mode()
def test_maisis_full_width_encodes_and_decodes_as_the_whole_does() -> None:
    torch.manual_seed(0)
    model, image = Autoencoder(**MAISI_AUTOENCODER).eval(), noise(1, 20, 8, 12)
    expected = model.encode(image)[0]
    latent, _ = encode(model, image, Tiling(1, 1, 1))
    assert relative_error(latent, expected) < 1e-5
    assert relative_error(decode(model, latent, Tiling(1, 1, 0)), model.decode(latent)) < 1e-5


@torch.inference_mode()
def test_the_norms_statistics_are_those_of_the_whole_scan() -> None:
    """A bright end changes the latent at the other end, beyond every convolution's reach."""
    model, image = build(), noise(1, 160, 8, 8)
    brighter = image.clone()
    brighter[:, :, 120:] += 5.0
    dark, bright = (encode(model, x, Tiling(1, 1, 1))[0][:, :, :8] for x in (image, brighter))
    assert relative_error(bright, dark) > 0.01


@torch.inference_mode()
def test_bfloat16_is_as_near_as_its_rounding() -> None:
    model, image = build(), noise(1, 36, 20, 12)
    exact = model.encode(image)[0]
    torch.nn.Module.to(model, torch.bfloat16)
    latent, _ = encode(model, image, Tiling(1, 1, 1))
    assert latent.dtype == torch.bfloat16
    off = (latent.float() - exact).square().mean().sqrt() / exact.std()
    whole = (model.encode(image.bfloat16())[0].float() - exact).square().mean().sqrt() / exact.std()
    assert off < 1.5 * whole < 0.05


@torch.inference_mode()
def test_each_tiling_needs_less_memory_than_the_one_before() -> None:
    model, image = build(), noise(1, 256, 16, 16)
    peaks = []
    for tiling in (None, Tiling(1, 0, 0), Tiling(1, 1, 0), Tiling(1, 1, 1), Tiling(1, 2, 1)):
        with LiveBytes() as live:
            _ = model.encode_with_features(image) if tiling is None else encode(
                model, image, tiling)
        peaks.append(live.peak)
    assert all(after < before for before, after in pairwise(peaks))
    assert peaks[-1] < 0.2 * peaks[0]


@torch.inference_mode()
def test_a_features_planes_can_be_asked_for_again_and_in_part() -> None:
    model, image = build(), noise(1, 36, 8, 8)
    finest = encode(model, image, Tiling(1, 1, 1))[1][0]
    whole = model.encode_with_features(image)[1][0]
    assert isinstance(finest, Computed)
    for ranges in ([(0, 9), (3, 20), (18, 36)], [(0, 36)], [(8, 12)]):
        for (first, end), window in zip(ranges, finest.windows(ranges), strict=True):
            assert relative_error(window, whole[:, :, first:end]) < 1e-5


@torch.inference_mode()
def test_a_map_is_replaced_while_the_next_slab_still_needs_it() -> None:
    old = Stored(noise(2, 19, 3, 3))
    source = old.tensor.clone()

    def mean_of_five(ranges):  # type: ignore[no-untyped-def]
        near = [(max(0, a - 2), min(19, b + 2)) for a, b in ranges]
        for (first, end), (low, _), x in zip(ranges, near, old.windows(near), strict=True):
            yield torch.stack([
                x[:, :, max(0, i - 2 - low) : i + 3 - low].sum(2) for i in range(first, end)], 2)

    expected = torch.stack([source[:, :, max(0, i - 2) : i + 3].sum(2) for i in range(19)], 2)
    replaced = store_over(old, Computed(old.shape, old, mean_of_five), 4, 2)
    assert torch.allclose(replaced.tensor, expected, atol=1e-5)


def test_moments_are_those_of_the_whole_far_from_zero() -> None:
    x = noise(8, 37, 5, 6) * 3 + 1000
    found = moments(Stored(x), groups=4, slab=5)
    variance, mean = torch.var_mean(x.double().unflatten(1, (4, 2)), (0, 2, 3, 4, 5), correction=0)
    assert found.mean[::2] == pytest.approx(mean, rel=1e-6)
    assert found.variance[1::2] == pytest.approx(variance, rel=1e-4)


def test_spans_cover_all_planes_once() -> None:
    assert spans(10, 4) == [(0, 4), (4, 8), (8, 10)]


@torch.inference_mode()
def test_a_cancel_stops_after_the_block() -> None:
    done: list[int] = []

    def stop(index: int, _count: int) -> None:
        done.append(index)
        if index == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        encode(build(), noise(1, 8, 8, 8), Tiling(1, 0, 0), stop)
    assert done == [1, 2]


def test_refuses_what_four_does_not_divide_and_several_scans() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        encode(build(), noise(1, 8, 10, 8), TILINGS[0])
    with pytest.raises(ValueError, match="one map"):
        encode(build(), torch.zeros(2, 1, 8, 8, 8), TILINGS[0])


def test_the_small_network_is_like_maisis() -> None:
    assert set(SMALL) <= set(MAISI_AUTOENCODER)
