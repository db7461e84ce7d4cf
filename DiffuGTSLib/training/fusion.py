"""Calibration and fusion, fitted on the tuning patients and on lesions grown in training scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy.optimize import minimize

from DiffuGTSLib.grid import resample
from DiffuGTSLib.modality import guess_sequence
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.residual import FUSIONS, Fusion, logits
from DiffuGTSLib.scores import THRESHOLDS, dice_by_threshold
from DiffuGTSLib.segmenter import Segmenter
from DiffuGTSLib.training.data import Case, Sample
from DiffuGTSLib.training.lesions import add_lesion
from DiffuGTSLib.training.organs import SKULL_STRIPPED
from DiffuGTSLib.training.windows import ORGANS, Source

PROMPTS = {"sarcoma": "soft tissue sarcoma", "chest": "lung tumor", "brain": "brain tumor"}
# How many copies of a training scan get lesions in which organ, by kind of scan.
GROWN = {
    "chest": {"lung": 2}, "brain": {"brain": 1},
    "abdomen": {"liver": 1, "kidney": 1, "pancreas": 1, "colon": 1},
}
HALF = int(np.argmin(np.abs(THRESHOLDS - 0.5)))
FEWEST_LEFT_OUT = 3  # examples, for leaving one out to say anything
MEANINGFUL_WORTH = 0.005  # a residual adds less by chance
MOST_VOXELS = 20_000  # a scan, so that no large tumor rules the fit
ALARM_ML = 1.0  # marked in a scan without a lesion counts as half wrong


@dataclass(frozen=True)
class Example:
    """A scan with a known lesion, or known to hold none, and what to ask for.

    Attributes:
        image: a scan that the segmenter can encode.
        truth: uint8 image of the lesion, on any grid that covers it.
        sequence, skull_stripped: of MR, for models that have to know.
        ignore: uint8 image of what is neither for nor against, as lesions of another kind.
    """

    image: sitk.Image
    truth: sitk.Image
    prompt: str
    modality: str
    sequence: str = ""
    skull_stripped: bool = False
    ignore: sitk.Image | None = None

    @property
    def key(self) -> str:
        """Anatomy and modality, as the card's calibration names them."""
        return f"{understand(self.prompt).anatomy}/{self.modality}"


@dataclass(frozen=True)
class Measured:
    """Attention, residuals and truth of an example, on the canonical grid.

    Attributes:
        attention: float32 (X, Y, Z), over the whole scan.
        truth: bool (X, Y, Z).
        inside: bool (X, Y, Z), M.
        pixel, feature: float32 (X, Y, Z).
        voxel_ml: volume of a voxel.
    """

    modality: str
    attention: np.ndarray
    truth: np.ndarray
    inside: np.ndarray
    pixel: np.ndarray
    feature: np.ndarray
    voxel_ml: float = 0.008

    def worth(self, score: np.ndarray) -> np.ndarray:
        """For each of THRESHOLDS, what masks of the scores (X, Y, Z) above it are worth, 0 to 1.

        Dice where there is a lesion; where there is none, 1 for nothing and half for ALARM_ML.
        """
        if self.truth.any():
            return dice_by_threshold(score, self.truth)
        marked = np.array([np.count_nonzero(score > t) for t in THRESHOLDS]) * self.voxel_ml
        return ALARM_ML / (ALARM_ML + marked)


def real_examples(cases: Sequence[Case]) -> list[Example]:
    """The tuning patients' scans with their outlines."""
    return [
        Example(
            sitk.ReadImage(str(c.folder / "image.nii.gz")),
            sitk.ReadImage(str(c.folder / "tumor.nii.gz"), sitk.sitkUInt8),
            PROMPTS[c.group], c.modality, guess_sequence(c.name),
        )
        for c in cases
    ]


def grown_examples(
    samples: Sequence[Sample], sources: Sequence[Source], seed: int
) -> list[Example]:
    """Whole training scans with one or two new lesions, in each organ that can be asked for."""
    examples = []
    for number, (sample, source) in enumerate(zip(samples, sources, strict=True)):
        for organ, count in GROWN.get(source.kind, {}).items():
            for copy in range(count):
                generator = np.random.default_rng([seed, number, ORGANS.index(organ), copy])
                grown = _grown(sample, source, organ, generator)
                if grown is not None:
                    examples.append(grown)
    return examples


def healthy_examples(samples: Sequence[Sample], sources: Sequence[Source]) -> list[Example]:
    """The same scans as they are, without a lesion that anyone knows of."""
    return [
        _example(sample, source.stack[0].numpy(), np.zeros(source.stack.shape[1:], bool), organ)
        for sample, source in zip(samples, sources, strict=True)
        for organ in GROWN.get(source.kind, {}) if not source.stack[2:].any()
    ]


def _grown(
    sample: Sample, source: Source, organ: str, generator: np.random.Generator
) -> Example | None:
    """One scan with lesions in `organ`; None where it does not hold that organ."""
    image, index = source.stack[0].numpy(), source.stack[1].numpy()
    lesion = np.zeros(index.shape, bool)
    for _ in range(int(generator.integers(1, 3))):
        inside = index == ORGANS.index(organ) + 1
        grown = add_lesion(image, inside, organ, sample.case.modality, generator)
        if grown is not None:
            image, lesion = grown.image, lesion | grown.mask
    if not lesion.any():
        return None
    return _example(sample, image, lesion, organ, (source.stack[3].numpy() > 0) & ~lesion)


