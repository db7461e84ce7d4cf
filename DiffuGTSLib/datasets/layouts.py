"""The published folder layouts: which files belong to which case.

The data sets themselves are listed in Resources/datasets.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from DiffuGTSLib.datasets.case import LabelledCase
from DiffuGTSLib.errors import BadDataSet
from DiffuGTSLib.files import resource
from DiffuGTSLib.scan import Modality

CASES_NAMES = ("CASES.json", "cases.json")
MAX_FAULTS = 10  # in one message
_MSD_TASK = re.compile(r"^task(\d+)_", re.IGNORECASE)
_SUFFIX = ".nii.gz"


@dataclass(frozen=True)
class Published:
    """An entry of the catalogue.

    Attributes:
        id, name: for programs and for people.
        layout: "msd", "kits" or "brats".
        folder: as published; "" where the name does not matter.
        title: the name in its dataset.json.
        labels: what each value of a mask means.
        tumor, organ: the values that count as tumor, and as organ (its tumors included).
        sequences: what its files call the MR sequences -> "t1", "t1c", "t2", "flair".
        skull_stripped: of MR: nothing but the brain is left.
        paper_dsc_percent: METHOD.md 5; None where the paper has no figure.
    """

    id: str
    name: str
    layout: str
    folder: str
    title: str
    prompt: str
    modality: Modality
    labels: dict[int, str]
    tumor: tuple[int, ...]
    organ: tuple[int, ...]
    sequences: dict[str, str]
    skull_stripped: bool
    paper_dsc_percent: float | None
    licence: str
    url: str


@lru_cache(maxsize=1)
def published() -> dict[str, Published]:
    """The catalogue, by id."""
    entries = json.loads(resource("datasets.json").read_text(encoding="utf-8"))["datasets"]
    return {entry["id"]: _entry(entry) for entry in entries}


def _entry(entry: dict) -> Published:
    return Published(**entry | {
        "labels": {int(value): meaning for value, meaning in entry["labels"].items()},
        "tumor": tuple(entry["tumor"]),
        "organ": tuple(entry["organ"]),
        "sequences": {s["file"]: s["sequence"] for s in entry["sequences"]},
    })


def msd_entry(folder: Path) -> Published:
    """Which data set of the decathlon a folder with a dataset.json is.

    Recognised by the folder's name as published, else by the name in its dataset.json.

    Raises:
        BadDataSet: none that is supported.
    """
    entries = [entry for entry in published().values() if entry.layout == "msd"]
    task = _MSD_TASK.match(folder.absolute().name)
    for entry in entries:
        if task and entry.folder.lower().startswith(f"task{int(task[1]):02d}_"):
            return entry
    title = str(_document(folder / "dataset.json").get("name", "")).replace(" ", "").lower()
    for entry in entries:
        if not task and title == entry.title.lower():
            return entry
    known = ", ".join(entry.folder for entry in entries)
    raise BadDataSet(f"{folder.absolute().name} is no supported data set of the decathlon.",
                     f"Supported: {known}.")


def msd_cases(folder: Path) -> list[LabelledCase]:
    """The labelled cases that its dataset.json lists; a 4D scan is one case a sequence.

    Raises:
        BadDataSet: dataset.json cannot be used.
    """
    entry, document = msd_entry(folder), _document(folder / "dataset.json")
    listed = document.get("training")
    if not isinstance(listed, list) or not all(
        isinstance(pair, dict) and isinstance(pair.get("image"), str)
        and isinstance(pair.get("label"), str) for pair in listed
    ):
        raise BadDataSet("dataset.json does not list the scans and labels of its training part.",
                         "Use the file that was published with the data set.")
    channels = _channels(entry, document)
    cases = []
    for pair in listed:
        image, mask = folder / pair["image"], folder / pair["label"]
        name = image.name.removesuffix(_SUFFIX)
        cases += [_case(entry, f"{name}_{sequence}" if sequence else name, name, image, mask,
                        sequence, channel) for channel, sequence in channels]
    return cases


def _channels(entry: Published, document: dict[str, Any]) -> list[tuple[int | None, str]]:
    """(volume of the 4D file, sequence) of a decathlon data set; (None, "") for 3D scans."""
    if not entry.sequences:
        return [(None, "")]
    stated = document.get("modality", {})
    by_name = {name.lower(): sequence for name, sequence in entry.sequences.items()}
    try:
        named = sorted((int(index), by_name[str(name).lower()]) for index, name in stated.items())
    except (AttributeError, KeyError, ValueError):
        raise BadDataSet("dataset.json names sequences that are not those of the data set.",
                         f"Expected: {', '.join(entry.sequences)}.") from None
    return [(index, sequence) for index, sequence in named]


def unlisted(folder: Path) -> list[str]:
    """Names of scans in imagesTr of a decathlon folder that its dataset.json does not list."""
    listed = {Path(pair["image"]).name for pair in _document(folder / "dataset.json")["training"]}
    there = {path.name for path in (folder / "imagesTr").glob(f"*{_SUFFIX}")}
    return sorted(name for name in there - listed if not name.startswith("._"))


def kits_folders(folder: Path) -> list[Path]:
    """The case folders of KiTS: in the folder itself, or in its "dataset"."""
    for parent in (folder, folder / "dataset"):
        if found := sorted(p for p in parent.glob("case_[0-9]*") if p.is_dir()):
            return found
    return []


def kits_cases(folders: Iterable[Path]) -> list[LabelledCase]:
    """A case a folder: imaging.nii.gz and segmentation.nii.gz."""
    entry = published()["kits23"]
    return [_case(entry, f.name, f.name, f / "imaging.nii.gz", f / "segmentation.nii.gz")
            for f in folders]


def brats_folders(folder: Path) -> list[Path]:
    """The patient folders of BraTS 2023."""
    return sorted(p for p in folder.glob("BraTS-*-[0-9]*-[0-9]*") if p.is_dir())


def brats_cases(folders: Iterable[Path]) -> list[LabelledCase]:
    """A case a sequence; the last number of a folder's name counts the patient's examinations."""
    entry = published()["brats23"]
    return [
        _case(entry, f"{f.name}_{sequence}", f.name.rpartition("-")[0],
              f / f"{f.name}-{file}{_SUFFIX}", f / f"{f.name}-seg{_SUFFIX}", sequence)
        for f in folders for file, sequence in entry.sequences.items()
    ]


def _case(
    entry: Published, name: str, patient: str, image: Path, mask: Path, sequence: str = "",
    channel: int | None = None,
) -> LabelledCase:
    return LabelledCase(
        name=name, patient=patient, image=image, prompt=entry.prompt, modality=entry.modality,
        sequence=sequence, skull_stripped=entry.skull_stripped, channel=channel, mask=mask,
        tumor_labels=entry.tumor, organ_labels=entry.organ, known_labels=tuple(entry.labels),
        lesion_class=entry.prompt, dataset=entry.id,
    )


def listed_cases(path: Path) -> list[LabelledCase]:
    """The cases of a CASES.json.

    Raises:
        BadDataSet: it does not fit its schema; the message names the wrong entries.
    """
    document = _document(path, list)
    schema = json.loads(resource("cases.schema.json").read_text(encoding="utf-8"))
    if wrong := [_fault(error) for error in Draft202012Validator(schema).iter_errors(document)]:
        more = f"; and {len(wrong) - MAX_FAULTS} more" if len(wrong) > MAX_FAULTS else ""
        raise BadDataSet(
            f"{path.name} is not a list of cases: {'; '.join(wrong[:MAX_FAULTS])}{more}.",
            "Each case has an image, a mask (or null), a prompt and a name.",
        )
    folder = path.absolute().parent
    cases = [_listed(entry, folder) for entry in document]
    names = [case.name for case in cases]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise BadDataSet(f"{path.name} uses a name twice: {', '.join(twice[:3])}.",
                         "Give each case a unique name.")
    return cases


def _fault(error: ValidationError) -> str:
    """What is wrong in a list of cases, and where; people count cases from 1."""
    steps = [f"case {s + 1}" if isinstance(s, int) else f"“{s}”" for s in error.absolute_path]
    return f"{', '.join(steps) or 'the list'}: {error.message[:120]}"


def _listed(entry: dict[str, Any], folder: Path) -> LabelledCase:
    mask, organ = entry["mask"], entry.get("organ")
    return LabelledCase(
        name=entry["name"], patient=entry.get("patient", entry["name"]),
        image=folder / entry["image"], prompt=entry["prompt"], modality=entry.get("modality"),
        sequence=entry.get("sequence", ""), skull_stripped=entry.get("skull_stripped", False),
        mask=folder / mask if mask else None,
        tumor_labels=tuple(entry.get("labels", ())),
        organ_mask=folder / organ if organ else None,
        lesion_class=entry.get("class", entry["prompt"]), group=entry.get("group", ""),
        wrong_organ=entry.get("wrong_organ", False),
    )


def _document(path: Path, kind: type = dict) -> Any:
    """A JSON file whose outermost value is of `kind`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadDataSet(f"{path.name} does not exist.", "Check the name and the folder.") from None
    except json.JSONDecodeError as error:
        raise BadDataSet(f"{path.name} cannot be read as JSON: {error.msg} in line {error.lineno}, "
                         f"column {error.colno}.", "Check the file.") from None
    except (OSError, ValueError):
        raise BadDataSet(f"{path.name} cannot be read as JSON.", "Check the file.") from None
    if not isinstance(document, kind):
        raise BadDataSet(f"{path.name} does not have the expected form.",
                         "A list of cases is expected." if kind is list else "Check the file.")
    return document
