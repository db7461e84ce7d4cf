"""From cases to groups, and both as files: cases.csv, groups.csv, scores.json.

Means come with 95 % intervals, resampled by patient; the paper's figures stand beside ours.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from DiffuGTSLib import __version__
from DiffuGTSLib.datasets.layouts import published
from DiffuGTSLib.evaluation.evaluate import SCORES, Evaluation
from DiffuGTSLib.evaluation.scoring import ABLATIONS, CaseScores
from DiffuGTSLib.files import write_atomically, write_json
from DiffuGTSLib.prompt.lesion_classes import Exposure

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
RESAMPLES = 2000
_ALL = "all cases"
Value = Callable[[CaseScores], float | None]


@dataclass(frozen=True)
class Mean:
    """A mean over cases.

    Attributes:
        mean: of `cases` values.
        low, high: 95 % interval, None for fewer than two patients.
        patients: whose values these are.
    """

    mean: float
    low: float | None
    high: float | None
    cases: int
    patients: int


@dataclass(frozen=True)
class Group:
    """The scores of some cases.

    Attributes:
        name: of the group.
        cases, patients: how many.
        exposures: what training saw of their classes; more than one in a mixed group.
        means: by the names of `METRICS`, where any case has a value.
    """

    name: str
    cases: int
    patients: int
    exposures: tuple[str, ...]
    means: dict[str, Mean]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _of_tumors(value: Value) -> Value:
    return lambda case: value(case) if case.kind == "tumor" else None


def _of_absent(kind: str, value: Value) -> Value:
    return lambda case: value(case) if case.kind == kind else None


def _ablation(kind: str, name: str) -> Value:
    def value(case: CaseScores) -> float | None:
        return getattr(case.ablation[kind], name) if kind in case.ablation else None
    return value


def _baseline(name: str) -> Value:
    return lambda case: None if case.baselines is None else getattr(case.baselines, name)


def _size_of_error(case: CaseScores) -> float | None:
    percent = case.measures.volume_error_percent
    return None if percent is None else abs(percent)


def _gain(case: CaseScores) -> float | None:
    """DSC of the final mask, less DSC of the attention alone inside the candidates."""
    final, alone = case.measures.dsc, _ablation("attention", "dsc")(case)
    return None if final is None or alone is None else final - alone


# Every figure that is averaged, by its name in the tables' files.
METRICS: dict[str, Value] = {
    "dsc": lambda case: case.measures.dsc,
    "nsd_2mm": lambda case: case.measures.nsd,
    "lesion_sensitivity": lambda case: case.measures.sensitivity,
    "lesion_precision": lambda case: case.measures.precision,
    "lesion_f1": lambda case: case.measures.f1,
    "volume_error_ml": _of_tumors(lambda case: case.measures.volume_error_ml),
    "volume_error_percent_absolute": _of_tumors(_size_of_error),
    "found": _of_tumors(lambda case: float(case.found)),
    "no_tumor_right": _of_absent("no tumor", lambda case: float(not case.found)),
    "false_alarm_ml": _of_absent("no tumor", lambda case: case.measures.segmented_ml),
    "wrong_organ_right": _of_absent("wrong organ", lambda case: float(not case.found)),
    "wrong_organ_ml": _of_absent("wrong organ", lambda case: case.measures.segmented_ml),
    "wrong_organ_dsc": lambda case: case.wrong_organ_dsc,
    "seconds": lambda case: case.seconds,
    "peak_gb": lambda case: case.peak_gb,
    "peak_gpu_gb": lambda case: case.peak_gpu_gb,
    **{f"dsc_{kind}": _ablation(kind, "dsc") for kind in ABLATIONS},
    **{f"lesion_f1_{kind}": _ablation(kind, "f1") for kind in ABLATIONS},
    **{f"false_alarm_ml_{kind}": _of_absent("no tumor", _ablation(kind, "segmented_ml"))
       for kind in ABLATIONS},
    "dsc_gain_of_refinement": _gain,
    **{name: _baseline(name) for name in
       ("best_score", "best_map", "intensity", "centre", "auroc_map")},
}


def grouped(cases: Sequence[CaseScores], key: Callable[[CaseScores], str]) -> list[Group]:
    """A group for each value of `key`, in the order of the cases."""
    names = dict.fromkeys(key(case) for case in cases)
    return [group(name, [case for case in cases if key(case) == name]) for name in names]


def everything(cases: Sequence[CaseScores]) -> Group:
    """All cases as one group."""
    return group(_ALL, cases)


def group(name: str, cases: Sequence[CaseScores]) -> Group:
    """The means of some cases."""
    means = {metric: mean for metric, value in METRICS.items()
             if (mean := _mean((case.patient, value(case)) for case in cases)) is not None}
    # What a prompt for another organ may have seen in training says nothing of the class.
    exposures = dict.fromkeys(case.exposure for case in cases if case.kind != "wrong organ")
    return Group(name, len(cases), len({case.patient for case in cases}),
                 tuple(exposures), means)


def _mean(values: Iterable[tuple[str, float | None]]) -> Mean | None:
    """The mean of (patient, value) pairs without the Nones; None if nothing is left.

    Scans of one patient are not independent, so that patients are resampled, not scans.
    """
    known = [(patient, value) for patient, value in values if value is not None]
    if not known:
        return None
    index = np.unique([patient for patient, _ in known], return_inverse=True)[1]
    numbers = np.array([value for _, value in known], dtype=float)
    sums = np.bincount(index, weights=numbers)
    counts = np.bincount(index).astype(float)
    mean = float(numbers.mean())
    if len(sums) < 2:
        return Mean(mean, None, None, len(known), 1)
    low, high = _interval(sums, counts) if np.ptp(numbers) > 0 else (mean, mean)
    return Mean(mean, low, high, len(known), len(sums))


def _interval(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """95 % of the means of patients drawn with replacement (percentile bootstrap)."""
    def statistic(s: np.ndarray, n: np.ndarray, axis: int) -> np.ndarray:
        return s.sum(axis=axis) / n.sum(axis=axis)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal values in all resamples: the interval is a point
        found = bootstrap(
            (sums, counts), statistic, paired=True, vectorized=True, n_resamples=RESAMPLES,
            method="percentile", confidence_level=0.95, rng=np.random.default_rng(0),
        ).confidence_interval
    return float(found.low), float(found.high)


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
    datasets = grouped(cases, lambda case: case.dataset)
    compared = []
    for group in datasets:
        entry, ours = published().get(group.name), group.means.get("dsc")
        if entry is not None and entry.paper_dsc_percent is not None and ours is not None:
            compared.append(Compared(entry.name, entry.paper_dsc_percent / 100, ours,
                                     seen(group.exposures)))
    return Summary(grouped(cases, lambda case: case.group), datasets, everything(cases), compared)


def seen(exposures: Sequence[str]) -> str:
    """What training saw of a group's classes, in words."""
    return "; ".join(SEEN[Exposure(name)] for name in exposures) or "\N{EN DASH}"


