"""Validation of the embedded model: unseen patients, wrong organs, scans without tumors.

The scoring is that of `diffugts evaluate`; here are the prompts of each scan, and the tables of
docs/validation.md as Markdown.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.datasets import DataSet, LabelledCase
from DiffuGTSLib.errors import BadDataSet, InvalidOption
from DiffuGTSLib.evaluation.child_process import CaseFailure, CaseScorer
from DiffuGTSLib.evaluation.evaluate import (
    EARLIER,
    CaseOutcome,
    Evaluation,
    choose,
    evaluate,
    model_fingerprint,
)
from DiffuGTSLib.evaluation.report import write_report
from DiffuGTSLib.evaluation.scoring import ABLATIONS, CaseScores, EvaluationSettings
from DiffuGTSLib.evaluation.tables import Group, Mean, Summary, group, summarise, write_tables
from DiffuGTSLib.files import write_atomically
from DiffuGTSLib.models import Card
from DiffuGTSLib.models.card import Measured
from DiffuGTSLib.pipeline import Options
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.training.data.cases import TrainingCase, read_cases
from DiffuGTSLib.training.data.examples import has_enough_slices

DATASET = "validation scans of the embedded model"
TABLE = "table.md"
MEASURE = "mean Dice of the final mask, validation patients"
WIDTH = 900  # pixels of a picture in the docs, which keeps them under 300 kB
_FOR_THE_DOCS = (TABLE, "cases.csv", "groups.csv")
SEQUENCES = {"t1": "T1", "t1c": "T1 Gd", "t2": "T2", "flair": "FLAIR"}
DASH = "\N{EN DASH}"
_PARTS = {"map": "AOVA map", "attention": "AOVA", "pixel": "+ pixel", "feature": "+ feature",
          "both": "+ both"}
_WITH_INTERVAL = ("dsc", "dsc_gain_of_refinement")
_BASELINES = {"intensity": "best intensity threshold", "centre": "centre prior",
              "best_score": "best t", "auroc_map": "AUROC"}


@dataclass(frozen=True)
class Task:
    """One scan and one prompt.

    Attributes:
        group: rows of one group are averaged.
        wrong_organ: the prompt does not name what the mask outlines.
    """

    scan: TrainingCase
    prompt: str
    group: str
    wrong_organ: bool = False

    @property
    def name(self) -> str:
        """The case's name, and its picture's."""
        return f"{self.scan.name}_{self.prompt.replace(' ', '_')}"

    @property
    def labelled(self) -> LabelledCase:
        """The task as a case of an evaluation."""
        scan = self.scan
        return LabelledCase(
            name=self.name, patient=scan.patient, image=scan.folder / "image.nii.gz",
            prompt=self.prompt, modality=scan.modality, sequence=scan.sequence,
            skull_stripped=scan.skull_stripped,
            mask=scan.folder / f"{scan.lesion_mask}.nii.gz" if scan.lesion_mask else None,
            dataset="validation", group=self.group, wrong_organ=self.wrong_organ,
        )


def tasks(cases: Sequence[TrainingCase]) -> list[Task]:
    """The prompts for the scans of validation patients, and for scans of healthy ones.

    Prompts of one scan are consecutive, so that it is encoded once.
    """
    listed: list[Task] = []
    for case in cases:
        if case.split == "validation" and case.lesion_mask and has_enough_slices(case):
            prompt = case.prompt or case.kind.asked[0]
            listed.append(Task(case, prompt, title(case)))
            listed += [Task(case, wrong, "wrong organ", wrong_organ=True)
                       for wrong in case.kind.wrong_prompts]
        elif case.healthy:
            listed += [Task(case, asked, f"no tumor: {case.kind.title}")
                       for asked in case.kind.asked]
    return listed


def title(case: TrainingCase) -> str:
    """The group of a scan: what is scored together."""
    if not case.sequence or case.kind.organs != "brain":
        return f"{case.kind.title} {case.modality}"
    whole = "" if case.skull_stripped else ", whole head"
    return f"{case.kind.title} {SEQUENCES[case.sequence]}{whole}"


def run(
    data: Sequence[Path], output: Path, model: str, only: Sequence[str] | None = None,
    threads: int = 2, docs: Path | None = None, scorer: CaseScorer | None = None,
) -> Evaluation:
    """Scores every task and writes tables, figures, the report and table.md into `output`.

    Started again, it goes on where it was; other weights are scored anew.

    Args:
        data: folders, each with manifest.json and the scans.
        only: names of scans; None: all of them.
        docs: folder that gets the tables, and anew the pictures that lie there already.
        scorer: scores the cases; a `ScoringProcess` if None.

    Raises:
        BadDataSet: a name in `only` is none of the scans.
    """
    listed = _tasks_of(data)
    unknown = sorted(set(only or ()) - {task.scan.name for task in listed})
    if unknown:
        raise BadDataSet(f"No scan is called {', '.join(unknown)}.",
                         f"Scans: {', '.join(dict.fromkeys(t.scan.name for t in listed))}.")
    selected = {task.name: task for task in listed if not only or task.scan.name in only}
    cases = tuple(task.labelled for task in selected.values())
    name = DATASET if len(cases) == len(listed) else f"{len(cases)} of {len(listed)} {DATASET}"
    dataset = choose(DataSet(name, "", cases))
    done = evaluate(dataset, output, _settings(model, threads), on_outcome=_report, scorer=scorer)
    summary = summarise(done.cases)
    write_tables(done, summary, output)
    write_report(done, summary, output)
    rows = [ValidationRow(scan.name, scan.split, case) for case in done.cases
            for scan in (selected[case.name].scan,)]
    write_atomically(output / TABLE, markdown(rows, summary).encode("utf-8"))
    if docs is not None:
        _copy(output, docs)
    return done


def _tasks_of(data: Sequence[Path]) -> list[Task]:
    return tasks([case for root in data for case in read_cases(root)])


def _settings(model: str, threads: int | None = None) -> EvaluationSettings:
    return EvaluationSettings(
        Options(model, "cpu"), ablation=True, baselines=True, threads=threads)


def _copy(output: Path, docs: Path) -> None:
    docs.mkdir(parents=True, exist_ok=True)
    for name in _FOR_THE_DOCS:
        shutil.copyfile(output / name, docs / name)
    for picture in docs.glob("*.png"):
        if (output / "figures" / picture.name).is_file():
            _copy_small(output / "figures" / picture.name, picture)


def _copy_small(source: Path, target: Path) -> None:
    """A smaller picture in 256 colours, as the repository's history keeps every version."""
    from PIL import Image

    with Image.open(source) as picture:
        shown = picture.convert("RGB")
        shown.thumbnail((WIDTH, WIDTH))
        shown.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def _report(done: int, total: int, outcome: CaseOutcome, kept: bool) -> None:
    if isinstance(outcome, CaseFailure):
        text = f"{outcome.case}: not scored. {outcome.message}"
    else:
        dsc = outcome.measures.dsc
        score = f"{outcome.measures.segmented_ml:8.1f} ml" if dsc is None else f"DSC {dsc:.3f}"
        text = f"{outcome.name:36s} {outcome.kind:12s} {score:12s} {outcome.seconds:4.0f} s"
    print(f"[{done}/{total}] {text}{EARLIER * kept}", flush=True)


