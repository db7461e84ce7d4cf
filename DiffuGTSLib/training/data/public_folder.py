"""A public data set, or a CASES.json, as training data for any model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from DiffuGTSLib.datasets import DataSet, LabelledCase, read_dataset
from DiffuGTSLib.datasets.check import counted
from DiffuGTSLib.errors import PromptNotUnderstood, TrainingImpossible
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.prompt.lesion_classes import class_of_organ, lesion_class
from DiffuGTSLib.training.data.case_windows import (
    ORGAN,
    TUMOR,
    CachedCase,
    CaseSampler,
    cached_case,
    case_key,
    known_organs,
)
from DiffuGTSLib.training.data.cases import TrainingCase, TrainingVolume
from DiffuGTSLib.training.data.examples import HELD_OUT, CalibrationExample
from DiffuGTSLib.training.data.project_folder import DataSelection
from DiffuGTSLib.training.data.scan_table import ScanKind
from DiffuGTSLib.training.data.windows import ORGANS, LabelledVolume, Window

HELD_OUT_WINDOWS = 8  # of an organ
WINDOWS_PER_CASE = 2  # at most


@dataclass(frozen=True)
class PublicFolder:
    """The cases of a data set in a published layout, split by patient.

    Raises:
        BadDataSet: the folder has no known layout.
        TrainingImpossible: a case's prompt names no organ.
    """

    root: Path
    cache: Path
    selection: DataSelection

    @cached_property
    def dataset(self) -> DataSet:
        """The data set in the folder."""
        return read_dataset(self.root)

    @property
    def name(self) -> str:
        """For the card."""
        return self.dataset.name

    @cached_property
    def _kind(self) -> ScanKind:
        return ScanKind(str(self.root), 1.0, 1.0)

    @property
    def kinds(self) -> Mapping[str, float]:
        """How often each kind of labelled volume is drawn: there is one kind."""
        return {str(self.root): 1.0}

    @property
    def groups(self) -> Mapping[str, float]:
        """How often each group of volumes is drawn: there is one group."""
        return self.kinds

    def prepare(self) -> None:
        """Resamples all cases, once for all processes."""
        for split in ("training", "tuning"):
            self.cached(split)

    @cached_property
    def _split(self) -> dict[str, list[LabelledCase]]:
        """The usable cases, by "training" and "tuning"; the latter's patients are held out.

        Of each class the same share of patients is held out, always the same ones; at least one
        patient remains to train on.
        """
        usable = [
            c for c in self.dataset.cases
            if not c.wrong_organ and _class(c) not in self.selection.left_out
            and (c.modality is None or c.modality in self.selection.modalities)
        ]
        held: set[str] = set()
        for name in dict.fromkeys(_class(c) for c in usable):
            patients = sorted({c.patient for c in usable if _class(c) == name}, key=_stable_order)
            count = int(np.ceil(len(patients) * self.selection.held_out))
            held |= set(patients[: min(count, len(patients) - 1)])
        return {
            "training": [c for c in usable if c.patient not in held],
            "tuning": [c for c in usable if c.patient in held],
        }

    def names(self, split: str) -> list[str]:
        """Names of the cases of a split."""
        return [c.name for c in self._split[split]]

    def images(self, split: str) -> list[Path]:
        """Files or DICOM folders of the scans of a split."""
        return [c.image for c in self._split[split]]

    def fingerprints(self, split: str) -> list[tuple[str, str]]:
        """Each case of a split by its name, with what changes when the case does."""
        return [(c.name, case_key(c, c.prompt, c.lesion_class, c.sequence))
                for c in self._split[split]]

    @property
    def organs(self) -> tuple[str, ...]:
        """The organs that prompts name, beyond ORGANS."""
        cases = [c for split in self._split.values() for c in split]
        named = {understand(c.prompt).anatomy for c in cases}
        return tuple(sorted(named - set(ORGANS)))

    def cached(self, split: str) -> list[CachedCase]:
        """The cases of a split on the model's grid, in the selected modalities."""
        cases = (cached_case(c, self.cache, self.selection.spacing_mm) for c in self._split[split])
        return [c for c in cases if c.modality in self.selection.modalities]

    @cached_property
    def training(self) -> list[CachedCase]:
        """The cases that are trained on."""
        return self.cached("training")

    def volumes(self, split: str) -> list[TrainingVolume]:
        """The scans of a split ("training" or "tuning"), memory-mapped, without masks."""
        return [
            TrainingVolume(TrainingCase(c.name, str(self.root), c.modality, self.root, (),
                                        self._kind), c.image, {})
            for c in self.cached(split)
        ]

    def labelled_volumes(self, split: str) -> Iterator[LabelledVolume]:
        """The scans of a split with their labels, one at a time."""
        for case in self.cached(split):
            labels = np.asarray(case.labels)
            organ = (labels & ORGAN > 0) * float(_index(case.organ, self.organs) + 1)
            blank = np.zeros(labels.shape)
            stack = np.stack([case.image.astype(np.float32), organ, labels & TUMOR, blank])
            yield LabelledVolume(self._kind, torch.from_numpy(stack.astype(np.float32)),
                         known_organs(case, (*ORGANS, *self.organs)), int(case.modality == "MR"))

    def sampler(self, organs: Sequence[str]) -> CaseSampler:
        """Draws training windows.

        Args:
            organs: what `Window.organ` is an index of.

        Raises:
            TrainingImpossible: no case is left.
        """
        if not self.training:
            raise TrainingImpossible(f"The folder {self.root.name} has no case to train on.",
                                     "All of its tumors are of classes that are left out, or "
                                     "its scans of a modality that the model does not read.")
        allowed = [o for o in organs if self.selection.allows(o)]
        return CaseSampler(
            self.training, organs, self.selection.largest,
            lesion_organs=allowed if self.selection.synthetic else (), prompt_organs=allowed,
            voxel_mm=self.selection.voxel_mm)

    def held_out(self, organs: Sequence[str]) -> list[Window]:
        """Validation windows, of patients that are not trained on."""
        generator, windows = np.random.default_rng(6), list[Window]()
        cases = self.cached("tuning")
        for organ in dict.fromkeys(c.organ for c in cases):
            of_organ = [c for c in cases if c.organ == organ]
            sampler = CaseSampler(of_organ, organs, self.selection.largest)
            count = min(HELD_OUT_WINDOWS, WINDOWS_PER_CASE * len(of_organ))
            windows += [replace(sampler.draw(generator), source=HELD_OUT) for _ in range(count)]
        return windows

    def classes(self) -> tuple[set[str], set[str]]:
        """The classes of lesions in the training windows: real ones, synthetic ones."""
        real = {class_of_organ(c.organ) for c in self.training if len(c.voxels[TUMOR])}
        synthetic = {class_of_organ(c.organ) for c in self.training if len(c.voxels[ORGAN])}
        return real, synthetic if self.selection.synthetic else set()

    def examples(self, limit: int) -> list[CalibrationExample]:
        """Scans for calibration and fusion: the held-out patients'.

        Args:
            limit: scans of a class and modality, at most.
        """
        chosen: dict[tuple[str, str | None], list[LabelledCase]] = {}
        for case in self._split["tuning"]:
            chosen.setdefault((_class(case), case.modality), []).append(case)
        examples = []
        for case in (c for of_key in chosen.values() for c in of_key[:limit]):
            volumes = case.read()
            if volumes.modality in self.selection.modalities:
                examples.append(CalibrationExample(
                    volumes.image, volumes.tumor, case.prompt, volumes.modality, case.sequence,
                    case.skull_stripped, source=HELD_OUT,
                ))
        return examples

    def describe(self) -> str:
        """What is trained on, for the card."""
        licence = self.dataset.licence or "licence not stated"
        return f"{counted(len(self.training), 'scan')} of {self.name} ({licence})"


def _class(case: LabelledCase) -> str:
    try:
        return lesion_class(case.lesion_class or case.prompt)
    except PromptNotUnderstood as error:
        raise TrainingImpossible(
            f"The case {case.name} cannot be trained on: {error.message}", error.hint) from None


def _stable_order(patient: str) -> str:
    """Sorting key: a random order of the patients that is always the same."""
    return hashlib.sha256(patient.encode()).hexdigest()


def _index(organ: str, extra: Sequence[str]) -> int:
    return (*ORGANS, *extra).index(organ)
