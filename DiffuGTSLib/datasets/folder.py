"""A data set from a folder or a CASES.json, recognised by its layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from DiffuGTSLib.datasets import layouts
from DiffuGTSLib.datasets.case import LabelledCase
from DiffuGTSLib.datasets.layouts import CASES_NAMES, Published, published
from DiffuGTSLib.errors import BadDataSet

MANIFEST = "manifest.json"  # of the folder that the embedded model is trained on


@dataclass(frozen=True)
class DataSet:
    """The cases of one folder, which may hold several published data sets.

    Attributes:
        name: for people.
        licence: of the published data sets; "" where not known.
        cases: in the order of the folder; no voxel has been read.
        parts: the published data sets, each with its folder.
    """

    name: str
    licence: str
    cases: tuple[LabelledCase, ...]
    parts: tuple[tuple[Published, Path], ...] = ()


def read_dataset(path: Path) -> DataSet:
    """The data set in a folder (recognised by its layout), or the cases of a CASES.json.

    Supported: a folder of the decathlon (dataset.json), KiTS23 (case_00000, ...), BraTS23
    (BraTS-GLI-00000-000, ...), a folder with a CASES.json, and a folder of such folders.

    Raises:
        BadDataSet: none of these.

    Example:
        >>> read_dataset(Path("Task03_Liver")).name        # doctest: +SKIP
        'MSD Task03 liver tumor'
    """
    path = Path(path)
    if not path.exists():
        raise BadDataSet(f"{path.name} does not exist.", "Check the name and the folder.")
    if path.is_file():
        return DataSet(path.name, "", tuple(layouts.listed_cases(path)))
    found = _read_folder(path)
    if found is None and (path / MANIFEST).is_file():
        raise BadDataSet(
            f"{path.absolute().name} is a training folder (manifest.json), which holds no prompts.",
            "To score a model on its scans, list them in a CASES.json. To see what it holds: "
            "diffugts data check.",
        )
    if found is None:
        inside = sorted(p for p in path.iterdir() if p.is_dir())
        parts = [part for p in inside if (part := _read_folder(p)) is not None]
        found = _combined(parts)
    if found is None:
        raise BadDataSet(
            f"{path.absolute().name} has the layout of no supported data set.",
            "Supported are folders of the Medical Segmentation Decathlon, KiTS23 and BraTS23 as "
            "they were published, and a CASES.json.",
        )
    return found


def _read_folder(folder: Path) -> DataSet | None:
    """The data set directly in this folder; None where there is none."""
    for name in layouts.CASES_NAMES:
        if (folder / name).is_file():
            return DataSet(name, "", tuple(layouts.listed_cases(folder / name)))
    if (folder / "dataset.json").is_file():
        return _published(layouts.msd_entry(folder), folder, layouts.msd_cases(folder))
    if folders := layouts.kits_folders(folder):
        return _published(published()["kits23"], folder, layouts.kits_cases(folders))
    if folders := layouts.brats_folders(folder):
        return _published(published()["brats23"], folder, layouts.brats_cases(folders))
    return None


def _published(entry: Published, folder: Path, cases: list[LabelledCase]) -> DataSet:
    return DataSet(entry.name, entry.licence, tuple(cases), ((entry, folder),))


def _combined(parts: list[DataSet]) -> DataSet | None:
    """Several folders as one data set; None without any.

    Raises:
        BadDataSet: a name is used twice.
    """
    if not parts:
        return None
    cases = tuple(case for part in parts for case in part.cases)
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise BadDataSet("Two folders in it hold cases of the same name.",
                         "Pass them one at a time.")
    return DataSet(
        "; ".join(part.name for part in parts),
        "; ".join(dict.fromkeys(part.licence for part in parts if part.licence)),
        cases, tuple(entry for part in parts for entry in part.parts),
    )


def is_manifest(folder: Path) -> bool:
    """Whether the folder has a manifest and no list of cases, which would take precedence."""
    return (folder / MANIFEST).is_file() and not any((folder / n).is_file() for n in CASES_NAMES)
