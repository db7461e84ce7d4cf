"""Calibration and fusion of a model package (METHOD.md 4), fitted on examples with a known answer.

`calibrate` makes four fits:

1. one logit shift per anatomy and modality (and MR sequence), so that 0.5 is the best threshold of
   the attention map, and the decision whether the organ gate counts there;
2. one logistic fusion per modality (and anatomy) of attention and residuals inside the candidates;
3. with each fusion its prominence: how far a lesion's peak must lie above the threshold;
4. whether lesions end at half of their contrast, where the attention is used as it is.

Thresholds, gates and prominences maximise the mean *utility* of the examples, 0 to 1: the Dice
coefficient where an example has a lesion, the false-positive score of what is marked where not.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.optimize import minimize
from scipy.special import expit

from DiffuGTSLib.evaluation.measures import THRESHOLDS, dice, dice_by_threshold
from DiffuGTSLib.models import Card, Fusion, Package, load
from DiffuGTSLib.models.card import FUSIONS, logits, shifted_threshold
from DiffuGTSLib.models.package import ATTENTION_ALONE
from DiffuGTSLib.pipeline import EncodedScan, Result, Segmenter
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.scan.canonical import mask_on_grid
from DiffuGTSLib.training.data.examples import (
    CalibrationExample,
    count_sources,
    false_positive_score,
)

MIN_THRESHOLD = 0.001  # a map that is lower everywhere shows nothing
FOLDS = 4  # of the cross-validation that decides whether residuals are used
# Smaller gains of utility, by a residual or a prominence, occur by chance.
MIN_UTILITY_GAIN = 0.005
STANDARD_ERRORS = 2.0  # by which the gain of a fusion has to exceed 0
# Gain by leaving a gate open. A gate has to prove itself: where it keeps no false positives out, it
# can only hide lesions.
MIN_OPEN_GATE_GAIN = 0.01
# Below this no threshold finds the lesions, and the best one would call everything a lesion.
MIN_DICE = 0.1
MIN_EXAMPLES = 4  # for a fusion of an anatomy's own, or a shift of an MR sequence's own
THRESHOLD_LOGITS = np.arange(-3.0, 3.01, 0.5)  # thresholds that are tried for a fused score
PROMINENCE_LOGITS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
MAX_VOXELS = 20_000  # of an example in the regression, so that no large tumor dominates it
# Which columns of `_design_matrix` a kind of fusion uses: bias, attention, pixel, feature residual.
COLUMNS = {"attention": (1, 1, 0, 0), "pixel": (1, 1, 1, 0), "feature": (1, 1, 0, 1),
           "both": (1, 1, 1, 1)}
NOTHING = "Nothing."  # on which a package without calibration is calibrated
# Scores of this measure do not depend on the calibration; all others do.
BEFORE_CALIBRATION = "mean Dice of the attention map before calibration, at 0.5"


@dataclass(frozen=True)
class ExampleMaps:
    """What the model computed for one example, and its ground truth, on the canonical grid.

    Attributes:
        attention: float32 (X, Y, Z), the calibrated attention map of the whole scan.
        truth: bool (X, Y, Z).
        candidates: bool (X, Y, Z), the inpainted region M; residuals are known only there.
        pixel, feature: float32 (X, Y, Z), the residuals.
        voxel_ml: volume of a voxel.
        lesion_voxels: of the whole lesion, also where these maps are a crop; -1 counts `truth`.
        plain, half_contrast: utility on the scan's own grid of the mask as it is, and of the one
            whose lesions end at half of their contrast.
    """

    modality: str
    attention: np.ndarray
    truth: np.ndarray
    candidates: np.ndarray
    pixel: np.ndarray
    feature: np.ndarray
    voxel_ml: float = 0.008
    lesion_voxels: int = -1
    plain: float = 0.0
    half_contrast: float = 0.0

    def __post_init__(self) -> None:
        if self.lesion_voxels < 0:
            object.__setattr__(self, "lesion_voxels", int(self.truth.sum()))

    def crop(self) -> ExampleMaps:
        """The bounding box of the candidates; it keeps the size of the whole lesion."""
        box = ndimage.find_objects(self.candidates.astype(np.uint8))[0]
        return replace(
            self, attention=self.attention[box], truth=self.truth[box],
            candidates=self.candidates[box], pixel=self.pixel[box], feature=self.feature[box],
        )

    def utility_by_threshold(self, score: np.ndarray) -> np.ndarray:
        """Utility of the mask `score` > t, for each t of THRESHOLDS; `score` is (X, Y, Z)."""
        if self.truth.any():
            return dice_by_threshold(score, self.truth)
        marked = np.array([np.count_nonzero(score > t) for t in THRESHOLDS])
        return false_positive_score(marked * self.voxel_ml)


@dataclass(frozen=True)
class ThresholdShift:
    """What to add to a map's logit so that 0.5 becomes the threshold of the best mean utility.

    Attributes:
        utility: mean over the examples at that threshold.
        dice: mean over the examples with a lesion; 0 if none has one.
    """

    shift: float
    utility: float
    dice: float


def calibrate(
    folder: Path, examples: Sequence[CalibrationExample], report: Path | None = None,
    device: str = "cpu", log: Callable[[str], None] = print, calibrated_on: str = "",
) -> None:
    """Fits logit shifts, open gates and fusions on `examples`, and writes them into the card.

    A gate that lowers the utility of the examples is left open. A modality of which no example has
    candidates keeps its fusion. Fusions of single anatomies and scores of the final mask go: they
    belong to the calibration before.

    Args:
        folder: the model package.
        report: JSON file that gets what was fitted.
        log: receives one line per fit.
        calibrated_on: for the card; empty: what the examples are made from.
    """
    package = load(folder)
    about = calibrated_on or f"{count_sources('example', [e.source for e in examples])}."
    package = replace(package, card=_uncalibrated(package.card, about))
    card = _fit_shifts(package, examples, device, log)
    card = _fit_fusions(replace(package, card=card), examples, device, log)
    card.write(folder)
    if report is not None:
        document = {"calibration": card.calibration, "open_gates": list(card.open_gates),
                    "fusion": {key: fusion.__dict__ for key, fusion in card.fusion.items()}}
        report.write_text(json.dumps(document, indent=1) + "\n")


def _uncalibrated(card: Card, calibrated_on: str) -> Card:
    """The card without what was fitted to, or measured with, an earlier calibration."""
    kept = str(card.scores.get("measure", "")).startswith(BEFORE_CALIBRATION)
    fusion = {modality: card.fusion[modality] for modality in card.modalities}
    return replace(card, calibration={}, open_gates=(), fusion=fusion, validation=(),
                   scores=card.scores if kept else {}, calibrated_on=calibrated_on)


# 1. Logit shifts and gates


def _fit_shifts(
    package: Package, examples: Sequence[CalibrationExample], device: str,
    log: Callable[[str], None],
) -> Card:
    """The card with new shifts and open gates."""
    keys = tuple(dict.fromkeys(e.key for e in examples))
    card = package.card
    segmenters = [Segmenter(replace(package, card=replace(card, open_gates=gates)), device)
                  for gates in ((), keys)]
    gated, ungated = zip(*(attention_maps(segmenters, e) for e in examples), strict=True)
    shifts: dict[str, float] = {}
    open_gates: list[str] = []
    for key in keys:
        of_key = [i for i, e in enumerate(examples) if e.key == key]
        maps, note = gated, ""
        with_gate, without = (best_shift([m[i] for i in of_key]).utility for m in (gated, ungated))
        if without > with_gate + MIN_OPEN_GATE_GAIN:
            maps, note = ungated, f", gate open (utility with it {with_gate:.3f})"
            open_gates.append(key)
        groups = {key: of_key} | _sequence_groups(key, of_key, examples, maps)
        for name, members in groups.items():
            # An unknown sequence may be any: the most frequent one does not decide alone.
            frequency = Counter(examples[i].sequence for i in members)
            weights = [1 / frequency[examples[i].sequence] for i in members]
            best = best_shift([maps[i] for i in members], weights)
            used = best.dice >= MIN_DICE
            if used:
                shifts[name] = best.shift
            rejected = "" if used else f"; not calibrated, as the Dice is below {MIN_DICE}"
            log(f"{name}: {len(members)} examples, shift {best.shift:.2f}, utility "
                f"{best.utility:.3f}, Dice {best.dice:.3f}{note}{rejected}")
    return replace(card, calibration=shifts, open_gates=tuple(open_gates))


def best_shift(
    examples: Sequence[ExampleMaps], weights: Sequence[float] | None = None
) -> ThresholdShift:
    """The shift for these examples; among equally good thresholds the middle one.

    Args:
        weights: of the examples in the means; None: the same for all.
    """
    curves = np.array([m.utility_by_threshold(m.attention) for m in examples])
    counts = np.ones(len(curves)) if weights is None else np.asarray(weights)
    mean = np.average(curves, axis=0, weights=counts)
    as_good = np.flatnonzero(mean > mean.max() - 1e-6)
    best = int(as_good[len(as_good) // 2])
    threshold = float(np.clip(THRESHOLDS[best], MIN_THRESHOLD, THRESHOLDS[-2]))
    with_lesion = [bool(m.truth.any()) for m in examples]
    dice = 0.0
    if any(with_lesion):
        dice = float(np.average(curves[with_lesion, best], weights=counts[with_lesion]))
    utility = float(mean[best])
    return ThresholdShift(float(-np.log(threshold / (1 - threshold))), utility, dice)


def _sequence_groups(
    key: str, of_key: Sequence[int], examples: Sequence[CalibrationExample],
    maps: Sequence[ExampleMaps],
) -> dict[str, list[int]]:
    """Indices by "anatomy/MR/sequence", for each sequence with enough examples with a lesion."""
    groups: dict[str, list[int]] = {}
    for i in of_key:
        if examples[i].sequence:
            groups.setdefault(f"{key}/{examples[i].sequence}", []).append(i)
    return {name: members for name, members in groups.items()
            if sum(bool(maps[i].truth.any()) for i in members) >= MIN_EXAMPLES}


def attention_maps(
    segmenters: Sequence[Segmenter], example: CalibrationExample
) -> list[ExampleMaps]:
    """The attention map of an example under several cards of one package; no residuals."""
    scan = _encode(segmenters[0], example)
    blank = np.zeros(scan.canonical.tensor.shape[2:], np.float32)
    maps = (s.attend(scan, understand(example.prompt)) for s in segmenters)
    return [_example_maps(example, scan, m, blank > 0, blank, blank) for m in maps]


# 2. Fusion of attention and residuals


def _fit_fusions(
    package: Package, examples: Sequence[CalibrationExample], device: str,
    log: Callable[[str], None],
) -> Card:
    """The card with new fusions; the shifts of `package` are those of step 1."""
    card = package.card
    alone = replace(card, fusion=dict.fromkeys(card.modalities, ATTENTION_ALONE))
    segmenter = Segmenter(replace(package, card=alone), device)
    maps = [segmented_maps(segmenter, e) for e in examples]
    fusions = dict(card.fusion)
    keys = dict.fromkeys(e.key for e in examples)
    for key in (*card.modalities, *(k for k in keys if k in card.calibration)):
        anatomy, modality = key.rpartition("/")[::2]
        of_key = [m for e, m in zip(examples, maps, strict=True)
                  if e.key == key or (not anatomy and m.modality == modality)]
        with_healthy = sum(bool((m.candidates & ~m.truth).any()) for m in of_key)
        if with_healthy >= (MIN_EXAMPLES if anatomy else 1):
            fusions[key] = fit_fusion(of_key)
            if not anatomy:  # how sharp a boundary is depends on the organ
                fusions[key] = replace(fusions[key], half_contrast=False)
            half = ", up to half of the contrast" if fusions[key].half_contrast else ""
            log(f"{key}: the final mask uses {fusions[key].used}{half}")
    return replace(card, fusion=fusions)


def fit_fusion(examples: Sequence[ExampleMaps]) -> Fusion:
    """Fits each kind of FUSIONS and chooses the one that makes the final mask.

    That is the attention alone, unless residuals raise the mean utility of examples that the fit
    has not seen (cross-validation with FOLDS folds); and the attention as it is, unless its fit
    raises it as well. Nothing of the half contrast is fitted but whether it raises it.
    """
    usable = [m for m in examples if m.candidates.any()]
    if len(usable) < FOLDS:
        return replace(_fit_each_kind(usable), used="attention")
    unseen: dict[str, list[float]] = {kind: [] for kind in FUSIONS}
    as_it_is: list[float] = []
    for fold in range(FOLDS):
        of_others = _fit_each_kind([m for i, m in enumerate(usable) if i % FOLDS != fold])
        for m in usable[fold::FOLDS]:
            as_it_is.append(_utility_of_fusion(m, ATTENTION_ALONE, "attention"))
            for kind in FUSIONS:
                unseen[kind].append(_utility_of_fusion(m, of_others, kind))
    best = max(FUSIONS, key=lambda kind: float(np.mean(unseen[kind])))
    if not _gains(unseen[best], unseen["attention"]):
        best = "attention"
    if not _gains(unseen[best], as_it_is):
        half = _gains([m.half_contrast for m in usable], [m.plain for m in usable])
        return replace(ATTENTION_ALONE, used="attention", half_contrast=half)
    return replace(_fit_each_kind(usable), used=best)


def _gains(utilities: Sequence[float], before: Sequence[float]) -> bool:
    """Whether these utilities of the same examples are higher, and not by chance."""
    gains = np.subtract(utilities, before)
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return float(gains.mean()) > max(MIN_UTILITY_GAIN, STANDARD_ERRORS * error)


def _fit_each_kind(usable: Sequence[ExampleMaps]) -> Fusion:
    """Noise floors of the residuals, then weights and prominence of each kind of fusion."""
    pixel_floor, feature_floor = (
        float(np.median(np.concatenate(
            [getattr(m, name)[m.candidates & ~m.truth] for m in usable])))
        for name in ("pixel", "feature")
    )
    floors = Fusion({}, max(pixel_floor, 1e-4), max(feature_floor, 1e-4))
    weights: dict[str, tuple[float, float, float, float]] = {}
    prominence: dict[str, float] = {}
    for kind, columns in COLUMNS.items():
        coefficients = _logistic_regression(usable, floors, np.array(columns, float))
        weights[kind], prominence[kind] = _bias_and_prominence(usable, floors, coefficients)
    return replace(floors, weights=weights, prominence=prominence)


def _design_matrix(m: ExampleMaps, floors: Fusion) -> np.ndarray:
    """(V, 4), a row per voxel of the candidates: 1, logit of the attention, both residuals."""
    pixel, feature = floors.evidence(m.pixel[m.candidates], m.feature[m.candidates])
    return np.stack([np.ones_like(pixel), logits(m.attention[m.candidates]), pixel, feature], 1)


def _logistic_regression(
    usable: Sequence[ExampleMaps], floors: Fusion, columns: np.ndarray
) -> np.ndarray:
    """Coefficients (4,) >= 0 except the bias; all examples have the same weight.

    Args:
        columns: (4,), 1 for each column of the design matrix that is used.
    """
    generator = np.random.default_rng(0)
    rows, truths = [], []
    for m in usable:
        matrix, truth = _design_matrix(m, floors), m.truth[m.candidates]
        picked = generator.choice(len(truth), min(MAX_VOXELS, len(truth)), replace=False)
        rows.append(matrix[picked])
        truths.append(truth[picked])
    weight = np.concatenate([np.full(len(t), 1 / len(t)) for t in truths])
    x, y = np.concatenate(rows) * columns, np.concatenate(truths).astype(float)

    def loss(c: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ c
        p = 1 / (1 + np.exp(-z))
        value = float((weight * (np.logaddexp(0, z) - y * z)).sum()) + 1e-3 * float(c @ c)
        return value, x.T @ (weight * (p - y)) + 2e-3 * c

    bounds = [(None, None)] + [(0.0, None)] * 3
    found: Any = minimize(loss, np.array([0.0, 1.0, 0.0, 0.0]), jac=True, bounds=bounds)
    return np.asarray(found.x) * columns


# 3. Bias and prominence of a fusion


def _bias_and_prominence(
    usable: Sequence[ExampleMaps], floors: Fusion, coefficients: np.ndarray
) -> tuple[tuple[float, float, float, float], float]:
    """The coefficients with the bias for which 0.5 is the best threshold, and the prominence.

    A prominence other than 0 is taken only if it adds MIN_UTILITY_GAIN.
    """
    crops = [m.crop() for m in usable]
    scores = []
    for m in crops:
        score = np.zeros(m.truth.shape)
        score[m.candidates] = expit(_design_matrix(m, floors) @ coefficients)
        scores.append(score)
    utility = np.array([  # (thresholds, prominences)
        np.mean([_utilities(m, score, threshold, PROMINENCE_LOGITS)
                 for m, score in zip(crops, scores, strict=True)], axis=0)
        for threshold in expit(THRESHOLD_LOGITS)
    ])
    plain = int(np.argmax(utility[:, 0]))
    row, column = divmod(int(np.argmax(utility)), len(PROMINENCE_LOGITS))
    if utility[row, column] < utility[plain, 0] + MIN_UTILITY_GAIN:
        row, column = plain, 0
    bias, attention, pixel, feature = (float(c) for c in coefficients)
    weights = (bias - float(THRESHOLD_LOGITS[row]), attention, pixel, feature)
    return weights, PROMINENCE_LOGITS[column]


def _utility_of_fusion(m: ExampleMaps, fusion: Fusion, kind: str) -> float:
    """Utility of the mask that a fusion makes of an example, at 0.5."""
    crop = m.crop()
    fused = fusion.score(crop.attention, crop.pixel, crop.feature, kind)
    score = np.where(crop.candidates, fused, 0.0)
    return _utilities(crop, score, 0.5, (fusion.prominence.get(kind, 0.0),))[0]


def _utilities(
    m: ExampleMaps, score: np.ndarray, threshold: float, prominences: Sequence[float]
) -> list[float]:
    """Utility, per prominence, of the mask above `threshold` without its less prominent parts."""
    labels, count = ndimage.label(score > threshold, np.ones((3, 3, 3)))
    numbers = np.arange(count + 1)
    peaks = np.asarray(ndimage.maximum(score, labels, numbers))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    overlaps = np.bincount(labels[m.truth], minlength=count + 1)
    kept = [(peaks > shifted_threshold(threshold, p)) & (numbers > 0) for p in prominences]
    marked = np.array([sizes[k].sum() for k in kept], float)
    if not m.lesion_voxels:
        return [float(utility) for utility in false_positive_score(marked * m.voxel_ml)]
    overlap = np.array([overlaps[k].sum() for k in kept], float)
    return [float(dice) for dice in 2 * overlap / (marked + m.lesion_voxels)]


# The model on an example


def segmented_maps(segmenter: Segmenter, example: CalibrationExample) -> ExampleMaps:
    """Attention, candidates and residuals of an example, by a full segmentation."""
    scan = _encode(segmenter, example)
    result = segmenter.segment(scan, example.prompt)
    evidence = result.evidence
    maps = _example_maps(example, scan, evidence.attention, evidence.mask, evidence.pixel,
                         evidence.feature)
    plain, half = (_utility_of_mask(replace(result, half_contrast=used), example)
                   for used in (False, True))
    return replace(maps, plain=plain, half_contrast=half)


def _utility_of_mask(result: Result, example: CalibrationExample) -> float:
    """Utility of the final mask on the scan's own grid."""
    def here(outline: sitk.Image) -> np.ndarray:
        on_grid = sitk.Resample(
            outline, result.image, sitk.Transform(), sitk.sitkNearestNeighbor)
        return np.asarray(sitk.GetArrayFromImage(on_grid) > 0)

    marked, truth = sitk.GetArrayFromImage(result.mask) > 0, here(example.truth)
    if example.ignore is not None:
        marked &= ~here(example.ignore)
    if truth.any():
        return dice(marked, truth)
    voxel_ml = float(np.prod(result.image.GetSpacing())) / 1000
    return float(false_positive_score(np.array(marked.sum() * voxel_ml)))


def _encode(segmenter: Segmenter, example: CalibrationExample) -> EncodedScan:
    return segmenter.encode(
        example.image, example.modality, sequence=example.sequence or None,
        skull_stripped=example.skull_stripped,
    )


def _example_maps(
    example: CalibrationExample, scan: EncodedScan, *maps: np.ndarray
) -> ExampleMaps:
    """From attention, candidates and both residuals, all (X, Y, Z) on the padded grid."""
    truth = mask_on_grid(example.truth, scan.canonical.geometry)
    x, y, z = truth.shape
    attention, candidates, pixel, feature = (m[:x, :y, :z] for m in maps)
    if example.ignore is not None:
        counts = ~mask_on_grid(example.ignore, scan.canonical.geometry)
        attention, candidates = attention * counts, candidates & counts
    voxel_ml = float(np.prod(scan.canonical.geometry.GetSpacing())) / 1000
    return ExampleMaps(example.modality, attention, truth, candidates, pixel, feature, voxel_ml)