def record(scores: Path, model: Path, data: Sequence[Path] = ()) -> None:
    """Writes the mean Dice of each group of tumors into the card of a package.

    Args:
        scores: scores.json of a validation of it, by `run`.
        data: folders of which every task has to be scored; none: those that `run` was given.

    Raises:
        InvalidOption: it is not what `run` writes when all scans are scored, or is of other weights
            or thresholds.
    """
    try:
        document = json.loads(scores.read_text(encoding="utf-8"))
        cases = document["cases"]
        expected = _expected(document, model, {task.name for task in _tasks_of(data)})
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidOption("output", "a folder that validate wrote") from None
    if expected:
        raise InvalidOption("output", expected)
    groups: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        if case["kind"] == "tumor":
            groups.setdefault(case["group"], []).append(case)
    measured = tuple(_measured(name, cases) for name, cases in groups.items())
    figures = {m.group: round(m.dsc, 4) for m in measured}
    card = replace(Card.read(model), validation=measured,
                   scores={"measure": MEASURE, **figures})
    card.write(model)


def _expected(document: Mapping[str, Any], model: Path, names: Set[str]) -> str:
    """What scores would have to be instead, to be cited as those of the model; "" if they may be.

    Args:
        document: of scores.json.
        names: of tasks that have to be among them.
    """
    if document["model"]["sha256"] != model_fingerprint(model):
        return "the validation of this model, not of other weights or thresholds"
    if document["version"] != __version__:
        return f"a validation by this version ({__version__}), not by {document['version']}"
    wanted, found = _settings("").as_dict(), document["settings"]
    other = [name for name in wanted if name not in ("model", "threads")
             and found[name] != wanted[name]]
    if other:
        return f"a validation with the settings of validate; others are {', '.join(other)}"
    if failed := [failure["case"] for failure in document["failures"]]:
        return (f"a validation of which no scan failed, as {failed[0]} did; "
                "validate tries those again")
    if document["dataset"] != DATASET:
        return f"a validation of all scans, not of “{document['dataset']}”"
    if missing := sorted(names - {case["name"] for case in document["cases"]}):
        return f"a validation of all scans; {len(missing)} are missing, {missing[0]} among them"
    return ""


