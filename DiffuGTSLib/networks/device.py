"""Which device the networks run on, in which precision, and how a CPU convolves."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from DiffuGTSLib.errors import DiffuGTSError


class DeviceMissing(DiffuGTSError):
    """The requested device is not there."""

    code = "device-missing"


def choose_device(name: str = "auto") -> str:
    """"auto" becomes "cuda" where there is one, else "cpu"; other names are checked.

    Raises:
        DeviceMissing: there is no such device on this machine.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = name == "cpu" or (name.startswith("cuda") and torch.cuda.is_available())
    if known and name.startswith("cuda:"):
        number = name.removeprefix("cuda:")
        known = number.isdigit() and int(number) < torch.cuda.device_count()
    if not known:
        raise DeviceMissing(
            f"There is no device “{name}” on this machine.", "Use “auto” or “cpu”."
        )
    return name


def precision(device: str) -> AbstractContextManager[object]:
    """bfloat16 on a CPU that has instructions for it (twice as fast there); else no autocast.

    On a GPU the networks are stored as they compute (`storage_dtype`). Autocast would widen every
    normalisation to float32 there, and with it the feature maps after it.
    """
    kind = device.split(":")[0]
    low = kind == "cpu" and computes_in(kind) == torch.bfloat16
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=low)


def storage_dtype(device: str) -> torch.dtype:
    """What the networks are stored in: on a GPU, what it computes in."""
    return computes_in(device) if device.startswith("cuda") else torch.float32


def computes_in(device: str) -> torch.dtype:
    """The type of the feature maps on a device: bfloat16 where it is fast."""
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            # Torch calls bfloat16 supported on GPUs that have to emulate it, too.
            capable = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capable = has_fast_bfloat16()
    return torch.bfloat16 if capable else torch.float32


def has_fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; emulated it would be slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
    """Whether oneDNN has kernels made for this CPU: on others F.conv3d knows better.

    Its function is in torch's namespace without being documented, so it may go.
    """
    return (hasattr(torch, "mkldnn_convolution") and torch.backends.mkldnn.is_available()
            and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"))
