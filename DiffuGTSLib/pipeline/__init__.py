"""The method from scan and prompt to lesions; segmenter.py reads like METHOD.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.pipeline.encoded_scan import EncodedScan, PreparedScan
    from DiffuGTSLib.pipeline.lesions import Lesion
    from DiffuGTSLib.pipeline.options import Options
    from DiffuGTSLib.pipeline.result import Result
    from DiffuGTSLib.pipeline.segmenter import Preview, Segmenter

__all__ = [
    "EncodedScan",
    "Lesion",
    "Options",
    "PreparedScan",
    "Preview",
    "Result",
    "Segmenter",
]
_MODULES = {
    "EncodedScan": "encoded_scan",
    "Lesion": "lesions",
    "Options": "options",
    "PreparedScan": "encoded_scan",
    "Preview": "segmenter",
    "Result": "result",
    "Segmenter": "segmenter",
}


def __getattr__(name: str) -> Any:
    # On demand: it brings torch, which not every user of this package needs.
    if name in _MODULES:
        return getattr(import_module(f"DiffuGTSLib.pipeline.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
