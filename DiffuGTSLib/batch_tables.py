"""cases.csv and lesions.csv: a row a case, a row a lesion."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from DiffuGTSLib.batch_case import Case, Failure, Outcome
from DiffuGTSLib.batch_names import FORMULA
from DiffuGTSLib.whole_file import write_whole

CASES, LESIONS = "cases.csv", "lesions.csv"
CASE_COLUMNS = (
    "case", "status", "modality", "prompts", "lesions", "volume_ml", "highest_score", "seconds",
    "error_code", "error", "image", "segmentation",
)
LESION_COLUMNS = (
    "case", "prompt", "lesion", "label", "volume_ml", "longest_diameter_mm", "perpendicular_mm",
    "feret_3d_mm", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "mean_score", "max_score",
    "first_slice", "last_slice",
)


@dataclass(frozen=True)
class Row:
    """A case as the tables and the report show it.

    Attributes:
        status: "waiting", "done", "failed" or "skipped".
        outcome: of a case that has run.
        problem: of one that has failed or was skipped.
    """

    case: Case
    status: str
    outcome: Outcome | None = None
    problem: Failure | None = None


def write_tables(folder: Path, rows: Sequence[Row]) -> None:
    """Writes both tables; each is whole at any moment.

    Raises:
        OutputNotWritten: the tables that were there stay.
    """
    write_whole(folder / CASES, _table(CASE_COLUMNS, map(_case_row, rows)))
    lesions = (lesion for row in rows for lesion in _lesion_rows(row))
    write_whole(folder / LESIONS, _table(LESION_COLUMNS, lesions))


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """CSV in UTF-8; the bytes of a name that is no UTF-8 are written as escapes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


def _case_row(row: Row) -> list[Any]:
    outcome, problem = row.outcome, row.problem
    done = outcome is not None and outcome.status == "done"
    measured: list[Any] = [""] * 3
    if outcome is not None and done:
        highest = max(prompt["highest_score"] for prompt in outcome.prompts)
        measured = [len(outcome.lesions), f"{outcome.volume_ml:.3f}", f"{highest:.3f}"]
    return [
        row.case.name, row.status, outcome.modality if outcome else "",
        "; ".join(row.case.prompts), *measured, f"{outcome.seconds:.1f}" if outcome else "",
        problem.code if problem else "", _inert(problem.message) if problem else "",
        str(row.case.image),
        outcome.files["segmentation"] if outcome is not None and done else "",
    ]


def _inert(text: str) -> str:
    """A text that begins with a file's name, so that no spreadsheet takes it for a formula."""
    return f" {text}" if text.startswith(FORMULA) else text


def _lesion_rows(row: Row) -> list[list[Any]]:
    if row.outcome is None:
        return []
    return [
        [row.case.name, prompt["title"], lesion["number"], label,
         *(f"{lesion[name]:.3f}" for name in LESION_COLUMNS[4:8]),
         *(f"{value:.2f}" for value in lesion["centroid_ras_mm"]),
         f"{lesion['mean_score']:.3f}", f"{lesion['max_score']:.3f}", *lesion["slice_range"]]
        for prompt in row.outcome.prompts
        for lesion, label in zip(prompt["lesions"], prompt["labels"], strict=True)
    ]
