"""Many scans: cases found, processed somewhere, and their results kept in one folder.

The driver reads no volume and runs no network. It hands cases to an executor, keeps the books and
tells a listener how far things are, in events that are plain dictionaries:

    started       total, waiting, kept (done by an earlier run), folder, the processor's facts,
                  left_out (count and examples of files that are no scans), cases: of each case,
                  image, series, prompts and status
    case-started  case, index, total
    progress      case, stage, done, total, fraction (of the case), overall (0..1), seconds_left
    case-done     case, image, series, prompts (as report.describe), lesions, volume_ml, seconds,
                  segmentation (absolute path), thumbnails, notes (on what could not be made)
    case-failed   case, image, series, code, message, hint, seconds
    finished      done, failed, kept, skipped, waiting, cancelled, seconds, network_seconds, folder,
                  report, exit_code
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

from DiffuGTSLib.batch.case import Case, Failure, Outcome, Settings
from DiffuGTSLib.batch.executor import Executor
from DiffuGTSLib.batch.inputs import Entry, LeftOut, gather, name_cases
from DiffuGTSLib.batch.output_folder import Ledger, Row, write_tables
from DiffuGTSLib.batch.report import REPORT, write_report
from DiffuGTSLib.errors import OutputNotWritten

Listener = Callable[[dict[str, Any]], None]
# Of the time that passes, at most this part goes into tables and report while cases are running.
_SHARE_OF_BOOKKEEPING = 0.02
_SECONDS_BETWEEN_REPORTS = 30.0
_TOO_EARLY_SECONDS, _TOO_EARLY_FRACTION = 2.0, 0.01


@dataclass(frozen=True)
class Summary:
    """How a batch went.

    Attributes:
        done: in this run; `kept` were done by an earlier one.
        skipped: DICOM series that are no scans.
        network_seconds: of all cases; divided by `seconds` and the number of places, the share of
            time in which the networks worked.
        rows: of all cases in the folder.
        left_out: what lay among the scans and is none.
    """

    folder: Path
    rows: list[Row]
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
            "waiting": self.waiting, "cancelled": self.cancelled, "seconds": round(self.seconds, 2),
            "network_seconds": round(self.network_seconds, 2),
        }


def run_batch(
    inputs: Sequence[Path | str], prompts: Sequence[str], settings: Settings, executor: Executor,
    *, resume: bool = False, place: str = "", listener: Listener | None = None,
    cancelled: threading.Event | None = None,
) -> Summary:
    """Segments all scans that `inputs` mean and writes the results into `settings.folder`.

    Args:
        inputs: files, folders, DICOM folders, patterns, and tables (see batch_inputs).
        prompts: for all scans whose table does not say others.
        settings: of the run; its folder is made if need be, and locked.
        executor: where the cases are processed; it is started and closed here.
        resume: go on with the run that is in the folder; what is done is not done again.
        place: what the executor is, for run.json.
        listener: told the events above, one at a time, from any thread.
        cancelled: set it to end the run; what is finished stays.

    Raises:
        NothingAsked, PromptNotUnderstood, BadTable: the inputs say too little.
        FolderInUse, FolderNotEmpty, OtherRun: the folder belongs to another run.
        ModelMissing, ModelDamaged, WorkerDied: the executor cannot work.
        OutputNotWritten: the disk is full; what is finished is intact, resume goes on.
        KeyboardInterrupt: after everything was brought to an end.
    """
    settings = replace(settings, folder=Path(os.path.abspath(settings.folder)))
    stop = cancelled or threading.Event()
    # Refused before a folder is made for it.
    gathered = gather(inputs, prompts, settings.folder)
    ledger = Ledger(settings.folder, resume)
    try:
        entries = name_cases(gathered.asked, ledger.names)
        ledger.begin(settings, executor.start(settings), {
            "place": place, "cases": len(entries), "left_out": gathered.left_out.as_dict(),
            "prompts": list(dict.fromkeys(text for e in entries for text in e.case.prompts)),
        })
        batch = _Batch(entries, gathered.left_out, settings, ledger,
                       listener or (lambda event: None), stop)
        return batch.run(executor)
    finally:
        executor.close()
        ledger.close()


class _Batch:
    """One run: hands out what waits, and writes down what comes back."""

    def __init__(
        self, entries: list[Entry], left_out: LeftOut, settings: Settings, ledger: Ledger,
        listener: Listener, stop: threading.Event,
    ) -> None:
        self._left_out = left_out
        self._settings = settings
        self._ledger = ledger
        self._stop = stop
        self._entries = {entry.case.name: entry for entry in entries}
        self._kept = {name for name, entry in self._entries.items()
                      if not entry.problem and ledger.kept(entry.case)}
        self._waiting = [entry.case for name, entry in self._entries.items()
                         if not entry.problem and name not in self._kept]
        self._ended: dict[str, Outcome] = {}
        self._full: Failure | None = None
        self._teller = _Teller(listener, len(self._waiting))
        self._tables = _Paced(lambda: write_tables(settings.folder, self._rows()), 0.0)
        self._report = _Paced(lambda: write_report(settings.folder, self._rows(), ledger.run),
                              _SECONDS_BETWEEN_REPORTS)

    def run(self, executor: Executor) -> Summary:
        """Runs all cases that wait."""
        try:
            self._begin()
            for outcome in executor.run(self._handed_out(), self._teller.listen, self._stop):
                self._end_case(outcome)
            if not self._full:
                return self._conclude()
        except KeyboardInterrupt:
            self._stop.set()
            self._finish("cancelled")
            raise
        except OutputNotWritten as error:
            # Not of a case, but of the books themselves.
            self._full = Failure.of(error)
        raise self._stopped(self._full)

    def _handed_out(self) -> Iterator[Case]:
        """The cases that wait, each taken when a place is free for it."""
        for case in self._waiting:
            self._ledger.hand_out(case)
            yield case

    def _conclude(self) -> Summary:
        whole = all(case.name in self._ended for case in self._waiting)
        summary = self._finish("finished" if whole else "cancelled")
        self._teller.tell("finished", **summary.numbers(), folder=str(summary.folder),
                          report=str(summary.report), exit_code=summary.exit_code)
        return summary

    def _begin(self) -> None:
        part = self._ledger.run["parts"][-1]
        self._teller.tell(
            "started", total=len(self._entries), waiting=len(self._waiting),
            kept=len(self._kept), folder=str(self._settings.folder),
            **{name: part[name] for name in ("version", "torch", "device", "model")},
            left_out=self._left_out.as_dict(),
            cases=[row.case.as_dict() | {"status": row.status} for row in self._rows()],
        )
        self._ledger.forget([e for name, e in self._entries.items() if name not in self._kept])
        for entry in self._entries.values():
            if entry.problem and not entry.skipped:
                self._fail(entry.case, Outcome(entry.case.name, "failed", error=entry.problem))
        self._tables.write()

    def _end_case(self, outcome: Outcome) -> None:
        case = self._entries[outcome.case].case
        if outcome.status == "cancelled":
            return
        if outcome.error and outcome.error.code == OutputNotWritten.code:
            # The next ones would fail as well, each after its minutes of work.
            self._full = self._full or outcome.error
            self._stop.set()
            return
        if outcome.status == "failed":
            self._fail(case, outcome)
        else:
            self._ledger.record(case, outcome)
            self._ended[case.name] = outcome
            self._teller.end(case.name)
            self._teller.tell("case-done", **self._done_event(case, outcome))
        self._tables.offer()
        self._report.offer()

    def _fail(self, case: Case, outcome: Outcome) -> None:
        assert outcome.error is not None
        self._ledger.record(case, outcome)
        self._ended[case.name] = outcome
        self._teller.end(case.name)
        self._teller.tell("case-failed", case=case.name, image=str(case.image),
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

    def _finish(self, state: str) -> Summary:
        """Brings tables and report up to date, and adds up."""
        self._tables.write()
        rows = self._rows()
        ended = self._ended.values()
        summary = Summary(
            self._settings.folder, rows,
            done=sum(outcome.status == "done" for outcome in ended), kept=len(self._kept),
            failed=sum(outcome.status == "failed" for outcome in ended),
            skipped=sum(entry.skipped for entry in self._entries.values()),
            cancelled=state == "cancelled", seconds=self._teller.seconds,
            network_seconds=sum(outcome.network_seconds for outcome in ended),
            left_out=self._left_out,
        )
        self._ledger.end(state, summary.numbers())
        self._report.write()
        return summary

    def _stopped(self, failure: Failure) -> OutputNotWritten:
        """Ends the run; a full disk may not even take the tables."""
        with contextlib.suppress(OutputNotWritten):
            self._finish("stopped")
        done = len(self._kept) + sum(o.status == "done" for o in self._ended.values())
        return OutputNotWritten(
            f"{failure.message} The run stops here; {done} of {len(self._entries)} cases are "
            "finished and complete.",
            "Free some space on the disk, then run the same again with --resume.",
        )

    def _rows(self) -> list[Row]:
        """All cases: those of this run in their order, then others of earlier ones."""
        rows = [self._row(entry) for entry in self._entries.values()]
        others = (record for name, record in self._ledger.records.items()
                  if name not in self._entries)
        return rows + [Row(record.case, record.outcome.status, record.outcome,
                           record.outcome.error) for record in others]

    def _row(self, entry: Entry) -> Row:
        case = entry.case
        record = self._ledger.records.get(case.name)
        if case.name in self._ended or case.name in self._kept:
            assert record is not None
            return Row(case, record.outcome.status, record.outcome, record.outcome.error)
        if entry.skipped:
            return Row(case, "skipped", None, entry.problem)
        return Row(case, "waiting")


class _Teller:
    """Tells the listener, and knows how much of the run is over."""

    def __init__(self, listener: Listener, total: int) -> None:
        self._listener = listener
        self._total = total
        self._started = time.monotonic()
        self._fractions: dict[str, float] = {}
        self._begun: dict[str, int] = {}
        self._lock = threading.RLock()

    @property
    def seconds(self) -> float:
        """Since the model was loaded."""
        return time.monotonic() - self._started

    def tell(self, kind: str, **fields: Any) -> None:
        """Tells one event."""
        with self._lock:
            self._listener({"type": kind, **fields})

    def end(self, case: str) -> None:
        """A case has ended."""
        with self._lock:
            if case in self._fractions:
                self._fractions[case] = 1.0

    def listen(self, case: str, stage: str, done: int, total: int, fraction: float) -> None:
        """What the executor tells of a case."""
        with self._lock:
            if stage == "start":
                index = self._begun.setdefault(case, len(self._begun) + 1)
                self._fractions[case] = 0.0
                self.tell("case-started", case=case, index=index, total=self._total)
                return
            self._fractions[case] = fraction
            overall = min(1.0, sum(self._fractions.values()) / max(1, self._total))
            left = self._left(overall)
            self.tell("progress", case=case, stage=stage, done=done, total=total,
                      fraction=fraction, overall=round(overall, 4),
                      seconds_left=None if left is None else round(left, 1))

    def _left(self, overall: float) -> float | None:
        """At the speed so far; None while it is too early to say."""
        if self.seconds < _TOO_EARLY_SECONDS or overall < _TOO_EARLY_FRACTION:
            return None
        return self.seconds * (1 - overall) / overall


class _Paced:
    """Writes something again and again, but not so often that the run would wait for it.

    Args:
        write: what may take longer the more cases there are.
        least: seconds from one time to the next.
    """

    def __init__(self, write: Callable[[], None], least: float) -> None:
        self._write = write
        self._least = least
        self._next = time.monotonic() + least

    def offer(self) -> None:
        """Writes if it is time to."""
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Writes now."""
        started = time.monotonic()
        self._write()
        took = time.monotonic() - started
        self._next = time.monotonic() + max(self._least, took / _SHARE_OF_BOOKKEEPING)
