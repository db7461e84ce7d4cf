"""Scores of a mask or a map against its reference: DSC, surface distance, lesions, volume, AUROC.

Also baselines: scores of the same scan without the method, and of the best threshold.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.special import expit
from scipy.stats import rankdata

from DiffuGTSLib.errors import PackageMissing
from DiffuGTSLib.pipeline import Result
from DiffuGTSLib.pipeline.lesions import labelled
from DiffuGTSLib.scan import Canonical
from DiffuGTSLib.scan.body import body
from DiffuGTSLib.scan.canonical import to_input_grid

# A boundary this far off counts as right (METHOD's evaluation; about a voxel of clinical CT).
SURFACE_MM = 2.0
# Lesions match from here on (intersection over union): what nodule and lesion detection uses.
LESION_IOU = 0.1
# Equally spaced logits, 0.05 apart, and both ends: what is calibrated is a logit, and the best
# threshold of a map that is low everywhere may be a thousandth.
THRESHOLDS = np.concatenate([[0.0], expit(np.linspace(-10, 10, 401)), [1.0]])


@dataclass(frozen=True)
class Measures:
    """Scores of one mask; None where there is nothing to score.

    Attributes:
        dsc: Dice similarity, 0 to 1; None without a reference tumor.
        nsd: normalised surface distance at 2 mm, 0 to 1; None without a reference tumor, and
            where it was not requested.
        reference_ml, segmented_ml: volumes.
        lesions: in the reference (parts of 0.03 ml and more, as in the lesion table).
        lesions_segmented: in the mask.
        lesions_found: pairs of both with an intersection over union above 0.1, each used once.
    """

    dsc: float | None
    nsd: float | None
    reference_ml: float
    segmented_ml: float
    lesions: int
    lesions_segmented: int
    lesions_found: int

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference's lesions that were found."""
        return self.lesions_found / self.lesions if self.lesions else None

    @property
    def precision(self) -> float | None:
        """Share of the segmented lesions that are lesions; 0 where none was segmented."""
        if not self.lesions:
            return None
        return self.lesions_found / self.lesions_segmented if self.lesions_segmented else 0.0

    @property
    def f1(self) -> float | None:
        """Harmonic mean of sensitivity and precision."""
        if not self.lesions:
            return None
        return 2 * self.lesions_found / (self.lesions + self.lesions_segmented)

    @property
    def volume_error_ml(self) -> float:
        """Segmented minus reference."""
        return self.segmented_ml - self.reference_ml

    @property
    def volume_error_percent(self) -> float | None:
        """The same in per cent of the reference."""
        return 100 * self.volume_error_ml / self.reference_ml if self.reference_ml else None

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        derived = ("sensitivity", "precision", "f1", "volume_error_ml", "volume_error_percent")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def require_metrics() -> None:
    """Checks before a long run that scores can be computed.

    Raises:
        PackageMissing: MONAI is not installed.
    """
    try:
        import monai.metrics  # noqa: F401
    except ImportError:
        raise PackageMissing("Scoring needs the Python package MONAI, which is not installed.",
                             'Run: pip install "diffugts[train]"') from None


def measure(mask: sitk.Image, reference: sitk.Image, surface: bool = True) -> Measures:
    """Scores `mask` against `reference`, both 3D on one grid, nonzero is tumor.

    Args:
        surface: the surface distance too, which takes longest.

    Raises:
        ValueError: different sizes.
    """
    if mask.GetSize() != reference.GetSize():
        raise ValueError(f"mask {mask.GetSize()} and reference {reference.GetSize()} differ")
    voxel_ml = float(np.prod(reference.GetSpacing())) / 1000
    ours, theirs = (sitk.GetArrayViewFromImage(image) != 0 for image in (mask, reference))
    box = _box(ours | theirs)
    segments, lesions = (sitk.GetArrayFromImage(labelled(image))[box]
                         for image in (mask, reference))
    there = bool(theirs.any())
    spacing = reference.GetSpacing()[::-1]
    return Measures(
        dsc=_dice(ours[box], theirs[box]) if there else None,
        nsd=_surface(ours[box], theirs[box], spacing) if there and surface else None,
        reference_ml=float(theirs.sum()) * voxel_ml,
        segmented_ml=float(ours.sum()) * voxel_ml,
        lesions=int(lesions.max(initial=0)),
        lesions_segmented=int(segments.max(initial=0)),
        lesions_found=_matches(segments, lesions),
    )


