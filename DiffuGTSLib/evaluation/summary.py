"""From cases to groups: means with 95 % intervals, resampled by patient."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from DiffuGTSLib.evaluation.scoring import ABLATIONS, CaseScores

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
        means: by the names of `METRICS`; without those that no case has.
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
    """DSC with both residuals, less DSC of the attention alone inside the candidates."""
    both, alone = (_ablation(kind, "dsc")(case) for kind in ("both", "attention"))
    return None if both is None or alone is None else both - alone


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
    "dsc_gain_of_residuals": _gain,
    **{name: _baseline(name) for name in
       ("best_score", "best_map", "intensity", "centre", "auroc_map")},
}


def by(cases: Sequence[CaseScores], key: Callable[[CaseScores], str]) -> list[Group]:
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

    Scans of one patient are not independent: whole patients are drawn.
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
