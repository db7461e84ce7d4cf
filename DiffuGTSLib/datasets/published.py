"""The catalogue of published data sets: Resources/datasets.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from DiffuGTSLib.modality import Modality
from DiffuGTSLib.resources import resource


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
