"""The zero-shot experiment in small: the attention without any lesion of one organ, scored on it.

    python Testing/Benchmarks/zero_shot.py --data DIR --data DIR2 --runs RUNS [--steps N]

For each class: trains the attention over the embedded model's frozen networks without a real or
synthetic lesion of that class, and without a prompt for it. Every training is scored on all tumors
of validation patients, so the other trainings, of as many steps, say what the class scores where it
was not left out; the committed model stands beside them. `--without nothing` trains on all classes.
No threshold is calibrated in any of them. Started again with the same steps, it goes on where it
was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from DiffuGTSLib.datasets import DataSet
from DiffuGTSLib.evaluation.evaluate import evaluate
from DiffuGTSLib.evaluation.scoring import CaseScores, EvaluationSettings
from DiffuGTSLib.models import load_foundation
from DiffuGTSLib.pipeline import Options
from DiffuGTSLib.prompt.lesion_classes import lesion_class
from DiffuGTSLib.training import attention_trainer
from DiffuGTSLib.training.commands import write_trained
from DiffuGTSLib.training.config import ATTENTION
from DiffuGTSLib.training.data.cases import read_cases
from DiffuGTSLib.training.data.corpus import Corpus, classes_named
from DiffuGTSLib.training.data.project_folder import DataSelection, ProjectFolder
from DiffuGTSLib.training.data.scan_table import scan_table
from DiffuGTSLib.training.data.windows import WindowLoader
from DiffuGTSLib.training.embedded.build import LOADER_WORKERS, NETWORK, WINDOW
from DiffuGTSLib.training.embedded.validation import Task, tasks

CLASSES = ("brain tumor", "lung tumor", "liver tumor", "soft tissue sarcoma")
NOTHING = "nothing"


def corpus_without(data: Sequence[Path], cache: Path, text: str) -> Corpus:
    """The data of the embedded model, kinds of scans by their shares, without a class."""
    left_out = classes_named([] if text == NOTHING else [text])
    selection = DataSelection(left_out=left_out, largest=WINDOW)
    kinds = scan_table().kinds
    folders = []
    for root in data:
        folder = ProjectFolder(root, cache, selection)
        share = sum(rate for name, rate in folder.kinds.items()
                    if not (organ := kinds[name].prompted_organ) or selection.allows(organ))
        folders.append((folder, share))
    return Corpus(folders, selection)


def train(data: Sequence[Path], runs: Path, text: str, steps: int) -> Path:
    """The package with the attention that has not seen the class."""
    folder = _folder(runs, text, steps)
    package = folder / "model"
    if package.exists():
        return package
    corpus, foundation = corpus_without(data, runs / "cache", text), load_foundation("embedded")
    loader = WindowLoader(corpus.sampler(), attention_trainer.WINDOWS_PER_STEP, LOADER_WORKERS)
    prompts = attention_trainer.PromptTexts(foundation.texts(), corpus.organs)
    config = replace(ATTENTION, steps=steps).loop(folder / "attention", log=print)
    attention = attention_trainer.train(
        foundation.autoencoder, loader, corpus.held_out(), config, prompts, NETWORK)
    about = {
        "name": f"without {text}", "trained_on": f"{steps} steps on {corpus.describe()}",
        "calibrated_on": "Nothing.", "left_out": tuple(sorted(corpus.selection.left_out)),
        "trained_classes": corpus.trained_classes() | {
            "frozen": foundation.card.frozen_classes},
    }
    write_trained(foundation, attention, package, about, (), "cpu", print)
    return package


def score(data: Sequence[Path], output: Path, model: str) -> list[CaseScores]:
    """Scores of all tumors of validation patients."""
    cases = tuple(task.labelled for task in tumors(data))
    settings = EvaluationSettings(Options(model, "cpu"), baselines=True, figures=False)
    return list(evaluate(DataSet("validation", "", cases), output, settings).cases)


def tumors(data: Sequence[Path]) -> list[Task]:
    """The scans of validation patients with a tumor, prompted for it."""
    listed = tasks([case for root in data for case in read_cases(root)])
    return [task for task in listed if task.labelled.mask and not task.wrong_organ]


def _folder(runs: Path, text: str, steps: int) -> Path:
    return runs / f"{text.replace(' ', '_')}-{steps}"


@dataclass(frozen=True)
class Means:
    """Of some scans: Dice at 0.5, Dice at each scan's best threshold, AUROC of the map."""

    dice: float
    best: float
    auroc: float

    @classmethod
    def of(cls, cases: Sequence[CaseScores]) -> Means:
        """The means of some cases."""
        rows = []
        for case in cases:
            assert case.measures.dsc is not None
            assert case.baselines is not None
            rows.append((case.measures.dsc, case.baselines.best_score, case.baselines.auroc_map))
        return cls(*(float(mean) for mean in np.nanmean(np.array(rows, float), axis=0)))

    def __str__(self) -> str:
        return f"{self.dice:.2f}, {self.best:.2f}, {self.auroc:.2f}"


def main() -> None:
    """Trains one after the other, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=ATTENTION.steps // 2)
    parser.add_argument("--without", action="append", metavar="CLASS",
                        help=f"of {', '.join(CLASSES)}, or {NOTHING}; all four if not given")
    chosen = parser.parse_args()
    left_out = chosen.without or CLASSES
    models = {text: train(chosen.data, chosen.runs, text, chosen.steps) for text in left_out}
    scores = {text: score(chosen.data, model.parent / "scores", str(model))
              for text, model in models.items()}
    committed = score(chosen.data, chosen.runs / "committed", "embedded")
    table = Table("tumors", "scans", "centre prior", "class left out", "another left out",
                  "committed", title="DSC at 0.5, DSC at each scan's best threshold, AUROC")
    classes = {task.group: lesion_class(task.prompt) for task in tumors(chosen.data)}
    for group, of_class in classes.items():
        without: list[Means] = []
        with_it: list[Means] = []
        for text, cases in scores.items():
            absent = text != NOTHING and lesion_class(text) == of_class
            of_group = Means.of([case for case in cases if case.group == group])
            (without if absent else with_it).append(of_group)
        known = [case for case in committed if case.group == group]
        centre = np.mean([case.baselines.centre for case in known if case.baselines])
        table.add_row(group, str(len(known)), f"{centre:.2f}", *(
            str(Means(*np.mean([astuple(m) for m in of], axis=0))) if of else ""
            for of in (without, with_it)), str(Means.of(known)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
