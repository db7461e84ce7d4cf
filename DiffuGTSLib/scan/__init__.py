"""Scans: image files, DICOM, modality, grids, phantoms."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.scan.canonical import Canonical, to_canonical
    from DiffuGTSLib.scan.modality import Modality
    from DiffuGTSLib.scan.segmentation_file import write_image, write_segmentation
    from DiffuGTSLib.scan.volume import Scan, as_scan, from_image, read

__all__ = [
    "Canonical",
    "Modality",
    "Scan",
    "as_scan",
    "from_image",
    "read",
    "to_canonical",
    "write_image",
    "write_segmentation",
]
_MODULES = {
    "Canonical": "canonical",
    "Modality": "modality",
    "Scan": "volume",
    "as_scan": "volume",
    "from_image": "volume",
    "read": "volume",
    "to_canonical": "canonical",
    "write_image": "segmentation_file",
    "write_segmentation": "segmentation_file",
}


def __getattr__(name: str) -> Any:
    # On demand: it brings SimpleITK, which not every user of this package needs.
    if name in _MODULES:
        return getattr(import_module(f"DiffuGTSLib.scan.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
