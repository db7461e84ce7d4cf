"""Many scans: on this machine or on a Ray cluster."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.batch.case import BatchSettings, Case, Outcome
    from DiffuGTSLib.batch.driver import run_batch

__all__ = [
    "BatchSettings",
    "Case",
    "Outcome",
    "run_batch",
]
_MODULES = {
    "BatchSettings": "case",
    "Case": "case",
    "Outcome": "case",
    "run_batch": "driver",
}


def __getattr__(name: str) -> Any:
    # On demand: it brings SimpleITK, which not every user of this package needs.
    if name in _MODULES:
        return getattr(import_module(f"DiffuGTSLib.batch.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
