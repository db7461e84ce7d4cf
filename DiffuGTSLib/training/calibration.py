"""Calibration and fusion, fitted on the tuning patients and on lesions grown in training scans."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize
from scipy.special import expit

from DiffuGTSLib.evaluation.measures import THRESHOLDS, dice_by_threshold
from DiffuGTSLib.models.card import FUSIONS, Fusion, logits, raised
from DiffuGTSLib.models.package import load
from DiffuGTSLib.pipeline.segmenter import EncodedScan, Segmenter
from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.scan.canonical import mask_on_grid
from DiffuGTSLib.training.data.examples import Example, _silence

LOWEST = 0.001  # threshold; a map that is lower everywhere says nothing
FOLDS = 4  # of the examples, each left out once
MEANINGFUL_WORTH = 0.005  # a residual, or a prominence, adds less by chance
CUTS = np.arange(-3.0, 3.01, 0.5)  # logits at which a fused score may be cut
PROMINENCES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # logits
MOST_VOXELS = 20_000  # a scan, so that no large tumor rules the fit
# Of worth, by leaving a gate open. A gate has to prove itself: where it keeps nothing out, it can
# only hide lesions.
MEANINGFUL_GAIN = 0.01
# Below this no threshold finds the lesions, and the best one would call everything a lesion.
MEANINGFUL_DICE = 0.1
FEWEST_EXAMPLES = 4  # for a fusion of an anatomy's own, or a calibration of a sequence's own
CALIBRATED_ON = (
    "Sarcoma patients 029-032, healthy training scans, and new lesions grown in them. Seen neither "
    "by this nor by the training: lung1, lidc0314, brain1, fg-6692, sarcoma 033-040."
)


@dataclass(frozen=True)
class Measured:
    """Attention, residuals and truth of an example, on the canonical grid.

    Attributes:
        attention: float32 (X, Y, Z), over the whole scan.
        truth: bool (X, Y, Z).
        inside: bool (X, Y, Z), M.
        pixel, feature: float32 (X, Y, Z).
        voxel_ml: volume of a voxel.
        lesion_voxels: of the whole lesion; counted in `truth` where it is not told.
    """

    modality: str
    attention: np.ndarray
    truth: np.ndarray
    inside: np.ndarray
    pixel: np.ndarray
    feature: np.ndarray
    voxel_ml: float = 0.008
    lesion_voxels: int = -1

    def __post_init__(self) -> None:
        if self.lesion_voxels < 0:
            object.__setattr__(self, "lesion_voxels", int(self.truth.sum()))

    def crop(self) -> Measured:
        """The box around M alone, which still knows how large the whole lesion is."""
        box = ndimage.find_objects(self.inside.astype(np.uint8))[0]
        return replace(
            self, attention=self.attention[box], truth=self.truth[box], inside=self.inside[box],
            pixel=self.pixel[box], feature=self.feature[box],
        )

    def worth(self, score: np.ndarray) -> np.ndarray:
        """For each of THRESHOLDS, what masks of the scores (X, Y, Z) above it are worth, 0 to 1.

        Dice where there is a lesion; where there is none, 1 for nothing and half for ALARM_ML.
        """
        if self.truth.any():
            return dice_by_threshold(score, self.truth)
        return _silence(np.array([np.count_nonzero(score > t) for t in THRESHOLDS])
                        * self.voxel_ml)


def measure(segmenter: Segmenter, example: Example) -> Measured:
    """Runs the segmenter on an example."""
    scan = _encoded(segmenter, example)
    evidence = segmenter.segment(scan, example.prompt).evidence
    return _measured(example, scan, evidence.attention, evidence.mask, evidence.pixel,
                     evidence.feature)


def attentions(segmenters: Sequence[Segmenter], example: Example) -> list[Measured]:
    """What the attention makes of an example under several cards of one package; no residuals."""
    scan = _encoded(segmenters[0], example)
    blank = np.zeros(scan.canonical.tensor.shape[2:], np.float32)
    maps = (s.attend(scan, understand(example.prompt)) for s in segmenters)
    return [_measured(example, scan, m, blank > 0, blank, blank) for m in maps]


def _encoded(segmenter: Segmenter, example: Example) -> EncodedScan:
    return segmenter.encode(
        example.image, example.modality, sequence=example.sequence or None,
        skull_stripped=example.skull_stripped,
    )


def _measured(example: Example, scan: EncodedScan, *maps: np.ndarray) -> Measured:
    """With attention, M and both residuals, all (X, Y, Z) on the padded grid."""
    truth = mask_on_grid(example.truth, scan.canonical.geometry)
    x, y, z = truth.shape
    attention, inside, pixel, feature = (m[:x, :y, :z] for m in maps)
    if example.ignore is not None:
        counts = ~mask_on_grid(example.ignore, scan.canonical.geometry)
        attention, inside = attention * counts, inside & counts
    voxel_ml = float(np.prod(scan.canonical.geometry.GetSpacing())) / 1000
    return Measured(example.modality, attention, truth, inside, pixel, feature, voxel_ml)


@dataclass(frozen=True)
class Shift:
    """What to add to a map's logit so that 0.5 is the threshold of the best mean worth.

    Attributes:
        worth: the mean worth of the examples there.
        dice: the mean Dice there of those with a lesion; 0 if none has one.
    """

    shift: float
    worth: float
    dice: float


def best_shift(measured: Sequence[Measured]) -> Shift:
    """The shift that these examples ask for; of thresholds that are as good, the middle one."""
    curves = np.array([m.worth(m.attention) for m in measured])
    mean = curves.mean(0)
    as_good = np.flatnonzero(mean > mean.max() - 1e-6)
    best = int(as_good[len(as_good) // 2])
    threshold = float(np.clip(THRESHOLDS[best], LOWEST, THRESHOLDS[-2]))
    with_lesion = [bool(m.truth.any()) for m in measured]
    dice = float(curves[with_lesion, best].mean()) if any(with_lesion) else 0.0
    worth = float(curves[:, best].mean())
    return Shift(float(-np.log(threshold / (1 - threshold))), worth, dice)


def fit(measured: Sequence[Measured]) -> Fusion:
    """Logistic fusion inside M for each kind of `residual.FUSIONS`, one modality's examples.

    The bias is then moved to where the mean worth of the tuning examples is highest at 0.5. What
    makes the final mask is the attention alone, unless residuals add worth to examples that the
    fit has not seen (each is left out once, with others).
    """
    usable = [m for m in measured if m.inside.any()]
    fusion = fit_kinds(usable)
    if len(usable) < FOLDS:
        return replace(fusion, used="attention")
    unseen: dict[str, list[float]] = {kind: [] for kind in FUSIONS}
    for fold in range(FOLDS):
        others = fit_kinds([m for i, m in enumerate(usable) if i % FOLDS != fold])
        for m in usable[fold::FOLDS]:
            for kind in FUSIONS:
                unseen[kind].append(worth_of(m, others, kind))
    worth = {kind: float(np.mean(values)) for kind, values in unseen.items()}
    best = max(FUSIONS, key=lambda kind: worth[kind])
    used = best if worth[best] > worth["attention"] + MEANINGFUL_WORTH else "attention"
    return replace(fusion, used=used)


def worth_of(m: Measured, fusion: Fusion, kind: str) -> float:
    """Of the mask that a fusion makes of an example, at 0.5."""
    crop = m.crop()
    score = np.where(crop.inside, fusion.score(crop.attention, crop.pixel, crop.feature, kind), 0.0)
    return _worths(crop, score, 0.5, (fusion.prominence[kind],))[0]


def fit_kinds(usable: Sequence[Measured]) -> Fusion:
    """Each kind of fusion with its own coefficients."""
    healthy = [m.inside & ~m.truth for m in usable]
    floors = [
        float(np.median(np.concatenate([getattr(m, name)[h] for m, h in
                                        zip(usable, healthy, strict=True)])))
        for name in ("pixel", "feature")
    ]
    blank = Fusion({}, max(floors[0], 1e-4), max(floors[1], 1e-4))
    weights: dict[str, tuple[float, float, float, float]] = {}
    prominence: dict[str, float] = {}
    for kind, used in (("attention", (1, 0, 0)), ("pixel", (1, 1, 0)), ("feature", (1, 0, 1)),
                       ("both", (1, 1, 1))):
        coefficients = _regress(usable, blank, np.array(used, dtype=float))
        weights[kind], prominence[kind] = _best_cut(usable, blank, coefficients)
    return replace(blank, weights=weights, prominence=prominence)


def _columns(m: Measured, blank: Fusion) -> np.ndarray:
    """(V, 4): 1, logit of the attention, both residuals, for the voxels of M."""
    p, f = blank.evidence(m.pixel[m.inside], m.feature[m.inside])
    return np.stack([np.ones_like(p), logits(m.attention[m.inside]), p, f], 1)


def _regress(usable: Sequence[Measured], blank: Fusion, used: np.ndarray) -> np.ndarray:
    """Coefficients (4,), none negative but the bias; every example weighs the same."""
    generator = np.random.default_rng(0)
    rows, truths = [], []
    for m in usable:
        columns, truth = _columns(m, blank), m.truth[m.inside]
        picked = generator.choice(len(truth), min(MOST_VOXELS, len(truth)), replace=False)
        rows.append(columns[picked])
        truths.append(truth[picked])
    weight = np.concatenate([np.full(len(t), 1 / len(t)) for t in truths])
    x, y = np.concatenate(rows), np.concatenate(truths).astype(float)
    x = x * np.array([1.0, *used])

    def loss(c: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ c
        p = 1 / (1 + np.exp(-z))
        value = float((weight * (np.logaddexp(0, z) - y * z)).sum()) + 1e-3 * float(c @ c)
        return value, x.T @ (weight * (p - y)) + 2e-3 * c

    bounds = [(None, None)] + [(0.0, None)] * 3
    found: Any = minimize(loss, np.array([0.0, 1.0, 0.0, 0.0]), jac=True, bounds=bounds)
    return np.asarray(found.x) * np.array([1.0, *used])


def _best_cut(
    usable: Sequence[Measured], blank: Fusion, coefficients: np.ndarray
) -> tuple[tuple[float, float, float, float], float]:
    """The coefficients with the bias, and the prominence, of the highest mean worth at 0.5."""
    crops = [m.crop() for m in usable]
    scores = []
    for m in crops:
        score = np.zeros(m.truth.shape)
        score[m.inside] = expit(_columns(m, blank) @ coefficients)
        scores.append(score)
    worth = np.array([
        np.mean([_worths(m, score, cut, PROMINENCES) for m, score
                 in zip(crops, scores, strict=True)], axis=0)
        for cut in expit(CUTS)
    ])
    plain = int(np.argmax(worth[:, 0]))
    cut, kept = divmod(int(np.argmax(worth)), len(PROMINENCES))
    if worth[cut, kept] < worth[plain, 0] + MEANINGFUL_WORTH:
        cut, kept = plain, 0
    bias, attention, pixel, feature = (float(c) for c in coefficients)
    return (bias - float(CUTS[cut]), attention, pixel, feature), PROMINENCES[kept]


def _worths(
    m: Measured, score: np.ndarray, cut: float, prominences: Sequence[float]
) -> list[float]:
    """What the masks above `cut` are worth of which each part is at least so prominent."""
    labels, count = ndimage.label(score > cut, np.ones((3, 3, 3)))
    numbers = np.arange(count + 1)
    highest = np.asarray(ndimage.maximum(score, labels, numbers))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    hits = np.bincount(labels[m.truth], minlength=count + 1)
    kept = [(highest > raised(cut, p)) & (numbers > 0) for p in prominences]
    marked = np.array([sizes[k].sum() for k in kept], float)
    if not m.lesion_voxels:
        return [float(worth) for worth in _silence(marked * m.voxel_ml)]
    hit = np.array([hits[k].sum() for k in kept], float)
    return [float(worth) for worth in 2 * hit / (marked + m.lesion_voxels)]


def calibrate(
    folder: Path, examples: Sequence[Example], log: Path | None = None,
    device: str = "cpu", tell: Callable[[str], None] = print,
) -> None:
    """Fits the calibration by anatomy, and by MR sequence where that can be, and the fusion by
    modality, and by anatomy where that can be; both go into the card.

    A gate that makes the examples worth less than they are without it is left open. A modality of
    which no example has candidates keeps its fusion.
    """
    keys = tuple(dict.fromkeys(e.key for e in examples))
    package = load(folder)
    card = replace(package.card, calibration={}, open_gates=())
    segmenters = [Segmenter(replace(package, card=replace(card, open_gates=gates)), device)
                  for gates in ((), keys)]
    gated, open_wide = zip(*(attentions(segmenters, e) for e in examples), strict=True)
    shifts: dict[str, float] = {}
    open_gates = []
    for key in keys:
        of_key = [i for i, e in enumerate(examples) if e.key == key]
        made, said = gated, ""
        worth, without = (best_shift([maps[i] for i in of_key]).worth
                          for maps in (gated, open_wide))
        if without > worth + MEANINGFUL_GAIN:
            made, said = open_wide, f", gate open (with it {worth:.3f})"
            open_gates.append(key)
        groups = {key: of_key} | _by_sequence(key, of_key, examples, made)
        for name, members in groups.items():
            best = best_shift([made[i] for i in members])
            if best.dice >= MEANINGFUL_DICE:
                shifts[name] = best.shift
            tell(f"{name}: {len(members)} examples, shift {best.shift:.2f}, worth "
                 f"{best.worth:.3f}, Dice {best.dice:.3f}{said}")
    card = replace(card, calibration=shifts, open_gates=tuple(open_gates))
    segmenter = Segmenter(replace(package, card=card), device)
    full = [measure(segmenter, e) for e in examples]
    fitted = dict(card.fusion)
    for key in (*card.modalities, *(k for k in keys if k in shifts)):
        anatomy, modality = key.rpartition("/")[::2]
        usable = [m for e, m in zip(examples, full, strict=True)
                  if e.key == key or (not anatomy and m.modality == modality)]
        healthy = sum(bool((m.inside & ~m.truth).any()) for m in usable)
        if healthy >= (FEWEST_EXAMPLES if anatomy else 1):
            fitted[key] = fit(usable)
            tell(f"{key}: the final mask takes {fitted[key].used}")
    replace(card, fusion=fitted).write(folder)
    if log is not None:
        entries = {m: f.__dict__ for m, f in fitted.items()}
        document = {"calibration": shifts, "open_gates": open_gates, "fusion": entries}
        log.write_text(json.dumps(document, indent=1) + "\n")


def _by_sequence(
    key: str, of_key: Sequence[int], examples: Sequence[Example],
    made: Sequence[Measured],
) -> dict[str, list[int]]:
    """The examples of each MR sequence that has enough with a lesion, by "anatomy/MR/sequence"."""
    groups: dict[str, list[int]] = {}
    for i in of_key:
        if examples[i].sequence:
            groups.setdefault(f"{key}/{examples[i].sequence}", []).append(i)
    return {name: members for name, members in groups.items()
            if sum(bool(made[i].truth.any()) for i in members) >= FEWEST_EXAMPLES}
