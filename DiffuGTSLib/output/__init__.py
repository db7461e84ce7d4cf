"""Results as text, labelmap, figure and thumbnail."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.output.figure import overview
    from DiffuGTSLib.output.segments import Segments, combine, describe, sentence

__all__ = [
    "Segments",
    "combine",
    "describe",
    "overview",
    "sentence",
]
_MODULES = {
    "Segments": "segments",
    "combine": "segments",
    "describe": "segments",
    "overview": "figure",
    "sentence": "segments",
}


def __getattr__(name: str) -> Any:
    # On demand: it brings matplotlib, which not every user of this package needs.
    if name in _MODULES:
        return getattr(import_module(f"DiffuGTSLib.output.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
