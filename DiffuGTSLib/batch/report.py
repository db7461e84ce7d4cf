"""The report of a batch, from Resources/Templates/batch_report.html.

More than CASES_A_PAGE cases are divided over report.html, report-2.html and so on, so that a
browser stays quick.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from DiffuGTSLib.batch.inputs import LeftOut
from DiffuGTSLib.batch.output_folder import CaseRow
from DiffuGTSLib.output.html_page import data_uri, write_page
from DiffuGTSLib.output.segments import nothing_found

REPORT = "report.html"
CASES_A_PAGE = 200
MAX_LESIONS = 10


def write_report(folder: Path, rows: Sequence[CaseRow], run: Mapping[str, Any]) -> None:
    """Writes the pages, each atomically.

    Args:
        folder: of the batch, with the thumbnails.
        rows: all cases, in the order of the report.
        run: the content of run.json.

    Raises:
        OutputNotWritten: the pages that were there stay.
    """
    starts = range(0, max(1, len(rows)), CASES_A_PAGE)
    pages = [page_name(number) for number in range(1, len(starts) + 1)]
    for page, start in zip(pages, starts, strict=True):
        write_page(
            folder / page, "batch_report.html", title=folder.name, facts=_facts(run),
            tiles=_tiles(rows), rows=rows[start : start + CASES_A_PAGE], pages=pages, page=page,
            kind_of=_kind, picture=partial(_picture, folder), nothing_found=nothing_found,
            max_lesions=MAX_LESIONS,
        )
    number = len(pages) + 1
    while (folder / page_name(number)).exists():
        (folder / page_name(number)).unlink()
        number += 1


def page_name(number: int) -> str:
    """The file of a page, counted from 1."""
    return REPORT if number == 1 else f"report-{number}.html"


def _facts(run: Mapping[str, Any]) -> dict[str, list[str]]:
    """Lines by heading; an empty list where there is nothing to say."""
    parts = run["parts"]
    prompts = "; ".join(parts[-1].get("prompts", ()))
    options = ", ".join(_option(name, value) for name, value in run["options"].items()
                        if value is not None and value is not False)
    devices = dict.fromkeys(f"torch {part['torch']} on {part['device']}" for part in parts)
    left_out = LeftOut(**parts[-1].get("left_out", {})).sentence
    return {
        "Prompts": [prompts] if prompts else [],
        "Model": [f"{run['model']} (SHA-256 {run['model_sha256'][:12]}…)"],
        "Program": [f"DiffuGTS {run['version']}, {', '.join(devices)}"],
        "Options": [options] if options else [],
        "Run": list(_parts(parts)),
        "Inputs": [left_out] if left_out else [],
    }


def _parts(parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for the start of the run and each time it was resumed, and the time of all."""
    total = 0.0
    for number, part in enumerate(parts):
        counts = ", ".join(f"{part[name]} {name}" for name in ("done", "failed") if part.get(name))
        seconds = _seconds(part)
        total += seconds
        took = f" ({duration(seconds)})" if part["ended"] else ""
        yield (f"{'Resumed' if number else 'Started'} {_time(part['started'])}, "
               f"{part['state']} {_time(part['ended'])}{took}{': ' if counts else ''}{counts}")
    if len(parts) > 1:
        yield f"{duration(total)} in all"


def _seconds(part: Mapping[str, Any]) -> float:
    """How long a part of the run took; 0 while it is running."""
    if not part["ended"]:
        return 0.0
    times = [datetime.fromisoformat(part[name]) for name in ("started", "ended")]
    return float(part.get("seconds", (times[1] - times[0]).total_seconds()))


def duration(seconds: float) -> str:
    """In the two largest units that matter: "40 s", "12 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _option(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    return words if value is True else f"{words} {value}"


def _time(text: str | None) -> str:
    """"2026-11-21T08:41:41+00:00" without the seconds."""
    return f"{text[:10]} {text[11:16]} UTC" if text else "now"


def _tiles(rows: Sequence[CaseRow]) -> list[tuple[str, int, str]]:
    """Label, count and kind of what is counted over all cases."""
    counts = Counter(_kind(row) for row in rows)
    lesions = sum(len(row.outcome.lesions) for row in rows if row.outcome)
    unusual = [(kind, counts[kind], kind) for kind in ("failed", "skipped", "waiting")
               if counts[kind]]
    return [("cases", len(rows), ""), ("with lesions", counts["found"], "found"),
            ("nothing found", counts["none"], "none"), *unusual, ("lesions", lesions, "")]


def _kind(row: CaseRow) -> str:
    """"found", "none", or the status of a case that is not done."""
    if row.outcome is None or row.status != "done":
        return row.status
    return "found" if row.outcome.lesions else "none"


def _picture(folder: Path, path: str) -> str:
    """A thumbnail as the source of an <img>; "" where it cannot be read."""
    try:
        return data_uri((folder / path).read_bytes(), "jpeg")
    except OSError:
        return ""
