"""The project's own data folder (manifest.json) as training data for any model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    load_volume,
    read_cases,
)
from DiffuGTSLib.training.data.examples import (
    PROMPTS,
    CalibrationExample,
    healthy_examples,
    real_examples,
    synthetic_lesion_examples,
    wrong_organ_examples,
)
from DiffuGTSLib.training.data.windows import (
    ORGANS,
    PHANTOMS,
    PROMPTED_ORGAN,
    SHARES,
    SYNTHETIC_RATES,
    LabelledVolume,
    Window,
    WindowSampler,
    kind_of,
    known_in,
    label_volume,
    phantom_volumes,
)

HELD_OUT_WINDOWS = 16  # with real lesions, and as many with synthetic ones
# Share of patches by group; MR oversampled, since its contrasts vary most (METHOD.md 8).
GROUP_SHARES = {"sarcoma": 0.4, "brain": 0.33, "chest": 0.15, "abdomen": 0.10, "breast": 0.02}


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
    largest: int = 72
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

    Attributes:
        kinds, groups: how often each kind of labelled volume, and group of volumes, is drawn.

    Raises:
        TrainingImpossible: the manifest is absent, or lists a group of scans that is not known.
    """

    root: Path
    cache: Path
    selection: DataSelection

    name: ClassVar[str] = "the project's data folder"
    organs: ClassVar[tuple[str, ...]] = ()  # beyond ORGANS
    kinds: ClassVar[Mapping[str, float]] = SHARES
    groups: ClassVar[Mapping[str, float]] = GROUP_SHARES

    def __post_init__(self) -> None:
        known = {"sarcoma", "chest", "abdomen", "brain", "breast"}
        for case in read_cases(self.root):
            if case.group not in known:
                raise TrainingImpossible(
                    f"The manifest puts {case.name} into a group that is not known: {case.group}.",
                    f"Groups are {', '.join(sorted(known))}; list other scans in a CASES.json.",
                )

    def cases(self, split: str) -> list[TrainingCase]:
        """The scans of a split, in the selected modalities."""
        return [c for c in read_cases(self.root)
                if c.split == split and c.modality in self.selection.modalities]

    def names(self, split: str) -> list[str]:
        """Names of the scans of a split that are used; no scan is read."""
        kinds = {c.name: kind_of(c) for c in self.cases(split)}
        return [name for name, kind in kinds.items() if self._used(kind, known_in(kind))]

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
            if self._used(volume.kind, volume.known):
                yield volume

    @cached_property
    def training(self) -> list[LabelledVolume]:
        """The labelled volumes of the training split, phantoms among them."""
        with_phantoms = self.selection.synthetic and self.selection.spacing_mm == SPACING_MM
        phantoms = phantom_volumes() if with_phantoms else []
        modalities = [("CT", "MR").index(m) for m in self.selection.modalities]
        return [*self.labelled_volumes("training"),
                *(p for p in phantoms if p.modality in modalities and self._used(p.kind, p.known))]

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
            voxel_mm=self.selection.voxel_mm)

    def held_out(self, organs: Sequence[str]) -> list[Window]:
        """Validation windows: of tuning patients, and synthetic lesions in training scans."""
        generator = np.random.default_rng(5)
        windows: list[Window] = []
        tuning = list(self.labelled_volumes("tuning"))
        if tuning:
            real = self._sampler(tuning, organs)
            windows += [real.draw(generator) for _ in range(HELD_OUT_WINDOWS)]
        for_lesions = [v for v in self.training if v.kind in SYNTHETIC_RATES]
        if for_lesions and self.selection.synthetic:
            synthetic = self._sampler(for_lesions, organs)
            drawn = (synthetic.draw(generator) for _ in range(10 * HELD_OUT_WINDOWS))
            with_lesion = (w for w in drawn if w.lesion.sum() > 30)
            windows += [w for _, w in zip(range(HELD_OUT_WINDOWS), with_lesion, strict=False)]
        return windows

    def classes(self) -> tuple[set[str], set[str]]:
        """The classes of lesions in the training windows: real ones, synthetic ones."""
        real, synthetic = set(), set()
        for volume in self.training:
            if volume.kind in PHANTOMS:
                synthetic.add(class_of_organ(PROMPTED_ORGAN[volume.kind]))
            elif volume.kind in PROMPTED_ORGAN and bool(volume.stack[2].any()):
                real.add(class_of_organ(PROMPTED_ORGAN[volume.kind]))
            elif self.selection.synthetic and volume.kind in SYNTHETIC_RATES:
                present = np.unique(volume.stack[1].numpy()).astype(int)
                synthetic |= {class_of_organ(o) for o in SYNTHETIC_RATES[volume.kind]
                              if ORGANS.index(o) + 1 in present and self.selection.allows(o)}
        return real | {lesion_class(e.prompt) for e in self._tuning_examples()}, synthetic

    def examples(self, limit: int) -> list[CalibrationExample]:
        """Scans for calibration and fusion: tuning patients, training scans with synthetic lesions
        and without lesions, and scans prompted for the wrong organ.

        Args:
            limit: scans of a class and modality, at most.
        """
        examples = self._tuning_examples()
        if self.selection.synthetic:
            volumes = [load_volume(c, self.cache) for c in self.cases("training")]
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
        return [c for c in self.cases("tuning") if lesion_class(PROMPTS[c.group])
                not in self.selection.left_out]

    def _tuning_examples(self) -> list[CalibrationExample]:
        return real_examples(self._tuning_cases())

    def describe(self) -> str:
        """What is trained on, for the card."""
        real = sum(s.kind not in PHANTOMS for s in self.training)
        return f"{real} scans of {self.name} (NOTICE.txt names them)"

    def _label(self, case: TrainingCase) -> LabelledVolume:
        coarse = label_volume(load_volume(case, self.cache), self.cache)
        if self.selection.spacing_mm == SPACING_MM:
            return coarse
        return _finer(coarse, load_volume(case, self.cache, self.selection.spacing_mm),
                      self.selection.spacing_mm)

    def _used(self, kind: str, known: np.ndarray) -> bool:
        """Whether scans of a kind show an organ that is not left out."""
        organ = PROMPTED_ORGAN.get(kind)
        if organ is not None and not self.selection.allows(organ):
            return False
        return any(self.selection.allows(ORGANS[i]) for i in np.flatnonzero(known[:len(ORGANS)]))


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
    if "tumor" in fine.masks:
        stack[2] = torch.from_numpy(fine.masks["tumor"].astype(np.float32))
    return LabelledVolume(coarse.kind, stack, coarse.known, coarse.modality)
