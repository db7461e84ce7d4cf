"""The zero-shot experiment in small: the attention without any lesion of one organ, scored on it.

    python Testing/Benchmarks/zero_shot.py --data DIR --data DIR2 --runs RUNS [--steps N]

For each class: trains the attention over the embedded model's frozen networks without a real or
synthetic lesion of that class, and without a prompt for it, and scores it on the validation
patients of the class beside the committed model, which was trained on all. `--without nothing`
trains on all classes for as many steps, for a fair comparison. No threshold is calibrated for what
was left out. Started again with the same steps, it goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from DiffuGTSLib.datasets import DataSet
from DiffuGTSLib.evaluation.evaluate import Evaluation, evaluate
from DiffuGTSLib.evaluation.scoring import EvaluationSettings
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
from DiffuGTSLib.training.embedded.validation import tasks

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


def score(data: Sequence[Path], output: Path, model: str, text: str) -> Evaluation:
    """Scores of the validation patients with tumors of the class."""
    listed = tasks([case for root in data for case in read_cases(root)])
    cases = tuple(
        task.labelled for task in listed if task.labelled.mask and not task.wrong_organ
        and lesion_class(task.prompt) == lesion_class(text))
    settings = EvaluationSettings(Options(model, "cpu"), baselines=True, figures=False)
    return evaluate(DataSet(text, "", cases), output, settings)


def _folder(runs: Path, text: str, steps: int) -> Path:
    return runs / f"{_slug(text)}-{steps}"


def _slug(text: str) -> str:
    return text.replace(" ", "_")


def _by_group(done: Evaluation) -> dict[str, tuple[int, float, float]]:
    """Of each group: scans, mean Dice of the final mask, and at each scan's own best threshold."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for case in done.cases:
        assert case.measures.dsc is not None
        assert case.baselines is not None
        groups.setdefault(case.group, []).append((case.measures.dsc, case.baselines.best_score))
    return {name: (len(scores), *(float(mean) for mean in np.mean(scores, axis=0)))
            for name, scores in groups.items()}


def main() -> None:
    """Trains, scores and prints, one class after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=ATTENTION.steps // 2)
    parser.add_argument("--without", action="append", metavar="CLASS",
                        help=f"of {', '.join(CLASSES)}, or {NOTHING}; all four if not given")
    chosen = parser.parse_args()
    table = Table("left out", "scored", "scans", "DSC, zero-shot", "best t", "trained on all",
                  "best t")
    for text in chosen.without or CLASSES:
        model = train(chosen.data, chosen.runs, text, chosen.steps)
        for asked in CLASSES if text == NOTHING else (text,):
            found = _by_group(score(
                chosen.data, model.parent / "scores" / _slug(asked), str(model), asked))
            committed = _by_group(score(
                chosen.data, chosen.runs / "committed" / _slug(asked), "embedded", asked))
            for group, (scans, dsc, best) in found.items():
                _, known, known_best = committed[group]
                table.add_row(text, group, str(scans), f"{dsc:.2f}", f"{best:.2f}",
                              f"{known:.2f}", f"{known_best:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
