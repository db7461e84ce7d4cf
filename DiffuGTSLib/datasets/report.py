"""What a check of a data set found, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from DiffuGTSLib.datasets.folder import DataSet

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something wrong. An error: the case cannot be used. A warning: it can, but look at it."""

    level: Level
    case: str
    message: str


@dataclass
class Group:
    """What the cases of one class and sequence hold; volumes in ml, spacing in mm."""

    name: str
    cases: int = 0
    patients: set[str] = field(default_factory=set)
    with_tumor: int = 0
    without_tumor: int = 0
    with_organ: int = 0
    tumor_ml: list[float] = field(default_factory=list)
    spacing_mm: list[tuple[float, ...]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: counts, median volume, least and largest spacing."""
        spacing = np.array(self.spacing_mm)
        return {
            "name": self.name, "cases": self.cases, "patients": len(self.patients),
            "with_tumor": self.with_tumor, "without_tumor": self.without_tumor,
            "with_organ": self.with_organ,
            "median_tumor_ml": float(np.median(self.tumor_ml)) if self.tumor_ml else None,
            "least_spacing_mm": spacing.min(0).tolist() if len(spacing) else None,
            "largest_spacing_mm": spacing.max(0).tolist() if len(spacing) else None,
        }


@dataclass
class Report:
    """The outcome of a check."""

    dataset: DataSet
    groups: dict[str, Group] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether there is no error."""
        return not any(finding.level == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.dataset.name, "licence": self.dataset.licence,
            "cases": len(self.dataset.cases), "usable": self.usable,
            "names": [case.name for case in self.dataset.cases],
            "groups": [group.as_dict() for group in self.groups.values()],
            "findings": [asdict(finding) for finding in self.findings],
        }


def lines(report: Report, most: int = 40) -> Sequence[str]:
    """The report for a terminal: groups, then findings, the first `most` of them."""
    out = [f"{report.dataset.name}: {counted(len(report.dataset.cases), 'case')}"
           + (f" ({report.dataset.licence})" if report.dataset.licence else "")]
    for group in (group.as_dict() for group in report.groups.values()):
        out.append(f"  {group['name']}: {counted(group['cases'], 'scan')} of "
                   f"{counted(group['patients'], 'patient')}, "
                   f"{group['with_tumor']} with tumor{_median(group)}, "
                   f"{group['without_tumor']} without, {group['with_organ']} with organ mask"
                   + _spacing(group))
    order = sorted(report.findings, key=lambda finding: finding.level)
    out += [f"  {finding.level}: {finding.case}: {finding.message}" for finding in order[:most]]
    if len(order) > most:
        out.append(f"  and {len(order) - most} more; --json lists all")
    errors = sum(finding.level == "error" for finding in order)
    out.append(f"{counted(errors, 'error')}, {counted(len(order) - errors, 'warning')}")
    return out


def counted(number: int, word: str) -> str:
    """"1 case", "2 cases"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _median(group: dict[str, Any]) -> str:
    volume = group["median_tumor_ml"]
    return "" if volume is None else f" (median {volume:.1f} ml)"


def _spacing(group: dict[str, Any]) -> str:
    if group["least_spacing_mm"] is None:
        return ""
    least, largest = ([f"{step:.2g}" for step in group[f"{which}_spacing_mm"]]
                      for which in ("least", "largest"))
    both = " to ".join(dict.fromkeys(" x ".join(steps) for steps in (least, largest)))
    return f", voxels {both} mm"
