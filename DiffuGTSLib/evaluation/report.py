"""The evaluation as one HTML file that needs no other: tables, charts, pictures of cases."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from DiffuGTSLib.datasets.check import counted
from DiffuGTSLib.evaluation import charts
from DiffuGTSLib.evaluation.evaluate import Evaluation
from DiffuGTSLib.evaluation.scoring import CaseScores
from DiffuGTSLib.evaluation.tables import NOTE, Group, Mean, Summary, seen, zero_shot_words
from DiffuGTSLib.files import write_whole

DASH = "\N{EN DASH}"
_PICTURE_PIXELS = 1100
_MOST_PICTURES = 30
# Columns of the groups' tables: heading, metric, digits.
TUMOR_COLUMNS = (
    ("DSC", "dsc", 3), ("NSD 2 mm", "nsd_2mm", 3), ("lesion sensitivity", "lesion_sensitivity", 2),
    ("lesion precision", "lesion_precision", 2), ("lesion F1", "lesion_f1", 2),
    ("volume error, ml", "volume_error_ml", 1),
    ("|volume error|, %", "volume_error_percent_absolute", 0),
)
ABSENT_COLUMNS = (
    ("“no tumor” right", "no_tumor_right", 2), ("false alarm, ml", "false_alarm_ml", 2),
    ("wrong organ right", "wrong_organ_right", 2), ("wrong organ, ml", "wrong_organ_ml", 2),
    ("DSC with the other tumor", "wrong_organ_dsc", 3),
)
COST_COLUMNS = (("seconds", "seconds", 1), ("memory, GB", "peak_gb", 2),
                ("GPU memory, GB", "peak_gpu_gb", 2))
BASELINE_COLUMNS = (
    ("best threshold of the score", "best_score", 3), ("of the AOVA map", "best_map", 3),
    ("of the raw intensity", "intensity", 3), ("centre prior", "centre", 3),
    ("AUROC of the map", "auroc_map", 3),
)
ABLATION_COLUMNS = (
    *((words, f"dsc_{kind}", 3) for kind, words in charts.PARTS.items()),
    ("gain of both residuals", "dsc_gain_of_residuals", 3),
)
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.5rem 0 1rem; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: right;
         vertical-align: top; font-variant-numeric: tabular-nums; }
th { background: #f4f6f8; position: sticky; top: 0; } .wide { overflow-x: auto; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td:first-child { white-space: nowrap; }
.range { color: #777; white-space: nowrap; display: block; font-size: 0.92em; }
.note { background: #fff6e0; border-left: 4px solid #d55e00; padding: 0.4rem 0.8rem; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #555; font-size: 0.85rem; }
"""

Columns = Sequence[tuple[str, str, int]]


def write_report(evaluation: Evaluation, summary: Summary, output: Path) -> Path:
    """Writes report.html and returns its path.

    Raises:
        OutputNotWritten: it cannot be written.
    """
    title = f"{evaluation.card.name} on {evaluation.dataset.name}"
    parts = [
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
        _introduction(evaluation, summary), _failures(evaluation), _paper(summary),
        _groups(summary), _charts(evaluation, summary), _pictures(evaluation, output),
        _cases(evaluation.cases), "</body></html>\n",
    ]
    path = output / "report.html"
    write_whole(path, "\n".join(part for part in parts if part).encode("utf-8"))
    return path


def _introduction(evaluation: Evaluation, summary: Summary) -> str:
    cases, card = evaluation.cases, evaluation.card
    counts = [f"{sum(case.kind == kind for case in cases)} {words}" for kind, words in (
        ("tumor", "with the tumor"), ("no tumor", "without"),
        ("wrong organ", "prompts for a wrong organ")) if any(c.kind == kind for c in cases)]
    text = f"<p class=note>{NOTE}</p><p>{counted(len(cases), 'case')} scored ({', '.join(counts)})"
    text += f" of {counted(summary.everything.patients, 'patient')}.</p>"
    text += f"<p>Model “{escape(card.name)}”. {escape(card.trained_on)}</p>"
    settings = evaluation.settings
    threshold = "of the model" if settings.threshold is None else settings.threshold
    text += f"<p>Threshold: {threshold}. Seed: {settings.seed}.</p>"
    if evaluation.zero_shot:
        text += f"<p>Asked to be zero-shot: {zero_shot_words(summary.everything.exposures)}.</p>"
    return text + (
        "<p>Means with 95 % intervals (bootstrap over patients). Lesions match from an "
        "intersection over union of 0.1 on; parts under 0.03 ml are no lesions. Where there is no "
        "tumor, only what was segmented counts. “Training saw” concerns masks of the class; a "
        "foundation model may have been shown scans with such tumors all the same.</p>")


