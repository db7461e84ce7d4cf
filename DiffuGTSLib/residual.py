"""Residuals between a scan and its pseudo-healthy twin, and the refined score.

Source: METHOD.md 4. Both sides are decoded latents, so that the autoencoder's own error cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit, logit

FUSIONS = ("attention", "pixel", "feature", "both")


@dataclass(frozen=True)
class Fusion:
    """Weights of the learned fusion, for one modality or for one anatomy in it.

    The refined score is sigmoid(bias + attention * logit(p) + pixel * log(1 + P / floor_P) +
    feature * log(1 + F / floor_F)). The floors are the residuals' medians where healthy tissue was
    painted over healthy tissue: outside M the latents are equal, so nothing can be measured there.

    Attributes:
        weights: by the name of the fusion (`FUSIONS`): bias, attention, pixel, feature.
        pixel_floor, feature_floor: on the normalised scale; unitless.
        used: the one of `FUSIONS` that makes the final mask.
        prominence: by the name of the fusion: by how much, as logits, the highest score of a
            lesion lies above the threshold at least; what is fainter is let go. 0 where it is not
            listed.
    """

    weights: dict[str, tuple[float, float, float, float]]
    pixel_floor: float
    feature_floor: float
    used: str = "both"
    prominence: dict[str, float] = field(default_factory=dict)

    def evidence(self, pixel: np.ndarray, feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both residuals in units of their noise floors, compressed: log(1 + residual / floor)."""
        return np.log1p(pixel / self.pixel_floor), np.log1p(feature / self.feature_floor)

    def score(
        self, probability: np.ndarray, pixel: np.ndarray, feature: np.ndarray, kind: str = ""
    ) -> np.ndarray:
        """The refined score in [0, 1] from the AOVA map and the residuals, any equal shape.

        Args:
            kind: one of `FUSIONS`; the one that is used where it is not told.
        """
        bias, attention, of_pixel, of_feature = self.weights[kind or self.used]
        p, f = self.evidence(pixel, feature)
        total = bias + attention * logits(probability) + of_pixel * p + of_feature * f
        return np.asarray(expit(total))


def raised(threshold: float, prominence: float) -> float:
    """The threshold in [0, 1], moved up by so much as logits."""
    return float(expit(logit(threshold) + prominence))


def logits(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept between 1e-4 and 1 - 1e-4."""
    p = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.log(p / (1 - p))


def pixel_residual(scan: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """P = |D(z) - D(z0)|, any shape, on the normalised intensity scale."""
    return (scan - healthy).abs()


def feature_residual(
    scan: Sequence[torch.Tensor], healthy: Sequence[torch.Tensor], size: Sequence[int]
) -> torch.Tensor:
    """F = sum over stages of 1 - cos(F_l(D(z)), F_l(D(z0))), upsampled to `size` (X, Y, Z).

    Args:
        scan, healthy: the stage ends of both decodings, (1, C_l, X/2^l, Y/2^l, Z/2^l).
    """
    return summed([unlikeness(*pair) for pair in zip(scan, healthy, strict=True)], size)


def unlikeness(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """1 - cos(F, F') of each voxel's features: (1, C, X, Y, Z) twice -> float32 (1, 1, X, Y, Z)."""
    return 1 - F.cosine_similarity(ours.float(), theirs.float(), dim=1, eps=1e-6)[:, None]


def summed(levels: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """The sum of maps (1, 1, X/2^l, Y/2^l, Z/2^l), upsampled to `size`; never negative."""
    total = torch.zeros(1, 1, *size, device=levels[0].device)
    for level in levels:
        total += F.interpolate(level, size=tuple(size), mode="trilinear")
    return total[0, 0].clamp_min(0)
