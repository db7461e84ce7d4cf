"""Scans with a known answer, on which calibration and fusion are fitted.

Real lesions of the tuning patients, synthetic lesions in training scans, and negative examples:
healthy scans, and scans that are prompted for an organ that is not in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.datasets.check import counted
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.scan.canonical import empty_like
from DiffuGTSLib.scan.header import read_header
from DiffuGTSLib.scan.volume import MIN_SLICES
from DiffuGTSLib.training.data.cases import TrainingCase, TrainingVolume
from DiffuGTSLib.training.data.scan_table import ORGANS
from DiffuGTSLib.training.data.synthetic_lesions import add_lesion
from DiffuGTSLib.training.data.windows import LabelledVolume

FALSE_POSITIVE_ML = 1.0  # this volume marked in a scan without a lesion halves its score
# What examples and windows for the validation are made from.
HELD_OUT = "held-out scans"
WRONG_ORGAN = "held-out scans prompted for an organ that is not in them"
TRAINING = "training scans"
SYNTHETIC = "training scans with synthetic lesions"
HEALTHY = "training scans without lesions"


@dataclass(frozen=True)
class CalibrationExample:
    """A scan, its prompt, and the mask that the model should find (empty: no lesion).

    Attributes:
        image: a scan that the segmenter can encode.
        truth: uint8 image of the lesion, on any grid that covers it.
        sequence, skull_stripped: of MR, for models that are conditioned on them.
        ignore: uint8 image of voxels that do not count, such as lesions of another kind.
        source: what it is made from: HELD_OUT, ...
    """

    image: sitk.Image
    truth: sitk.Image
    prompt: str
    modality: str
    sequence: str = ""
    skull_stripped: bool = False
    ignore: sitk.Image | None = None
    source: str = "scans"

    @property
    def key(self) -> str:
        """Anatomy and modality, as the card's calibration names them."""
        return f"{understand(self.prompt).anatomy}/{self.modality}"


def false_positive_score(marked_ml: np.ndarray) -> np.ndarray:
    """Score of volumes (ml) marked in a scan without a lesion: 1 for none, towards 0 for much."""
    return FALSE_POSITIVE_ML / (FALSE_POSITIVE_ML + marked_ml)


def count_sources(noun: str, sources: Iterable[str]) -> str:
    """How many there are of each source, for the card.

    Example:
        >>> count_sources("example", [HELD_OUT, HELD_OUT, TRAINING])
        '2 examples of held-out scans and 1 of training scans'
    """
    parts = [f"{number} of {source}" for source, number in Counter(sources).items()]
    if not parts:
        return counted(0, noun)
    number, rest = parts[0].split(" ", 1)
    parts[0] = f"{counted(int(number), noun)} {rest}"
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def real_examples(
    cases: Sequence[TrainingCase], source: str = HELD_OUT
) -> list[CalibrationExample]:
    """Scans with their outlines, those of the tuning patients first of all."""
    return [replace(_real(case), source=source) for case in outlined(cases)]


def joining_cases(cases: Sequence[TrainingCase]) -> list[TrainingCase]:
    """Those of the training whose lesions calibrate as well: of as many patients as their kind
    states, the first by name."""
    patients: dict[str, set[str]] = {}
    for case in outlined(cases):
        patients.setdefault(case.kind.name, set()).add(case.patient)
    joining = {name: sorted(of_kind) for name, of_kind in patients.items()}
    return [c for c in outlined(cases)
            if c.patient in joining[c.kind.name][:c.kind.calibration_patients]]


def has_enough_slices(case: TrainingCase) -> bool:
    """Whether the model takes the scan: a crop around a small nodule may be too thin."""
    return min(read_header(case.folder / "image.nii.gz").GetSize()) >= MIN_SLICES


def outlined(cases: Sequence[TrainingCase]) -> list[TrainingCase]:
    """Those with lesions that are outlined and that can be prompted for."""
    return [c for c in cases if c.lesion_mask and c.prompt and has_enough_slices(c)]


def _real(case: TrainingCase) -> CalibrationExample:
    return CalibrationExample(
        sitk.ReadImage(str(case.folder / "image.nii.gz")),
        sitk.ReadImage(str(case.folder / f"{case.lesion_mask}.nii.gz"), sitk.sitkUInt8),
        case.prompt, case.modality, case.sequence, case.skull_stripped,
    )


def wrong_organ_examples(cases: Sequence[TrainingCase]) -> list[CalibrationExample]:
    """Negative examples: scans prompted for an organ that is not in them, as their kind says."""
    examples = ((case, _real(case)) for case in outlined(cases) if case.kind.wrong_prompts)
    return [replace(example, truth=empty_like(example.truth), prompt=case.kind.wrong_prompts[0],
                    source=WRONG_ORGAN) for case, example in examples]


def synthetic_lesion_examples(
    volumes: Sequence[TrainingVolume], labelled: Sequence[LabelledVolume], seed: int
) -> list[CalibrationExample]:
    """Training scans with one or two synthetic lesions, as many copies as their kind says."""
    examples = []
    for number, (volume, labels) in enumerate(zip(volumes, labelled, strict=True)):
        for organ, count in labels.kind.synthetic_copies.items():
            for copy in range(count):
                generator = np.random.default_rng([seed, number, ORGANS.index(organ), copy])
                example = _with_lesions(volume, labels, organ, generator)
                if example is not None:
                    examples.append(example)
    return examples


def healthy_examples(
    volumes: Sequence[TrainingVolume], labelled: Sequence[LabelledVolume]
) -> list[CalibrationExample]:
    """Negative examples: the same scans as they are, where they have no known lesion."""
    return [
        _example(volume, labels.stack[0].numpy(), np.zeros(labels.stack.shape[1:], bool), organ,
                 HEALTHY)
        for volume, labels in zip(volumes, labelled, strict=True)
        for organ in labels.kind.synthetic_copies if not labels.stack[2:].any()
    ]


def _with_lesions(
    volume: TrainingVolume, labels: LabelledVolume, organ: str, generator: np.random.Generator
) -> CalibrationExample | None:
    """One scan with synthetic lesions in `organ`; None where it does not hold that organ."""
    image, index = labels.stack[0].numpy(), labels.stack[1].numpy()
    inside = index == ORGANS.index(organ) + 1
    mask = np.zeros(index.shape, bool)
    for _ in range(int(generator.integers(1, 3))):
        lesion = add_lesion(image, inside, organ, volume.case.modality, generator)
        if lesion is not None:
            image, mask = lesion.image, mask | lesion.mask
    if not mask.any():
        return None
    return _example(volume, image, mask, organ, SYNTHETIC, (labels.stack[3].numpy() > 0) & ~mask)


def _example(
    volume: TrainingVolume, image: np.ndarray, mask: np.ndarray, organ: str, source: str,
    ignore: np.ndarray | None = None,
) -> CalibrationExample:
    case = volume.case
    values = image * 2000 - 1000 if case.modality == "CT" else image
    return CalibrationExample(
        _as_image(values), _as_image(mask.astype(np.uint8)),
        f"{organ.replace('_', ' ')} tumor", case.modality,
        case.sequence, case.skull_stripped,
        None if ignore is None or not ignore.any() else _as_image(ignore.astype(np.uint8)),
        source,
    )


def _as_image(array: np.ndarray) -> sitk.Image:
    """(X, Y, Z) along right, anterior, superior, 2 mm -> an image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image
