"""The volumes that the embedded model is trained on, on its canonical grid, split by patient.

What the manifest of a folder leaves open, the table of scans states (scan_table.py).
`check_manifest` looks for what is wrong with the files that a manifest lists.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.datasets import DataSet, LabelledCase
from DiffuGTSLib.datasets.case import Geometry, open_header, read_labels
from DiffuGTSLib.datasets.check import CheckProgress, DataSetFinding, DataSetGroup, DataSetReport
from DiffuGTSLib.datasets.folder import MANIFEST
from DiffuGTSLib.errors import BadDataSet, DiffuGTSError, TrainingImpossible
from DiffuGTSLib.scan import to_canonical
from DiffuGTSLib.scan.canonical import Modality, mask_on_grid
from DiffuGTSLib.scan.file_checks import file_states
from DiffuGTSLib.training.data.scan_table import ScanKind, scan_table

SPACING_MM = (2.0, 2.0, 2.0)


@dataclass(frozen=True)
class TrainingCase:
    """One scan of a training folder, with what its manifest and the table of scans state of it.

    Attributes:
        group: of the manifest, and the folder that its folder lies in.
        masks: names of the masks in `folder`.
        kind: how windows are drawn from it.
        split: "training", "tuning" (to choose thresholds, fusion and calibration on) or
            "validation" (never seen in training; every score in the model card is theirs).
        patient: whose scan it is; all scans of a patient are in one split.
        prompt: for its lesions; "" where none is outlined.
        sequence, skull_stripped: of MR.
    """

    name: str
    group: str
    modality: Modality
    folder: Path
    masks: tuple[str, ...]
    kind: ScanKind
    split: str = "training"
    patient: str = ""
    prompt: str = ""
    sequence: str = ""
    skull_stripped: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """The scan and its masks."""
        return tuple(self.folder / f"{name}.nii.gz" for name in ("image", *self.masks))

    @property
    def lesion_mask(self) -> str:
        """The name of the mask that outlines its lesions; "" where there is none."""
        return scan_table().lesion_mask(self.masks)

    @property
    def healthy(self) -> bool:
        """Nothing is outlined in it that is no organ."""
        return not self.lesion_mask and not set(self.masks) & set(scan_table().ignored_masks)

    @classmethod
    def of(cls, entry: Mapping[str, Any], root: Path) -> TrainingCase:
        """The case that an entry of the manifest in `root` lists."""
        group, name = entry["group"], entry["case"]
        return cls(name, group, entry["modality"], root / group / name, tuple(entry["masks"]),
                   **scan_table().describe(entry))


@dataclass(frozen=True)
class TrainingVolume:
    """A training case, resampled to the canonical grid.

    Attributes:
        image: float16 (X, Y, Z), normalised.
        masks: bool (X, Y, Z) by name.
    """

    case: TrainingCase
    image: np.ndarray
    masks: dict[str, np.ndarray]


def read_cases(root: Path) -> list[TrainingCase]:
    """The cases of a data folder with a manifest.json.

    Raises:
        TrainingImpossible: there is no such manifest in `root`, or it lists a group of scans that
            is not known.
    """
    try:
        entries = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        return _with_tuning([TrainingCase.of(entry, root) for entry in entries])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingImpossible(
            f"The folder {root.name} has no {MANIFEST} that lists its scans.",
            "NOTICE.txt names the scans; docs/embedded.md says how the scans are split.",
        ) from error


def _with_tuning(cases: Sequence[TrainingCase]) -> list[TrainingCase]:
    """The cases, with the patients that the table keeps for the calibration in their split."""
    described = [{"kind": c.kind, "patient": c.patient, "split": c.split} for c in cases]
    chosen = scan_table().tuning_patients(described)
    return [replace(c, split="tuning") if (c.kind.name, c.patient) in chosen else c for c in cases]


def cache_key(paths: Iterable[Path], *reading: object) -> str:
    """Part of a cache file's name, which changes with the files that it is made from.

    Args:
        paths: files and DICOM folders; one that is absent is left to its reader.
        reading: what else the content depends on.
    """
    states = [file_states(path) for path in paths if path.exists()]
    return hashlib.sha256(repr((states, reading)).encode()).hexdigest()[:16]


def write_cached(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a cache file atomically; several processes may write the same one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as stream:
            write(stream)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_volume(
    case: TrainingCase, cache: Path | None = None, spacing: tuple[float, float, float] = SPACING_MM
) -> TrainingVolume:
    """The case resampled to `spacing` (mm), through a cache folder where one is given."""
    cached = None
    if cache is not None:
        cached = cache / f"{case.name}_{cache_key(case.files, case.modality, spacing)}.npz"
    if cached is not None and cached.exists():
        with np.load(cached) as arrays:
            masks = {k: np.unpackbits(arrays[k])[: arrays["image"].size]
                     .reshape(arrays["image"].shape).astype(bool)
                     for k in arrays.files if k != "image"}
            return TrainingVolume(case, arrays["image"], masks)
    volume = _resampled(case, spacing)
    if cached is not None:
        packed: dict[str, Any] = {k: np.packbits(v) for k, v in volume.masks.items()}
        write_cached(cached, lambda stream: np.savez(stream, image=volume.image, **packed))
    return volume


def _resampled(case: TrainingCase, spacing: tuple[float, float, float]) -> TrainingVolume:
    try:
        return _on_grid(case, spacing)
    except RuntimeError as error:
        raise TrainingImpossible(
            f"The scan {case.name} or one of its masks cannot be read.",
            f"Look at its files, or take it out of {MANIFEST}.",
        ) from error


def _on_grid(case: TrainingCase, spacing: tuple[float, float, float]) -> TrainingVolume:
    image = sitk.ReadImage(str(case.folder / "image.nii.gz"))
    canonical = to_canonical(image, case.modality, spacing)
    masks: dict[str, np.ndarray] = {}
    for name in case.masks:
        mask = sitk.ReadImage(str(case.folder / f"{name}.nii.gz"), sitk.sitkFloat32)
        mask.CopyInformation(image)
        masks[name] = mask_on_grid(mask, canonical.geometry)
    return TrainingVolume(case, canonical.tensor[0, 0].numpy().astype(np.float16), masks)


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
        return [DataSetFinding.of(error, case.name)]
    group.spacing_mm.append(geometry.spacing)
    group.with_organ += any(map(scan_table().is_organ_mask, case.masks))
    findings, tumor_ml = [], 0.0
    for name in case.masks:
        path = case.folder / f"{name}.nii.gz"
        try:
            values, of_mask = read_labels(path)
        except DiffuGTSError as error:
            findings.append(DataSetFinding.of(error, case.name))
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
