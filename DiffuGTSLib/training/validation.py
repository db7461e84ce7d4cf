"""The table of the model card: unseen patients, wrong organs, baselines; figures and a report."""

from __future__ import annotations

import csv
import json
import multiprocessing
import resource as process_resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from DiffuGTSLib.figure import overview
from DiffuGTSLib.grid import Canonical, to_input_grid
from DiffuGTSLib.result import Result
from DiffuGTSLib.scores import auroc, best_dice, dice
from DiffuGTSLib.segmenter import Segmenter
from DiffuGTSLib.training.data import Case, read_cases
from DiffuGTSLib.training.organs import body

LUNG, BRAIN, SARCOMA = "lung tumor", "brain tumor", "soft tissue sarcoma"


@dataclass(frozen=True)
class Task:
    """One run: a case, what is asked, and the mask that it is scored on ("" where none is there).

    `group` gathers the rows whose mean is an aim.
    """

    case: str
    prompt: str
    mask: str
    group: str


@dataclass(frozen=True)
class Row:
    """What one run gave. Dice in [0, 1]; NaN where there is no reference.

    Attributes:
        dice: of the final mask.
        dice_attention: of the AOVA map at 0.5, alone.
        best, best_attention: the highest over all thresholds.
        auroc: of the AOVA map, inside the body.
        centre_prior: best Dice of the distance to the scan's centre alone.
        intensity: best Dice of the raw intensity, inside the body, the better of both signs.
        found_ml: volume that the final mask calls lesion.
    """

    case: str
    prompt: str
    group: str
    found: bool
    dice: float
    dice_attention: float
    best: float
    best_attention: float
    auroc: float
    centre_prior: float
    intensity: float
    found_ml: float
    highest_score: float
    seconds: float
    peak_gb: float


def tasks() -> list[Task]:
    """The validation patients, and prompts that must find nothing."""
    listed = [
        Task("lung1", LUNG, "tumor", "lung CT"), Task("lidc0314", LUNG, "tumor", "lung CT"),
        Task("brain1", BRAIN, "tumor", "brain T1 Gd"),
        Task("fg-6692_t1c", BRAIN, "tumor_silver", "brain T1 Gd"),
        Task("fg-6692_fla", BRAIN, "tumor_silver", "brain FLAIR"),
        Task("fg-6692_t2", BRAIN, "tumor_silver", "brain T2"),
        Task("fg-6692_t1", BRAIN, "tumor_silver", "brain T1"),
    ]
    for kind, group in (("ct", "sarcoma CT"), ("t1", "sarcoma MR")):
        listed += [Task(f"sts_{n:03d}_{kind}", SARCOMA, "tumor", group) for n in range(33, 41)]
    listed += [
        Task("abdomen_3mm", "liver tumor", "", "nothing there"),
        Task("lung1", BRAIN, "", "wrong organ"), Task("lidc0314", BRAIN, "", "wrong organ"),
        Task("fg-6692_fla", "liver tumor", "", "wrong organ"),
        Task("brain1", "liver tumor", "", "wrong organ"),
    ]
    return listed


def run(
    data: Path, output: Path, model: str, chosen: Sequence[Task] | None = None, threads: int = 2
) -> list[Row]:
    """Runs every task in a process of its own (for its peak memory) and writes the report.

    Args:
        output: rows.csv, rows.json, table.md and a figure a task go here.
    """
    output.mkdir(parents=True, exist_ok=True)
    cases = {c.name: c for c in read_cases(data)}
    rows = []
    for task in chosen or tasks():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(score, cases[task.case], task, output, model, threads).result())
        row = rows[-1]
        print(f"{row.case:14s} {row.prompt:20s} Dice {row.dice:.3f} attention "
              f"{row.dice_attention:.3f} best {row.best:.3f} AUROC {row.auroc:.3f} "
              f"{row.seconds:.0f} s", flush=True)
        write_report(rows, output)
    return rows


