"""The project's own data folder (manifest.json) as training data for any model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.prompt.lesion_classes import class_of_organ, lesion_class
from DiffuGTSLib.training.data.cases import (
    SPACING_MM,
    TrainingCase,
    TrainingVolume,
    cache_key,
    load_volume,
    read_cases,
)
from DiffuGTSLib.training.data.examples import (
    HELD_OUT,
    SYNTHETIC,
    TRAINING,
    CalibrationExample,
    healthy_examples,
    joining_cases,
    outlined,
    real_examples,
    synthetic_lesion_examples,
    wrong_organ_examples,
)
from DiffuGTSLib.training.data.scan_table import ORGANS, ScanKind, scan_table
from DiffuGTSLib.training.data.windows import (
    LabelledVolume,
    Window,
    WindowSampler,
    label_volume,
    phantom_volumes,
)

HELD_OUT_WINDOWS = 16  # with real lesions, and as many with synthetic ones


@dataclass(frozen=True)
class DataSelection:
    """Which part of the data a training uses.

    Attributes:
        spacing_mm: of the model's grid.
        modalities: of "CT" and "MR".
        left_out: classes of lesions of which no mask, real or synthetic, may be used.
        synthetic: whether synthetic lesions and phantoms are used.
        largest: voxels an axis of a window.
        held_out: share of the patients of a public data set that are not trained on.
    """

    spacing_mm: tuple[float, float, float] = SPACING_MM
    modalities: tuple[str, ...] = ("CT", "MR")
    left_out: frozenset[str] = frozenset()
    synthetic: bool = True
    largest: int = 64
    held_out: float = 0.1

    def allows(self, organ: str) -> bool:
        """Whether lesions of the organ may be used and prompted for in training."""
        return class_of_organ(organ) not in self.left_out

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel, averaged over the axes."""
        return float(np.mean(self.spacing_mm))


