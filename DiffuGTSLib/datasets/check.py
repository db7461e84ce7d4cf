"""What a data set holds and what is wrong with it, file by file, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from DiffuGTSLib.datasets import layouts
from DiffuGTSLib.datasets.case import (
    Geometry,
    LabelledCase,
    open_header,
    read_labels,
    unknown_values,
)
from DiffuGTSLib.datasets.folder import DataSet
from DiffuGTSLib.errors import BadDataSet, DiffuGTSError
from DiffuGTSLib.prompt import understand

CheckProgress = Callable[[int, int], None]
Level = Literal["error", "warning"]
MAX_NAMES = 3  # of scans, in a message
_MaskKey = tuple[Path | None, tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class DataSetFinding:
    """Something wrong with a case. An error: it cannot be used. A warning: it can, but check it."""

    level: Level
    case: str
    message: str
    hint: str = ""  # what to do about it

    @classmethod
    def of(cls, error: DiffuGTSError, case: str, level: Level = "error") -> DataSetFinding:
        """What stopped the use of a case."""
        return cls(level, case, error.message, error.hint)


@dataclass
class DataSetGroup:
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
        """Plain values for JSON: counts, median volume, smallest and largest spacing."""
        spacing = np.array(self.spacing_mm)
        return {
            "name": self.name, "cases": self.cases, "patients": len(self.patients),
            "with_tumor": self.with_tumor, "without_tumor": self.without_tumor,
            "with_organ": self.with_organ,
            "median_tumor_ml": float(np.median(self.tumor_ml)) if self.tumor_ml else None,
            "min_spacing_mm": spacing.min(0).tolist() if len(spacing) else None,
            "max_spacing_mm": spacing.max(0).tolist() if len(spacing) else None,
        }


@dataclass
class DataSetReport:
    """The outcome of a check."""

    dataset: DataSet
    groups: dict[str, DataSetGroup] = field(default_factory=dict)
    findings: list[DataSetFinding] = field(default_factory=list)

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


@dataclass(frozen=True)
class _MaskContents:
    """What is kept of a mask that several cases share; `values`: those that are not 0."""

    geometry: Geometry
    unknown_values: str
    values: tuple[int, ...]
    tumor_voxels: int
    organ_voxels: int


def check(dataset: DataSet, progress: CheckProgress | None = None) -> DataSetReport:
    """Checks every file of a data set: present, complete, on the grid of its scan, known values.

    Of scans only header and file size are read; masks are read completely.

    Args:
        progress: called as progress(done, total) between cases.
    """
    report = DataSetReport(dataset)
    for entry, folder in dataset.parts:
        if entry.layout == "msd":
            report.findings += [
                DataSetFinding("warning", name.removesuffix(".nii.gz"),
                               "is not listed in dataset.json")
                for name in layouts.unlisted(folder)
            ]
    masks: dict[_MaskKey, _MaskContents] = {}
    for number, case in enumerate(dataset.cases):
        if progress is not None:
            progress(number, len(dataset.cases))
        if _mask_key(case) not in masks:
            masks.clear()  # only consecutive cases share a mask
        group = report.groups.setdefault(case.group_name, DataSetGroup(case.group_name))
        report.findings += _check_case(case, group, masks)
    if progress is not None:
        progress(len(dataset.cases), len(dataset.cases))
    return report


def _check_case(
    case: LabelledCase, group: DataSetGroup, masks: dict[_MaskKey, _MaskContents]
) -> list[DataSetFinding]:
    group.cases += 1
    group.patients.add(case.patient)
    try:
        understand(case.prompt)
        understand(case.lesion_class or case.prompt)
        geometry = _scan_geometry(case)
        group.spacing_mm.append(geometry.spacing)
        of_class = _check_class(case)
        if case.mask is None:
            group.without_tumor += 1
            return of_class
        if (key := _mask_key(case)) not in masks:
            masks[key] = _read_mask(case)
    except DiffuGTSError as error:
        return [DataSetFinding.of(error, case.name)]
    mask = masks[key]
    found: list[tuple[Level, str]] = []
    if (shift := geometry.difference(mask.geometry)) is not None:
        found.append(("error", f"lies on another grid than its scan: {shift}."))
    if mask.unknown_values:
        found.append(("error", f"holds unknown values: {mask.unknown_values}."))
    values = _listed(mask.values)
    if not mask.tumor_voxels:
        others = f" (label {_listed(case.tumor_labels)}); it holds {values}" if values else ""
        found.append(("warning", f"holds no tumor{others}."))
    elif len(mask.values) > 1 and not case.tumor_labels:
        found.append(("warning", f"holds the values {values}, and all count as tumor. If they do "
                                 'not, state those that do: "labels".'))
    if case.organ_labels and not mask.organ_voxels:
        found.append(("warning", "holds no organ."))
    there = mask.tumor_voxels > 0 and not case.wrong_organ
    group.with_tumor += there
    group.without_tumor += not there
    group.with_organ += mask.organ_voxels > 0
    if there:
        group.tumor_ml.append(mask.tumor_voxels * float(np.prod(geometry.spacing)) / 1000)
    of_mask = [DataSetFinding(level, case.name, f"{case.mask.name} {text}")
               for level, text in found]
    return of_mask + _check_organ(case, geometry, group) + of_class


def _check_class(case: LabelledCase) -> list[DataSetFinding]:
    """Whether it can be trained on: for that a class of lesions is needed."""
    text = case.lesion_class or case.prompt
    if case.wrong_organ or understand(text).anatomy:
        return []
    return [DataSetFinding("warning", case.name,
                           f"“{text}” names no organ: it can be scored, but not trained on.")]


def _check_organ(
    case: LabelledCase, geometry: Geometry, group: DataSetGroup
) -> list[DataSetFinding]:
    """What is wrong with a separate organ mask."""
    if case.organ_mask is None:
        return []
    try:
        values, of_mask = read_labels(case.organ_mask)
    except DiffuGTSError as error:
        return [DataSetFinding.of(error, case.name)]
    group.with_organ += bool(values.any())
    if (shift := geometry.difference(of_mask)) is not None:
        message = f"{case.organ_mask.name} lies on another grid than its scan: {shift}."
        return [DataSetFinding("error", case.name, message)]
    if not values.any():
        return [DataSetFinding("warning", case.name, f"{case.organ_mask.name} is empty.")]
    return []


def _scan_geometry(case: LabelledCase) -> Geometry:
    """The geometry of a scan from its header; a DICOM folder is read completely.

    Raises:
        DiffuGTSError: missing, damaged, too few volumes.
    """
    if case.image.is_dir():
        return Geometry.of(case.read_scan().image)
    header = open_header(case.image)
    if case.channel is None and len(header.GetSize()) != 3:
        return Geometry.of(case.read_scan().image)  # raises what is wrong with it
    if case.channel is not None and case.channel >= [*header.GetSize(), 1][3]:
        raise BadDataSet(f"{case.image.name} holds too few volumes.", "Download it again.")
    return Geometry.of(header)


def _mask_key(case: LabelledCase) -> _MaskKey:
    return case.mask, case.tumor_labels, case.organ_labels, case.known_labels


def _read_mask(case: LabelledCase) -> _MaskContents:
    assert case.mask is not None
    values, geometry = read_labels(case.mask)
    tumor = np.isin(values, case.tumor_labels) if case.tumor_labels else values > 0
    there = tuple(int(value) for value in np.unique(values) if value)
    return _MaskContents(
        geometry, unknown_values(values, case.known_labels), there, int(tumor.sum()),
        int(np.isin(values, case.organ_labels).sum()))


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def lines(report: DataSetReport, max_findings: int = 40) -> Sequence[str]:
    """The report for a terminal: groups, then the first `max_findings` findings."""
    out = [f"{report.dataset.name}: {counted(len(report.dataset.cases), 'case')}"
           + (f" ({report.dataset.licence})" if report.dataset.licence else "")]
    for group in (group.as_dict() for group in report.groups.values()):
        out.append(f"  {group['name']}: {counted(group['cases'], 'scan')} of "
                   f"{counted(group['patients'], 'patient')}, "
                   f"{group['with_tumor']} with tumor{_median(group)}, "
                   f"{group['without_tumor']} without, {group['with_organ']} with organ mask"
                   + _spacing(group))
    order = sorted(report.findings, key=lambda finding: finding.level)
    out += [f"  {f.level}: {f.case}: {f.message} {f.hint}".rstrip() for f in order[:max_findings]]
    if len(order) > max_findings:
        out.append(f"  and {len(order) - max_findings} more; --json lists all")
    errors = sum(finding.level == "error" for finding in order)
    out.append(f"{counted(errors, 'error')}, {counted(len(order) - errors, 'warning')}")
    return out


def counted(number: int, word: str) -> str:
    """"1 case", "2 cases"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def note_lines(notes: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Each note once, behind the cases that it is about; those about most cases first.

    Args:
        notes: name and notes of each case.
    """
    about: dict[str, list[str]] = {}
    for case, of_case in notes:
        for note in of_case:
            about.setdefault(note, []).append(case)
    order = sorted(about, key=lambda note: -len(about[note]))
    return [f"{shortened(about[note])}: {note}" for note in order]


def shortened(names: Sequence[str]) -> str:
    """"a", "a and b", "a, b, c and 5 more"."""
    shown = list(names[:MAX_NAMES])
    if len(names) > MAX_NAMES:
        shown.append(f"{len(names) - MAX_NAMES} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _median(group: dict[str, Any]) -> str:
    volume = group["median_tumor_ml"]
    return "" if volume is None else f" (median {volume:.1f} ml)"


def _spacing(group: dict[str, Any]) -> str:
    if group["min_spacing_mm"] is None:
        return ""
    ends = (" x ".join(f"{step:.2g}" for step in group[f"{which}_spacing_mm"])
            for which in ("min", "max"))
    return f", voxels {' to '.join(dict.fromkeys(ends))} mm"
