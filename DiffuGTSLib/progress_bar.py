"""The progress bar of the command line, on stderr; a terminal only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from DiffuGTSLib.meter import Meter
from DiffuGTSLib.progress import Callback

STAGES = {
    "read": "reading the scan",
    "encode": "encoding the scan",
    "attention": "looking for candidates",
    "inpaint": "painting healthy tissue",
    "residual": "comparing",
    "lesions": "measuring lesions",
}


@contextmanager
def bar(meter: Meter, prompts: Sequence[str]) -> Iterator[Callback]:
    """A callback that moves one bar over the whole run of `prompts`."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                  redirect_stdout=False, redirect_stderr=False) as progress:
        task = progress.add_task("starting", total=1.0, left="")

        def step(stage: str, done: int, total: int) -> None:
            fraction = meter.step(stage, done, total)
            left = meter.seconds_left
            progress.update(task, completed=fraction, description=STAGES.get(stage, stage),
                            left="" if left is None else f"about {left:.0f} s left")

        yield step
