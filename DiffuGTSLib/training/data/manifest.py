"""Check of the folder that the embedded model is trained on (manifest.json).

What the manifest leaves open, the table of scans states (scan_table.py).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from DiffuGTSLib.datasets.case import Geometry, LabelledCase, open_header, read_labels
from DiffuGTSLib.datasets.check import CheckProgress, DataSetFinding, DataSetGroup, DataSetReport
from DiffuGTSLib.datasets.folder import MANIFEST, DataSet
from DiffuGTSLib.errors import BadDataSet, DiffuGTSError, TrainingImpossible
from DiffuGTSLib.training.data.cases import TrainingCase, read_cases
from DiffuGTSLib.training.data.scan_table import scan_table


def check_manifest(folder: Path, progress: CheckProgress) -> DataSetReport:
    """Checks every file that a manifest lists: the header of each scan, all voxels of each mask.

    Args:
        progress: called as progress(done, total) between scans.

    Raises:
        BadDataSet: the manifest cannot be used.
    """
    try:
        cases = read_cases(folder)
    except TrainingImpossible as error:
        raise BadDataSet(error.message, error.hint) from None
    report = DataSetReport(DataSet(
        f"training folder {folder.absolute().name}", _licences(folder),
        tuple(_listed(case) for case in cases)))
    for number, (case, listed) in enumerate(zip(cases, report.dataset.cases, strict=True)):
        progress(number, len(cases))
        group = report.groups.setdefault(listed.group_name, DataSetGroup(listed.group_name))
        report.findings += _check(case, listed, group)
    progress(len(cases), len(cases))
    return report


def _licences(folder: Path) -> str:
    entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return "; ".join(sorted({str(e["licence"]) for e in entries if e.get("licence")}))


def _listed(case: TrainingCase) -> LabelledCase:
    tumor = case.lesion_mask
    return LabelledCase(
        name=case.name, patient=case.patient, image=case.folder / "image.nii.gz",
        prompt=case.prompt, modality=case.modality,
        group=f"{case.group} {case.modality}, {case.split}",
        mask=case.folder / f"{tumor}.nii.gz" if tumor else None,
    )


def _check(case: TrainingCase, listed: LabelledCase, group: DataSetGroup) -> list[DataSetFinding]:
    group.cases += 1
    group.patients.add(listed.patient)
    try:
        geometry = Geometry.of(open_header(listed.image))
    except DiffuGTSError as error:
        return [DataSetFinding("error", case.name, error.message)]
    group.spacing_mm.append(geometry.spacing)
    group.with_organ += any(map(scan_table().is_organ_mask, case.masks))
    findings, tumor_ml = [], 0.0
    for name in case.masks:
        path = case.folder / f"{name}.nii.gz"
        try:
            values, of_mask = read_labels(path)
        except DiffuGTSError as error:
            findings.append(DataSetFinding("error", case.name, error.message))
            continue
        if (shift := geometry.difference(of_mask)) is not None:
            findings.append(DataSetFinding(
                "error", case.name, f"{path.name} lies on another grid than its scan: {shift}."))
        if not values.any():
            findings.append(DataSetFinding("warning", case.name, f"{path.name} is empty."))
        if path == listed.mask:
            tumor_ml = int(np.count_nonzero(values)) * float(np.prod(geometry.spacing)) / 1000
    if tumor_ml:
        group.with_tumor += 1
        group.tumor_ml.append(tumor_ml)
    elif not findings:
        group.without_tumor += 1
    return findings
