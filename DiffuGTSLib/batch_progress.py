"""What a batch shows on the console: a bar on stderr while it runs, a summary after it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from DiffuGTSLib.batch import Listener, Summary
from DiffuGTSLib.batch_report import duration
from DiffuGTSLib.progress_bar import STAGES

if TYPE_CHECKING:
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 60.0  # where stderr is a file and not a terminal
_MOST_FAILURES = 20
_LONGEST_NAME = 32
_STAGES = STAGES | {"write": "writing the results"}


@contextmanager
def console_listener() -> Iterator[Listener]:
    """A listener that shows the cases, the stage and the time left; lines now and then where
    stderr is no terminal. Those name no case: they end up in logs."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal,
                  redirect_stdout=False, redirect_stderr=False) as progress:
        shown = _Shown(progress, progress.add_task("loading the model", total=1.0, left=""))
        yield shown.tell


class _Shown:
    """Turns events into a bar or lines."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._total = self._ended = self._failed = 0
        self._last = time.monotonic()

    def tell(self, event: dict[str, Any]) -> None:
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
        if len(name) > _LONGEST_NAME:
            name = f"{name[: _LONGEST_NAME - 1]}…"
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


def print_summary(summary: Summary, out: TextIO) -> None:
    """What was done, what failed and why, and where the results are."""
    console = Console(file=out, highlight=False, markup=False)
    if summary.cancelled:
        left = f"{summary.waiting} waiting, g" if summary.waiting else "G"
        console.print(f"Cancelled. What is finished stays. {left}o on with --resume.")
    counts = {"done": summary.done, "done before": summary.kept, "failed": summary.failed,
              "skipped": summary.skipped, "waiting": summary.waiting}
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    console.print(f"{told or 'No case was run'}; {duration(summary.seconds)}.")
    if summary.left_out.count:
        console.print(summary.left_out.sentence, soft_wrap=True)
    notes = Counter(note for row in summary.rows if row.outcome for note in row.outcome.notes)
    for note, count in notes.items():
        console.print(f"{count} case{'s' if count > 1 else ''}: {note}", soft_wrap=True)
    failed = [row for row in summary.rows if row.status == "failed" and row.problem]
    if failed:
        table = Table("failed", "why", box=None)
        for row in failed[:_MOST_FAILURES]:
            table.add_row(row.case.name, row.problem.message if row.problem else "")
        console.print(table)
        if len(failed) > _MOST_FAILURES:
            console.print(f"{len(failed) - _MOST_FAILURES} more are in cases.csv.")
    console.print(f"Report: {summary.report}", soft_wrap=True)
