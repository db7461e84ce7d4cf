"""Where whole heads and whole chests are searched: organs that are found without the networks.

Of these the model has seen few, and in some that it had not seen its gate failed
(docs/validation.md): it closed over half of a brain, and was open in places beside the lungs and
below them.

Heads: registration knows what a brain looks like, but lays one over a limb as well; the gate knows
a limb from a head, mostly. So the brain is searched that the one finds if the other sees much of
it, and nothing is if the other sees next to nothing of it.

Chests: the air in two lungs shows where they are; a tumor lies in one of them or reaches into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from DiffuGTSLib.networks import AnomalyAttention, Texts
from DiffuGTSLib.pipeline.encoded_scan import EncodedScan
from DiffuGTSLib.pipeline.encoding import gate_map
from DiffuGTSLib.pipeline.inpainting import shares_inside
from DiffuGTSLib.prompt import Prompt
from DiffuGTSLib.scan.brain import grown
from DiffuGTSLib.scan.region import Region

BRAIN, LUNG = "brain", "lung"
NAME = "the brain that registration to a template finds"
MARGIN_MM = 2.0  # 0 to 4 scored alike on simulated heads and on synthetic lesions in real ones
# The share of the brain that lies inside the gate, and the share of the gate that lies in the
# brain. In heads 0.47 and 0.72 or more (but in half of one 0.51).
LEAST_SEEN, LEAST_COVERED = 0.3, 0.6
# Of what is taken for a brain and lies in the scan; in 40 scans of limb or trunk
# 0.03 at most is seen.
NO_BRAIN = 0.2
NO_BRAIN_NOTE = ("Nothing was searched: the model sees no brain in this scan. To search it all the "
                 "same, limit the search to a segment or a mask.")
# Of 110 candidates that hit a tumor in cubes for training and calibration, each had 0.15 of itself
# or more inside the lungs; the largest reach far into the chest's wall.
LEAST_INSIDE = 0.1


@dataclass(frozen=True)
class Search:
    """Where a scan is searched in place of the attention's gate.

    Attributes:
        inside: bool (X, Y, Z), on the canonical grid; may be False throughout.
        notes: what is to be said of it, sentences.
    """

    inside: np.ndarray
    notes: list[str]

    @classmethod
    def in_region(cls, region: Region, scan: EncodedScan) -> Search:
        """All of a region.

        Raises:
            RegionUnusable: it is empty, or nothing of it lies in the scan.
        """
        notes = region.notes_on(scan.canonical.source)  # first: it says which of the two
        return cls(region.on_grid(scan.canonical), notes)


def brain_search(
    scan: EncodedScan, prompt: Prompt, attention: AnomalyAttention, texts: Texts
) -> Search | None:
    """The search in the brain that registration finds, grown by 2 mm; nowhere where it finds none.

    Args:
        attention: on the scan's device, with a gate that counts for the prompt.
        texts: of the prompt.

    Returns:
        None where the gate is to be asked: for other organs, at the brain's border, in CT, without
        a skull around the brain, where registration and gate do not agree on whether there is a
        brain, and in scans that are too large to be seen in one piece.
    """
    if prompt.anatomy != BRAIN or scan.canonical.modality != "MR" or scan.skull_stripped:
        return None
    with torch.inference_mode():
        gate = gate_map(attention, scan.encoding, texts)
    if gate is None or not (gate > 0).any():
        return None  # registration need not be asked
    fit = scan.brain
    if fit is None or not fit.is_inside_a_body:
        return None
    seen, brain = _shares((gate[0, 0] > 0).cpu().numpy(), Region(fit.mask).on_grid(scan.canonical))
    if seen < NO_BRAIN:
        return Search(np.zeros(tuple(gate.shape[2:]), bool), [NO_BRAIN_NOTE])
    if prompt.at_border or not fit.is_whole_head or seen < LEAST_SEEN or brain < LEAST_COVERED:
        return None
    return Search.in_region(Region(grown(fit.mask, MARGIN_MM), NAME), scan)


def _shares(seen: np.ndarray, brain: np.ndarray) -> tuple[float, float]:
    """How much of the brain is seen, and how much of what is seen is brain; bool (X, Y, Z)."""
    both = np.count_nonzero(seen & brain)
    return both / np.count_nonzero(brain), both / np.count_nonzero(seen)


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
    searched = np.where(labels > 0, (shares >= LEAST_INSIDE)[labels], scan.lungs)
    left_out = len(np.unique(labels[(attention >= level) & ~searched]))
    if left_out:
        on_note("One place outside the lungs was left out." if left_out == 1 else
                f"{left_out} places outside the lungs were left out.")
    return np.where(searched, attention, 0).astype(attention.dtype)
