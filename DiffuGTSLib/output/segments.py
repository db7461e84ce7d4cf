"""A result in words and numbers: for JSON, for the terminal.

A score lies in 0 to 1. A lesion's is the mean over its voxels ("mean_score", "mean score"), a
result's the highest of any voxel ("highest_score", "highest score"), found or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.scan import write_segmentation
from DiffuGTSLib.scan.nifti import keep_forms
from DiffuGTSLib.scan.segmentation_file import COLOURS

if TYPE_CHECKING:
    from rich.table import Table

    from DiffuGTSLib.pipeline import Result

MOST_ROWS = 20
MAPS = ("attention", "pseudo_healthy", "residual", "uncertainty", "probability")


def describe(result: Result) -> dict[str, Any]:
    """A result in plain values for JSON; the volumes are left out."""
    prompt = result.prompt
    return {
        "prompt": prompt.text,
        "title": prompt.title,
        "known": prompt.known,
        "terminology": prompt.terminology,
        "found": bool(result.found),
        "highest_score": float(result.highest_score),
        "threshold": float(result.threshold),
        "needed_score": float(result.needed_score),
        "lesions": [lesion.as_dict() for lesion in result.lesions],
        "notes": list(result.notes),
        "reliability": result.reliability,
        "modality": result.modality,
        "modality_reason": result.modality_reason,
        "within": result.within or None,
    }


def sentence(result: Result) -> str:
    """What was found, in one line."""
    title = result.prompt.title
    if not result.lesions:
        reason = nothing_found(result.highest_score, result.threshold, result.needed_score)
        return f'No tumor found for "{title}" ({reason}).'
    count = len(result.lesions)
    total = sum(lesion.volume_ml for lesion in result.lesions)
    return f"{title}: {count} lesion{'s' if count > 1 else ''}, {total:.2f} ml in all."


def nothing_found(highest_score: float, threshold: float, needed_score: float) -> str:
    """Why there is no lesion, in a few words."""
    if threshold < min(highest_score, needed_score):
        return (f"highest score {highest_score:.2f}; at threshold {threshold:.2f} a lesion needs a "
                f"peak of {needed_score:.2f}")
    return f"highest score {highest_score:.2f}, threshold {threshold:.2f}"


def lesion_table(result: Result) -> Table:
    """A row a lesion: name, volume, diameters, mean score, slices (counted from 1).

    The 20 largest; the rest in one row.
    """
    from rich.table import Table

    table = Table()
    for heading in ("lesion", "volume (ml)", "diameters (mm)", "mean score", "slices"):
        table.add_column(heading, justify="left" if heading == "lesion" else "right")
    for lesion in result.lesions[:MOST_ROWS]:
        first, last = (index + 1 for index in lesion.slice_range)
        table.add_row(
            lesion.name(result.prompt.title),
            f"{lesion.volume_ml:.2f}",
            f"{lesion.longest_diameter_mm:.0f} x {lesion.perpendicular_mm:.0f}",
            f"{lesion.mean_score:.2f}",
            f"{first}-{last}",
        )
    smaller = result.lesions[MOST_ROWS:]
    if smaller:
        volume = sum(lesion.volume_ml for lesion in smaller)
        table.add_row(f"{len(smaller)} smaller ones", f"{volume:.2f}", "", "", "")
    return table


def described(results: Sequence[Result]) -> list[dict[str, Any]]:
    """`describe` of each result; with `labels`, their lesions' values in `combine`, and names."""
    entries = []
    label = 0
    for result in results:
        count = len(result.lesions)
        names = [lesion.name(result.prompt.title) for lesion in result.lesions]
        entries.append(describe(result) | {
            "labels": list(range(label + 1, label + 1 + count)), "names": names,
        })
        label += count
    return entries


@dataclass(frozen=True)
class Segments:
    """The lesions of all prompts as the segments of one segmentation, in the order of `combine`.

    Attributes:
        names: as "liver tumor 1".
        terminology: as 3D Slicer serialises it.
    """

    names: list[str]
    terminology: list[str]

    @classmethod
    def of(cls, results: Sequence[Result]) -> Segments:
        """Those of a run."""
        names = [name for entry in described(results) for name in entry["names"]]
        return cls(names, [r.prompt.terminology for r in results for _ in r.lesions])

    def write(self, labels: sitk.Image, path: Path) -> None:
        """Writes the labelmap that `combine` made.

        Raises:
            OutputNotWritten: as `write_segmentation`.
        """
        colours = [_colour(index) for index in range(len(self.names))]
        write_segmentation(labels, path, self.names, colours, self.terminology)


def combine(results: Sequence[Result]) -> sitk.Image:
    """All lesions as one uint16 labelmap; the values go on from prompt to prompt.

    Where lesions of two prompts overlap, the prompt with the higher probability has the voxel.
    """
    labels = np.zeros(results[0].mask.GetSize()[::-1], np.uint16)
    best = np.zeros(labels.shape, np.float32)
    taken = 0
    for result in results:
        own = sitk.GetArrayFromImage(result.labels)
        probability = sitk.GetArrayViewFromImage(result.probability)
        wins = (own > 0) & ((labels == 0) | (probability > best))
        labels[wins] = own[wins] + taken
        best[wins] = probability[wins]
        taken += len(result.lesions)
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(results[0].mask)
    return keep_forms(results[0].image, image)


def _colour(index: int) -> tuple[float, float, float]:
    red, green, blue = COLOURS[index % len(COLOURS)]
    return red / 255, green / 255, blue / 255
