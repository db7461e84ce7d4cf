"""Organ masks of the training scans: from outlines, by thresholds, by registration."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from DiffuGTSLib.evaluation.measures import body
from DiffuGTSLib.scan.canonical import canonical_geometry, mask_on_grid
from DiffuGTSLib.training.data.cases import TrainingCase, TrainingVolume

# Regular expression of mask names, by anatomy of the vocabulary.
MASK_NAMES = {
    "lung": r"lung_(upper|lower|middle)_lobe.*",
    "liver": r"liver",
    "kidney": r"kidney_.*",
    "pancreas": r"pancreas",
    "colon": r"colon",
    "spleen": r"spleen",
    "stomach": r"stomach",
    "small_bowel": r"(small_bowel|duodenum)",
    "urinary_bladder": r"urinary_bladder",
    "gallbladder": r"gallbladder",
    "adrenal_gland": r"adrenal_gland_.*",
    "bone": r"(rib|vertebrae|hip|femur)_.*|sacrum",
    "soft_tissue": r"(gluteus|autochthon|iliopsoas)_.*",
}
TEMPLATE = "ms_p07_t1"  # skull-stripped, in MNI space; its brain is registered to the other scans
SKULL_STRIPPED = re.compile(r"^(ms_.*|volunteer2_t1)$")


def organ_masks(volume: TrainingVolume) -> dict[str, np.ndarray]:
    """Bool masks (X, Y, Z) on the canonical grid of the organs that are known, by name.

    An organ that is not in the dictionary is unknown, not absent.
    """
    case = volume.case
    image = volume.image.astype(np.float32)
    if case.group == "brain":
        return {"brain": _brain(volume)}
    if case.group == "sarcoma":
        return {"soft_tissue": body(image, case.modality)}
    if case.group == "chest":
        return {"lung": lungs(image)}
    if case.name == "abdomen_3mm":
        return _from_masks(volume)
    return {}


def lungs(image: np.ndarray) -> np.ndarray:
    """The lungs with the vessels and nodules inside them, from a normalised chest CT (X, Y, Z).

    Air inside the body, in components of more than 50 ml at 2 mm, closed by 14 mm so that tumors
    in the lung and at the pleura lie inside (METHOD.md 8).
    """
    air = (image < 0.3) & body(image, "CT")  # -400 HU
    labels, count = ndimage.label(ndimage.binary_erosion(air))
    sizes = ndimage.sum_labels(air, labels, range(1, count + 1)) if count else np.zeros(0)
    large = np.isin(labels, 1 + np.flatnonzero(sizes > 50_000 / 8))
    ball = ndimage.generate_binary_structure(3, 1)
    dilated = ndimage.binary_dilation(large, ball, iterations=8)
    closed = ndimage.binary_erosion(dilated, ball, iterations=7, border_value=1)
    solid_inside = ndimage.binary_fill_holes(closed)
    return solid_inside & body(image, "CT")


def _from_masks(volume: TrainingVolume) -> dict[str, np.ndarray]:
    organs: dict[str, np.ndarray] = {}
    for organ, pattern in MASK_NAMES.items():
        names = [n for n in volume.masks if re.fullmatch(pattern, n)]
        organs[organ] = np.logical_or.reduce([volume.masks[n] for n in names])
    labelled = np.logical_or.reduce(list(volume.masks.values()))
    # Fat and muscle between the organs count as soft tissue, the gut's mesentery too.
    organs["soft_tissue"] |= body(volume.image.astype(np.float32), "CT") & ~labelled
    return organs


def _brain(volume: TrainingVolume) -> np.ndarray:
    path = volume.case.folder
    if SKULL_STRIPPED.match(volume.case.name):
        fixed = sitk.ReadImage(str(path / "image.nii.gz"), sitk.sitkFloat32)
        mask = stripped_brain(fixed)
    else:
        mask = _registered_brain(volume.case)
    geometry = canonical_geometry(mask, (2.0, 2.0, 2.0))
    return mask_on_grid(mask, geometry)


def stripped_brain(image: sitk.Image) -> sitk.Image:
    """The brain of a skull-stripped scan: voxels that are not 0, closed, holes filled; uint8."""
    voxels = sitk.GetArrayFromImage(image)
    inside = ndimage.binary_closing(np.abs(voxels) > 0, iterations=3)
    mask = sitk.GetImageFromArray(ndimage.binary_fill_holes(inside).astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def _registered_brain(case: TrainingCase) -> sitk.Image:
    """The template's brain on the scan of `case`, by affine registration (mutual information)."""
    fixed = sitk.ReadImage(str(case.folder / "image.nii.gz"), sitk.sitkFloat32)
    moving = sitk.ReadImage(str(_template(case.folder)), sitk.sitkFloat32)
    brain = stripped_brain(moving)
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(40)
    registration.SetMetricSamplingStrategy(registration.REGULAR)
    registration.SetMetricSamplingPercentage(0.2)
    registration.SetMetricMovingMask(sitk.BinaryDilate(brain, (6, 6, 6)))
    registration.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 150)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel([4, 2])
    registration.SetSmoothingSigmasPerLevel([2, 1])
    registration.SetInitialTransform(start)
    registration.SetInterpolator(sitk.sitkLinear)
    transform = registration.Execute(fixed, moving)
    return sitk.Resample(brain, fixed, transform, sitk.sitkNearestNeighbor)


def _template(folder: Path) -> Path:
    return folder.parent / TEMPLATE / "image.nii.gz"
