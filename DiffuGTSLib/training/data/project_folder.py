"""The project's own data folder (manifest.json) as training material for any model."""

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
from DiffuGTSLib.training.data.cases import SPACING_MM, Case, Sample, load_sample, read_cases
from DiffuGTSLib.training.data.examples import (
    PROMPTS,
    Example,
    elsewhere_examples,
    grown_examples,
    healthy_examples,
    real_examples,
)
from DiffuGTSLib.training.data.windows import (
    ASKED,
    GROWN_IN,
    ORGANS,
    PHANTOMS,
    SHARES,
    Source,
    Window,
    WindowSampler,
    kind_of,
    known_in,
    make_source,
    phantom_sources,
)

HELD_OUT_WINDOWS = 16  # with real outlines, and as many with grown lesions
# Share of patches by group; MR oversampled, since its contrasts vary most (METHOD.md 8).
GROUP_SHARES = {"sarcoma": 0.4, "brain": 0.33, "chest": 0.15, "abdomen": 0.10, "breast": 0.02}


@dataclass(frozen=True)
class Wanted:
    """What a training takes of the data.

    Attributes:
        spacing_mm: of the model's grid.
        modalities: of "CT" and "MR".
        left_out: classes of lesions of which no mask, real or synthetic, may be used.
        synthetic: whether lesions are grown in scans, and phantoms are used.
        largest: voxels an axis of a window.
        held_out: share of the patients of a public data set that are not trained on.
    """

    spacing_mm: tuple[float, float, float] = SPACING_MM
    modalities: tuple[str, ...] = ("CT", "MR")
    left_out: frozenset[str] = frozenset()
    synthetic: bool = True
    largest: int = 72
    held_out: float = 0.1

    def asks(self, organ: str) -> bool:
        """Whether lesions of the organ may be asked for in training."""
        return class_of_organ(organ) not in self.left_out

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel, averaged over the axes."""
        return float(np.mean(self.spacing_mm))


@dataclass(frozen=True)
class ProjectFolder:
    """The scans of a manifest.json, with the split and the organs that the project knows of them.

    Attributes:
        kinds, groups: how often each kind of source, and group of samples, is drawn.

    Raises:
        TrainingImpossible: the manifest is absent, or lists a group of scans that is not known.
    """

    root: Path
    cache: Path
    wanted: Wanted

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

    def cases(self, split: str) -> list[Case]:
        """The scans of a split, in the wanted modalities."""
        return [c for c in read_cases(self.root)
                if c.split == split and c.modality in self.wanted.modalities]

    def names(self, split: str) -> list[str]:
        """Names of the scans of a split that are used; no scan is read."""
        kinds = {c.name: kind_of(c) for c in self.cases(split)}
        return [name for name, kind in kinds.items() if self._used(kind, known_in(kind))]

    def prepare(self) -> None:
        """Resamples all scans and finds their organs, once for all processes."""
        for split in ("training", "tuning"):
            for _ in self.sources(split):
                pass

    def samples(self, split: str) -> list[Sample]:
        """The scans of a split ("training" or "tuning") on the model's grid."""
        return [load_sample(c, self.cache, self.wanted.spacing_mm) for c in self.cases(split)]

    def sources(self, split: str) -> Iterator[Source]:
        """The same with all that is known of them; none of a class that is left out."""
        for case in self.cases(split):
            source = self._source(case)
            if self._used(source.kind, source.known):
                yield source

    @cached_property
    def training(self) -> list[Source]:
        """The sources of the training split, phantoms among them."""
        grown = self.wanted.synthetic and self.wanted.spacing_mm == SPACING_MM
        phantoms = phantom_sources() if grown else []
        modalities = [("CT", "MR").index(m) for m in self.wanted.modalities]
        return [*self.sources("training"),
                *(p for p in phantoms if p.modality in modalities and self._used(p.kind, p.known))]

    def sampler(self, organs: Sequence[str]) -> WindowSampler:
        """Draws training windows.

        Args:
            organs: what windows' `organ` counts: ORGANS, and what other folders add.

        Raises:
            TrainingImpossible: no scan is left.
        """
        if not self.training:
            raise TrainingImpossible(f"The folder {self.root.name} has no scan to train on.",
                                     "Leave out fewer classes, or add data.")
        return self._sampler(self.training, organs)

    def _sampler(self, sources: Sequence[Source], organs: Sequence[str]) -> WindowSampler:
        for source in sources:
            missing = len(organs) - len(source.known)
            source.known = np.concatenate([source.known, np.zeros(missing, bool)])
        ask = [o for o in ORGANS if self.wanted.asks(o)]
        grow = ask if self.wanted.synthetic else []
        return WindowSampler(sources, self.wanted.largest, grow, ask, self.wanted.voxel_mm)

    def held_out(self, organs: Sequence[str]) -> list[Window]:
        """Windows to watch the training by: tuning patients, and new lesions in training scans."""
        generator = np.random.default_rng(5)
        windows: list[Window] = []
        tuning = list(self.sources("tuning"))
        if tuning:
            real = self._sampler(tuning, organs)
            windows += [real.draw(generator) for _ in range(HELD_OUT_WINDOWS)]
        grown_in = [s for s in self.training if s.kind in GROWN_IN]
        if grown_in and self.wanted.synthetic:
            grown = self._sampler(grown_in, organs)
            drawn = (grown.draw(generator) for _ in range(10 * HELD_OUT_WINDOWS))
            with_lesion = (w for w in drawn if w.lesion.sum() > 30)
            windows += [w for _, w in zip(range(HELD_OUT_WINDOWS), with_lesion, strict=False)]
        return windows

    def classes(self) -> tuple[set[str], set[str]]:
        """The classes of lesions in the training windows: real ones, synthetic ones."""
        real, synthetic = set(), set()
        for source in self.training:
            if source.kind in PHANTOMS:
                synthetic.add(class_of_organ(ASKED[source.kind]))
            elif source.kind in ASKED and bool(source.stack[2].any()):
                real.add(class_of_organ(ASKED[source.kind]))
            elif self.wanted.synthetic and source.kind in GROWN_IN:
                present = np.unique(source.stack[1].numpy()).astype(int)
                synthetic |= {class_of_organ(o) for o in GROWN_IN[source.kind]
                              if ORGANS.index(o) + 1 in present and self.wanted.asks(o)}
        return real | {lesion_class(e.prompt) for e in self._tuning_examples()}, synthetic

    def examples(self, most: int) -> list[Example]:
        """Scans for calibration and fusion: the tuning patients', and training scans with grown
        lesions and without any.

        Args:
            most: scans of a class and modality.
        """
        examples = self._tuning_examples()
        if self.wanted.synthetic:
            samples = [load_sample(c, self.cache) for c in self.cases("training")]
            sources = [make_source(s, self.cache) for s in samples]
            examples += grown_examples(samples, sources, seed=77)
            examples += healthy_examples(samples, sources)
            examples += elsewhere_examples(self._tuning_cases())
        chosen: dict[str, list[Example]] = {}
        for example in examples:
            if lesion_class(example.prompt) not in self.wanted.left_out:
                chosen.setdefault(example.key, []).append(example)
        return [e for of_key in chosen.values() for e in of_key[:most]]

    def _tuning_cases(self) -> list[Case]:
        """Those without a mask of a class that is left out."""
        return [c for c in self.cases("tuning") if lesion_class(PROMPTS[c.group])
                not in self.wanted.left_out]

    def _tuning_examples(self) -> list[Example]:
        return real_examples(self._tuning_cases())

    def describe(self) -> str:
        """What is trained on, for the card."""
        real = sum(s.kind not in PHANTOMS for s in self.training)
        return f"{real} scans of {self.name} (NOTICE.txt names them)"

    def _source(self, case: Case) -> Source:
        coarse = make_source(load_sample(case, self.cache), self.cache)
        if self.wanted.spacing_mm == SPACING_MM:
            return coarse
        return _finer(coarse, load_sample(case, self.cache, self.wanted.spacing_mm),
                      self.wanted.spacing_mm)

    def _used(self, kind: str, known: np.ndarray) -> bool:
        """Whether scans of a kind show anything that may be asked for."""
        organ = ASKED.get(kind)
        if organ is not None and not self.wanted.asks(organ):
            return False
        return any(self.wanted.asks(ORGANS[i]) for i in np.flatnonzero(known[:len(ORGANS)]))


def _finer(coarse: Source, fine: Sample, spacing: tuple[float, float, float]) -> Source:
    """The source on the grid of `fine`: its intensities and tumor, and the organs of `coarse`.

    Organs are found at 2 mm, by thresholds and registration that were set there.
    """
    shape = fine.image.shape
    places = [
        np.clip(((np.arange(n) + 0.5) * s / c).astype(int), 0, m - 1)
        for n, m, s, c in zip(shape, coarse.stack.shape[1:], spacing, SPACING_MM, strict=True)
    ]
    stack = coarse.stack[(slice(None), *np.ix_(*places))].clone()
    stack[0] = torch.from_numpy(fine.image.astype(np.float32))
    if "tumor" in fine.masks:
        stack[2] = torch.from_numpy(fine.masks["tumor"].astype(np.float32))
    return Source(coarse.kind, stack, coarse.known, coarse.modality)