def score(case: Case, task: Task, output: Path, model: str, threads: int) -> Row:
    """Runs and scores one task; writes its figure."""
    torch.set_num_threads(threads)
    started = time.monotonic()
    segmenter = Segmenter.from_pretrained(model, "cpu")
    scan = segmenter.encode(case.folder / "image.nii.gz", case.modality)
    result = segmenter.segment(scan, task.prompt)
    mask = sitk.GetArrayFromImage(result.mask) > 0
    seconds = time.monotonic() - started
    peak = process_resource.getrusage(process_resource.RUSAGE_SELF).ru_maxrss / 1e6
    reference_image = None
    values = dict.fromkeys(
        ("dice", "dice_attention", "best", "best_attention", "auroc", "centre_prior", "intensity"),
        float("nan"),
    )
    if task.mask:
        reference_image = sitk.ReadImage(str(case.folder / f"{task.mask}.nii.gz"), sitk.sitkUInt8)
        reference_image.CopyInformation(result.image)
        values = _scores(result, mask, sitk.GetArrayFromImage(reference_image) > 0, scan.canonical)
    name = f"{task.case}_{task.prompt.replace(' ', '_')}.png"
    overview(
        result.image, result.attention, result.pseudo_healthy, result.residual, result.mask,
        title=f"{task.case}: {task.prompt}", lesions=result.lesions, path=output / name,
        modality=scan.canonical.modality, highest_score=result.highest_score,
        reference=reference_image,
    )
    voxel_ml = float(np.prod(result.image.GetSpacing())) / 1000
    return Row(
        case=task.case, prompt=task.prompt, group=task.group, found=result.found, **values,
        found_ml=float(mask.sum()) * voxel_ml, highest_score=result.highest_score,
        seconds=seconds, peak_gb=peak,
    )


def _scores(
    result: Result, mask: np.ndarray, reference: np.ndarray, canonical: Canonical
) -> dict[str, float]:
    attention = sitk.GetArrayFromImage(result.attention)
    refined = sitk.GetArrayFromImage(result.probability)
    outline = body(canonical.tensor[0, 0].numpy(), canonical.modality)
    inside = sitk.GetArrayFromImage(to_input_grid(outline.astype(np.float32), canonical)) > 0.5
    intensity = sitk.GetArrayFromImage(result.image).astype(np.float32)
    low, high = np.percentile(intensity[inside], (0.5, 99.5))
    scaled = np.clip((intensity - low) / max(float(high - low), 1e-6), 0, 1) * inside
    spacing = np.array(result.image.GetSpacing())[::-1]
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(mask.shape, spacing, strict=True)]
    distance = np.sqrt(sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij")))
    return {
        "dice": dice(mask, reference),
        "dice_attention": dice(attention > 0.5, reference),
        "best": best_dice(refined, reference)[0],
        "best_attention": best_dice(attention, reference)[0],
        "auroc": auroc(attention[inside], reference[inside]),
        "centre_prior": best_dice(1 - distance / distance.max(), reference)[0],
        "intensity": max(best_dice(scaled, reference)[0],
                         best_dice((1 - scaled) * inside, reference)[0]),
    }


def write_report(rows: Sequence[Row], output: Path) -> None:
    """rows.csv, rows.json and table.md: every row, and the mean of each group."""
    with (output / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(r) for r in rows)
    (output / "rows.json").write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    columns = ("dice", "dice_attention", "best", "best_attention", "auroc", "centre_prior",
               "intensity")
    heads = ("final", "attention", "final, best t", "attention, best t", "AUROC", "centre prior",
             "intensity")
    lines = ["| case | prompt | " + " | ".join(heads) + " | found, ml | s | GB |",
             "|---" * (len(heads) + 5) + "|"]
    for row in rows:
        values = " | ".join(_figure(getattr(row, c)) for c in columns)
        lines.append(f"| {row.case} | {row.prompt} | {values} | {row.found_ml:.1f} | "
                     f"{row.seconds:.0f} | {row.peak_gb:.1f} |")
    lines += ["", "| group | n | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for group in dict.fromkeys(r.group for r in rows if not np.isnan(r.dice)):
        members = [r for r in rows if r.group == group]
        means = " | ".join(_figure(float(np.mean([getattr(r, c) for r in members])))
                           for c in columns)
        lines.append(f"| {group} | {len(members)} | {means} |")
    (output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _figure(value: float) -> str:
    return "\N{EN DASH}" if np.isnan(value) else f"{value:.2f}"
