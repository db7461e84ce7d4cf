"""What a whole head costs: tumors of the brain with and without skull and scalp around it.

    python Testing/Benchmarks/whole_heads.py --data DIR --data DIR2 [--model NAME] [--heads N]

Scans of validation patients on the model's grid. Those that come without their skull are scored as
they are and with simulated heads around them, which are drawn as in the training, with other seeds;
whole heads as they are and with their brain alone, as registration to a template finds it. The
tumor and the grid are the same in both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.pipeline import Segmenter
from DiffuGTSLib.scan import as_scan
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.cases import SPACING_MM, TrainingCase, load_volume, read_cases
from DiffuGTSLib.training.data.organs import organ_masks
from DiffuGTSLib.training.data.windows import HEAD_MARGIN
from DiffuGTSLib.training.embedded.validation import title

BRAIN = "brain tumor"


def versions(case: TrainingCase, heads: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """The brain alone, the whole head (as many as are simulated), and the tumor: (X, Y, Z).

    Of a whole head the brain that registration finds, and the tumor where it reaches out of that.
    """
    volume = load_volume(case)
    image, brain, tumor = (np.pad(array, HEAD_MARGIN) for array in (
        volume.image.astype(np.float32), organ_masks(volume)["brain"],
        volume.masks[case.lesion_mask]))
    if not case.skull_stripped:
        return np.where(brain | tumor, image, 0.0), [image], tumor
    simulated = [augment.simulated_head(image, brain, np.random.default_rng([0x4EAD, number]))
                 for number in range(heads)]
    return image, simulated, tumor


def score(segmenter: Segmenter, case: TrainingCase, image: np.ndarray, tumor: np.ndarray) -> float:
    """Dice of the final mask."""
    scan = sitk.GetImageFromArray(image.transpose(2, 1, 0).astype(np.float32))
    scan.SetSpacing(SPACING_MM)
    scan.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    (result,) = segmenter.segment_all(as_scan(scan, "MR", case.sequence), [BRAIN])
    found = sitk.GetArrayFromImage(result.mask).transpose(2, 1, 0) > 0
    return dice(found, tumor)


def main() -> None:
    """Scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--heads", type=int, default=3, help="simulated ones of a scan")
    chosen = parser.parse_args()
    cases = [c for root in chosen.data for c in read_cases(root)
             if c.split == "validation" and c.lesion_mask and c.kind.organs == "brain"]
    segmenter = Segmenter.from_pretrained(chosen.model, "cpu")
    scores: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        alone, heads, tumor = versions(case, chosen.heads)
        whole = float(np.mean([score(segmenter, case, head, tumor) for head in heads]))
        pair = (score(segmenter, case, alone, tumor), whole)
        print(f"{case.name}: brain alone {pair[0]:.2f}, whole head {pair[1]:.2f}", flush=True)
        scores.setdefault(title(case), []).append(pair)
    table = Table("scans", "number", "DSC, brain alone", "DSC, whole head", "lost")
    every = [pair for pairs in scores.values() for pair in pairs]
    for group, pairs in {**scores, "all": every}.items():
        alone_mean, whole_mean = np.mean(pairs, axis=0)
        table.add_row(group, str(len(pairs)), f"{alone_mean:.2f}", f"{whole_mean:.2f}",
                      f"{alone_mean - whole_mean:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