def zero_shot_words(exposures: Sequence[str]) -> str:
    """What a score may be called where zero-shot scores were requested."""
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
        "model": {"name": card.name, "sha256": evaluation.model_sha256, "licence": card.licence,
                  "trained_on": card.trained_on, "calibrated_on": card.calibrated_on,
                  "trained_classes": card.trained_classes},
        "dataset": evaluation.dataset.name, "licence": evaluation.dataset.licence,
        "settings": evaluation.settings.as_dict(),
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
    write_atomically(output / "cases.csv", _csv([case_row(case) for case in evaluation.cases]))
    groups = [*summary.groups, *summary.datasets, summary.everything]
    write_atomically(output / "groups.csv", _csv([_group_row(group) for group in groups]))
    write_json(output / SCORES, document(evaluation, summary))


def case_row(case: CaseScores) -> dict[str, Any]:
    """A case as one row of figures."""
    row: dict[str, Any] = {name: getattr(case, name) for name in _CASE_FIELDS}
    row |= case.measures.as_dict()
    for kind, measures in case.ablation.items():
        row |= {f"dsc_{kind}": measures.dsc, f"segmented_ml_{kind}": measures.segmented_ml}
    row |= asdict(case.baselines) if case.baselines else {}
    return row | ({"notes": " ".join(case.notes)} if case.notes else {})


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
