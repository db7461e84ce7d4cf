"""The volumes that the embedded model is trained on, on its canonical grid, split by patient."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.datasets.folder import MANIFEST
from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.scan.canonical import Modality, mask_on_grid, to_canonical

# Patients never seen in training; every score in the model card is theirs.
VALIDATION = re.compile(r"^(lung1|lidc0314|brain1|fg-6692_.*|sts_0(3[3-9]|40)_.*)$")
# Patients kept out of training to choose thresholds, fusion and calibration on.
TUNING = re.compile(r"^sts_0(29|3[0-2])_.*$")
SPACING_MM = (2.0, 2.0, 2.0)


@dataclass(frozen=True)
class TrainingCase:
    """One scan of the training folder: its manifest entry and the folder of its files."""

    name: str
    group: str
    modality: Modality
    folder: Path
    masks: tuple[str, ...]

    @property
    def split(self) -> str:
        """"validation", "tuning" or "training"."""
        if VALIDATION.match(self.name):
            return "validation"
        return "tuning" if TUNING.match(self.name) else "training"


@dataclass(frozen=True)
class TrainingVolume:
    """A training case, resampled to the canonical grid.

    Attributes:
        image: float16 (X, Y, Z), normalised.
        masks: bool (X, Y, Z) by name.
    """

    case: TrainingCase
    image: np.ndarray
    masks: dict[str, np.ndarray]


def read_cases(root: Path) -> list[TrainingCase]:
    """The cases of a data folder with a manifest.json.

    Raises:
        TrainingImpossible: there is no such manifest in `root`.
    """
    try:
        entries = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        return [
            TrainingCase(e["case"], e["group"], e["modality"], root / e["group"] / e["case"],
                 tuple(e["masks"]))
            for e in entries
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingImpossible(
            f"The folder {root.name} has no {MANIFEST} that lists its scans.",
            "NOTICE.txt names the scans; docs/embedded.md says how the scans are split.",
        ) from error


def write_cached(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a cache file atomically; several processes may write the same one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as stream:
            write(stream)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_volume(
    case: TrainingCase, cache: Path | None = None, spacing: tuple[float, float, float] = SPACING_MM
) -> TrainingVolume:
    """The case resampled to `spacing` (mm), through a cache folder where one is given."""
    tag = "x".join(f"{s:g}" for s in spacing)
    cached = cache / f"{case.name}_{tag}.npz" if cache else None
    if cached is not None and cached.exists():
        with np.load(cached) as arrays:
            masks = {k: np.unpackbits(arrays[k])[: arrays["image"].size]
                     .reshape(arrays["image"].shape).astype(bool)
                     for k in arrays.files if k != "image"}
            return TrainingVolume(case, arrays["image"], masks)
    volume = _resampled(case, spacing)
    if cached is not None:
        packed: dict[str, Any] = {k: np.packbits(v) for k, v in volume.masks.items()}
        write_cached(cached, lambda stream: np.savez(stream, image=volume.image, **packed))
    return volume


def _resampled(case: TrainingCase, spacing: tuple[float, float, float]) -> TrainingVolume:
    try:
        return _on_grid(case, spacing)
    except RuntimeError as error:
        raise TrainingImpossible(
            f"The scan {case.name} or one of its masks cannot be read.",
            f"Look at its files, or take it out of {MANIFEST}.",
        ) from error


def _on_grid(case: TrainingCase, spacing: tuple[float, float, float]) -> TrainingVolume:
    image = sitk.ReadImage(str(case.folder / "image.nii.gz"))
    canonical = to_canonical(image, case.modality, spacing)
    masks: dict[str, np.ndarray] = {}
    for name in case.masks:
        mask = sitk.ReadImage(str(case.folder / f"{name}.nii.gz"), sitk.sitkFloat32)
        mask.CopyInformation(image)
        masks[name] = mask_on_grid(mask, canonical.geometry)
    return TrainingVolume(case, canonical.tensor[0, 0].numpy().astype(np.float16), masks)
