"""."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.scan.canonical import empty_like
from DiffuGTSLib.scan.modality import guess_sequence
from DiffuGTSLib.training.data.cases import Case, Sample
from DiffuGTSLib.training.data.organs import SKULL_STRIPPED
from DiffuGTSLib.training.data.synthetic_lesions import add_lesion
from DiffuGTSLib.training.data.windows import ORGANS, Source

PROMPTS = {"sarcoma": "soft tissue sarcoma", "chest": "lung tumor", "brain": "brain tumor"}
# How many copies of a training scan get lesions in which organ, by kind of scan. There are few
# chests, and two copies of each gave four examples, too few for a threshold and a prominence.
GROWN = {
    "chest": {"lung": 8}, "brain": {"brain": 3},
    "abdomen": {"liver": 1, "kidney": 1, "pancreas": 1, "colon": 1},
}
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


def _silence(marked_ml: np.ndarray) -> np.ndarray:
    """What so much marked in a scan without a lesion is worth."""
    return ALARM_ML / (ALARM_ML + marked_ml)


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


def elsewhere_examples(cases: Sequence[Case]) -> list[Example]:
    """Limbs and trunks asked for what grows in other organs: nothing should be found."""
    examples = []
    for example in real_examples([c for c in cases if c.group == "sarcoma"]):
        prompt = PROMPTS["chest" if example.modality == "CT" else "brain"]
        nothing = empty_like(example.truth)
        examples.append(replace(example, truth=nothing, prompt=prompt))
    return examples


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
