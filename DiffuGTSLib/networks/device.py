"""Which device the networks run on, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

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
