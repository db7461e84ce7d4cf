"""The command `diffugts batch`: many scans into one folder.

Shows a progress bar on stderr while the batch runs, and a summary after it.
"""

from __future__ import annotations

import contextlib
import enum
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from DiffuGTSLib.batch.driver import BatchSummary, OnEvent
from DiffuGTSLib.batch.report import duration
from DiffuGTSLib.cli import common
from DiffuGTSLib.cli.common import STAGES, own_stdout, plain_errors, print_json

if TYPE_CHECKING:
    from rich.progress import TaskID

    from DiffuGTSLib.batch.driver import BatchSummary
    from DiffuGTSLib.batch.executor import Executor

_SECONDS_BETWEEN_LINES = 60.0  # where stderr is a file and not a terminal
_MAX_FAILURES = 20
_MAX_NAME = 32
_STAGES = STAGES | {"write": "writing the results"}


class FormatChoice(enum.StrEnum):
    """What --format takes."""

    seg_nrrd = "seg.nrrd"
    nii_gz = "nii.gz"


InputsArgument = Annotated[list[str], typer.Argument(
    help="Scans: files, folders, DICOM folders, patterns in quotes, tables (.csv, .json).")]
OutputOption = Annotated[Path, typer.Option(
    "--output", "-o", help="Folder for all results; created if need be.")]
PromptOption = Annotated[list[str] | None, typer.Option(
    "--prompt", "-p", help='What to look for, as "liver tumor"; may be repeated. '
    "Not needed where a table has it.")]
ResumeOption = Annotated[bool, typer.Option(
    "--resume", help="Continue the run in the folder; finished cases are kept.")]
JobsOption = Annotated[int | None, typer.Option(
    min=1, help="Scans at the same time: processes on the CPU, or GPUs.")]
ClusterOption = Annotated[str | None, typer.Option(
    help="Run on a Ray cluster: its address, or auto.")]
FormatOption = Annotated[FormatChoice, typer.Option("--format", help="Of the segmentations.")]
DicomSegOption = Annotated[bool, typer.Option(
    "--dicom-seg", help="Also write DICOM segmentations of scans that are DICOM.")]
MapsOption = Annotated[bool, typer.Option(
    "--maps", help="Also write attention, pseudo-healthy scan, residual and more.")]
EventsOption = Annotated[bool, typer.Option(
    "--json-events", help="Print JSON lines while running; cancelled when stdin closes.")]


@plain_errors
def batch(
    inputs: InputsArgument, output: OutputOption, prompt: PromptOption = None,
    resume: ResumeOption = False, jobs: JobsOption = None, cluster: ClusterOption = None,
    file_format: FormatOption = FormatChoice.seg_nrrd, dicom_seg: DicomSegOption = False,
    maps: MapsOption = False, model: common.ModelOption = "embedded",
    device: common.DeviceOption = "auto", threshold: common.ThresholdOption = None,
    seed: common.SeedOption = 0, samples: common.SamplesOption = None,
    modality: common.ModalityOption = None, sequence: common.SequenceOption = None,
    skull_stripped: common.StrippedOption = None, host: common.HostOption = None,
    as_json: common.JsonOption = False, json_events: EventsOption = False,
) -> None:
    """Segment many scans; one that fails does not stop the others."""
    with own_stdout(as_json or json_events) as out:
        from DiffuGTSLib.batch import BatchSettings, run_batch
        from DiffuGTSLib.errors import DiffuGTSError
        from DiffuGTSLib.pipeline import Options

        if dicom_seg:
            from DiffuGTSLib.scan.dicom_seg import check_installed

            check_installed()
        options = Options(model, device, threshold, seed, samples, modality, sequence,
                          skull_stripped)
        settings = BatchSettings(options, output, f".{file_format.value}", dicom_seg, maps,
                                 host or "")
        _check_host(settings.host, cluster)
        cancelled = threading.Event()
        with _signals(cancelled), _event_handler(json_events, cancelled, out) as on_event:
            try:
                executor, name = _executor(jobs, cluster)
                summary = run_batch(inputs, prompt or (), settings, executor, resume=resume,
                                    executor_name=name, on_event=on_event,
                                    cancelled=cancelled)
            except DiffuGTSError as error:
                _send_error(error, on_event, json_events)
                raise
        _print_result(summary, as_json, json_events, out)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(batch)


def _check_host(host: str, cluster: str | None) -> None:
    """Refuses what cannot work, before a folder is made."""
    from DiffuGTSLib.errors import InvalidOption

    if host and cluster is not None:
        raise InvalidOption("host", "left out where --cluster is given")
    if host:
        from DiffuGTSLib.remote.address import Address

        Address.parse(host)


def _executor(jobs: int | None, cluster: str | None) -> tuple[Executor, str]:
    """The executor and its description for run.json."""
    if cluster is not None:
        from DiffuGTSLib.batch.ray_executor import RayExecutor

        return RayExecutor(cluster, jobs), "Ray cluster"
    from DiffuGTSLib.batch.local_executor import LocalExecutor

    count = jobs or 1
    return LocalExecutor(count), f"{count} process{'es' if count > 1 else ''}"


@contextmanager
def _signals(cancelled: threading.Event) -> Iterator[None]:
    """The first Ctrl+C, or kill, ends the run cleanly; the second one at once."""

    def cancel(number: int, frame: Any) -> None:
        cancelled.set()
        for one in caught:
            signal.signal(one, signal.default_int_handler)
        print("Ending. Once more to end at once.", file=sys.stderr)

    caught = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(one, cancel) for one in caught]
    try:
        yield
    finally:
        for one, handler in zip(caught, before, strict=True):
            signal.signal(one, handler)


