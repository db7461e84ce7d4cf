"""The tables as files: cases.csv, groups.csv, scores.json; the paper's figures beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.datasets.published import published
from DiffuGTSLib.evaluation.evaluate import SCORES, Evaluation
from DiffuGTSLib.evaluation.scoring import CaseScores
from DiffuGTSLib.evaluation.summary import Group, Mean, by, everything
from DiffuGTSLib.lesion_classes import Exposure
from DiffuGTSLib.whole_file import write_json, write_whole

NOTE = "Research use only, not for clinical decisions."
SEEN = {
    Exposure.REAL: "trained on masks of the class",
    Exposure.FROZEN: "masks of the class for the frozen networks",
    Exposure.SYNTHETIC: "no mask of the class, but synthetic lesions of it",
    Exposure.UNSEEN: "nothing of the class",
    Exposure.UNKNOWN: "not stated",
}
_CASE_FIELDS = ("name", "patient", "dataset", "group", "prompt", "modality", "sequence", "kind",
                "exposure", "found", "highest_score", "wrong_organ_dsc", "seconds", "peak_gb",
                "peak_gpu_gb", "figure")


@dataclass(frozen=True)
class Compared:
    """A published data set: the paper's mean DSC beside ours, both 0 to 1."""

    name: str
    paper_dsc: float
    ours: Mean
    seen: str


@dataclass(frozen=True)
class Summary:
    """The groups of an evaluation.

    Attributes:
        groups: by class and sequence.
        datasets: by data set.
        everything: all cases.
        compared: with the paper, where the data set is one of the paper's.
    """

    groups: list[Group]
    datasets: list[Group]
    everything: Group
    compared: list[Compared]


def summarise(cases: Sequence[CaseScores]) -> Summary:
    """The groups of some cases."""
    datasets = by(cases, lambda case: case.dataset)
    compared = []
    for group in datasets:
        entry, ours = published().get(group.name), group.means.get("dsc")
        if entry is not None and entry.paper_dsc_percent is not None and ours is not None:
            compared.append(Compared(entry.name, entry.paper_dsc_percent / 100, ours,
                                     seen(group.exposures)))
    return Summary(by(cases, lambda case: case.group), datasets, everything(cases), compared)


def seen(exposures: Sequence[str]) -> str:
    """What training saw of a group's classes, in words."""
    return "; ".join(SEEN[Exposure(name)] for name in exposures) or "\N{EN DASH}"


def zero_shot_words(exposures: Sequence[str]) -> str:
    """What a score that was asked to be zero-shot may be called."""
    if set(exposures) == {Exposure.UNSEEN}:
        return "zero-shot"
    if set(exposures) <= {Exposure.UNSEEN, Exposure.SYNTHETIC} and exposures:
        return "zero-shot by masks; synthetic lesions of the class were trained on"
    return "not zero-shot"


def document(evaluation: Evaluation, summary: Summary) -> dict[str, Any]:
    """Everything in plain values, for scores.json and --json."""
    card = evaluation.card
    return {
        "version": __version__, "note": NOTE,
        "model": {"name": card.name, "licence": card.licence, "trained_on": card.trained_on,
                  "calibrated_on": card.calibrated_on,
                  "trained_classes": card.trained_classes},
        "dataset": evaluation.dataset.name, "licence": evaluation.dataset.licence,
        "settings": asdict(evaluation.settings),
        "zero_shot": zero_shot_words(summary.everything.exposures)
        if evaluation.zero_shot else None,
        "paper": [asdict(row) for row in summary.compared],
        "all": summary.everything.as_dict(),
        "datasets": [group.as_dict() for group in summary.datasets],
        "groups": [group.as_dict() for group in summary.groups],
        "failures": [asdict(failure) for failure in evaluation.failures],
        "cases": [case.as_dict() for case in evaluation.cases],
    }


def write_tables(evaluation: Evaluation, summary: Summary, output: Path) -> None:
    """cases.csv, groups.csv and scores.json.

    Raises:
        OutputNotWritten: one of them.
    """
    write_whole(output / "cases.csv", _csv([case_row(case) for case in evaluation.cases]))
    groups = [*summary.groups, *summary.datasets, summary.everything]
    write_whole(output / "groups.csv", _csv([_group_row(group) for group in groups]))
    write_json(output / SCORES, document(evaluation, summary))


def case_row(case: CaseScores) -> dict[str, Any]:
    """A case as one row of figures."""
    row: dict[str, Any] = {name: getattr(case, name) for name in _CASE_FIELDS}
    row |= case.measures.as_dict()
    for kind, measures in case.ablation.items():
        row |= {f"dsc_{kind}": measures.dsc, f"segmented_ml_{kind}": measures.segmented_ml}
    return row | (asdict(case.baselines) if case.baselines else {})


def _group_row(group: Group) -> dict[str, Any]:
    row: dict[str, Any] = {"group": group.name, "cases": group.cases, "patients": group.patients,
                           "training_saw": seen(group.exposures)}
    for name, mean in group.means.items():
        row |= {name: mean.mean, f"{name}_low": mean.low, f"{name}_high": mean.high,
                f"{name}_cases": mean.cases}
    return row


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows whose columns may differ; numbers with six digits, empty where there is none."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else "" if v is None else v
                         for k, v in row.items()})
    return stream.getvalue().encode("utf-8")
