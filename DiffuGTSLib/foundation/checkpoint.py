"""Reading published checkpoints: weights and plain values only, nothing in them is executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

from DiffuGTSLib.errors import ModelDamaged


class _PlainTensor(torch.Tensor):
    """Takes the place of MONAI's MetaTensor: its values, without its meta data's meaning."""


class _Ignored:
    """Takes the place of an object that is not looked at; does nothing, whatever is done to it."""

    def __new__(cls, *_: Any) -> _Ignored:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __hash__(self) -> int:
        return 0


# MAISI's trainer computes the scale factor from a MetaTensor, which drags these names along.
_STAND_INS: dict[str, type] = {"monai.data.meta_tensor.MetaTensor": _PlainTensor} | {
    f"{module}.{name}": type(name, (_Ignored,), {})
    for module, names in {
        "monai.utils.enums": ("MetaKeys", "SpaceKeys", "TraceKeys"),
        "numpy": ("dtype", "ndarray"),
        "numpy.core.multiarray": ("scalar", "_reconstruct"),
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
    }.items()
    for name in names
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What torch.save wrote, read with weights_only=True.

    Raises:
        ModelDamaged: the file is absent, truncated, no checkpoint, or holds other objects.
    """
    try:
        with safe_globals([(stand_in, name) for name, stand_in in _STAND_INS.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelDamaged(
            f"{path.name} holds more than weights, or is no checkpoint; it was not read.",
            "Fetch it again from where its publisher keeps it.",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ModelDamaged(
            f"{path.name} is damaged or no checkpoint of torch.", "Fetch the file again."
        ) from error
    if not isinstance(content, dict):
        raise ModelDamaged(f"{path.name} holds no weights by name.", "Is it the right file?")
    return content
