"""The tables of docs/validation.md, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from DiffuGTSLib.evaluation.scoring import ABLATIONS, CaseScores
from DiffuGTSLib.evaluation.summary import Group, Mean, group
from DiffuGTSLib.evaluation.tables import Summary

DASH = "\N{EN DASH}"
_PARTS = {"map": "AOVA map", "attention": "AOVA", "pixel": "+ pixel", "feature": "+ feature",
          "both": "+ both"}
_BASELINES = {"intensity": "best intensity threshold", "centre": "centre prior",
              "best_score": "best t", "auroc_map": "AUROC"}


@dataclass(frozen=True)
class Row:
    """The scores of one prompt on a scan of a split."""

    scan: str
    split: str
    scores: CaseScores


def markdown(rows: Sequence[Row], summary: Summary) -> str:
    """All tables: tumors by group and by scan, wrong organs, scans without a tumor."""
    tumors = [row for row in rows if row.scores.kind == "tumor"]
    parts = []
    if tumors:
        # The same patients stand behind both sides, so the gain is counted scan by scan.
        everything = group("all", [row.scores for row in tumors])
        shown = [g for g in summary.groups if "dsc" in g.means] + [everything]
        parts += ["## Tumors, by group\n", _groups(shown), _verdict(everything),
                  "## Tumors, by scan\n", _tumors(tumors, rows)]
    wrong = [row for row in rows if row.scores.kind == "wrong organ"]
    if wrong:
        parts += ["## Wrong organs: nothing must be found\n", _absent(wrong, with_split=False)]
    healthy = [row for row in rows if row.scores.kind == "no tumor"]
    if healthy:
        parts += ["## Scans without a tumor: false alarms\n", _absent(healthy, with_split=True)]
    return "\n".join(parts) + "\n"


def _groups(groups: Sequence[Group]) -> str:
    columns: list[tuple[str, str, int]] = [
        ("final", "dsc", 2), ("NSD 2 mm", "nsd_2mm", 2), ("lesion F1", "lesion_f1", 2),
        *((words, f"dsc_{kind}", 2) for kind, words in _PARTS.items()),
        *((words, name, 2) for name, words in _BASELINES.items()),
    ]
    heads = ["group", "scans", "patients", *(words for words, _, _ in columns)]
    lines = [[g.name, str(g.means["dsc"].cases), str(g.patients),
              *(_mean(g.means.get(name), digits, interval=name == "dsc")
                for _, name, digits in columns)] for g in groups]
    return _table(heads, lines)


def _verdict(everything: Group) -> str:
    """Whether the residuals help, in one sentence."""
    gain = everything.means.get("dsc_gain_of_residuals")
    if gain is None:
        return ""
    interval = "" if gain.low is None or gain.high is None else (
        f" (95 % interval {gain.low:+.3f} to {gain.high:+.3f})")
    return (f"Both residuals change the mean DSC of AOVA in the same candidates by "
            f"{gain.mean:+.3f}{interval}, over {gain.cases} scans.\n")


def _tumors(tumors: Sequence[Row], rows: Sequence[Row]) -> str:
    heads = ["scan", "prompt", "final", *_PARTS.values(), *_BASELINES.values(), "NSD 2 mm",
             "lesions found", "found, ml", "true, ml", "wrong-organ prompts", "s", "GB"]
    lines = []
    for row in tumors:
        case = row.scores
        parts = [case.ablation[kind].dsc if kind in case.ablation else None for kind in ABLATIONS]
        beside = [getattr(case.baselines, name) if case.baselines else None for name in _BASELINES]
        lines.append([
            row.scan, case.prompt, *map(_number, [case.measures.dsc, *parts, *beside]),
            _number(case.measures.nsd),
            f"{case.measures.lesions_found} of {case.measures.lesions}",
            _number(case.measures.segmented_ml, 1), _number(case.measures.reference_ml, 1),
            _wrong(row.scan, rows), _number(case.seconds, 0), _number(case.peak_gb, 1),
        ])
    return _table(heads, lines)


def _wrong(scan: str, rows: Sequence[Row]) -> str:
    """What other prompts found in the same scan: ml, and DSC with the tumor they do not name."""
    asked = [row.scores for row in rows if row.scan == scan and row.scores.kind == "wrong organ"]
    return "; ".join(
        f"{case.prompt}: nothing" if not case.found else
        f"{case.prompt}: {case.measures.segmented_ml:.1f} ml, DSC {_number(case.wrong_organ_dsc)}"
        for case in asked) or DASH


def _absent(rows: Sequence[Row], with_split: bool) -> str:
    extra: tuple[str, ...] = ("split",) if with_split else ("DSC with the tumor",)
    heads = ["scan", "prompt", *extra, "found, ml", *(f"{words}, ml" for words in _PARTS.values()),
             "highest score"]
    told: Callable[[Row], str] = (lambda row: row.split) if with_split else (
        lambda row: _number(row.scores.wrong_organ_dsc))
    lines = []
    for row in rows:
        case = row.scores
        parts = [case.ablation[kind].segmented_ml if kind in case.ablation else None
                 for kind in ABLATIONS]
        volumes = (_number(volume, 1) for volume in (case.measures.segmented_ml, *parts))
        lines.append([row.scan, case.prompt, told(row), *volumes, _number(case.highest_score)])
    right = sum(not row.scores.found for row in rows)
    mean = sum(row.scores.measures.segmented_ml for row in rows) / len(rows)
    return _table(heads, lines) + (
        f"\nNothing found, as it should be: {right} of {len(rows)}. "
        f"Mean: {mean:.1f} ml a prompt and scan.\n")


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def _number(value: float | None, digits: int = 2) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _mean(mean: Mean | None, digits: int, interval: bool) -> str:
    if mean is None:
        return DASH
    text = f"{mean.mean:.{digits}f}"
    if interval and mean.low is not None and mean.high is not None:
        text += f" ({mean.low:.{digits}f}\N{EN DASH}{mean.high:.{digits}f})"
    return text
