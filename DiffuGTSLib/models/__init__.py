"""Model packages: catalogue, card, store, install, convert, load, save."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.models.card import Card, Fusion
    from DiffuGTSLib.models.catalogue import entry
    from DiffuGTSLib.models.package import Foundation, Package, load, load_foundation, save
    from DiffuGTSLib.models.store import find, installed, verify

__all__ = [
    "Card",
    "Foundation",
    "Fusion",
    "Package",
    "entry",
    "find",
    "installed",
    "load",
    "load_foundation",
    "save",
    "verify",
]
_MODULES = {
    "Card": "card",
    "Foundation": "package",
    "Fusion": "card",
    "Package": "package",
    "entry": "catalogue",
    "find": "store",
    "installed": "store",
    "load": "package",
    "load_foundation": "package",
    "save": "package",
    "verify": "store",
}


def __getattr__(name: str) -> Any:
    # On demand: it brings torch, which not every user of this package needs.
    if name in _MODULES:
        return getattr(import_module(f"DiffuGTSLib.models.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
