"""The training data of a configuration: all its folders, without the classes left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from DiffuGTSLib.datasets import LabelledCase
from DiffuGTSLib.datasets.check import note_lines
from DiffuGTSLib.datasets.folder import MANIFEST
from DiffuGTSLib.errors import DiffuGTSError, TrainingImpossible
from DiffuGTSLib.prompt.lesion_classes import lesion_class
from DiffuGTSLib.scan.file_checks import scan_mark
from DiffuGTSLib.training.config import Data
from DiffuGTSLib.training.data.case_windows import MixedSampler, cached_case
from DiffuGTSLib.training.data.cases import TrainingCase, TrainingVolume
from DiffuGTSLib.training.data.examples import CalibrationExample
from DiffuGTSLib.training.data.project_folder import DataSelection, ProjectFolder
from DiffuGTSLib.training.data.public_folder import PublicFolder
from DiffuGTSLib.training.data.windows import ORGANS, LabelledVolume, Sampler, Window
from DiffuGTSLib.training.loop import SINGLE_PROCESS, Ranks

Log = Callable[[str], None]
Case = TypeVar("Case", LabelledCase, TrainingCase)
SPLITS = ("training", "tuning")
LOG_INTERVAL_S = 2.0


class TrainingFolder(Protocol):
    """The interface of a folder of scans; see ProjectFolder."""

    @property
    def name(self) -> str: ...
    @property
    def organs(self) -> tuple[str, ...]: ...
    @property
    def kinds(self) -> Mapping[str, float]: ...
    @property
    def groups(self) -> Mapping[str, float]: ...
    def names(self, split: str) -> list[str]: ...
    def images(self, split: str) -> list[Path]: ...
    def fingerprints(self, split: str) -> list[tuple[str, str]]: ...
    def prepare(self) -> None: ...
    def volumes(self, split: str) -> list[TrainingVolume]: ...
    def labelled_volumes(self, split: str) -> Iterator[LabelledVolume]: ...
    def sampler(self, organs: Sequence[str]) -> Sampler: ...
    def held_out(self, organs: Sequence[str]) -> list[Window]: ...
    def classes(self) -> tuple[set[str], set[str]]: ...
    def examples(self, limit: int) -> list[CalibrationExample]: ...
    def describe(self) -> str: ...


@dataclass(frozen=True)
class Corpus:
    """Folders of scans, each with its share of the training windows."""

    folders: Sequence[tuple[TrainingFolder, float]]
    selection: DataSelection

    @property
    def organs(self) -> tuple[str, ...]:
        """What `Window.organ` is an index of: ORGANS, then those of public data sets alone."""
        extra = {organ for folder, _ in self.folders for organ in folder.organs}
        return (*ORGANS, *sorted(extra))

    def sampler(self) -> MixedSampler:
        """Draws training windows, folders by their shares.

        Raises:
            TrainingImpossible: a folder has no scan to train on.
        """
        return MixedSampler([(f.sampler(self.organs), share) for f, share in self.folders])

    def held_out(self) -> list[Window]:
        """Windows for the validation during the training."""
        return [w for folder, _ in self.folders for w in folder.held_out(self.organs)]

    def names(self, split: str) -> list[str]:
        """Names of the scans of a split ("training" or "tuning")."""
        return [name for folder, _ in self.folders for name in folder.names(split)]

    def marks(self, split: str) -> list[str]:
        """What tells the scans of a split from others, for the card; see `scan_mark`."""
        return sorted({scan_mark(path) for folder, _ in self.folders
                       for path in folder.images(split)})

    def fingerprints(self, split: str) -> dict[str, list[str]]:
        """The scans of a split by their names, with what changes when a scan does."""
        found: dict[str, list[str]] = {}
        for folder, _ in self.folders:
            for name, fingerprint in folder.fingerprints(split):  # two folders may share a name
                found.setdefault(name, []).append(fingerprint)
        return found

    def volumes(self, split: str) -> list[TrainingVolume]:
        """The scans of a split ("training" or "tuning")."""
        return [s for folder, _ in self.folders for s in folder.volumes(split)]

    def labelled_volumes(self, split: str) -> Iterator[LabelledVolume]:
        """The same with their labels, one at a time."""
        for folder, _ in self.folders:
            yield from folder.labelled_volumes(split)

    def kinds(self) -> dict[str, float]:
        """How often each kind of labelled volume is drawn."""
        return self._shared([(folder.kinds, share) for folder, share in self.folders])

    def groups(self) -> dict[str, float]:
        """How often each group of volumes is drawn."""
        return self._shared([(folder.groups, share) for folder, share in self.folders])

    def examples(self, limit: int) -> list[CalibrationExample]:
        """Scans for calibration and fusion, at most `limit` of a class, modality and folder."""
        return [e for folder, _ in self.folders for e in folder.examples(limit)]

    def trained_classes(self) -> dict[str, list[str]]:
        """The classes of lesions in the training data, for the card.

        Raises:
            RuntimeError: a class that is left out is among them (a defect of the program).
        """
        pairs = [folder.classes() for folder, _ in self.folders]
        classes = {
            "real": sorted(set().union(*(real for real, _ in pairs))),
            "synthetic": sorted(set().union(*(synthetic for _, synthetic in pairs))),
        }
        seen = self.selection.left_out & {name for names in classes.values() for name in names}
        if seen:
            raise RuntimeError(f"left out, but trained on: {', '.join(sorted(seen))}")
        return classes

    def describe(self) -> str:
        """What is trained on, for the card."""
        return "; ".join(folder.describe() for folder, _ in self.folders)

    @staticmethod
    def _shared(tables: Sequence[tuple[Mapping[str, float], float]]) -> dict[str, float]:
        shared: dict[str, float] = {}
        for rates, share in tables:
            for name, rate in rates.items():  # two folders may hold scans of one kind
                shared[name] = shared.get(name, 0.0) + share * rate / sum(rates.values())
        return shared


def classes_named(texts: Sequence[str]) -> frozenset[str]:
    """The classes of lesions that texts such as "HCC" or "liver tumor" name.

    Raises:
        PromptNotUnderstood: a text names none.
    """
    return frozenset(lesion_class(text) for text in texts)


class _Project(ProjectFolder):
    """The project's folder, prepared with progress."""

    def prepare_each(self, log: Log) -> None:
        def make(case: TrainingCase) -> tuple[str, ...]:
            self._label(case)
            return ()

        _each([c for split in SPLITS for c in self.cases(split)], make, log)


