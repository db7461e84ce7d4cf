"""What a data set holds and what is wrong with it, file by file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from DiffuGTSLib.datasets import layouts
from DiffuGTSLib.datasets.folder import DataSet
from DiffuGTSLib.datasets.labelled_case import (
    Grid,
    LabelledCase,
    open_header,
    read_labels,
    unknown,
)
from DiffuGTSLib.datasets.report import Finding, Group, Report
from DiffuGTSLib.errors import BadDataSet, DiffuGTSError
from DiffuGTSLib.prompt import understand

Tell = Callable[[int, int], None]


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
