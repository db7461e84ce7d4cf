"""Public data sets, read by their published folder layout: scans, outlines, prompts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.datasets.case import LabelledCase, Volumes
    from DiffuGTSLib.datasets.folder import DataSet, read_dataset

__all__ = [
    "DataSet",
    "LabelledCase",
    "Volumes",
    "read_dataset",
]
_MODULES = {
    "DataSet": "folder",
    "LabelledCase": "case",
    "Volumes": "case",
    "read_dataset": "folder",
}


def __getattr__(name: str) -> Any:
    # On demand: it brings SimpleITK, which not every user of this package needs.
    if name in _MODULES:
        return getattr(import_module(f"DiffuGTSLib.datasets.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
