"""What a data set holds and what is wrong with it, file by file.

What a check of a data set found, for people and for programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from DiffuGTSLib.datasets import layouts
from DiffuGTSLib.datasets.case import Grid, LabelledCase, open_header, read_labels, unknown
from DiffuGTSLib.datasets.folder import DataSet
from DiffuGTSLib.errors import BadDataSet, DiffuGTSError
from DiffuGTSLib.prompt.parsing import understand

Tell = Callable[[int, int], None]
Level = Literal["error", "warning"]


@dataclass(frozen=True)
class _Mask:
    """What is kept of a mask that several cases share."""

    grid: Grid
    strange: str
    tumor_voxels: int
    organ_voxels: int


def check(dataset: DataSet, tell: Tell | None = None) -> Report:
    """Looks at every file of a data set: is it there, whole, on one grid, with the right values?

    Of scans only the headers are read, and their length; masks are read.

    Args:
        tell: called as tell(done, total) between cases.
    """
    report = Report(dataset)
    for entry, folder in dataset.parts:
        if entry.layout == "msd":
            report.findings += [
                Finding("warning", name.removesuffix(".nii.gz"), "is not listed in dataset.json")
                for name in layouts.unlisted(folder)
            ]
    masks: dict[Path, _Mask] = {}
    for number, case in enumerate(dataset.cases):
        if tell is not None:
            tell(number, len(dataset.cases))
        if case.mask not in masks:
            masks.clear()  # neighbours share masks; all of them need not be kept
        group = report.groups.setdefault(case.rows, Group(case.rows))
        report.findings += _check_case(case, group, masks)
    if tell is not None:
        tell(len(dataset.cases), len(dataset.cases))
    return report


def _check_case(case: LabelledCase, group: Group, masks: dict[Path, _Mask]) -> list[Finding]:
    group.cases += 1
    group.patients.add(case.patient)
    try:
        understand(case.prompt)
        understand(case.lesion_class or case.prompt)
        grid = _scan_grid(case)
        group.spacing_mm.append(grid.spacing)
        if case.mask is None:
            group.without_tumor += 1
            return []
        if case.mask not in masks:
            masks[case.mask] = _read_mask(case)
    except DiffuGTSError as error:
        return [Finding("error", case.name, error.message)]
    mask = masks[case.mask]
    findings = []
    if (shift := grid.shift(mask.grid)) is not None:
        findings.append(Finding("error", case.name,
                                f"{case.mask.name} lies on another grid than its scan: {shift}."))
    if mask.strange:
        findings.append(Finding("error", case.name,
                                f"{case.mask.name} holds unknown values: {mask.strange}."))
    if not mask.tumor_voxels:
        findings.append(Finding("warning", case.name, f"{case.mask.name} holds no tumor."))
    if case.organ_labels and not mask.organ_voxels:
        findings.append(Finding("warning", case.name, f"{case.mask.name} holds no organ."))
    there = mask.tumor_voxels > 0 and not case.wrong_organ
    group.with_tumor += there
    group.without_tumor += not there
    group.with_organ += mask.organ_voxels > 0
    if there:
        group.tumor_ml.append(mask.tumor_voxels * float(np.prod(grid.spacing)) / 1000)
    return findings + _check_organ(case, grid, group)


def _check_organ(case: LabelledCase, grid: Grid, group: Group) -> list[Finding]:
    """What is wrong with an organ mask of its own."""
    if case.organ_mask is None:
        return []
    try:
        values, organ_grid = read_labels(case.organ_mask)
    except DiffuGTSError as error:
        return [Finding("error", case.name, error.message)]
    group.with_organ += bool(values.any())
    if (shift := grid.shift(organ_grid)) is not None:
        return [Finding("error", case.name,
                        f"{case.organ_mask.name} lies on another grid than its scan: {shift}.")]
    if not values.any():
        return [Finding("warning", case.name, f"{case.organ_mask.name} is empty.")]
    return []


def _scan_grid(case: LabelledCase) -> Grid:
    """The grid of a scan from its header; a DICOM folder is read whole.

    Raises:
        DiffuGTSError: missing, damaged, too few volumes.
    """
    if case.image.is_dir():
        return Grid.of(case.read_scan().image)
    header = open_header(case.image)
    if case.channel is None and len(header.GetSize()) != 3:
        return Grid.of(case.read_scan().image)  # says what is wrong with it
    if case.channel is not None and case.channel >= [*header.GetSize(), 1][3]:
        raise BadDataSet(f"{case.image.name} holds too few volumes.", "Download it again.")
    return Grid.of(header)


def _read_mask(case: LabelledCase) -> _Mask:
    assert case.mask is not None
    values, grid = read_labels(case.mask)
    tumor = np.isin(values, case.tumor_labels) if case.tumor_labels else values > 0
    return _Mask(grid, unknown(values, case.known_labels), int(tumor.sum()),
                 int(np.isin(values, case.organ_labels).sum()))


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
