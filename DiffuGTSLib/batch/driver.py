"""Many scans: finds the cases, runs them on an executor, keeps the results in one folder.

The driver reads no volume and runs no network. It gives cases to an executor, keeps their records
and reports progress by calling `on_event` with plain dictionaries:

    started       total, waiting, kept (done by an earlier run), folder, the processor's facts,
                  left_out (count and examples of files that are no scans), cases: of each case,
                  image, series, prompts and status
    case-started  case, index, total
    progress      case, stage, done, total, fraction (of the case), overall (0..1), seconds_left
    case-done     case, image, series, prompts (as report.describe), lesions, volume_ml, seconds,
                  segmentation (absolute path), thumbnails, notes (on what could not be made)
    case-failed   case, image, series, code, message, hint, seconds
    finished      done, failed, kept, skipped, waiting, others, cancelled, seconds,
                  network_seconds, folder, report, exit_code
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from DiffuGTSLib.batch.case import BatchFailure, BatchSettings, Case, Outcome
from DiffuGTSLib.batch.executor import Executor
from DiffuGTSLib.batch.inputs import (
    BatchEntry,
    LeftOut,
    gather,
    name_cases,
    refuse_own_outputs,
)
from DiffuGTSLib.batch.output_folder import CaseRow, OutputFolder, write_tables
from DiffuGTSLib.batch.report import REPORT, write_report
from DiffuGTSLib.errors import OutputNotWritten

OnEvent = Callable[[dict[str, Any]], None]
# At most this fraction of the time goes into tables and report while cases are running.
_MAX_SHARE_OF_REPORTING = 0.02
_SECONDS_BETWEEN_REPORTS = 30.0
_TOO_EARLY_SECONDS, _TOO_EARLY_FRACTION = 2.0, 0.01


@dataclass(frozen=True)
class BatchSummary:
    """How a batch went.

    Attributes:
        done: in this run; `kept` were done by an earlier one.
        skipped: DICOM series that are no scans.
        network_seconds: of all cases; divided by `seconds` and the number of workers, the
            fraction of time in which the networks ran.
        rows: of all cases in the folder.
        left_out: files among the inputs that are no scans.
    """

    folder: Path
    rows: list[CaseRow]
    done: int
    kept: int
    failed: int
    skipped: int
    cancelled: bool
    seconds: float
    network_seconds: float
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def waiting(self) -> int:
        """Cases that have not run; there are some only where the run was cancelled."""
        return sum(row.status == "waiting" for row in self.rows)

    @property
    def others(self) -> int:
        """Cases of earlier runs in the folder whose scans are not among the inputs."""
        counted = self.done + self.kept + self.failed + self.skipped + self.waiting
        return max(0, len(self.rows) - counted)

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / REPORT

    @property
    def exit_code(self) -> int:
        """Of the command: 0 all done, 1 a case failed, 130 cancelled."""
        return 130 if self.cancelled else int(self.failed > 0)

    def numbers(self) -> dict[str, Any]:
        """The counts and times, for JSON."""
        return {
            "done": self.done, "failed": self.failed, "kept": self.kept, "skipped": self.skipped,
            "waiting": self.waiting, "others": self.others, "cancelled": self.cancelled,
            "seconds": round(self.seconds, 2), "network_seconds": round(self.network_seconds, 2),
        }


def run_batch(
    inputs: Sequence[Path | str], prompts: Sequence[str], settings: BatchSettings,
    executor: Executor, *, resume: bool = False, executor_name: str = "",
    on_event: OnEvent | None = None,
    cancelled: threading.Event | None = None,
) -> BatchSummary:
    """Segments all scans among `inputs` and writes the results into `settings.folder`.

    Args:
        inputs: files, folders, DICOM folders, patterns, and tables (see inputs.py).
        prompts: for all scans for which no table gives others.
        settings: of the run; its folder is created if need be, and locked.
        executor: where the cases are processed; it is started and closed here.
        resume: continue the run in the folder; cases that are done are kept.
        executor_name: a description of the executor, for run.json.
        on_event: called with the events above, one at a time, from any thread.
        cancelled: set it to end the run; finished cases stay.

    Raises:
        InputMissing, PromptNotUnderstood, BadTable: the inputs are incomplete or wrong.
        FolderInUse, FolderNotEmpty, OtherRun: the folder belongs to another run.
        ModelMissing, ModelDamaged, WorkerDied: the executor cannot work.
        OutputNotWritten: the disk is full; finished cases are intact, resume continues.
        KeyboardInterrupt: after a clean stop.
    """
    settings = replace(settings, folder=Path(os.path.abspath(settings.folder)))
    stop = cancelled or threading.Event()
    # May raise, so before a folder is created.
    gathered = gather(inputs, prompts, settings.folder)
    refuse_own_outputs(inputs, gathered.requests, settings)
    output = OutputFolder(settings.folder, resume)
    try:
        entries = [replace(entry, case=output.with_earlier(entry.case))
                   for entry in name_cases(gathered.requests, output.names)]
        waiting = sum(not e.problem and not output.kept(e.case) for e in entries)
        output.begin(settings, executor.start(settings, waiting), {
            "place": executor_name, "cases": len(entries), "left_out": gathered.left_out.as_dict(),
            "prompts": list(dict.fromkeys(text for e in entries for text in e.case.prompts)),
        })
        batch = _Batch(entries, gathered.left_out, settings, output,
                       on_event or (lambda event: None), stop)
        return batch.run(executor)
    finally:
        executor.close()
        output.close()


class _Batch:
    """One run: assigns the waiting cases, and records their outcomes."""

    def __init__(
        self, entries: list[BatchEntry], left_out: LeftOut, settings: BatchSettings,
        output: OutputFolder, on_event: OnEvent, stop: threading.Event,
    ) -> None:
        self._left_out = left_out
        self._settings = settings
        self._output = output
        self._stop = stop
        self._entries = {entry.case.name: entry for entry in entries}
        self._kept = {name for name, entry in self._entries.items()
                      if not entry.problem and output.kept(entry.case)}
        self._waiting = [entry.case for name, entry in self._entries.items()
                         if not entry.problem and name not in self._kept]
        self._ended: dict[str, Outcome] = {}
        self._write_failure: BatchFailure | None = None
        self._events = _EventSender(on_event, len(self._waiting))
        self._tables = _Throttled(lambda: write_tables(settings.folder, self._rows()), 0.0)
        self._report = _Throttled(lambda: write_report(settings.folder, self._rows(), output.run),
                              _SECONDS_BETWEEN_REPORTS)

    def run(self, executor: Executor) -> BatchSummary:
        """Runs all waiting cases."""
        try:
            self._begin()
            for outcome in executor.run(self._assigned(), self._events.on_progress, self._stop):
                self._end_case(outcome)
            if not self._write_failure:
                return self._conclude()
        except KeyboardInterrupt:
            self._stop.set()
            self._finish("cancelled")
            raise
        except OutputNotWritten as error:
            # Not of a case, but of tables, report or records.
            self._write_failure = BatchFailure.of(error)
        raise self._stopped(self._write_failure)

    def _assigned(self) -> Iterator[Case]:
        """The waiting cases; the executor takes each when a worker is free."""
        for case in self._waiting:
            self._output.note_state(case)
            yield case

    def _conclude(self) -> BatchSummary:
        complete = all(case.name in self._ended for case in self._waiting)
        summary = self._finish("finished" if complete else "cancelled")
        self._events.send("finished", **summary.numbers(), folder=str(summary.folder),
                          report=str(summary.report), exit_code=summary.exit_code)
        return summary

    def _begin(self) -> None:
        part = self._output.run["parts"][-1]
        self._events.send(
            "started", total=len(self._entries), waiting=len(self._waiting),
            kept=len(self._kept), folder=str(self._settings.folder),
            **{name: part[name] for name in ("version", "torch", "device", "model")},
            left_out=self._left_out.as_dict(),
            cases=[row.case.as_dict() | {"status": row.status} for row in self._rows()],
        )
        for entry in self._entries.values():
            if entry.problem and not entry.skipped:
                self._fail(entry.case, Outcome(entry.case.name, "failed", error=entry.problem))
        self._tables.write()

    def _end_case(self, outcome: Outcome) -> None:
        case = self._entries[outcome.case].case
        if outcome.status == "cancelled":
            return
        if outcome.error and outcome.error.code == OutputNotWritten.code:
            # Later cases would fail as well, each after minutes of work.
            self._write_failure = self._write_failure or outcome.error
            self._stop.set()
            return
        if outcome.status == "failed":
            self._fail(case, outcome)
        else:
            self._output.record(case, outcome)
            self._ended[case.name] = outcome
            self._events.end(case.name)
            self._events.send("case-done", **self._done_event(case, outcome))
        self._tables.write_if_due()
        self._report.write_if_due()

    def _fail(self, case: Case, outcome: Outcome) -> None:
        assert outcome.error is not None
        self._output.record(case, outcome)
        self._ended[case.name] = outcome
        self._events.end(case.name)
        self._events.send("case-failed", case=case.name, image=str(case.image),
                          series=case.series, **asdict(outcome.error),
                          seconds=round(outcome.seconds, 2))

    def _done_event(self, case: Case, outcome: Outcome) -> dict[str, Any]:
        files = outcome.files
        return {
            "case": case.name, "image": str(case.image), "series": case.series,
            "prompts": outcome.prompts, "lesions": len(outcome.lesions),
            "volume_ml": outcome.volume_ml, "seconds": round(outcome.seconds, 2),
            "segmentation": str(self._settings.folder / files["segmentation"]),
            "thumbnails": [str(self._settings.folder / path) for path in files["thumbnails"]],
            "notes": outcome.notes,
        }

    def _finish(self, state: str) -> BatchSummary:
        """Updates tables and report, and adds up."""
        self._tables.write()
        rows = self._rows()
        ended = self._ended.values()
        summary = BatchSummary(
            self._settings.folder, rows,
            done=sum(outcome.status == "done" for outcome in ended), kept=len(self._kept),
            failed=sum(outcome.status == "failed" for outcome in ended),
            skipped=sum(entry.skipped for entry in self._entries.values()),
            cancelled=state == "cancelled", seconds=self._events.seconds,
            network_seconds=sum(outcome.network_seconds for outcome in ended),
            left_out=self._left_out,
        )
        self._output.end(state, summary.numbers())
        self._report.write()
        return summary

    def _stopped(self, failure: BatchFailure) -> OutputNotWritten:
        """Ends the run; a full disk may not even take the tables."""
        with contextlib.suppress(OutputNotWritten):
            self._finish("stopped")
        done = len(self._kept) + sum(o.status == "done" for o in self._ended.values())
        return OutputNotWritten(
            f"{failure.message} The run stops here; {done} of {len(self._entries)} cases are "
            "finished and complete.",
            "Free some space on the disk, then run the same command again with --resume.",
        )

    def _rows(self) -> list[CaseRow]:
        """All cases: those of this run in their order, then others of earlier ones."""
        rows = [self._row(entry) for entry in self._entries.values()]
        others = (record for name, record in self._output.records.items()
                  if name not in self._entries)
        return rows + [CaseRow(record.case, record.outcome.status, record.outcome,
                           record.outcome.error) for record in others]

    def _row(self, entry: BatchEntry) -> CaseRow:
        case = entry.case
        ended = self._ended.get(case.name)
        if ended is not None:
            return CaseRow(case, ended.status, ended, ended.error)
        record = self._output.records.get(case.name)
        if case.name in self._kept:
            assert record is not None
            return CaseRow(case, record.outcome.status, record.outcome, record.outcome.error)
        if entry.skipped:
            return CaseRow(case, "skipped", None, entry.problem)
        return CaseRow(case, "waiting")


class _EventSender:
    """Sends events, and knows how much of the run is done."""

    def __init__(self, on_event: OnEvent, total: int) -> None:
        self._on_event = on_event
        self._total = total
        self._started = time.monotonic()
        self._fractions: dict[str, float] = {}
        self._begun: dict[str, int] = {}
        self._lock = threading.RLock()

    @property
    def seconds(self) -> float:
        """Since the model was loaded."""
        return time.monotonic() - self._started

    def send(self, kind: str, **fields: Any) -> None:
        """Sends one event."""
        with self._lock:
            self._on_event({"type": kind, **fields})

    def end(self, case: str) -> None:
        """A case has ended."""
        with self._lock:
            if case in self._fractions:
                self._fractions[case] = 1.0

    def on_progress(self, case: str, stage: str, done: int, total: int, fraction: float) -> None:
        """Progress of a case, from the executor."""
        with self._lock:
            if stage == "start":
                index = self._begun.setdefault(case, len(self._begun) + 1)
                self._fractions[case] = 0.0
                self.send("case-started", case=case, index=index, total=self._total)
                return
            self._fractions[case] = fraction
            overall = min(1.0, sum(self._fractions.values()) / max(1, self._total))
            left = self._left(overall)
            self.send("progress", case=case, stage=stage, done=done, total=total,
                      fraction=fraction, overall=round(overall, 4),
                      seconds_left=None if left is None else round(left, 1))

    def _left(self, overall: float) -> float | None:
        """At the speed so far; None while it is too early to say."""
        if self.seconds < _TOO_EARLY_SECONDS or overall < _TOO_EARLY_FRACTION:
            return None
        return self.seconds * (1 - overall) / overall


class _Throttled:
    """Writes something repeatedly, but not so often that it slows the run down.

    Args:
        write: takes longer the more cases there are.
        min_seconds: between two writes.
    """

    def __init__(self, write: Callable[[], None], min_seconds: float) -> None:
        self._write = write
        self._min_seconds = min_seconds
        self._next = time.monotonic() + min_seconds

    def write_if_due(self) -> None:
        """Writes if the last time is long enough ago."""
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Writes now."""
        started = time.monotonic()
        self._write()
        took = time.monotonic() - started
        self._next = time.monotonic() + max(self._min_seconds, took / _MAX_SHARE_OF_REPORTING)