def _measured(group: str, cases: Sequence[Mapping[str, Any]]) -> Measured:
    first = cases[0]
    sequences = {case["sequence"] for case in cases}
    dsc = sum(case["measures"]["dsc"] for case in cases) / len(cases)
    return Measured(
        group, understand(first["prompt"]).anatomy, first["modality"],
        sequences.pop() if len(sequences) == 1 else "", len({c["patient"] for c in cases}),
        round(dsc, 4))


@dataclass(frozen=True)
class ValidationRow:
    """The scores of one prompt for a scan, with the scan's split."""

    scan: str
    split: str
    scores: CaseScores


def markdown(rows: Sequence[ValidationRow], summary: Summary) -> str:
    """All tables: tumors by group and by scan, wrong organs, scans without a tumor."""
    tumors = [row for row in rows if row.scores.kind == "tumor"]
    parts = []
    if tumors:
        # Both sides have the same patients, so the gain is computed scan by scan.
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
        ("final", "dsc", 2), ("gain of the refinement", "dsc_gain_of_refinement", 3),
        ("NSD 2 mm", "nsd_2mm", 2), ("lesion F1", "lesion_f1", 2),
        *((words, f"dsc_{kind}", 2) for kind, words in _PARTS.items()),
        *((words, name, 2) for name, words in _BASELINES.items()),
    ]
    heads = ["group", "scans", "patients", *(words for words, _, _ in columns)]
    lines = [[g.name, str(g.means["dsc"].cases), str(g.patients),
              *(_mean(g.means.get(name), digits, interval=name in _WITH_INTERVAL)
                for _, name, digits in columns)] for g in groups]
    return _table(heads, lines)


def _verdict(everything: Group) -> str:
    """Whether the refinement helps, in one sentence."""
    gain = everything.means.get("dsc_gain_of_refinement")
    if gain is None:
        return ""
    interval = "" if gain.low is None or gain.high is None else (
        f" (95 % interval {gain.low:+.3f} to {gain.high:+.3f})")
    return (f"The refinement changes the mean DSC of AOVA in the same candidates by "
            f"{gain.mean:+.3f}{interval}, over {gain.cases} scans.\n")


def _tumors(tumors: Sequence[ValidationRow], rows: Sequence[ValidationRow]) -> str:
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
            _number(case.measures.segmented_ml), _number(case.measures.reference_ml),
            _wrong(row.scan, rows), _number(case.seconds, 0), _number(case.peak_gb, 1),
        ])
    return _table(heads, lines)


def _wrong(scan: str, rows: Sequence[ValidationRow]) -> str:
    """Findings of wrong-organ prompts in the same scan: ml, and DSC with its tumor."""
    wrong = [row.scores for row in rows if row.scan == scan and row.scores.kind == "wrong organ"]
    return "; ".join(
        f"{case.prompt}: nothing" if not case.found else
        f"{case.prompt}: {case.measures.segmented_ml:.2f} ml, DSC {_number(case.wrong_organ_dsc)}"
        for case in wrong) or DASH


def _absent(rows: Sequence[ValidationRow], with_split: bool) -> str:
    extra: tuple[str, ...] = ("split",) if with_split else ("DSC with the tumor",)
    heads = ["scan", "prompt", *extra, "found, ml", *(f"{words}, ml" for words in _PARTS.values()),
             "highest score"]
    extra_cell: Callable[[ValidationRow], str] = (lambda row: row.split) if with_split else (
        lambda row: _number(row.scores.wrong_organ_dsc))
    lines = []
    for row in rows:
        case = row.scores
        parts = [case.ablation[kind].segmented_ml if kind in case.ablation else None
                 for kind in ABLATIONS]
        volumes = (_number(volume) for volume in (case.measures.segmented_ml, *parts))
        lines.append([row.scan, case.prompt, extra_cell(row), *volumes,
                      _number(case.highest_score)])
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
