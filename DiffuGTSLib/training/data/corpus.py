"""All that a training draws from: the folders of its configuration, classes left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from DiffuGTSLib.datasets.folder import MANIFEST
from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.prompt.lesion_classes import lesion_class
from DiffuGTSLib.training.config import Data
from DiffuGTSLib.training.data.case_windows import Mixed, stored
from DiffuGTSLib.training.data.cases import Sample
from DiffuGTSLib.training.data.examples import Example
from DiffuGTSLib.training.data.project_folder import ProjectFolder, Wanted
from DiffuGTSLib.training.data.public_folder import PublicFolder
from DiffuGTSLib.training.data.windows import ORGANS, Sampler, Source, Window
from DiffuGTSLib.training.loop import ALONE, Ranks

Tell = Callable[[str], None]
T = TypeVar("T")
SPLITS = ("training", "tuning")
TOLD_EVERY_S = 2.0


class Folder(Protocol):
    """What a folder of scans gives; see ProjectFolder."""

    @property
    def name(self) -> str: ...
    @property
    def organs(self) -> tuple[str, ...]: ...
    @property
    def kinds(self) -> Mapping[str, float]: ...
    @property
    def groups(self) -> Mapping[str, float]: ...
    def names(self, split: str) -> list[str]: ...
    def prepare(self) -> None: ...
    def samples(self, split: str) -> list[Sample]: ...
    def sources(self, split: str) -> Iterator[Source]: ...
    def sampler(self, organs: Sequence[str]) -> Sampler: ...
    def held_out(self, organs: Sequence[str]) -> list[Window]: ...
    def classes(self) -> tuple[set[str], set[str]]: ...
    def examples(self, most: int) -> list[Example]: ...
    def describe(self) -> str: ...


@dataclass(frozen=True)
class Corpus:
    """Folders of scans, each with how often it is drawn from."""

    folders: Sequence[tuple[Folder, float]]
    wanted: Wanted

    @property
    def organs(self) -> tuple[str, ...]:
        """What windows' `organ` counts: ORGANS, then those that only public data sets name."""
        extra = {organ for folder, _ in self.folders for organ in folder.organs}
        return (*ORGANS, *sorted(extra))

    def sampler(self) -> Mixed:
        """Draws training windows, folders by their shares.

        Raises:
            TrainingImpossible: a folder has no scan to train on.
        """
        return Mixed([(f.sampler(self.organs), share) for f, share in self.folders])

    def held_out(self) -> list[Window]:
        """Windows to watch the training by."""
        return [w for folder, _ in self.folders for w in folder.held_out(self.organs)]

    def names(self, split: str) -> list[str]:
        """Names of the scans of a split ("training" or "tuning")."""
        return [name for folder, _ in self.folders for name in folder.names(split)]

    def samples(self, split: str) -> list[Sample]:
        """The scans of a split ("training" or "tuning")."""
        return [s for folder, _ in self.folders for s in folder.samples(split)]

    def sources(self, split: str) -> Iterator[Source]:
        """The same with all that is known of them, one at a time."""
        for folder, _ in self.folders:
            yield from folder.sources(split)

    def kinds(self) -> dict[str, float]:
        """How often each kind of source is drawn."""
        return self._shared([(folder.kinds, share) for folder, share in self.folders])

    def groups(self) -> dict[str, float]:
        """How often each group of samples is drawn."""
        return self._shared([(folder.groups, share) for folder, share in self.folders])

    def examples(self, most: int) -> list[Example]:
        """Scans for calibration and fusion, at most so many of a class, modality and folder."""
        return [e for folder, _ in self.folders for e in folder.examples(most)]

    def trained_classes(self) -> dict[str, list[str]]:
        """The classes of lesions that the training sees, for the card.

        Raises:
            RuntimeError: a class that is left out is among them (a fault of the program).
        """
        pairs = [folder.classes() for folder, _ in self.folders]
        classes = {
            "real": sorted(set().union(*(real for real, _ in pairs))),
            "synthetic": sorted(set().union(*(synthetic for _, synthetic in pairs))),
        }
        seen = self.wanted.left_out & {name for names in classes.values() for name in names}
        if seen:
            raise RuntimeError(f"left out, but trained on: {', '.join(sorted(seen))}")
        return classes

    def describe(self) -> str:
        """What is trained on, for the card."""
        return "; ".join(folder.describe() for folder, _ in self.folders)

    @staticmethod
    def _shared(tables: Sequence[tuple[Mapping[str, float], float]]) -> dict[str, float]:
        return {
            name: share * rate / sum(rates.values())
            for rates, share in tables for name, rate in rates.items()
        }


def classes_named(texts: Sequence[str]) -> frozenset[str]:
    """The classes of lesions that texts such as "HCC" or "liver tumor" name.

    Raises:
        PromptNotUnderstood: a text names none.
    """
    return frozenset(lesion_class(text) for text in texts)


class _Project(ProjectFolder):
    """The project's folder, prepared one scan after the other."""

    def prepare_each(self, tell: Tell) -> None:
        cases = [c for split in SPLITS for c in self.cases(split)]
        _each(cases, self._source, tell)


class _Public(PublicFolder):
    """A public data set, prepared one scan after the other."""

    def prepare_each(self, tell: Tell) -> None:
        cases = [c for split in SPLITS for c in self._split[split]]
        _each(cases, lambda c: stored(c, self.cache, self.wanted.spacing_mm), tell)


def _each(cases: Sequence[T], make: Callable[[T], object], tell: Tell) -> None:
    """Makes each, and tells which one; not every one of those that are there already."""
    told = -TOLD_EVERY_S
    for number, case in enumerate(cases, 1):
        if time.monotonic() - told >= TOLD_EVERY_S:
            tell(f"preparing scan {number} of {len(cases)}")
            told = time.monotonic()
        make(case)


def gather(
    data: Sequence[Data], cache: Path, wanted: Wanted, ranks: Ranks = ALONE,
    tell: Tell | None = None,
) -> Corpus:
    """`find_folders`, then `prepare`."""
    corpus = find_folders(data, cache, wanted)
    prepare(corpus, ranks, tell)
    return corpus


def find_folders(data: Sequence[Data], cache: Path, wanted: Wanted) -> Corpus:
    """The folders of a configuration; no scan has been read.

    Raises:
        TrainingImpossible, BadDataSet: a folder is not there, or no data set.
    """
    folders: list[tuple[Folder, float]] = []
    for entry in data:
        if not entry.folder.exists():
            raise TrainingImpossible(f"The folder {entry.folder.name} does not exist.",
                                     "Folders are relative to the configuration file; "
                                     f"looked for {entry.folder.resolve()}.")
        kind = _Project if (entry.folder / MANIFEST).is_file() else _Public
        folder: Folder = kind(entry.folder, cache, wanted)
        _ = folder.organs  # reads the list of the cases, and what they ask for
        folders.append((folder, entry.share))
    return Corpus(folders, wanted)


def prepare(corpus: Corpus, ranks: Ranks = ALONE, tell: Tell | None = None) -> None:
    """Resamples all scans, in the first process while the others wait.

    Args:
        tell: is told which scan it is, every few seconds.

    Raises:
        DiffuGTSError: a scan cannot be used.
    """
    if not ranks.first:
        ranks.wait()
    for folder, _ in corpus.folders:
        if ranks.first and tell is not None and isinstance(folder, _Project | _Public):
            folder.prepare_each(tell)
        else:
            folder.prepare()
    if ranks.first:
        ranks.wait()
