"""What every command of the command line shares: options, exit codes, a clean stdout.

Exit codes: 0 done, 1 failed (one plain sentence on stderr), 2 wrong usage, 130 cancelled. With
--json a failure, or a cancel, is a document on stdout, too: {"error": {"code", "message", "hint",
"suggestions"}}.
Heavy packages are imported inside the commands, so that --help answers at once.

The progress bar of the command line, on stderr; a terminal only.
"""

from __future__ import annotations

import enum
import functools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, ParamSpec, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from DiffuGTSLib.errors import (
    Cancelled,
    DiffuGTSError,
    OutputNotWritten,
    PromptNotUnderstood,
    explain,
    plain_text,
)
from DiffuGTSLib.progress import Callback, ProgressEstimator
from DiffuGTSLib.scan.modality import MODALITIES, SEQUENCES

P = ParamSpec("P")
_SECONDS_BETWEEN_LINES = 15.0  # where stderr is a file and not a terminal
STAGES = {
    "read": "reading the scan",
    "sending": "sending the scan",
    "encode": "encoding the scan",
    "attention": "looking for candidates",
    "inpaint": "inpainting healthy tissue",
    "residual": "comparing",
    "lesions": "measuring lesions",
    "receiving": "receiving the result",
}


class ModalityChoice(enum.StrEnum):
    """What --modality takes: `scan.modality.MODALITIES`."""

    vars().update({name: name for name in MODALITIES})


class SequenceChoice(enum.StrEnum):
    """What --sequence takes: `scan.modality.SEQUENCES`."""

    vars().update({name: name for name in SEQUENCES})


ModelOption = Annotated[str, typer.Option(help="Catalogue name or folder of a model package.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
def _share(text: str) -> float:
    """A number from 0 to 1; "nan" is none, which a range does not notice."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{plain_text(text)[:20]} is no number from 0 to 1.")
    return value


ThresholdOption = Annotated[float | None, typer.Option(
    parser=_share, metavar="FLOAT", help="Of the score, 0 to 1; the model's own if not given.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Same seed, same mask.")]
SamplesOption = Annotated[int | None, typer.Option(
    min=1, max=100, help="Pseudo-healthy scans to draw.")]
ModalityOption = Annotated[ModalityChoice | None, typer.Option(
    help="Guessed if not given.", case_sensitive=False)]
SequenceOption = Annotated[SequenceChoice | None, typer.Option(
    help="Of MR scans; by their names if not given.", case_sensitive=False)]
StrippedOption = Annotated[bool | None, typer.Option(
    "--skull-stripped/--whole-head", help="Of MR scans; by their names if not given.")]


def _host(text: str) -> str:
    """A name of a computer; an empty one, as an unset variable gives it, is none."""
    if not text.strip():
        raise typer.BadParameter("it names no computer; leave it out to compute on this one.")
    return text


HostOption = Annotated[str | None, typer.Option(
    "--host", parser=_host, metavar="TEXT",
    help="Compute on another machine, over SSH: a name of ~/.ssh/config or user@host; "
    "with :PATH of diffugts there where it is not on the path.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, only that.")]


def plain_errors(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose failures end in one plain sentence on stderr and the right exit code.

    Where the command was called with `as_json`, they are a document on stdout as well.
    """

    @functools.wraps(command)
    def careful(*args: P.args, **kwargs: P.kwargs) -> None:
        fail = functools.partial(_fail, as_json=bool(kwargs.get("as_json")))
        try:
            command(*args, **kwargs)
            _flush()
        except (typer.Exit, typer.BadParameter):
            raise
        except (KeyboardInterrupt, Cancelled, typer.Abort):
            fail(Cancelled(), exit_code=130)
        except BrokenPipeError:
            # Whoever read the output has gone.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise typer.Exit(1) from None
        except Exception as error:
            fail(explain(error))

    return careful


def _fail(error: DiffuGTSError, as_json: bool, exit_code: int = 1) -> None:
    near = list(getattr(error, "suggestions", ()))
    nearest = near if isinstance(error, PromptNotUnderstood) else []  # others are in the hint
    hints = [error.hint, f"Nearest: {', '.join(nearest)}." if nearest else ""]
    with suppress(OSError):
        print(error.message, file=sys.stderr)
        if any(hints):
            print(f"Hint: {' '.join(hint for hint in hints if hint)}", file=sys.stderr)
    # Of several processes that train together (torchrun), the first one speaks for all.
    if as_json and os.environ.get("RANK", "0") == "0":
        with suppress(OSError, OutputNotWritten):
            print_json({"error": {"code": error.code, "message": error.message,
                                  "hint": error.hint, "suggestions": near}}, sys.stdout)
    raise typer.Exit(exit_code)


@contextmanager
def own_stdout(protect: bool) -> Iterator[TextIO]:
    """The true stdout; while `protect`ed, all else that prints (in C too) goes to stderr."""
    if not protect:
        yield sys.stdout
        return
    sys.stdout.flush()
    before, kept = sys.stdout, os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        out = os.fdopen(os.dup(kept), "w", encoding="utf-8")
        try:
            yield out
        finally:
            with suppress(OSError):  # print_json has reported it
                out.close()
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)


def print_json(document: dict[str, Any], out: TextIO) -> None:
    """One JSON document, the only thing on stdout with --json.

    Raises:
        OutputNotWritten: stdout leads to a full disk.
    """
    text = json.dumps(document, indent=1, allow_nan=False)
    with _whole_stdout():
        print(text, file=out, flush=True)


def _flush() -> None:
    """What is still in the buffer of stdout could otherwise fail after the last message."""
    with _whole_stdout():
        sys.stdout.flush()


@contextmanager
def _whole_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        # What is left in the buffer would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OutputNotWritten("The results could not be written to stdout.",
                               "Free some space on the disk, or write to another file.") from None


@contextmanager
def bar(estimator: ProgressEstimator, prompts: Sequence[str]) -> Iterator[Callback]:
    """A callback that moves one bar over the whole run of `prompts`.

    Where stderr is no terminal, a line says now and then how far the run is.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                  redirect_stdout=False, redirect_stderr=False) as progress:
        task = progress.add_task("starting", total=1.0, left="")
        last = time.monotonic()

        def step(stage: str, done: int, total: int) -> None:
            nonlocal last
            fraction = estimator.step(stage, done, total)
            seconds = estimator.seconds_left
            name, left = STAGES.get(stage, stage), ""
            if seconds is not None:
                left = f"about {seconds:.0f} s left"
            progress.update(task, completed=fraction, description=name, left=left)
            if not console.is_terminal and time.monotonic() - last > _SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                console.print(f"{name}, {fraction:.0%}{', ' if left else ''}{left}")

        yield step