@contextmanager
def _event_handler(
    json_events: bool, cancelled: threading.Event, out: TextIO
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Handles the events: with the progress bar, or as JSON lines on stdout."""
    if not json_events:
        with progress_bar() as on_event:
            yield on_event
        return

    def send(event: dict[str, Any]) -> None:
        # Nobody reads stdout any more: cancel the run.
        try:
            print(json.dumps(event, allow_nan=False), file=out, flush=True)
        except OSError:
            cancelled.set()

    threading.Thread(target=_wait_for_cancel, args=(cancelled,), daemon=True).start()
    yield send


def _wait_for_cancel(cancelled: threading.Event) -> None:
    """Sets the event once stdin closes or says {"type": "cancel"}, and says so on stderr."""
    for line in sys.stdin:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            if json.loads(line)["type"] == "cancel":
                break
    cancelled.set()
    with contextlib.suppress(OSError):  # whoever started this may be gone
        print("Ending.", file=sys.stderr, flush=True)


def _send_error(
    error: Exception, on_event: Callable[[dict[str, Any]], None], json_events: bool
) -> None:
    """Where the run cannot start or go on: an event besides the message on stderr."""
    if json_events:
        from DiffuGTSLib.batch.case import BatchFailure

        on_event({"type": "error", **asdict(BatchFailure.of(error))})


def _print_result(summary: BatchSummary, as_json: bool, json_events: bool, out: TextIO) -> None:
    if as_json:
        print_json(document(summary), out)
    elif not json_events:
        print_summary(summary, out)


def document(summary: BatchSummary) -> dict[str, Any]:
    """The JSON document of a run."""
    cases = [
        row.case.as_dict() | {
            "status": row.status,
            "error": asdict(row.problem) if row.problem else None,
            "modality": row.outcome.modality if row.outcome else "",
            "results": row.outcome.prompts if row.outcome else [],
            "files": row.outcome.files if row.outcome else {},
        }
        for row in summary.rows
    ]
    return summary.numbers() | {
        "folder": str(summary.folder), "report": str(summary.report),
        "left_out": summary.left_out.as_dict(), "cases": cases,
    }


@contextmanager
def progress_bar() -> Iterator[OnEvent]:
    """Shows the cases, the stage and the time left; where stderr is no terminal, a line at times.

    Such a line names no case, as it ends up in logs.
    """
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                  redirect_stdout=False, redirect_stderr=False) as progress:
        shown = _Shown(progress, progress.add_task("loading the model", total=1.0, left=""))
        yield shown.handle


class _Shown:
    """Turns events into a bar or lines."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._total = self._ended = self._failed = 0
        self._last = time.monotonic()

    def handle(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "started":
            self._total = sum(case["status"] != "skipped" for case in event["cases"])
            self._ended = event["kept"]
        elif kind in ("case-done", "case-failed"):
            self._ended += 1
        if kind == "case-failed":
            self._failed += 1
            if self._progress.console.is_terminal:
                text = escape(f"{event['case']}: {event['message']}")
                self._progress.console.print(f"[red]failed[/red] {text}")
        if kind == "progress":
            self._show(event)

    def _show(self, event: dict[str, Any]) -> None:
        left = event["seconds_left"]
        left = "" if left is None else f"about {duration(left)} left"
        name = event["case"]
        if len(name) > _MAX_NAME:
            name = f"{name[: _MAX_NAME - 1]}…"
        doing = f"{name}: {_STAGES.get(event['stage'], event['stage'])}"
        self._progress.update(self._task, completed=event["overall"], left=left,
                              description=f"{self._count()}  {escape(doing)}")
        now = time.monotonic()
        if not self._progress.console.is_terminal and now - self._last > _SECONDS_BETWEEN_LINES:
            self._last = now
            self._progress.console.print(f"{self._count()}{', ' if left else ''}{left}")

    def _count(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._ended} of {self._total} cases{failed}"


def print_summary(summary: BatchSummary, out: TextIO) -> None:
    """What was done, what failed and why, and where the results are."""
    console = Console(file=out, highlight=False, markup=False)
    if summary.cancelled:
        left = f"{summary.waiting} waiting, g" if summary.waiting else "G"
        console.print(f"Cancelled. Finished cases stay. {left}o on with --resume.")
    counts = {"done": summary.done, "done before": summary.kept, "failed": summary.failed,
              "skipped": summary.skipped, "waiting": summary.waiting,
              "of scans that are not among the inputs": summary.others}
    text = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    console.print(f"{text or 'No case was run'}; {duration(summary.seconds)}.")
    if summary.left_out.count:
        console.print(summary.left_out.sentence, soft_wrap=True)
    notes = Counter(note for row in summary.rows if row.outcome for note in row.outcome.notes)
    for note, count in notes.items():
        console.print(f"{count} case{'s' if count > 1 else ''}: {note}", soft_wrap=True)
    failed = [row for row in summary.rows if row.status == "failed" and row.problem]
    if failed:
        table = Table("failed", "why", box=None)
        for row in failed[:_MAX_FAILURES]:
            table.add_row(row.case.name, row.problem.message if row.problem else "")
        console.print(table)
        if len(failed) > _MAX_FAILURES:
            console.print(f"{len(failed) - _MAX_FAILURES} more are in cases.csv.")
    console.print(f"Report: {summary.report}", soft_wrap=True)