def _example(
    sample: Sample, image: np.ndarray, lesion: np.ndarray, organ: str,
    ignore: np.ndarray | None = None,
) -> Example:
    values = image * 2000 - 1000 if sample.case.modality == "CT" else image
    return Example(
        _as_image(values), _as_image(lesion.astype(np.uint8)),
        f"{organ.replace('_', ' ')} tumor", sample.case.modality,
        guess_sequence(sample.case.name), bool(SKULL_STRIPPED.match(sample.case.name)),
        None if ignore is None or not ignore.any() else _as_image(ignore.astype(np.uint8)),
    )


def _as_image(array: np.ndarray) -> sitk.Image:
    """(X, Y, Z) along right, anterior, superior, 2 mm -> an image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def measure(segmenter: Segmenter, example: Example, inpaint: bool = True) -> Measured:
    """Runs the segmenter on an example; without `inpaint` the residuals are zero."""
    scan = segmenter.encode(
        example.image, example.modality, sequence=example.sequence or None,
        skull_stripped=example.skull_stripped,
    )
    truth = _on_grid(example.truth, scan.canonical.geometry)
    if inpaint:
        evidence = segmenter.segment(scan, example.prompt).evidence
        maps = (evidence.attention, evidence.mask, evidence.pixel, evidence.feature)
    else:
        attention = segmenter.attend(scan, understand(example.prompt))
        blank = np.zeros_like(attention)
        maps = (attention, blank > 0, blank, blank)
    x, y, z = truth.shape
    attention, inside, pixel, feature = (m[:x, :y, :z] for m in maps)
    if example.ignore is not None:
        counts = ~_on_grid(example.ignore, scan.canonical.geometry)
        attention, inside = attention * counts, inside & counts
    voxel_ml = float(np.prod(scan.canonical.geometry.GetSpacing())) / 1000
    return Measured(example.modality, attention, truth, inside, pixel, feature, voxel_ml)


def _on_grid(mask: sitk.Image, geometry: sitk.Image) -> np.ndarray:
    """A mask as bool (X, Y, Z) on the canonical grid."""
    share = resample(sitk.Cast(mask, sitk.sitkFloat32), geometry)
    return np.asarray(sitk.GetArrayFromImage(share).transpose(2, 1, 0) > 0.5)


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
    """The shift that these examples ask for."""
    curves = np.array([m.worth(m.attention) for m in measured])
    best = int(np.argmax(curves.mean(0)))
    threshold = float(np.clip(THRESHOLDS[best], 0.005, 0.98))
    with_lesion = [bool(m.truth.any()) for m in measured]
    dice = float(curves[with_lesion, best].mean()) if any(with_lesion) else 0.0
    worth = float(curves[:, best].mean())
    return Shift(float(-np.log(threshold / (1 - threshold))), worth, dice)


def fit(measured: Sequence[Measured]) -> Fusion:
    """Logistic fusion inside M for each kind of `residual.FUSIONS`, one modality's examples.

    The bias is then moved to where the mean worth of the tuning examples is highest at 0.5. What
    makes the final mask is the attention alone, unless residuals add worth to examples that the
    fit has not seen (each is left out once).
    """
    usable = [m for m in measured if m.inside.any()]
    fusion = _fitted(usable)
    if len(usable) < FEWEST_LEFT_OUT:
        return fusion
    rest = [_fitted([*usable[:i], *usable[i + 1:]]) for i in range(len(usable))]
    worth = {
        kind: np.mean([_worth(m, f, kind) for m, f in zip(usable, rest, strict=True)])
        for kind in FUSIONS
    }
    best = max(FUSIONS, key=lambda kind: worth[kind])
    used = best if worth[best] > worth["attention"] + MEANINGFUL_WORTH else "attention"
    return replace(fusion, used=used)


def _worth(m: Measured, fusion: Fusion, kind: str) -> float:
    """Of the mask that a fusion makes of an example, at 0.5."""
    score = np.where(m.inside, fusion.score(m.attention, m.pixel, m.feature, kind), 0.0)
    return float(m.worth((score > 0.5).astype(np.float32))[HALF])


def _fitted(usable: Sequence[Measured]) -> Fusion:
    """Each kind of fusion with its own coefficients."""
    healthy = [m.inside & ~m.truth for m in usable]
    floors = [
        float(np.median(np.concatenate([getattr(m, name)[h] for m, h in
                                        zip(usable, healthy, strict=True)])))
        for name in ("pixel", "feature")
    ]
    blank = Fusion({}, max(floors[0], 1e-4), max(floors[1], 1e-4))
    weights: dict[str, tuple[float, float, float, float]] = {}
    for kind, used in (("attention", (1, 0, 0)), ("pixel", (1, 1, 0)), ("feature", (1, 0, 1)),
                       ("both", (1, 1, 1))):
        coefficients = _regress(usable, blank, np.array(used, dtype=float))
        weights[kind] = _with_best_bias(usable, blank, coefficients)
    return replace(blank, weights=weights)


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


def _with_best_bias(
    usable: Sequence[Measured], blank: Fusion, coefficients: np.ndarray
) -> tuple[float, float, float, float]:
    curves = []
    for m in usable:
        score = np.zeros(m.truth.shape)
        score[m.inside] = 1 / (1 + np.exp(-(_columns(m, blank) @ coefficients)))
        curves.append(m.worth(score))
    threshold = float(np.clip(THRESHOLDS[int(np.argmax(np.mean(curves, axis=0)))], 0.02, 0.98))
    bias, attention, pixel, feature = coefficients
    moved = float(bias - np.log(threshold / (1 - threshold)))
    return moved, float(attention), float(pixel), float(feature)
