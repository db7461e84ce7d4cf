"""Where a whole head is searched for tumors of the brain: in the brain that registration finds.

Of whole heads the model has seen few, and in one that it had not seen, its gate closed over half of
the brain (docs/validation.md). Registration knows what a brain looks like, but lays one over a
thigh as well; the gate knows a thigh from a head. So the brain is searched that the one finds if
the other sees much of it.
"""

from __future__ import annotations

import numpy as np
import torch

from DiffuGTSLib.networks import AnomalyAttention, Texts
from DiffuGTSLib.pipeline.encoded_scan import EncodedScan
from DiffuGTSLib.pipeline.encoding import gate_map
from DiffuGTSLib.prompt import Prompt
from DiffuGTSLib.scan.brain import grown
from DiffuGTSLib.scan.region import Region

BRAIN = "brain"
NAME = "the brain that registration to a template finds"
MARGIN_MM = 2.0  # 0 to 4 scored alike on simulated heads and on synthetic lesions in real ones
# The share of the brain that lies inside the gate, and the share of the gate that lies in the
# brain. In heads 0.47 and 0.72 or more, in thighs 0.00.
LEAST_SEEN, LEAST_COVERED = 0.3, 0.6


def brain_region(
    scan: EncodedScan, prompt: Prompt, attention: AnomalyAttention, texts: Texts
) -> Region | None:
    """The brain, grown by 2 mm, to be searched in place of the attention's gate.

    Args:
        attention: on the scan's device, with a gate that counts for the prompt.
        texts: of the prompt.

    Returns:
        None where the gate is to be asked: for other organs, at the brain's border, in CT, without
        a skull around the brain, where registration and gate do not agree that there is a brain,
        and in scans that are too large to be seen in one piece.
    """
    if prompt.anatomy != BRAIN or prompt.at_border or scan.canonical.modality != "MR":
        return None
    if scan.skull_stripped:
        return None
    with torch.inference_mode():
        gate = gate_map(attention, scan.encoding, texts)
    if gate is None or not (gate > 0).any():
        return None  # registration need not be asked
    fit = scan.brain
    if fit is None or not fit.is_whole_head:
        return None
    region = Region(grown(fit.mask, MARGIN_MM), NAME)
    seen = (gate[0, 0] > 0).cpu().numpy()
    return region if _agree(seen, Region(fit.mask).on_grid(scan.canonical)) else None


def _agree(seen: np.ndarray, brain: np.ndarray) -> bool:
    """Whether much of the brain is seen, and most of what is seen is brain; bool (X, Y, Z)."""
    both = np.count_nonzero(seen & brain)
    return bool(both >= LEAST_SEEN * np.count_nonzero(brain)
                and both >= LEAST_COVERED * np.count_nonzero(seen))
