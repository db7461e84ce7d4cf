"""The report of an evaluation, from Resources/Templates/evaluation_report.html."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from DiffuGTSLib.datasets.check import counted, note_lines
from DiffuGTSLib.evaluation import charts
from DiffuGTSLib.evaluation.evaluate import Evaluation
from DiffuGTSLib.evaluation.scoring import CaseScores
from DiffuGTSLib.evaluation.tables import Group, Summary, seen, zero_shot_words
from DiffuGTSLib.output.html_page import data_uri, write_page

_PICTURE_PIXELS = 1100
_MAX_PICTURES = 30
_KINDS = {"tumor": "with the tumor", "no tumor": "without it",
          "wrong organ": "with a prompt for a wrong organ"}


def write_report(evaluation: Evaluation, summary: Summary, output: Path) -> Path:
    """Writes report.html and returns its path.

    Raises:
        OutputNotWritten: it cannot be written.
    """
    path = output / "report.html"
    write_page(
        path, "evaluation_report.html",
        title=f"{evaluation.card.name} on {evaluation.dataset.name}",
        facts=_facts(evaluation, summary), failures=evaluation.failures, compared=summary.compared,
        groups=_groups(summary), scored=_scored, counts=_counts, cases=evaluation.cases,
        ablation=charts.PARTS, seen=seen, charts=_charts(evaluation, summary),
        examples=_examples(evaluation, output),
    )
    return path


def _facts(evaluation: Evaluation, summary: Summary) -> dict[str, list[str]]:
    """Lines by heading; an empty list where there is nothing to say."""
    cases, card, options = evaluation.cases, evaluation.card, evaluation.settings.options
    kinds = [case.kind for case in cases]
    counts = ", ".join(f"{kinds.count(kind)} {words}" for kind, words in _KINDS.items()
                       if kind in kinds)
    threshold = "of the model" if options.threshold is None else str(options.threshold)
    return {
        "Cases": [f"{counted(len(cases), 'case')} ({counts}) of "
                  f"{counted(summary.everything.patients, 'patient')}"],
        "Model": [line for line in (card.name, card.trained_on) if line],
        "Options": [f"threshold {threshold}, seed {options.seed}"],
        "Requested as zero-shot": [zero_shot_words(summary.everything.exposures)]
        if evaluation.zero_shot else [],
        "Notes": note_lines([(case.name, case.notes) for case in cases]),
    }


def _groups(summary: Summary) -> list[Group]:
    """By class, by data set where there are several, and all cases where that says more."""
    datasets = summary.datasets if len(summary.datasets) > 1 else []
    groups = [*summary.groups, *datasets]
    return [*groups, summary.everything] if len(groups) > 1 else groups


def _scored(groups: Sequence[Group], metrics: Sequence[str]) -> list[Group]:
    """The groups that have a mean of one of the metrics."""
    return [group for group in groups if any(name in group.means for name in metrics)]


def _counts(group: Group, metrics: Sequence[str]) -> tuple[int, int]:
    """Cases and patients of a group that have one of the metrics."""
    means = [group.means[name] for name in metrics if name in group.means]
    patients = means[0].patients if len(means) == 1 else group.patients
    return sum(mean.cases for mean in means), patients


def _charts(evaluation: Evaluation, summary: Summary) -> list[tuple[str, str]]:
    """Source of an <img> and caption of each chart that there are values for."""
    several = len(summary.groups) > 1
    drawn = (
        (charts.dsc_by_group(evaluation.cases, summary.groups), "DSC by group"),
        (charts.volumes(evaluation.cases), "Volumes"),
        (charts.ablation([*summary.groups, *[summary.everything] * several]), "Ablation"),
        (charts.false_alarms(evaluation.cases), "False positives"),
    )
    return [(data_uri(png, "png"), caption) for png, caption in drawn if png is not None]


def _examples(evaluation: Evaluation, output: Path) -> list[tuple[str, str]]:
    """Best, median and worst case of each group, and its largest false positive."""
    chosen: list[tuple[str, str]] = []
    for name in dict.fromkeys(case.group for case in evaluation.cases):
        members = [c for c in evaluation.cases if c.group == name and c.figure]
        for rank, case in _ranked(members):
            if (output / case.figure).is_file() and len(chosen) < _MAX_PICTURES:
                picture = data_uri(_small(output / case.figure), "jpeg")
                chosen.append((picture, f"{name}, {rank}: {_words(case)}"))
    return chosen


def _ranked(members: Sequence[CaseScores]) -> list[tuple[str, CaseScores]]:
    tumors = sorted((c for c in members if c.measures.dsc is not None),
                    key=lambda c: -(c.measures.dsc or 0))
    false_positives = sorted((c for c in members if c.kind != "tumor" and c.found),
                             key=lambda c: -c.measures.segmented_ml)
    ranks = {0: "best", len(tumors) // 2: "median", len(tumors) - 1: "worst"}
    if len(tumors) == 1:
        ranks = {0: "the only case"}
    chosen = [(words, tumors[i]) for i, words in sorted(ranks.items()) if 0 <= i < len(tumors)]
    return chosen + [("largest false positive", c) for c in false_positives[:1]]


def _words(case: CaseScores) -> str:
    measures = case.measures
    if measures.dsc is None:
        other = "; dashed: the tumor that it does not name" if case.kind == "wrong organ" else ""
        return (f"{case.name}, “{case.prompt}”: {measures.segmented_ml:.2f} ml where nothing is"
                f"{other}")
    return (f"{case.name}, “{case.prompt}”: DSC {measures.dsc:.2f}, {measures.segmented_ml:.2f} ml "
            f"segmented of {measures.reference_ml:.2f} ml")


def _small(path: Path) -> bytes:
    """A picture as a JPEG of at most _PICTURE_PIXELS across."""
    from PIL import Image

    with Image.open(path) as whole:
        picture = whole.convert("RGB")
        picture.thumbnail((_PICTURE_PIXELS, 4 * _PICTURE_PIXELS))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=82)
    return stream.getvalue()