class _Public(PublicFolder):
    """A public data set, prepared with progress."""

    def prepare_each(self, log: Log) -> None:
        def make(case: LabelledCase) -> tuple[str, ...]:
            return cached_case(case, self.cache, self.selection.spacing_mm).notes

        _each([c for split in SPLITS for c in self._split[split]], make, log)


def _each(cases: Sequence[Case], make: Callable[[Case], Sequence[str]], log: Log) -> None:
    """Makes each, with a line of progress at most every LOG_INTERVAL_S; then the notes on them.

    Args:
        make: returns what the user should know of how a case was read.

    Raises:
        TrainingImpossible: a case cannot be used; it is named.
    """
    logged, notes = -LOG_INTERVAL_S, list[tuple[str, Sequence[str]]]()
    for number, case in enumerate(cases, 1):
        if time.monotonic() - logged >= LOG_INTERVAL_S:
            log(f"preparing scan {number} of {len(cases)}")
            logged = time.monotonic()
        try:
            notes.append((case.name, make(case)))
        except DiffuGTSError as error:
            raise TrainingImpossible(
                f"The case {case.name} cannot be trained on: {error.message}",
                "All that is wrong with a folder: diffugts data check FOLDER",
            ) from error
    for line in note_lines(notes):
        log(line)


def gather(
    data: Sequence[Data], cache: Path, selection: DataSelection, ranks: Ranks = SINGLE_PROCESS,
    log: Log | None = None,
) -> Corpus:
    """`find_folders`, then `prepare`."""
    corpus = find_folders(data, cache, selection)
    prepare(corpus, ranks, log)
    return corpus


def find_folders(data: Sequence[Data], cache: Path, selection: DataSelection) -> Corpus:
    """The folders of a configuration; reads no scan.

    Raises:
        TrainingImpossible, BadDataSet: a folder is not there, or no data set.
    """
    folders: list[tuple[TrainingFolder, float]] = []
    for entry in data:
        if not entry.folder.exists():
            raise TrainingImpossible(f"The folder {entry.folder.name} does not exist.",
                                     "Folders are relative to the configuration file; "
                                     f"looked for {entry.folder.resolve()}.")
        kind = _Project if (entry.folder / MANIFEST).is_file() else _Public
        folder: TrainingFolder = kind(entry.folder, cache, selection)
        _ = folder.organs  # reads the list of the cases and their prompts
        folders.append((folder, entry.share))
    return Corpus(folders, selection)


def prepare(corpus: Corpus, ranks: Ranks = SINGLE_PROCESS, log: Log | None = None) -> None:
    """Resamples all scans, in the first process while the others wait.

    Args:
        log: receives a line of progress every few seconds.

    Raises:
        DiffuGTSError: a scan cannot be used.
    """
    if not ranks.first:
        ranks.wait()
    for folder, _ in corpus.folders:
        if ranks.first and isinstance(folder, _Project | _Public):
            folder.prepare_each(log or (lambda line: None))
        else:
            folder.prepare()
    if ranks.first:
        ranks.wait()
