"""What stands beside a score: the same scan without the method, and the best of all thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.grid import Canonical, to_input_grid
from DiffuGTSLib.result import Result
from DiffuGTSLib.scores import auroc, best_dice
from DiffuGTSLib.training.organs import body


@dataclass(frozen=True)
class Baselines:
    """DSC in 0 to 1, each with a threshold chosen on the scan itself: no fair score of a method.

    Attributes:
        best_score: of the refined score.
        best_map: of the attention map.
        intensity: of the raw intensity inside the body, bright or dark, whichever is better.
        centre: of the distance to the scan's centre (METHOD.md 8).
        auroc_map: area under the ROC curve of the attention map inside the body; no DSC.
    """

    best_score: float
    best_map: float
    intensity: float
    centre: float
    auroc_map: float


def baselines(result: Result, reference: sitk.Image, canonical: Canonical) -> Baselines:
    """Measures them for one result.

    Args:
        reference: not empty, on the scan's grid.
        canonical: of the encoded scan, for the body's outline.
    """
    truth = sitk.GetArrayViewFromImage(reference) != 0
    attention = sitk.GetArrayViewFromImage(result.attention)
    refined = sitk.GetArrayViewFromImage(result.probability)
    outline = body(canonical.tensor[0, 0].numpy(), canonical.modality)
    inside = sitk.GetArrayFromImage(to_input_grid(outline.astype(np.float32), canonical)) > 0.5
    if not inside.any():
        inside[:] = True
    bright = _scaled(sitk.GetArrayViewFromImage(result.image).astype(np.float32), inside)
    return Baselines(
        best_score=best_dice(refined, truth)[0],
        best_map=best_dice(attention, truth)[0],
        intensity=max(best_dice(bright * inside, truth)[0],
                      best_dice((1 - bright) * inside, truth)[0]),
        centre=best_dice(_nearness(truth.shape, result.image.GetSpacing()[::-1]), truth)[0],
        auroc_map=auroc(attention[inside], truth[inside]),
    )


def _scaled(intensity: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Intensity between its percentiles 0.5 and 99.5 `inside`, as 0 to 1."""
    low, high = np.percentile(intensity[inside], (0.5, 99.5))
    return np.clip((intensity - low) / max(float(high - low), 1e-6), 0, 1)


def _nearness(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """1 at the scan's centre, 0 at its corners, falling with the distance in mm."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    distance = np.sqrt(sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij", sparse=True)))
    return np.asarray(1 - distance / distance.max())
