"""Which device the networks run on, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from DiffuGTSLib.errors import DiffuGTSError


class DeviceMissing(DiffuGTSError):
    """The device that was asked for is not there."""

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
    """bfloat16 where the device computes in it (twice as fast on such CPUs), else float32."""
    kind = device.split(":")[0]
    if kind == "meta":
        return nullcontext()
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=computes_in(kind) != torch.float32)


def frozen_precision(device: str) -> AbstractContextManager[object]:
    """`precision` for the frozen networks, which `frozen_dtype` stores as they compute on a GPU.

    There autocast would widen every normalisation to float32, and with it the feature maps.
    """
    kind = device.split(":")[0]
    return nullcontext() if kind == "meta" else (
        torch.autocast(kind, enabled=False) if kind == "cuda" else precision(kind)
    )


def frozen_dtype(device: str) -> torch.dtype:
    """What the frozen networks are stored in: on a GPU, what it computes in."""
    kind = device.split(":")[0]
    return computes_in(kind) if kind == "cuda" else torch.float32


def computes_in(device: str) -> torch.dtype:
    """The type of the feature maps on a device: bfloat16 where it is fast."""
    kind = device.split(":")[0]
    capable = torch.cuda.is_bf16_supported() if kind == "cuda" else has_fast_bfloat16()
    return torch.bfloat16 if capable else torch.float32


def has_fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; emulated it would be slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
