"""The command `diffugts batch`: many scans into one folder."""

from __future__ import annotations

import contextlib
import enum
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from DiffuGTSLib import cli_base
from DiffuGTSLib.cli_base import own_stdout, plain_errors, print_json

if TYPE_CHECKING:
    from DiffuGTSLib.batch import Summary
    from DiffuGTSLib.batch_executor import Executor


class FormatChoice(enum.StrEnum):
    """What --format takes."""

    seg_nrrd = "seg.nrrd"
    nii_gz = "nii.gz"


InputsArgument = Annotated[list[str], typer.Argument(
    help="Scans: files, folders, DICOM folders, patterns in quotes, tables (.csv, .json).")]
OutputOption = Annotated[Path, typer.Option(
    "--output", "-o", help="Folder for all results; made if need be.")]
PromptOption = Annotated[list[str] | None, typer.Option(
    "--prompt", "-p", help='What to look for, as "liver tumor"; may be repeated. '
    "Not needed where a table says it.")]
ResumeOption = Annotated[bool, typer.Option(
    "--resume", help="Go on with the run in the folder; what is done is not done again.")]
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
    maps: MapsOption = False, model: cli_base.ModelOption = "embedded",
    device: cli_base.DeviceOption = "auto", threshold: cli_base.ThresholdOption = None,
    seed: cli_base.SeedOption = 0, samples: cli_base.SamplesOption = None,
    modality: cli_base.ModalityOption = None, sequence: cli_base.SequenceOption = None,
    skull_stripped: cli_base.StrippedOption = None, as_json: cli_base.JsonOption = False,
    json_events: EventsOption = False,
) -> None:
    """Segment many scans; one that fails does not stop the others."""
    with own_stdout(as_json or json_events) as out:
        from DiffuGTSLib.batch import run_batch
        from DiffuGTSLib.batch_case import Settings
        from DiffuGTSLib.errors import DiffuGTSError

        if dicom_seg:
            from DiffuGTSLib.dicom_segmentation import check_installed

            check_installed()
        settings = Settings(
            model, device, threshold, seed, samples, modality.value if modality else None,
            sequence.value if sequence else None, skull_stripped, folder=output,
            suffix=f".{file_format.value}", dicom_seg=dicom_seg, maps=maps,
        )
        cancelled = threading.Event()
        with _signals(cancelled), _listener(json_events, cancelled, out) as listen:
            try:
                executor, place = _executor(jobs, cluster)
                summary = run_batch(inputs, prompt or (), settings, executor, resume=resume,
                                    place=place, listener=listen, cancelled=cancelled)
            except DiffuGTSError as error:
                _tell_error(error, listen, json_events)
                raise
        _tell(summary, as_json, json_events, out)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(batch)


def _executor(jobs: int | None, cluster: str | None) -> tuple[Executor, str]:
    """Where the cases are processed, and what to call it."""
    if cluster is not None:
        from DiffuGTSLib.cluster import RayExecutor

        return RayExecutor(cluster, jobs), "Ray cluster"
    from DiffuGTSLib.batch_processes import Processes

    count = jobs or 1
    return Processes(count), f"{count} process{'es' if count > 1 else ''}"


@contextmanager
def _signals(cancelled: threading.Event) -> Iterator[None]:
    """The first Ctrl+C, or kill, ends the run in good order; the second one at once."""

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
def _listener(
    json_events: bool, cancelled: threading.Event, out: TextIO
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What is told the events: the bar, or whoever reads stdout."""
    if not json_events:
        from DiffuGTSLib.batch_progress import console_listener

        with console_listener() as listen:
            yield listen
        return

    def send(event: dict[str, Any]) -> None:
        # Nobody reads any more: the run ends as if it was cancelled.
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


def _tell_error(
    error: Exception, listen: Callable[[dict[str, Any]], None], json_events: bool
) -> None:
    """The run cannot start or go on: an event too, beside the sentence on stderr."""
    if json_events:
        from DiffuGTSLib.batch_case import Failure

        listen({"type": "error", **asdict(Failure.of(error))})


def _tell(summary: Summary, as_json: bool, json_events: bool, out: TextIO) -> None:
    if as_json:
        print_json(document(summary), out)
    elif not json_events:
        from DiffuGTSLib.batch_progress import print_summary

        print_summary(summary, out)


def document(summary: Summary) -> dict[str, Any]:
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