@dataclass(frozen=True)
class ProjectFolder:
    """The scans of a manifest.json, with their split and organs.

    Raises:
        TrainingImpossible: the manifest is absent, or lists a group of scans that is not known.
    """

    root: Path
    cache: Path
    selection: DataSelection

    name: ClassVar[str] = "the project's data folder"
    organs: ClassVar[tuple[str, ...]] = ()  # beyond ORGANS

    def __post_init__(self) -> None:
        _ = self.kinds

    @cached_property
    def _listed(self) -> list[TrainingCase]:
        return read_cases(self.root)

    @cached_property
    def kinds(self) -> Mapping[str, float]:
        """How often each kind of labelled volume is drawn, those of phantoms among them."""
        there = {case.kind.name for case in self._listed}
        return {name: kind.share for name, kind in scan_table().kinds.items()
                if name in there or (kind.phantom and self._with_phantoms)}

    @cached_property
    def groups(self) -> Mapping[str, float]:
        """How often volumes of each kind are drawn for the patches of an autoencoder."""
        kinds = scan_table().kinds
        return {name: kinds[name].patch_share for name in self.kinds if kinds[name].patch_share}

    @property
    def _with_phantoms(self) -> bool:
        return self.selection.synthetic and self.selection.spacing_mm == SPACING_MM

    def cases(self, split: str) -> list[TrainingCase]:
        """The scans of a split, in the selected modalities."""
        return [c for c in self._listed
                if c.split == split and c.modality in self.selection.modalities]

    def names(self, split: str) -> list[str]:
        """Names of the scans of a split that are used; no scan is read."""
        return [c.name for c in self._used_cases(split)]

    def images(self, split: str) -> list[Path]:
        """Files of the scans of a split that are used."""
        return [c.files[0] for c in self._used_cases(split)]

    def fingerprints(self, split: str) -> list[tuple[str, str]]:
        """Each scan of a split by its name, with what changes when the scan does."""
        return [(c.name, cache_key(c.files, c.modality, c.kind.name, c.prompt, c.sequence,
                                   c.skull_stripped)) for c in self._used_cases(split)]

    def prepare(self) -> None:
        """Resamples all scans and finds their organs, once for all processes."""
        for split in ("training", "tuning"):
            for _ in self.labelled_volumes(split):
                pass

    def volumes(self, split: str) -> list[TrainingVolume]:
        """The scans of a split ("training" or "tuning") on the model's grid."""
        return [load_volume(c, self.cache, self.selection.spacing_mm) for c in self.cases(split)]

    def labelled_volumes(self, split: str) -> Iterator[LabelledVolume]:
        """The same with their labels; none of a class that is left out."""
        for case in self.cases(split):
            volume = self._label(case)
            if self._used(volume.kind):
                yield volume

    @cached_property
    def training(self) -> list[LabelledVolume]:
        """The labelled volumes of the training split, phantoms among them."""
        phantoms = phantom_volumes() if self._with_phantoms else []
        modalities = [("CT", "MR").index(m) for m in self.selection.modalities]
        return [*self.labelled_volumes("training"),
                *(p for p in phantoms if p.modality in modalities and self._used(p.kind))]

    def sampler(self, organs: Sequence[str]) -> WindowSampler:
        """Draws training windows.

        Args:
            organs: what `Window.organ` is an index of: ORGANS, and what other folders add.

        Raises:
            TrainingImpossible: no scan is left.
        """
        if not self.training:
            raise TrainingImpossible(f"The folder {self.root.name} has no scan to train on.",
                                     "Leave out fewer classes, or add data.")
        return self._sampler(self.training, organs)

    def _sampler(
        self, volumes: Sequence[LabelledVolume], organs: Sequence[str]
    ) -> WindowSampler:
        for volume in volumes:
            missing = len(organs) - len(volume.known)
            volume.known = np.concatenate([volume.known, np.zeros(missing, bool)])
        allowed = [o for o in ORGANS if self.selection.allows(o)]
        return WindowSampler(
            volumes, self.selection.largest,
            lesion_organs=allowed if self.selection.synthetic else (), prompt_organs=allowed,
            voxel_mm=self.selection.voxel_mm, organs=organs)

    def held_out(self, organs: Sequence[str]) -> list[Window]:
        """Validation windows: of tuning patients, and synthetic lesions in training scans."""
        generator = np.random.default_rng(5)
        windows: list[Window] = []
        tuning = list(self.labelled_volumes("tuning"))
        if tuning:
            real = self._sampler(tuning, organs)
            drawn = (real.draw(generator) for _ in range(HELD_OUT_WINDOWS))
            windows += [replace(window, source=HELD_OUT) for window in drawn]
        for_lesions = [v for v in self.training if v.kind.synthetic]
        if for_lesions and self.selection.synthetic:
            synthetic = self._sampler(for_lesions, organs)
            drawn = (synthetic.draw(generator) for _ in range(10 * HELD_OUT_WINDOWS))
            with_lesion = (w for w in drawn if w.lesion.sum() > 30)
            windows += [replace(w, source=SYNTHETIC) for _, w in
                        zip(range(HELD_OUT_WINDOWS), with_lesion, strict=False)]
        return windows

    def classes(self) -> tuple[set[str], set[str]]:
        """The classes of lesions in the training windows: real ones, synthetic ones."""
        real, synthetic = set(), set()
        for volume in self.training:
            kind, organ = volume.kind, volume.kind.prompted_organ
            if kind.phantom:
                synthetic.add(class_of_organ(organ))
            elif organ and bool(volume.stack[2].any()):
                real.add(class_of_organ(organ))
            if self.selection.synthetic and kind.synthetic:
                present = np.unique(volume.stack[1].numpy()).astype(int)
                synthetic |= {class_of_organ(o) for o in kind.synthetic
                              if ORGANS.index(o) + 1 in present and self.selection.allows(o)}
        return real | {lesion_class(c.prompt) for c in outlined(self._tuning_cases())}, synthetic

    def examples(self, limit: int) -> list[CalibrationExample]:
        """Scans for calibration and fusion: tuning patients and those of the training that join
        them, training scans with synthetic lesions and without lesions, and scans prompted for the
        wrong organ.

        Args:
            limit: scans of a class and modality, at most.
        """
        examples = real_examples(self._tuning_cases())
        examples += real_examples(joining_cases(self.cases("training")), TRAINING)
        if self.selection.synthetic:
            volumes = [load_volume(c, self.cache) for c in self.cases("training")
                       if c.kind.synthetic_copies]
            labelled = [label_volume(v, self.cache) for v in volumes]
            examples += synthetic_lesion_examples(volumes, labelled, seed=77)
            examples += healthy_examples(volumes, labelled)
            examples += wrong_organ_examples(self._tuning_cases())
        chosen: dict[str, list[CalibrationExample]] = {}
        for example in examples:
            if lesion_class(example.prompt) not in self.selection.left_out:
                chosen.setdefault(example.key, []).append(example)
        return [e for of_key in chosen.values() for e in of_key[:limit]]

    def _tuning_cases(self) -> list[TrainingCase]:
        """Those without a mask of a class that is left out."""
        return [c for c in self.cases("tuning") if c.prompt
                and lesion_class(c.prompt) not in self.selection.left_out]

    def describe(self) -> str:
        """What is trained on, for the card."""
        real = sum(not s.kind.phantom for s in self.training)
        return f"{real} scans of {self.name} (NOTICE.txt names them)"

    def _label(self, case: TrainingCase) -> LabelledVolume:
        coarse = label_volume(load_volume(case, self.cache), self.cache)
        if self.selection.spacing_mm == SPACING_MM:
            return coarse
        return _finer(coarse, load_volume(case, self.cache, self.selection.spacing_mm),
                      self.selection.spacing_mm)

    def _used_cases(self, split: str) -> list[TrainingCase]:
        return [c for c in self.cases(split) if self._used(c.kind)]

    def _used(self, kind: ScanKind) -> bool:
        """Whether scans of a kind show an organ that is not left out."""
        if kind.prompted_organ and not self.selection.allows(kind.prompted_organ):
            return False
        return any(self.selection.allows(organ)
                   for organ, known in zip(ORGANS, kind.known_organs, strict=True) if known)


def _finer(
    coarse: LabelledVolume, fine: TrainingVolume, spacing: tuple[float, float, float]
) -> LabelledVolume:
    """The labels of `coarse` on the grid of `fine`, with the intensities and tumor of `fine`.

    Thresholds and registration that find the organs were chosen at 2 mm.
    """
    shape = fine.image.shape
    indices = [
        np.clip(((np.arange(n) + 0.5) * s / c).astype(int), 0, m - 1)
        for n, m, s, c in zip(shape, coarse.stack.shape[1:], spacing, SPACING_MM, strict=True)
    ]
    stack = coarse.stack[(slice(None), *np.ix_(*indices))].clone()
    stack[0] = torch.from_numpy(fine.image.astype(np.float32))
    if fine.case.lesion_mask:
        stack[2] = torch.from_numpy(fine.masks[fine.case.lesion_mask].astype(np.float32))
    return replace(coarse, stack=stack)
