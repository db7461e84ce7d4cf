"""The patient in a scan, and the lungs in a chest CT, by thresholds."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from DiffuGTSLib.scan.canonical import Modality

LUNG_ML = 50.0  # smaller air is no lung
LUNG_SHARE = 0.1  # of a crop that is smaller than a chest
AIR = 0.3  # -400 HU
OUTSIDE_AIR = 0.015  # -970 HU; lungs hold tissue, too
OPENING_MM, REACH_MM, RETREAT_MM = 4.0, 16.0, 14.0
# Of a whole chest: both lungs hold air.
CHEST_ML, LEAST_SIDE = 1000.0, 0.25


def body(image: np.ndarray, modality: Modality, voxel_mm: float = 2.0) -> np.ndarray:
    """The patient without the air around: the largest dense component, its holes filled.

    Args:
        image: normalised, (X, Y, Z).
        voxel_mm: edge of its voxels.
    """
    dense = image > (0.4 if modality == "CT" else 0.08)  # CT: -200 HU
    dense = ndimage.binary_opening(dense, iterations=round(OPENING_MM / voxel_mm))
    labels, count = ndimage.label(dense)
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    largest = 1 + int(np.argmax(ndimage.sum_labels(dense, labels, range(1, count + 1))))
    filled = np.zeros(image.shape, dtype=bool)
    for z in range(image.shape[2]):
        filled[:, :, z] = ndimage.binary_fill_holes(labels[:, :, z] == largest)
    return filled


def lungs(image: np.ndarray, crop: bool = False, voxel_mm: float = 2.0) -> np.ndarray:
    """The lungs with the vessels and nodules inside them, from a normalised chest CT (X, Y, Z).

    Air inside the body, in components of more than 50 ml, closed by 14 mm so that tumors in the
    lung and at the pleura lie inside (METHOD.md 8).

    Args:
        crop: the scan is smaller than a chest, so that no body encloses its lungs: what holds as
            little as air alone is outside the patient, and a tenth of the crop is enough.
        voxel_mm: edge of its voxels.
    """
    smallest = LUNG_ML * 1000 / voxel_mm**3
    if crop:
        inside = ndimage.gaussian_filter(image, 1.0) > OUTSIDE_AIR
        smallest = min(smallest, LUNG_SHARE * image.size)
    else:
        inside = body(image, "CT", voxel_mm)
    air = (image < AIR) & inside
    labels, count = ndimage.label(ndimage.binary_erosion(air))
    sizes = ndimage.sum_labels(air, labels, range(1, count + 1)) if count else np.zeros(0)
    large = np.isin(labels, 1 + np.flatnonzero(sizes > smallest))
    ball = ndimage.generate_binary_structure(3, 1)
    dilated = ndimage.binary_dilation(large, ball, iterations=round(REACH_MM / voxel_mm))
    closed = ndimage.binary_erosion(
        dilated, ball, iterations=int(RETREAT_MM / voxel_mm), border_value=1)
    return ndimage.binary_fill_holes(closed) & inside


def lungs_of_a_chest(image: np.ndarray, voxel_mm: float) -> np.ndarray | None:
    """`lungs`, where a scan shows both of them and they hold air; else None.

    What a lung without air holds, a threshold cannot tell.

    Args:
        image: normalised CT, (X, Y, Z), x from one side of the patient to the other.
    """
    found = lungs(image, voxel_mm=voxel_mm)
    x = np.flatnonzero(body(image, "CT", voxel_mm).any((1, 2)))
    if not len(x):
        return None
    middle = (int(x[0]) + int(x[-1]) + 1) // 2
    sides = np.array([np.count_nonzero(found[:middle]), np.count_nonzero(found[middle:])])
    total = int(sides.sum())
    whole = total * voxel_mm**3 >= CHEST_ML * 1000 and sides.min() >= LEAST_SIDE * total
    return found if whole else None
