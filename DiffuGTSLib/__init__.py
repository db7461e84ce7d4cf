"""DiffuGTS: tumors in CT and MR, segmented from a text.

Research use, not for clinical decisions.

    from DiffuGTSLib import Segmenter
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.pipeline import Segmenter

__all__ = ["Segmenter", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On demand: it brings torch, which Slicer's process and `diffugts --help` do without. By name,
    # since every module imports this package for its version, and none may import the pipeline so.
    if name == "Segmenter":
        return import_module("DiffuGTSLib.pipeline.segmenter").Segmenter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
