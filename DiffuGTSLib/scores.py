"""Scores of a mask or a map against a reference: Dice, its best threshold, AUROC."""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

# Equally spaced logits, 0.05 apart, and both ends: what is calibrated is a logit, and the best
# threshold of a map that is low everywhere may be a thousandth.
THRESHOLDS = np.concatenate([[0.0], expit(np.linspace(-10, 10, 401)), [1.0]])


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    """Dice similarity of two bool arrays; 1 where both are empty."""
    total = int(mask.sum()) + int(reference.sum())
    return 1.0 if total == 0 else 2.0 * int((mask & reference).sum()) / total


def dice_by_threshold(score: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Dice of `score > t` for each t of THRESHOLDS; `score` in [0, 1], any shape."""
    bins = np.clip(np.searchsorted(THRESHOLDS, score.ravel(), side="left"), 0, len(THRESHOLDS))
    count = len(THRESHOLDS) + 1
    everything = np.bincount(bins, minlength=count)
    hits = np.bincount(bins[reference.ravel()], minlength=count)
    above = everything[::-1].cumsum()[::-1][1:]
    overlap = hits[::-1].cumsum()[::-1][1:]
    total = above + int(reference.sum())
    return np.where(total > 0, 2.0 * overlap / np.maximum(total, 1), 1.0)


def best_dice(score: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The highest Dice over all thresholds, and the threshold that reaches it."""
    values = dice_by_threshold(score, reference)
    best = int(np.argmax(values))
    return float(values[best]), float(THRESHOLDS[best])


def auroc(score: np.ndarray, reference: np.ndarray) -> float:
    """Area under the ROC curve: how often a voxel of the reference scores above one outside it.

    Ties count half. NaN where one of the classes is empty.
    """
    positives = int(reference.sum())
    negatives = reference.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    ranks = rankdata(score.ravel())[reference.ravel()].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))
