"""Text prompts: the vocabulary, and from a text to a finding and an anatomical site."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.prompt.parsing import Prompt, several, suggestions, understand

__all__ = [
    "Prompt",
    "several",
    "suggestions",
    "understand",
]
_MODULES = {
    "Prompt": "parsing",
    "several": "parsing",
    "suggestions": "parsing",
    "understand": "parsing",
}


def __getattr__(name: str) -> Any:
    # On demand: it brings the vocabulary, which not every user of this package needs.
    if name in _MODULES:
        return getattr(import_module(f"DiffuGTSLib.prompt.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
