"""Which device the networks run on, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

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
    capable = torch.cuda.is_bf16_supported() if kind == "cuda" else has_fast_bfloat16()
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=capable)


def has_fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; emulated it would be slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
