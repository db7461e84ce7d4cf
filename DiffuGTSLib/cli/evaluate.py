"""The commands `diffugts evaluate` (scores of a data set, as tables and a report) and
`diffugts data check` (what a folder of public data holds, and what is wrong with it)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from DiffuGTSLib.cli.common import (
    DeviceOption,
    JsonOption,
    ModelOption,
    own_stdout,
    plain_errors,
    print_json,
)

if TYPE_CHECKING:
    from DiffuGTSLib.evaluation.evaluate import CaseOutcome
    from DiffuGTSLib.evaluation.tables import Summary

_SECONDS_BETWEEN_LINES = 15.0  # where stderr is a file and not a terminal
data = typer.Typer(no_args_is_help=True, help="Look at data sets before they are used.",
                   rich_markup_mode=None)


@plain_errors
def evaluate(
    cases: Annotated[Path, typer.Argument(
        help="CASES.json, or a decathlon, KiTS23 or BraTS23 folder as published.")],
    output: Annotated[Path, typer.Option(
        "--output", "-o", help="Folder for tables, figures and report; made if missing.")],
    model: ModelOption = "embedded",
    device: DeviceOption = "auto",
    threshold: Annotated[float | None, typer.Option(
        min=0, max=1, help="Of the score; the model's own if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same scores.")] = 0,
    samples: Annotated[int | None, typer.Option(
        min=1, max=100, help="Pseudo-healthy scans to draw.")] = None,
    only: Annotated[list[str] | None, typer.Option(
        help='Cases by name, as "*_flair"; may be repeated.')] = None,
    limit: Annotated[int | None, typer.Option(
        min=1, help="Maximum number of cases per group.")] = None,
    ablation: Annotated[bool, typer.Option(
        "--ablation", help="Score AOVA alone, with each residual and with both, too.")] = False,
    baselines: Annotated[bool, typer.Option(
        "--baselines", help="Measure the best threshold of the raw intensity and others.")] = False,
    zero_shot: Annotated[bool, typer.Option(
        "--zero-shot", help="Refuse a model that was trained on masks of a class.")] = False,
    figures: Annotated[bool, typer.Option(
        help="Draw an overview of each case.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Score a model on labelled scans; started again, it resumes."""
    with own_stdout(as_json) as out:
        from DiffuGTSLib.datasets import read_dataset
        from DiffuGTSLib.datasets.check import note_lines
        from DiffuGTSLib.evaluation.evaluate import choose, refuse_other
        from DiffuGTSLib.evaluation.evaluate import evaluate as run_evaluation
        from DiffuGTSLib.evaluation.report import write_report
        from DiffuGTSLib.evaluation.scoring import EvaluationSettings
        from DiffuGTSLib.evaluation.tables import document, summarise, write_tables
        from DiffuGTSLib.pipeline import Options

        dataset = choose(read_dataset(cases), only or (), limit)
        options = Options(model, device, threshold, seed, samples)
        settings = EvaluationSettings(options, ablation, baselines, figures)
        refuse_other(output, settings)
        count = len(dataset.cases)
        typer.echo(f"{count} case{'s' if count > 1 else ''} of {dataset.name}", err=True)
        done = run_evaluation(dataset, output, settings, zero_shot=zero_shot, on_outcome=_report)
        summary = summarise(done.cases)
        write_tables(done, summary, output)
        report = write_report(done, summary, output)
        if as_json:
            print_json(document(done, summary) | {"report": str(report.absolute())}, out)
        else:
            _print(summary, out)
            for line in note_lines([(case.name, case.notes) for case in done.cases]):
                print(line, file=out)
            print(f"Report: {report}", file=out)
    if done.failures:
        typer.echo(f"{len(done.failures)} of {len(dataset.cases)} cases could not be scored; "
                   "see the report for the reasons.", err=True)
        raise typer.Exit(1)


def _report(done: int, total: int, outcome: CaseOutcome, kept: bool) -> None:
    """One line per case on stderr."""
    from DiffuGTSLib.evaluation.child_process import CaseFailure
    from DiffuGTSLib.evaluation.evaluate import EARLIER

    if isinstance(outcome, CaseFailure):
        text = f"{outcome.case}: not scored. {outcome.message}"
    elif outcome.measures.dsc is None:
        text = f"{outcome.name}: {outcome.kind}, {outcome.measures.segmented_ml:.2f} ml segmented"
    else:
        text = f"{outcome.name}: DSC {outcome.measures.dsc:.3f}, {outcome.seconds:.0f} s"
    typer.echo(f"[{done}/{total}] {text}{EARLIER * kept}", err=True)


def _print(summary: Summary, out: TextIO) -> None:
    """The groups, for a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    known = (("DSC", "dsc"), ("NSD 2 mm", "nsd_2mm"), ("lesion F1", "lesion_f1"),
             ("no tumor right", "no_tumor_right"), ("false alarm, ml", "false_alarm_ml"))
    groups = [*summary.groups, summary.everything] if len(summary.groups) > 1 else summary.groups
    # No column without values, as that of false alarms where every scan has a tumor.
    columns = [c for c in known if any(c[1] in group.means for group in groups)]
    for heading in ("group", "cases", *(heading for heading, _ in columns)):
        table.add_column(heading, justify="left" if heading == "group" else "right",
                         no_wrap=heading == "group")
    for group in groups:
        means = (group.means.get(name) for _, name in columns)
        table.add_row(group.name, str(group.cases),
                      *("" if mean is None else f"{mean.mean:.3f}" for mean in means))
    Console(file=out, highlight=False, markup=False).print(table)


def register(app: typer.Typer) -> None:
    """Adds `evaluate` to the commands of `app`."""
    app.command()(evaluate)


@data.callback()
def _commands() -> None:
    """Keeps `check` a subcommand, also while it is the only one."""


@data.command()
@plain_errors
def check(
    folder: Annotated[Path, typer.Argument(
        help="Decathlon, KiTS23 or BraTS23 folder as published, a CASES.json, or a training "
             "folder with a manifest.json.")],
    as_json: JsonOption = False,
) -> None:
    """Report what a data set holds and what is wrong with it; exit code 1 if a case is unusable."""
    with own_stdout(as_json) as out:
        from rich.console import Console
        from rich.progress import Progress

        from DiffuGTSLib.datasets import read_dataset
        from DiffuGTSLib.datasets.check import check as examine
        from DiffuGTSLib.datasets.check import lines
        from DiffuGTSLib.datasets.folder import is_manifest
        from DiffuGTSLib.training.data.cases import check_manifest

        console = Console(stderr=True)
        last_line = time.monotonic()
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("checking")

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)
                nonlocal last_line
                now = time.monotonic()
                if not console.is_terminal and now - last_line > _SECONDS_BETWEEN_LINES:
                    last_line = now
                    console.print(f"{done} of {total} cases")

            report = (check_manifest(folder, progress) if is_manifest(folder)
                      else examine(read_dataset(folder), progress))
        if as_json:
            print_json(report.as_dict(), out)
        else:
            print("\n".join(lines(report)), file=out)
    if not report.usable:
        raise typer.Exit(1)


def register_data(app: typer.Typer) -> None:
    """Adds `data` to the commands of `app`."""
    app.add_typer(data, name="data")
