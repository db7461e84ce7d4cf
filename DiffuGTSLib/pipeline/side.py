"""The half of a body that a prompt names: "left kidney tumor" leaves the right kidney out."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from DiffuGTSLib.scan.canonical import Canonical

# Of the normalised intensity: fat and denser in a CT (-500 HU), tissue in an MR.
_BODY = {"CT": 0.25, "MR": 0.1}
# A scan that is narrower shows a part of the body, of which the middle is not the midline.
MIN_WIDTH_MM = 200.0
# Of the largest slab along x: with more of the body at one border than at the other, the scan cuts
# it off there.
_MAX_CUT = 0.2
_PERCENTILES = (2.0, 98.0)


def midline(canonical: Canonical) -> float | None:
    """Where the body's middle plane lies on the x axis (from left to right) of the model's grid,
    in voxels; None where the scan does not show both sides alike."""
    x = canonical.geometry.GetSize()[0]
    body = canonical.tensor[0, 0, :x].numpy() > _BODY[canonical.modality]
    profile = body.sum(axis=(1, 2))
    total = int(profile.sum())
    if not total:
        return None
    cut = abs(float(profile[0]) - float(profile[-1])) / float(profile.max())
    share = np.cumsum(profile) / total * 100
    first, last = (float(np.searchsorted(share, level)) for level in _PERCENTILES)
    wide = (last - first) * canonical.spacing[0] >= MIN_WIDTH_MM
    return (first + last) / 2 if wide and cut <= _MAX_CUT else None


def on_one_side(
    attention: np.ndarray, side: str, middle: float, threshold: float
) -> np.ndarray:
    """The attention map without what lies on the other side.

    A lesion that reaches beyond the midline is kept whole where most of it lies on the named side.

    Args:
        attention: (X, Y, Z), x from the patient's left to the right.
        side: "left" or "right".
        middle: of `midline`.
        threshold: above it, neighbouring voxels are one candidate.

    Returns:
        A map of the same shape; 0 where nothing is searched.
    """
    position = np.arange(attention.shape[0])
    wrong = (position > middle) if side == "left" else (position < middle)
    kept = np.zeros(attention.shape, bool)
    kept[~wrong] = True
    labels, count = ndimage.label(attention > threshold)
    if count:
        index = np.arange(1, count + 1)
        mass = ndimage.sum_labels(attention, labels, index)
        there = ndimage.sum_labels(attention * wrong[:, None, None], labels, index)
        whole = np.concatenate([[False], there < mass / 2])
        kept |= whole[labels]
    return np.where(kept, attention, 0).astype(attention.dtype)