def _failures(evaluation: Evaluation) -> str:
    if not evaluation.failures:
        return ""
    rows = [[escape(f.case), escape(f.message), escape(f.hint)] for f in evaluation.failures]
    return (f"<h2>Not scored: {len(rows)}</h2>"
            + _table(["case", "why", "hint"], rows, text=(1, 2)))


def _paper(summary: Summary) -> str:
    """The paper's table beside ours."""
    if not summary.compared:
        return ""
    rows = [[escape(row.name), f"{100 * row.paper_dsc:.2f}", _mean(row.ours, 2, 100),
             str(row.ours.cases), escape(row.seen)] for row in summary.compared]
    return ("<h2>Beside the paper</h2><p>Mean DSC in per cent. The paper's scans, splits and "
            "prompts are not published with its figures, so this is no strict comparison.</p>"
            + _table(["data set", "paper", "here", "cases", "training saw"], rows, text=(4,)))


def _groups(summary: Summary) -> str:
    several = [*summary.groups, *(summary.datasets if len(summary.datasets) > 1 else ())]
    if len(several) > 1:
        several.append(summary.everything)
    parts = ["<h2>By group</h2>", _group_table(several, TUMOR_COLUMNS, "dsc", with_seen=True),
             _group_table(several, ABSENT_COLUMNS, "no_tumor_right", "wrong_organ_right",
                          with_seen=True)]
    if any("dsc_attention" in group.means for group in several):
        parts += ["<h2>What each part adds</h2><p>DSC. Each fusion with its own fitted bias; the "
                  "gain is that of both residuals over AOVA in the same candidates.</p>",
                  _group_table(several, ABLATION_COLUMNS, "dsc_attention")]
    if any("intensity" in group.means for group in several):
        parts += ["<h2>Without the method</h2><p>Best DSC over all thresholds, chosen on each scan "
                  "itself, so no fair score.</p>",
                  _group_table(several, BASELINE_COLUMNS, "intensity")]
    return "".join([*parts, "<h2>Cost</h2>", _group_table(several, COST_COLUMNS, "seconds")])


def _group_table(
    groups: Sequence[Group], columns: Columns, *needed: str, with_seen: bool = False
) -> str:
    """A row for each group that has one of the `needed` figures."""
    rows = [group for group in groups if any(name in group.means for name in needed)]
    columns = [c for c in columns if any(c[1] in group.means for group in rows)]
    if not rows:
        return ""
    heads = ["group", "cases", "patients", *(escape(c[0]) for c in columns)]
    cells = []
    for group in rows:
        counted = [group.means[name] for name in needed if name in group.means]
        cells.append([
            escape(group.name), str(sum(mean.cases for mean in counted)),
            str(counted[0].patients if len(counted) == 1 else group.patients),
            *(_mean(group.means.get(name), digits) for _, name, digits in columns),
        ])
    if not with_seen:
        return _table(heads, cells)
    cells = [[*line, escape(seen(group.exposures))]
             for line, group in zip(cells, rows, strict=True)]
    return _table([*heads, "training saw"], cells, text=(len(heads),))


def _charts(evaluation: Evaluation, summary: Summary) -> str:
    drawn = (
        (charts.dsc_by_group(evaluation.cases, summary.groups), "DSC by group"),
        (charts.volumes(evaluation.cases), "Volumes"),
        (charts.ablation([*summary.groups, summary.everything]
                         if len(summary.groups) > 1 else summary.groups), "What each part adds"),
        (charts.false_alarms(evaluation.cases), "Where nothing is"),
    )
    figures = [_figure(png, "png", words) for png, words in drawn if png is not None]
    return "<h2>Charts</h2>" + "".join(figures) if figures else ""


