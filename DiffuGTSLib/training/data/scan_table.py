"""What is known of the training scans beyond their manifests: Resources/Training/scans.json.

A manifest lists scans; the table adds what its entries do not state: the split, the organs that are
known and how they are found, where synthetic lesions may be added, how often a kind is drawn. No
other code knows a group or a scan by its name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any, Literal

from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.files import resource
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.scan.modality import guess_sequence

TABLE = "Training/scans.json"
# The anatomies that the gate learns, in the order of its prompts.
ORGANS = (
    "lung", "brain", "soft_tissue", "liver", "kidney", "pancreas", "colon", "spleen", "stomach",
    "small_bowel", "urinary_bladder", "gallbladder", "adrenal_gland", "bone", "breast",
)
Finder = Literal["", "all", "body", "brain", "lungs", "masks"]


@dataclass(frozen=True)
class ScanKind:
    """Scans from which windows are drawn in the same way.

    Attributes:
        name: of the kind.
        share: how often windows of the kind are drawn, beside the other kinds of the folder.
        patch_share: the same for the patches that an autoencoder is trained on.
        prompt: for the lesions that are outlined; "" where none is.
        crop: the lesion lies in the middle: windows are smaller than the scan.
        mirror: left and right may be exchanged.
        organs: how the organs are found: "masks" that are given, the "body", the "lungs" by their
            air, the "brain" of a stripped head or by registration, "all" of the scan; "" for none.
        remainder: the organ that the body outside all given masks counts as.
        known: organs whose presence and absence are known; None: all but `unknown`.
        unknown: see `known`.
        without: organs that hold no lesion here, whether they are in the scan or not.
        synthetic: organs in which synthetic lesions may be added, with their rates. Without a
            prompt they are the only lesions; beside real ones, the rate is a share of windows.
        synthetic_copies: copies with synthetic lesions for the calibration, by organ.
        stripped_share: of the windows, in which all but the brain is removed.
        clipped_hu: ends at which the intensities were clipped before the scans were published.
        tuning_patients: how many patients of the training split are kept for the calibration.
        calibration_patients: how many that the training sees calibrate as well, where those that
            are kept for it are too few to place a threshold.
        title: of its group in the tables of the validation.
        asked: prompts for scans of which none is stated: of the tumors there, or of healthy organs.
        wrong_prompts: name organs that are not in the scan, for negative examples.
        phantom: kind of digital phantom; "" for real scans.
    """

    name: str
    share: float
    patch_share: float = 0.0
    prompt: str = ""
    crop: bool = False
    mirror: bool = True
    organs: Finder = ""
    remainder: str = ""
    known: tuple[str, ...] | None = None
    unknown: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    synthetic: Mapping[str, float] = field(default_factory=dict)
    synthetic_copies: Mapping[str, int] = field(default_factory=dict)
    stripped_share: float = 0.0
    clipped_hu: tuple[float, float] | None = None
    tuning_patients: int = 0
    calibration_patients: int = 0
    title: str = ""
    asked: tuple[str, ...] = ()
    wrong_prompts: tuple[str, ...] = ()
    phantom: str = ""

    @cached_property
    def prompted_organ(self) -> str:
        """The anatomy of the prompt; "" without one."""
        return understand(self.prompt).anatomy if self.prompt else ""

    @property
    def known_organs(self) -> tuple[bool, ...]:
        """(len(ORGANS),): whether presence and absence of each organ are known."""
        if self.known is not None:
            return tuple(organ in self.known for organ in ORGANS)
        return tuple(organ not in self.unknown for organ in ORGANS)


@dataclass(frozen=True)
class ScanTable:
    """The table.

    Attributes:
        rules: what holds for the entries that they match.
        kinds: by name.
        lesion_masks, ignored_masks, part_masks: names of masks: of lesions, of what is neither for
            nor against, of parts of a lesion.
        organ_masks: pattern of mask names by organ.
    """

    rules: tuple[Mapping[str, Any], ...]
    kinds: Mapping[str, ScanKind]
    lesion_masks: tuple[str, ...]
    ignored_masks: tuple[str, ...]
    part_masks: tuple[str, ...]
    organ_masks: Mapping[str, str]

    def describe(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """What rules and manifest state of one entry: kind, split, patient, prompt, sequence...

        Raises:
            TrainingImpossible: no rule gives the entry a kind.
        """
        stated: dict[str, Any] = {"split": "training"}
        for rule in self.rules:
            if all(re.fullmatch(pattern, str(entry.get(key, "")))
                   for key, pattern in rule["match"].items()):
                stated |= {key: value for key, value in rule.items() if key != "match"}
        if "kind" not in stated:
            groups = {rule["match"]["group"] for rule in self.rules if "group" in rule["match"]}
            raise TrainingImpossible(
                f"The manifest puts {entry['case']} into a group that is not known: "
                f"{entry['group']}.",
                f"Groups are {', '.join(sorted(groups))}; list other scans in a CASES.json.",
            )
        kind = self.kinds[stated["kind"]]
        match = re.fullmatch(stated.get("patient", "(.*)"), entry["case"])
        return {
            "kind": kind,
            "split": entry.get("split", stated["split"]),
            "patient": entry.get("patient") or (match[1] if match else entry["case"]),
            "prompt": entry.get("asks") or kind.prompt,
            "sequence": entry.get("sequence") or stated.get("sequence")
            or (guess_sequence(entry["case"]) if entry["modality"] == "MR" else ""),
            "skull_stripped": bool(entry.get("skull_stripped", stated.get("skull_stripped"))),
        }

    def tuning_patients(self, described: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
        """(kind, patient) of those training patients that are kept for the calibration.

        Chosen by a hash of their names: always the same ones, whatever the order.
        """
        chosen: set[tuple[str, str]] = set()
        for kind in self.kinds.values():
            patients = {d["patient"] for d in described
                        if d["kind"] is kind and d["split"] == "training"}
            ordered = sorted(patients, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
            chosen |= {(kind.name, patient) for patient in ordered[:kind.tuning_patients]}
        return chosen

    def lesion_mask(self, masks: Sequence[str]) -> str:
        """The name of the mask that outlines the lesions; "" where there is none."""
        return next((name for name in self.lesion_masks if name in masks), "")

    def is_organ_mask(self, name: str) -> bool:
        """Whether a mask is that of an organ or another structure, not of a lesion."""
        return name not in (*self.lesion_masks, *self.ignored_masks, *self.part_masks)


@lru_cache(maxsize=1)
def scan_table() -> ScanTable:
    """The table that comes with the program."""
    entries = json.loads(resource(TABLE).read_text(encoding="utf-8"))
    known = {f.name for f in fields(ScanKind)}
    kinds = {}
    for name, values in entries["kinds"].items():
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items() if key in known
        }
        kinds[name] = ScanKind(name=name, **given)
    return ScanTable(
        rules=tuple(entries["rules"]), kinds=kinds, lesion_masks=tuple(entries["lesion_masks"]),
        ignored_masks=tuple(entries["ignored_masks"]), part_masks=tuple(entries["part_masks"]),
        organ_masks=entries["organ_masks"],
    )


def window_shares() -> dict[str, float]:
    """How often windows of each kind are drawn, by name."""
    return {name: kind.share for name, kind in scan_table().kinds.items()}


def patch_shares() -> dict[str, float]:
    """How often patches of each kind are drawn for an autoencoder, by name."""
    return {name: kind.patch_share for name, kind in scan_table().kinds.items() if kind.patch_share}
