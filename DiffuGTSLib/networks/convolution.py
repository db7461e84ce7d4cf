"""3D convolutions that reach the CPU's fast kernels whatever the size of their map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn


class Conv3d(nn.Conv3d):
    """As torch's, padded with zeros; see `convolve`."""

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None  # noqa: A002
    ) -> torch.Tensor:
        assert isinstance(self.padding, tuple)
        return convolve(input, weight, bias, self.padding, self.stride)


def convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: Sequence[int],
    stride: Sequence[int] = (1, 1, 1),
) -> torch.Tensor:
    """As F.conv3d of x (N, C, X, Y, Z), within its rounding.

    For one float32 map of C X Y <= 20480, or a kernel of 1 in one thread, F.conv3d leaves oneDNN
    for a loop: it unfolds the map in one thread and, where the weights are channels-last, copies
    them each time. At 128^3 those are 35 of the 73 convolutions of MAISI's denoiser, and the
    autoencoder's first one: 3 to 6 times as long each on the maps of 8^3 and 16^3.
    """
    direct = (
        x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled and _has_fast_kernels()
    )
    if direct:
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    return F.conv3d(x, weight, bias, tuple(stride), tuple(padding))


@cache
def _has_fast_kernels() -> bool:
    """Whether oneDNN has kernels made for this CPU: on others F.conv3d knows better."""
    return (torch.backends.mkldnn.is_available()
            and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"))
