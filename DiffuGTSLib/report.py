"""A result in words and numbers: for JSON, for the terminal.

A score lies in 0 to 1. A lesion's is the mean over its voxels ("mean_score", "mean score"), a
result's the highest of any voxel ("highest_score", "highest score"), found or not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from DiffuGTSLib.result import Result

MOST_ROWS = 20


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