def overlap(mask: sitk.Image, other: sitk.Image) -> float | None:
    """DSC of two masks on one grid; None where `other` is empty."""
    ours, theirs = (sitk.GetArrayViewFromImage(image) != 0 for image in (mask, other))
    if not theirs.any():
        return None
    box = _box(ours | theirs)
    return _dice(ours[box], theirs[box])


def _box(inside: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around the True voxels; all of it without any."""
    found: list[tuple[slice, ...]] = ndimage.find_objects(inside.astype(np.uint8))
    return found[0] if found else (slice(None),) * inside.ndim


def _dice(ours: np.ndarray, theirs: np.ndarray) -> float:
    import torch
    from monai.metrics import compute_dice

    prediction, truth = (torch.from_numpy(m.astype(np.float32))[None, None]
                         for m in (ours, theirs))
    return float(compute_dice(prediction, truth, include_background=True, ignore_empty=True))


def _surface(ours: np.ndarray, theirs: np.ndarray, spacing: tuple[float, ...]) -> float:
    """Normalised surface distance at SURFACE_MM; surfaces lie between the voxels."""
    import torch
    from monai.metrics import compute_surface_dice

    if not ours.any():
        return 0.0  # MONAI would warn of it
    prediction, truth = (torch.from_numpy(m)[None, None] for m in (ours, theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an argument that MONAI itself passes
        return float(compute_surface_dice(
            prediction, truth, class_thresholds=[SURFACE_MM], include_background=True,
            spacing=list(spacing), use_subvoxels=True,
        ))


def _matches(segments: np.ndarray, lesions: np.ndarray) -> int:
    """How many lesions have a segment of their own (IoU above LESION_IOU, the best pairing)."""
    import torch
    from monai.metrics.panoptic_quality import compute_panoptic_quality

    touching = np.unique(segments[lesions > 0])
    # MONAI makes a volume a component: only those that can match, and only their voxels.
    segments = np.where(np.isin(segments, touching), segments, 0)
    kept = (segments > 0) | (lesions > 0)
    if not touching.any():
        return 0
    prediction, truth = (torch.from_numpy(labels[kept].astype(np.int32))[None]
                         for labels in (segments, lesions))
    counts = compute_panoptic_quality(
        prediction, truth, match_iou_threshold=LESION_IOU, output_confusion_matrix=True
    )
    return int(counts[0])


@dataclass(frozen=True)
class Baselines:
    """DSC in 0 to 1, each with a threshold chosen on the scan itself: upper bounds, no fair scores.

    Attributes:
        best_score: of the refined score.
        best_map: of the attention map.
        intensity: of the raw intensity inside the body, bright or dark, whichever is better.
        centre: of the distance to the scan's centre (METHOD.md 8).
        auroc_map: area under the ROC curve of the attention map inside the body; no DSC. None
            where all of the body is tumor.
    """

    best_score: float
    best_map: float
    intensity: float
    centre: float
    auroc_map: float | None


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


def auroc(score: np.ndarray, reference: np.ndarray) -> float | None:
    """Area under the ROC curve: how often a voxel of the reference scores above one outside it.

    Ties count half. None where one of the classes is empty.
    """
    positives = int(reference.sum())
    negatives = reference.size - positives
    if positives == 0 or negatives == 0:
        return None
    # Not scipy's mannwhitneyu, which sums the ranks of a float32 map as float32.
    ranks = rankdata(score.ravel())[reference.ravel()].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))
