"""The report of a batch: HTML that needs no other file and no network.

More than CASES_A_PAGE cases are divided over report.html, report-2.html and so on, so that a
browser stays quick.

How the report of a batch looks, and the little that moves in it.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from DiffuGTSLib.batch.inputs import LeftOut
from DiffuGTSLib.batch.output_folder import Row
from DiffuGTSLib.files import write_whole
from DiffuGTSLib.output.segments import nothing_found

REPORT = "report.html"
CASES_A_PAGE = 200
MOST_LESIONS = 10
PANELS = ("Scan", "Outline", "Attention", "Pseudo-healthy", "Residual")
USE = "Research use only. Not a medical device, not for clinical decisions."
_LEGEND = (
    "Axial slices, the patient's right at the left of the picture. The frame in the scan is what "
    "the other pictures magnify. Attention: where the text and the scan agree (dark 0, bright 1). "
    "Pseudo-healthy: the tissue painted anew without a lesion. Residual: how much differs from it. "
    "Without a candidate in the attention nothing is painted anew, and all pictures are alike. "
    "Where nothing was found, that says nothing about the patient: the model may have missed a "
    "lesion."
)
STYLE = """
:root { --ink: #1d2530; --soft: #5c6878; --line: #d9dfe7; --card: #fff; --page: #f4f6f9;
  --found: #b4540a; --none: #3c5a80; --failed: #b3261e; --quiet: #6b7686; --accent: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 24px; background: var(--page);
  color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 24px; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 18px; overflow-wrap: anywhere; }
