"""Organ masks of the training scans: from outlines, by thresholds, by registration."""

from __future__ import annotations

import re

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.scan.body import body, lungs
from DiffuGTSLib.scan.brain import fit_brain, stripped_brain
from DiffuGTSLib.scan.canonical import canonical_geometry, mask_on_grid
from DiffuGTSLib.training.data.cases import TrainingVolume
from DiffuGTSLib.training.data.scan_table import scan_table


def organ_masks(volume: TrainingVolume) -> dict[str, np.ndarray]:
    """Bool masks (X, Y, Z) on the canonical grid of the organs that are known, by name.

    How they are found, the kind of the scan says. An organ that is not in the dictionary is
    unknown, or absent if its kind knows it.
    """
    kind, image = volume.case.kind, volume.image.astype(np.float32)
    if kind.organs == "brain":
        return {"brain": _brain(volume)}
    if kind.organs == "body":
        return {kind.prompted_organ: body(image, volume.case.modality)}
    if kind.organs == "lungs":
        return {"lung": lungs(image, kind.crop)}
    if kind.organs == "all":
        return {kind.prompted_organ: np.ones(image.shape, bool)}
    return _from_masks(volume) if kind.organs == "masks" else {}


def _from_masks(volume: TrainingVolume) -> dict[str, np.ndarray]:
    organs: dict[str, np.ndarray] = {}
    for organ, pattern in scan_table().organ_masks.items():
        names = [n for n in volume.masks if re.fullmatch(pattern, n)]
        if names:
            organs[organ] = np.logical_or.reduce([volume.masks[n] for n in names])
    if remainder := volume.case.kind.remainder:
        # Fat and muscle between the organs, the gut's mesentery too.
        labelled = np.logical_or.reduce(list(volume.masks.values()))
        organs.setdefault(remainder, np.zeros(volume.image.shape, bool))
        organs[remainder] |= body(volume.image.astype(np.float32), volume.case.modality) & ~labelled
    return organs


def _brain(volume: TrainingVolume) -> np.ndarray:
    image = sitk.ReadImage(str(volume.case.folder / "image.nii.gz"), sitk.sitkFloat32)
    if volume.case.skull_stripped:
        mask = stripped_brain(image)
    else:
        fit = fit_brain(image)
        if fit is None:
            raise TrainingImpossible(f"No brain was found in “{volume.case.name}”.",
                                     "Leave the case out, or give it a kind without a brain.")
        mask = fit.mask
    geometry = canonical_geometry(mask, (2.0, 2.0, 2.0))
    return mask_on_grid(mask, geometry)
