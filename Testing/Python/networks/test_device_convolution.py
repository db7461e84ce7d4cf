"""Convolutions that go to the CPU's fast kernels: the same results, and only where they may."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.random_networks import relative_error
from torch import nn
from torch.profiler import ProfilerActivity, profile

from DiffuGTSLib.networks.device import Conv3d, _has_fast_kernels, convolve

LAYOUTS = {"plain": torch.contiguous_format, "channels-last": torch.channels_last_3d}
SHAPES = [(32, 48, 3, 1, (4, 4, 4)), (8, 16, 3, 2, (6, 9, 7)), (16, 8, 1, 1, (5, 3, 4))]


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> torch.memory_format:
    return LAYOUTS[request.param]


@torch.inference_mode()
@pytest.mark.parametrize(("narrow", "wide", "kernel", "stride", "size"), SHAPES)
def test_gives_what_torchs_gives(
    narrow: int, wide: int, kernel: int, stride: int, size: tuple[int, int, int],
    layout: torch.memory_format,
) -> None:
    layer = Conv3d(narrow, wide, kernel, stride, kernel // 2).to(memory_format=layout)
    x = torch.randn(1, narrow, *size).contiguous(memory_format=layout)
    expected = F.conv3d(x.double(), layer.weight.double(), layer.bias.double(), stride, kernel // 2)
    assert relative_error(layer(x), expected.float()) < 1e-5


@torch.inference_mode()
@pytest.mark.skipif(not _has_fast_kernels(), reason="this CPU has none")
def test_small_maps_are_not_unfolded(layout: torch.memory_format) -> None:
    layer = Conv3d(64, 64, 3, padding=1).to(memory_format=layout)
    with profile(activities=[ProfilerActivity.CPU]) as watch:
        layer(torch.randn(1, 64, 4, 4, 4))
    names = {event.key for event in watch.key_averages()}
    assert "aten::mkldnn_convolution" in names
    assert "aten::slow_conv3d_forward" not in names


@torch.inference_mode()
def test_in_half_precision_it_is_torchs_to_the_bit() -> None:
    layer, x = Conv3d(16, 16, 3, padding=1), torch.randn(1, 16, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.conv3d(x, layer.weight, layer.bias, padding=1)
        assert torch.equal(layer(x), expected)
    assert layer(x).dtype == torch.float32


def test_trains_as_torchs_does() -> None:
    ours, theirs = Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 4, 4, 4, 4)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


@torch.inference_mode()
def test_pads_each_axis_by_its_own() -> None:
    weight, x = torch.randn(4, 4, 3, 3, 3), torch.randn(1, 4, 6, 5, 4)
    value = convolve(x, weight, None, (0, 1, 1))
    assert value.shape == (1, 4, 4, 5, 4)
    torch.testing.assert_close(value, F.conv3d(x, weight, None, padding=(0, 1, 1)))


def test_keeps_the_shape_of_tensors_without_content() -> None:
    with torch.device("meta"), torch.inference_mode():
        assert Conv3d(4, 8, 3, padding=1)(torch.empty(1, 4, 4, 4, 4)).shape == (1, 8, 4, 4, 4)
