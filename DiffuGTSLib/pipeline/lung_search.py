"""In a whole chest, what lies outside the lungs is no tumor of the lung.

The gate that the attention has learned was open in places beside the lungs, and below them, of
chests that it had not seen. The air in two lungs shows where they are; a tumor lies in one of them
or reaches into it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from DiffuGTSLib.pipeline.encoded_scan import EncodedScan
from DiffuGTSLib.pipeline.inpainting import shares_inside
from DiffuGTSLib.prompt import Prompt

LUNG = "lung"
# Of 102 tumors found in scans for training and calibration, each had 0.15 of itself or more inside
# the lungs; the largest reach far into the chest's wall.
LEAST_INSIDE = 0.1


def in_the_lungs(
    attention: np.ndarray, scan: EncodedScan, prompt: Prompt, threshold: float, level: float,
    on_note: Callable[[str], None],
) -> np.ndarray:
    """The attention without what lies outside the lungs, for tumors of the lung in whole chests.

    What reaches into a lung by a tenth is kept whole. Where a scan does not show two lungs that
    hold air, and for other prompts (a pleural tumor, too), everything is kept.

    Args:
        attention: (X, Y, Z), on the scan's canonical grid.
        threshold: above it, neighbouring voxels are one candidate.
        level: what a candidate has to reach; those that do and are left out are told of.

    Returns:
        A map of the same shape; 0 where nothing is searched.
    """
    if prompt.anatomy != LUNG or prompt.at_border or scan.canonical.modality != "CT":
        return attention
    if scan.lungs is None:
        return attention
    labels, shares = shares_inside(attention, threshold, scan.lungs)
    kept = shares >= LEAST_INSIDE
    kept[0] = False
    outside = ~kept
    outside[0] = False
    where = kept[labels] | (scan.lungs & ~outside[labels])
    left_out = int(np.count_nonzero(np.unique(labels[(attention >= level) & ~where])))
    if left_out:
        on_note("One place outside the lungs was left out." if left_out == 1 else
                f"{left_out} places outside the lungs were left out.")
    return np.where(where, attention, 0).astype(attention.dtype)