def _figure(picture: bytes, kind: str, caption: str) -> str:
    data = base64.b64encode(picture).decode("ascii")
    words = escape(caption)
    return (f"<figure><img alt='{words}' src='data:image/{kind};base64,{data}'>"
            f"<figcaption>{words}</figcaption></figure>")


def _pictures(evaluation: Evaluation, output: Path) -> str:
    """Best, middle and worst case of each group, and its largest false alarm."""
    figures: list[str] = []
    for name in dict.fromkeys(case.group for case in evaluation.cases):
        members = [c for c in evaluation.cases if c.group == name and c.figure]
        for words, case in _telling(members):
            if (output / case.figure).is_file() and len(figures) < _MOST_PICTURES:
                figures.append(_figure(_small(output / case.figure), "jpeg",
                                       f"{name}, {words}: {_words(case)}"))
    if not figures:
        return ""
    return ("<h2>Cases</h2><p>The best, the middle and the worst of each group, and its largest "
            "false alarm; all are in the folder “figures”.</p>" + "".join(figures))


def _telling(members: Sequence[CaseScores]) -> list[tuple[str, CaseScores]]:
    tumors = sorted((c for c in members if c.measures.dsc is not None),
                    key=lambda c: -(c.measures.dsc or 0))
    alarms = sorted((c for c in members if c.kind != "tumor" and c.found),
                    key=lambda c: -c.measures.segmented_ml)
    places = {0: "best", len(tumors) // 2: "middle", len(tumors) - 1: "worst"}
    if len(tumors) == 1:
        places = {0: "the only case"}
    chosen = [(words, tumors[i]) for i, words in sorted(places.items()) if 0 <= i < len(tumors)]
    return chosen + [("largest false alarm", c) for c in alarms[:1]]


def _words(case: CaseScores) -> str:
    measures = case.measures
    if measures.dsc is None:
        other = "; dashed: the tumor that it does not name" if case.kind == "wrong organ" else ""
        return (f"{case.name}, “{case.prompt}”: {measures.segmented_ml:.1f} ml where nothing is"
                f"{other}")
    return (f"{case.name}, “{case.prompt}”: DSC {measures.dsc:.2f}, {measures.segmented_ml:.1f} ml "
            f"segmented of {measures.reference_ml:.1f} ml")


def _small(path: Path) -> bytes:
    """A picture as a JPEG of at most _PICTURE_PIXELS across."""
    from PIL import Image

    with Image.open(path) as whole:
        picture = whole.convert("RGB")
        picture.thumbnail((_PICTURE_PIXELS, 4 * _PICTURE_PIXELS))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=82)
    return stream.getvalue()


def _cases(cases: Sequence[CaseScores]) -> str:
    heads = ["case", "prompt", "asked of", "DSC", "NSD 2 mm", "lesions found", "segmented",
             "reference, ml", "segmented, ml", "highest score", "seconds", "memory, GB"]
    rows = [[
        escape(case.name), escape(case.prompt), case.kind, _number(case.measures.dsc, 3),
        _number(case.measures.nsd, 3), f"{case.measures.lesions_found} of {case.measures.lesions}",
        str(case.measures.lesions_segmented), _number(case.measures.reference_ml, 2),
        _number(case.measures.segmented_ml, 2), _number(case.highest_score, 2),
        _number(case.seconds, 1), _number(case.peak_gb, 2),
    ] for case in cases]
    return "<h2>By case</h2>" + _table(heads, rows, text=(1, 2))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = ()) -> str:
    """Cells are HTML; the columns of `text` are set to the left, as the first one is."""
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(
            f"<{tag}{' class=text' if i in text else ''}>{cell}</{tag}>"
            for i, cell in enumerate(cells)) + "</tr>"
    body = "".join(line(row, "td") for row in rows)
    return f"<div class=wide><table><thead>{line(heads, 'th')}</thead>{body}</table></div>"


def _number(value: float | None, digits: int, times: float = 1) -> str:
    return DASH if value is None else f"{times * value:.{digits}f}"


def _mean(mean: Mean | None, digits: int, times: float = 1) -> str:
    if mean is None:
        return DASH
    text = _number(mean.mean, digits, times)
    if mean.low is None:
        return text
    low, high = _number(mean.low, digits, times), _number(mean.high, digits, times)
    return f"{text}<span class=range>{low} to {high}</span>"
