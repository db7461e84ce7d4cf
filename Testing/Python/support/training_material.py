"""Small material for tests of training: scans with lesions in three organs, and configurations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.training.data.cases import TrainingCase

REPOSITORY = Path(__file__).resolve().parents[3]
SIZE = 40
ORGANS = {"liver": "CT", "lung": "CT", "brain": "MR"}


def write_cases(folder: Path, organs: dict[str, str] = ORGANS, patients: int = 2) -> Path:
    """A CASES.json with scans of 8 cm, each with an organ and a bright ball in it."""
    folder.mkdir(parents=True)
    entries = []
    for organ, modality in organs.items():
        for number in range(patients):
            name = f"{organ}_{number}"
            _write_case(folder, name, modality, number)
            entries.append({
                "name": name, "patient": name, "prompt": f"{organ} tumor", "modality": modality,
                "image": f"{name}.nii.gz", "mask": f"{name}_tumor.nii.gz",
                "organ": f"{name}_organ.nii.gz",
            })
    (folder / "CASES.json").write_text(json.dumps(entries))
    return folder


def _write_case(folder: Path, name: str, modality: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    offsets = np.indices((SIZE,) * 3) - (SIZE - 1) / 2
    organ = np.sqrt((offsets**2).sum(0)) < 15
    ball = np.sqrt(((offsets - generator.uniform(-5, 5, (3, 1, 1, 1))) ** 2).sum(0)) < 5
    air, tissue, tumor = (-1000, 50, 130) if modality == "CT" else (0, 300, 900)
    values = np.where(ball, tumor, np.where(organ, tissue, air))
    values = values + generator.normal(0, 10, values.shape)
    for suffix, array in (("", values.astype(np.int16)), ("_tumor", ball.astype(np.uint8)),
                          ("_organ", organ.astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((2.0, 2.0, 2.0))
        sitk.WriteImage(image, str(folder / f"{name}{suffix}.nii.gz"))


def write_config(path: Path, **entries: Any) -> Path:
    """A configuration (JSON) for four small steps on the CPU; entries replace the usual ones."""
    training = {"steps": 4, "warmup": 1, "save_every": 2, "log_every": 1, "device": "cpu"}
    usual: dict[str, Any] = {
        "output": "made", "runs": "runs", "data": [{"folder": "cases"}], "held_out": 0.5,
    }
    training |= entries.pop("training", {})
    path.write_text(json.dumps(usual | {"training": training} | entries))
    return path


def attention_config(path: Path, **entries: Any) -> Path:
    """The same for the attention of a tiny package in the folder `tiny`."""
    small = {"model": "tiny", "largest_window": 48, "calibrate": 0,
             "network": {"context_channels": [16, 8, 8], "gate_channels": 8}}
    return write_config(path, **small | entries)


def start(*arguments: str, module: str = "DiffuGTSLib.cli") -> subprocess.Popen[str]:
    """`diffugts ...` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], text=True, cwd=REPOSITORY,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def training_case(
    name: str, group: str, modality: str, masks: tuple[str, ...] = ()
) -> TrainingCase:
    """A case as the manifest of a training folder would list it; it has no files."""
    entry = {"case": name, "group": group, "modality": modality, "masks": list(masks)}
    return TrainingCase.of(entry, Path())


def part_of(folder: Path, names: Collection[str], into: Path) -> Path:
    """A training folder with some of the scans of another one, which it links to."""
    entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    kept = [entry for entry in entries if entry["case"] in names]
    for entry in kept:
        link = into / entry["group"] / entry["case"]
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder / entry["group"] / entry["case"])
    (into / "manifest.json").write_text(json.dumps(kept), encoding="utf-8")
    return into