h3 { margin: 12px 0 6px; font-size: 15px; font-weight: 600; }
a { color: var(--accent); }
.kind { margin: 0; color: var(--soft); }
.note { margin: 0 0 6px; color: var(--soft); }
.use { margin: 4px 0 12px; color: var(--failed); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; grid-column: 2; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
.tile { min-width: 112px; padding: 10px 14px; background: var(--card); color: var(--soft);
  border: 1px solid var(--line); border-radius: 8px; }
.tile b { display: block; color: var(--ink); font-size: 22px; font-variant-numeric: tabular-nums; }
.tile.found b { color: var(--found); } .tile.none b { color: var(--none); }
.tile.failed b { color: var(--failed); }
nav { margin: 8px 0; } nav a, nav b { margin-left: 6px; }
.tools { display: flex; gap: 10px; margin: 0 0 10px; }
.tools input { flex: 1; } .tools input, .tools select { padding: 7px 10px; font: inherit;
  color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.cases { width: 100%; background: var(--card); border: 1px solid var(--line); }
th { text-align: right; font-weight: 600; color: var(--soft); }
td { text-align: right; }
th, td { padding: 5px 12px; border-bottom: 1px solid var(--line); }
.cases th:first-child, .cases td:first-child, .cases th:nth-child(2), .cases td:nth-child(2)
  { text-align: left; }
.cases td:first-child { overflow-wrap: anywhere; } .cases th { cursor: pointer; }
.cases th:hover { color: var(--accent); }
.badge { padding: 1px 8px; border-radius: 9px; font-size: 12px; font-weight: 600;
  white-space: nowrap; color: #fff; background: var(--quiet); vertical-align: 2px; }
.badge.found { background: var(--found); } .badge.none { background: var(--none); }
.badge.failed { background: var(--failed); }
.legend { color: var(--soft); font-size: 13px; margin: 14px 0; }
article { margin: 14px 0; padding: 14px 16px; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; scroll-margin-top: 8px;
  break-inside: avoid; }
.facts { margin: 2px 0 0; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.why { margin-left: 8px; color: var(--soft); font-size: 13px; }
.problem { margin: 8px 0 0; color: var(--failed); }
.problem i, .problem.skipped { color: var(--soft); }
figure { margin: 0 0 10px; } figure img { display: block; width: 100%; background: #000;
  border-radius: 4px; }
figcaption { display: grid; grid-template-columns: repeat(5, 1fr); color: var(--soft);
  font-size: 13px; text-align: center; }
.lesions th, .lesions td { padding: 3px 14px; font-size: 14px; }
[hidden] { display: none !important; }
@media print { .tools { display: none; } body { background: #fff; } }
"""
SCRIPT = """
const search = document.getElementById("search"), kind = document.getElementById("status");
const marked = document.querySelectorAll("[data-kind]");
function show() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const one of marked)
    one.hidden = Boolean(kind.value && one.dataset.kind !== kind.value)
      || !words.every(word => one.dataset.words.includes(word));
}
search.addEventListener("input", show);
kind.addEventListener("change", show);
const rows = document.querySelector(".cases tbody");
document.querySelectorAll(".cases th").forEach((heading, column) => {
  let sign = column > 1 ? -1 : 1;
  heading.title = "Sort";
  heading.addEventListener("click", () => {
    const text = row => row.cells[column].textContent;
    rows.append(...[...rows.rows].sort(
      (one, other) => sign * text(one).localeCompare(text(other), undefined, {numeric: true})));
    sign = -sign;
  });
});
"""


def write_report(folder: Path, rows: Sequence[Row], run: Mapping[str, Any]) -> None:
    """Writes the pages; each is whole at any moment.

    Args:
        folder: of the batch, with the thumbnails.
        rows: all cases, in the order of the report.
        run: what run.json holds.

    Raises:
        OutputNotWritten: the pages that were there stay.
    """
    starts = range(0, max(1, len(rows)), CASES_A_PAGE)
    for number, start in enumerate(starts, start=1):
        part = rows[start : start + CASES_A_PAGE]
        page = _page(folder, part, rows, run, _links(number, len(starts)))
        write_whole(folder / page_name(number), page.encode(errors="backslashreplace"))
    number = len(starts) + 1
    while (folder / page_name(number)).exists():
        (folder / page_name(number)).unlink()
        number += 1


def page_name(number: int) -> str:
    """The file of a page, counted from 1."""
    return REPORT if number == 1 else f"report-{number}.html"


def _links(current: int, count: int) -> str:
    if count == 1:
        return ""
    links = (f"<b>{n}</b>" if n == current else f'<a href="{page_name(n)}">{n}</a>'
             for n in range(1, count + 1))
    return f'<nav>Page {" ".join(links)}</nav>'


def _page(
    folder: Path, part: Sequence[Row], rows: Sequence[Row], run: Mapping[str, Any], links: str
) -> str:
    lines = "".join(_line(row, number) for number, row in enumerate(part, start=1))
    cards = "".join(_card(folder, row, number) for number, row in enumerate(part, start=1))
    headings = "".join(f"<th>{name}</th>" for name in (
        "Case", "Status", "Lesions", "Volume, ml", "Largest, mm", "Highest score", "Seconds"))
    find = f"Find a case or a prompt{' on this page' if links else ''}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DiffuGTS batch: {escape(folder.name)}</title><style>{STYLE}</style></head><body>
<header><p class="kind">DiffuGTS batch</p><h1>{escape(folder.name)}</h1>
<p class="use">{USE}</p>{_facts(run)}</header>
{_tiles(rows)}{links}
<div class="tools"><input id="search" type="search" placeholder="{find}"
aria-label="{find}"><select id="status" aria-label="Show">
<option value="">all cases</option><option value="found">with lesions</option>
<option value="none">nothing found</option><option value="failed">failed</option>
<option value="skipped">skipped</option><option value="waiting">waiting</option></select></div>
<table class="cases"><thead><tr>{headings}</tr></thead><tbody>{lines}</tbody></table>
<p class="legend">{_LEGEND}</p>
<main>{cards}</main>{links}
<script>{SCRIPT}</script></body></html>
"""


def _facts(run: Mapping[str, Any]) -> str:
    parts = run["parts"]
    options = ", ".join(_option(name, value) for name, value in run["options"].items()
                        if value is not None and value is not False)
    places = dict.fromkeys(f"torch {part['torch']} on {part['device']}" for part in parts)
    left_out = LeftOut(**parts[-1].get("left_out", {}))
    facts = {
        "Prompts": ["; ".join(parts[-1].get("prompts", ()))],
        "Model": [f"{run['model']} (SHA-256 {run['model_sha256'][:12]}…)"],
        "Program": [f"DiffuGTS {run['version']}, {', '.join(places)}"],
        "Options": [options],
        "Run": list(_parts(parts)),
        "Inputs": [left_out.sentence],
    }
    items = (f"<dt>{name}</dt>{''.join(f'<dd>{escape(line)}</dd>' for line in lines)}"
             for name, lines in facts.items() if any(lines))
    return f"<dl>{''.join(items)}</dl>"


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


def _tiles(rows: Sequence[Row]) -> str:
    counts = Counter(_kind(row) for row in rows)
    lesions = sum(len(row.outcome.lesions) for row in rows if row.outcome)
    tiles = [("cases", len(rows), ""), ("with lesions", counts["found"], "found"),
             ("nothing found", counts["none"], "none"), ("failed", counts["failed"], "failed"),
             ("skipped", counts["skipped"], "skipped"), ("waiting", counts["waiting"], "waiting"),
             ("lesions", lesions, "")]
    shown = (f'<div class="tile {kind}"><b>{value}</b>{name}</div>' for name, value, kind in tiles
             if value or kind not in ("failed", "skipped", "waiting"))
    return f'<section class="tiles">{"".join(shown)}</section>'


def _kind(row: Row) -> str:
    """"found", "none", or the status of a case that is not done."""
    if row.outcome is None or row.status != "done":
        return row.status
    return "found" if row.outcome.lesions else "none"


def _line(row: Row, number: int) -> str:
    """A row of the table of all cases."""
    cells = ["", "", "", ""]
    if row.outcome is not None and row.status == "done":
        lesions = row.outcome.lesions
        largest = max((lesion["longest_diameter_mm"] for lesion in lesions), default=None)
        highest = max(prompt["highest_score"] for prompt in row.outcome.prompts)
        cells = [str(len(lesions)), f"{row.outcome.volume_ml:.2f}",
                 "" if largest is None else f"{largest:.0f}", f"{highest:.2f}"]
    seconds = f"{row.outcome.seconds:.0f}" if row.outcome else ""
    why = f'<span class="why">{escape(row.problem.message)}</span>' if row.problem else ""
    numbers = "".join(f"<td>{cell}</td>" for cell in (*cells, seconds))
    return (f'<tr {_marks(row)}><td><a href="#c{number}">{escape(row.case.name)}</a></td>'
            f"<td>{_badge(row)}{why}</td>{numbers}</tr>")


def _marks(row: Row) -> str:
    """What search and filter look at."""
    words = escape(" ".join((row.case.name, *row.case.prompts)).lower())
    return f'data-kind="{_kind(row)}" data-words="{words}"'


def _badge(row: Row) -> str:
    kind = _kind(row)
    words = {"found": "lesions", "none": "nothing found"}.get(kind, kind)
    return f'<span class="badge {kind}">{words}</span>'


def _card(folder: Path, row: Row, number: int) -> str:
    """A case with its pictures and lesions, or what went wrong."""
    head = (f'<article id="c{number}" {_marks(row)}>'
            f"<h2>{escape(row.case.name)} {_badge(row)}</h2>")
    if row.problem is not None:
        text = f"{escape(row.problem.message)} <i>{escape(row.problem.hint)}</i>"
        return f'{head}<p class="problem {row.status}">{text}</p></article>'
    if row.outcome is None:
        return f"{head}</article>"
    pictures = [*row.outcome.files.get("thumbnails", []), *[""] * len(row.outcome.prompts)]
    parts = (_result(folder, prompt, picture, row.case.name)
             for prompt, picture in zip(row.outcome.prompts, pictures, strict=False))
    facts = (row.outcome.modality, f"{row.outcome.seconds:.0f} s",
             row.outcome.files["segmentation"])
    return (f'{head}<p class="facts">{escape(", ".join(facts))}</p>{_notes(row.outcome.notes)}'
            f'{"".join(parts)}</article>')


def _result(folder: Path, prompt: Mapping[str, Any], picture: str, case: str) -> str:
    """One prompt of a case."""
    title = escape(prompt["title"])
    count = len(prompt["lesions"])
    if not count:
        threshold = prompt["threshold"]
        reason = nothing_found(prompt["highest_score"], threshold,
                               prompt.get("needed_score", threshold))
        found = f"no tumor found ({reason})"
    else:
        volume = sum(lesion["volume_ml"] for lesion in prompt["lesions"])
        found = f"{count} lesion{'s' if count > 1 else ''}, {volume:.2f} ml in all"
    image = _picture(folder / picture, f"{case}: {prompt['title']}") if picture else ""
    return (f"<h3>{title}: {found}</h3>{_notes(prompt.get('notes', ()))}{image}"
            f"{_lesions(prompt['lesions'])}")


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _picture(path: Path, title: str) -> str:
    """The strip itself inside the page, under the names of its pictures."""
    try:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError:
        return ""
    names = "".join(f"<span>{name}</span>" for name in PANELS)
    return (f'<figure><figcaption>{names}</figcaption><img alt="{escape(title)}" '
            f'src="data:image/jpeg;base64,{content}"></figure>')


def _lesions(lesions: Sequence[Mapping[str, Any]]) -> str:
    if not lesions:
        return ""
    headings = "".join(f"<th>{name}</th>" for name in (
        "Lesion", "Volume, ml", "Diameters, mm", "Centre R, A, S, mm", "Mean score",
        "Slices, from 1"))
    rows = "".join(
        f"<tr><td>{lesion['number']}</td><td>{lesion['volume_ml']:.2f}</td>"
        f"<td>{lesion['longest_diameter_mm']:.0f} x {lesion['perpendicular_mm']:.0f}</td>"
        f"<td>{', '.join(f'{value:.0f}' for value in lesion['centroid_ras_mm'])}</td>"
        f"<td>{lesion['mean_score']:.2f}</td>"
        f"<td>{lesion['slice_range'][0] + 1}-{lesion['slice_range'][1] + 1}</td></tr>"
        for lesion in lesions[:MOST_LESIONS]
    )
    more = len(lesions) - MOST_LESIONS
    rest = f"<p>{more} smaller ones are in lesions.csv.</p>" if more > 0 else ""
    return (f'<table class="lesions"><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody>'
            f"</table>{rest}")
