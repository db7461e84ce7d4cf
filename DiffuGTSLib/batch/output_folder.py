"""The output folder of a batch: run.json, a record per case, and the tables made from them.

A record is written atomically after all outputs of its case. So a batch that is killed at any
moment leaves neither half a case nor a case twice. cases.csv has a row per case, lesions.csv a row
per lesion.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from filelock import FileLock, Timeout

from DiffuGTSLib.batch.case import (
    MAP_FOLDERS,
    RECORDS,
    RUN,
    SEGMENTATIONS,
    THUMBNAILS,
    BatchFailure,
    BatchSettings,
    Case,
    Outcome,
)
from DiffuGTSLib.batch.inputs import FORMULA, Identity, identity
from DiffuGTSLib.errors import DiffuGTSError, OutputNotWritten
from DiffuGTSLib.files import remove_unfinished, write_atomically, write_json
from DiffuGTSLib.scan.file_checks import file_states

# In the folder of the records, and never removed: another run may just have opened it, and a third
# one would then lock a new file of the same name.
LOCK = ".lock"
# Options that must agree so that all results of a folder are those of one run.
_OPTIONS = ("threshold", "seed", "samples", "modality", "sequence", "skull_stripped")
CASES, LESIONS = "cases.csv", "lesions.csv"
SECONDS_OF_A_STAMP = 2.0
CASE_COLUMNS = (
    "case", "status", "modality", "prompts", "lesions", "volume_ml", "highest_score", "seconds",
    "error_code", "error", "image", "segmentation", "within", "modality_reason", "notes",
)
LESION_COLUMNS = (
    "case", "prompt", "lesion", "label", "volume_ml", "longest_diameter_mm", "perpendicular_mm",
    "feret_3d_mm", "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "mean_score", "max_score",
    "first_slice", "last_slice",
)


class FolderInUse(DiffuGTSError):
    """Another batch works in the output folder."""

    code = "folder-in-use"


class FolderNotEmpty(DiffuGTSError):
    """The output folder holds an earlier run, and resuming it was not requested."""

    code = "folder-not-empty"


class OtherRun(DiffuGTSError):
    """The run in the output folder was made with another model or other options."""

    code = "other-run"


@dataclass(frozen=True)
class Record:
    """A case that has ended.

    Attributes:
        stamp: the state of the scan on disk; see `stamp`.
    """

    case: Case
    outcome: Outcome
    stamp: list[int]

    @property
    def done(self) -> bool:
        """Whether it succeeded."""
        return self.outcome.status == "done"


class OutputFolder:
    """The output folder of a batch, locked for as long as this object is open.

    Args:
        folder: created if need be.
        resume: continue the run in it, if there is one.

    Raises:
        FolderInUse, FolderNotEmpty, OutputNotWritten: the folder cannot be used.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self._folder = folder
        try:
            (folder / RECORDS).mkdir(parents=True, exist_ok=True)
        except OSError:
            raise OutputNotWritten(f"The folder {folder.name} cannot be created.",
                                   "Choose another folder.") from None
        self._lock = FileLock(folder / RECORDS / LOCK)
        self._stamps: dict[str, list[int]] = {}
        _stamp.cache_clear()
        self._acquire()
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            self._run = self._read_run()
            if not self._run:
                self._refuse_foreign()
            if self._run and not resume:
                raise FolderNotEmpty(f"The folder {folder.name} holds an earlier run.",
                                     "Continue it with --resume, or choose another folder.")
            remove_unfinished(*_own_folders(folder), locked=True)
            self.records = self._read_records()
            on_error.pop_all()  # nothing has failed: the lock is kept

    def _refuse_foreign(self) -> None:
        """Without a run, what has the names of results is somebody else's."""
        names = (CASES, LESIONS, "report.html", SEGMENTATIONS, THUMBNAILS, MAP_FOLDERS)
        for name in names:
            path = self._folder / name
            if path.is_dir() and not any(path.iterdir()):
                continue
            if path.exists() or path.is_symlink():
                raise FolderNotEmpty(
                    f"The folder {self._folder.name} holds {name}, which is not of a run of this "
                    "program.", "Choose another folder, or move that away.")

    def _acquire(self) -> None:
        """Locks the folder; the system releases the lock when the process ends in any way."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUse(f"Another batch is writing into the folder {self._folder.name}.",
                              "Wait for it, or choose another folder.") from None
        except OSError:
            raise OutputNotWritten(f"The folder {self._folder.name} cannot be written to.",
                                   "Check its rights and the space on the disk.") from None

    @property
    def names(self) -> dict[Identity, str]:
        """The names of the cases that have records."""
        return {identity(record.case): name for name, record in self.records.items()}

    @property
    def run(self) -> dict[str, Any]:
        """The content of run.json, after `begin`."""
        return self._run

    def begin(
        self, settings: BatchSettings, facts: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> None:
        """Records the start of the run in run.json.

        Args:
            settings: of the run.
            facts: from the executor: versions, device, model.
            inputs: more entries: number of cases, prompts, executor.

        Raises:
            OtherRun: the results in the folder come from another model or other options.
        """
        options = settings.options.as_dict(*_OPTIONS) | settings.outputs()
        if self._run:
            self._check_same(options, facts)
        else:
            self._run = {
                "program": "DiffuGTS", "use": "research only, not for clinical decisions",
                "model": facts["model"], "model_sha256": facts["model_sha256"],
                "version": facts["version"], "options": options, "parts": [],
            }
        kept = sum(record.done for record in self.records.values())
        for part in self._run["parts"]:
            if part["state"] == "running":  # it was killed before it could record its end
                part |= {"state": "broken off", "ended": self._last_write(),
                         "done": max(0, kept - part["done_before"])}
        self._run["parts"].append({
            "state": "running", "started": _now(), "ended": None, "done_before": kept,
            **inputs, **facts,
        })
        self._write_run()

    def kept(self, case: Case) -> bool:
        """Whether the same request was done on the same scan, and its result is still there."""
        record = self.records.get(case.name)
        if record is None or not record.done or record.case != case:
            return False
        segmentation = self._folder / record.outcome.files["segmentation"]
        return segmentation.is_file() and record.stamp == stamp(case)

    def with_earlier(self, case: Case) -> Case:
        """The case with the prompts of its earlier results too, which would else be lost.

        Raises:
            OtherRun: it was done in another mask, or as another MR sequence.
        """
        record = self.records.get(case.name)
        if record is None or not record.done:
            return case
        before = record.case
        if ((before.within, before.segment, before.sequence)
                != (case.within, case.segment, case.sequence)):
            raise OtherRun(
                f"The run in {self._folder.name} has done {case.name} in another mask or as "
                "another MR sequence.", "Use the same ones, or choose another folder.")
        return replace(case, prompts=tuple(dict.fromkeys((*before.prompts, *case.prompts))))

    def note_state(self, case: Case) -> None:
        """Notes the state of a scan before it is read, so that later changes are noticed."""
        self._stamps[case.name] = stamp(case)

    def record(self, case: Case, outcome: Outcome) -> None:
        """Writes the record of a case that has ended, atomically.

        Results of an earlier request are kept until then; those that the new ones have not
        replaced are removed, as they would be outdated. A failure replaces none of a scan that is
        as it was, or is gone.

        Raises:
            OutputNotWritten: the disk is full.
        """
        before = self.records.get(case.name)
        if before and before.done and outcome.status == "failed" and stamp(case) in (
                [], before.stamp):
            return
        record = Record(case, outcome, self._stamps.get(case.name, []))
        write_json(self._folder / RECORDS / f"{case.name}.json", {
            "case": case.as_dict(), "outcome": outcome.as_dict(), "stamp": record.stamp,
        })
        self.records[case.name] = record
        for path in set(_paths(before.outcome.files) if before else ()) - set(
            _paths(outcome.files)
        ):
            (self._folder / path).unlink(missing_ok=True)

    def end(self, state: str, numbers: Mapping[str, Any]) -> None:
        """Records how the run ended: "finished", "cancelled" or "stopped"."""
        self._run["parts"][-1] |= {"state": state, "ended": _now(), **numbers}
        self._write_run()

    def close(self) -> None:
        """Releases the folder."""
        self._lock.release()

    def _check_same(self, options: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        before = self._run["options"]
        differing = [name for name in options if before.get(name) != options[name]]
        differing += [name for name in ("model_sha256", "version")
                      if self._run.get(name) != facts[name]]
        if differing:
            names = ", ".join(differing).replace("_sha256", "").replace("_", "-")
            raise OtherRun(
                f"The run in {self._folder.name} was made with other options: {names}.",
                "Use the same ones, as its run.json says, or choose another folder.",
            )

    def _last_write(self) -> str:
        """When the run in the folder last wrote a file."""
        written = [self._folder / RUN, self._folder / CASES,
                   *(self._folder / RECORDS).glob("*.json")]
        newest = max(path.stat().st_mtime for path in written if path.exists())
        return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")

    def _write_run(self) -> None:
        write_json(self._folder / RUN, self._run)

    def _read_run(self) -> dict[str, Any]:
        path = self._folder / RUN
        if not path.exists():
            return {}
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            if _is_run(run):
                return dict(run)
        except (OSError, ValueError, RecursionError):
            pass
        raise OtherRun(f"{RUN} in {self._folder.name} is not from this program, or is damaged.",
                       "Choose another folder.")

    def _read_records(self) -> dict[str, Record]:
        """The records that can be read: a case whose record is damaged runs again."""
        records = {}
        for path in sorted((self._folder / RECORDS).glob("*.json")):
            try:
                entries = json.loads(path.read_text(encoding="utf-8"))
                record = Record(Case.from_dict(entries["case"]),
                                Outcome.from_dict(entries["outcome"]), entries["stamp"])
                # A record of another origin may lack what tables and report show.
                _case_row(CaseRow(record.case, record.outcome.status, record.outcome,
                                  record.outcome.error))
                if _stays_inside(record):
                    records[record.case.name] = record
            except (OSError, ValueError, LookupError, TypeError, AttributeError,
                    RecursionError):
                continue
        return records


def _is_run(run: Any) -> bool:
    """Whether the content of a run.json is what `begin` writes."""
    kinds = {"program": str, "model": str, "model_sha256": str, "version": str, "options": dict,
             "parts": list}
    facts = ("state", "started", "torch", "device")
    return (isinstance(run, dict) and run.get("program") == "DiffuGTS"
            and all(isinstance(run.get(name), kind) for name, kind in kinds.items())
            and all(isinstance(part, dict) and all(isinstance(part.get(f), str) for f in facts)
                    and isinstance(part.get("done_before"), int) for part in run["parts"]))


def _own_folders(folder: Path) -> list[Path]:
    """The output folder and those in which this program writes below it."""
    maps = folder / MAP_FOLDERS
    cases = [path for path in maps.iterdir() if path.is_dir()] if maps.is_dir() else []
    return [folder, *(folder / name for name in (RECORDS, SEGMENTATIONS, THUMBNAILS)), maps,
            *cases]


def stamp(case: Case) -> list[int]:
    """Number, bytes and newest change of a scan's files, and of the mask that it is searched in;
    empty where they cannot be read."""
    # A folder may hold hundreds of series: it is walked once for those that follow each other. What
    # changes meanwhile has an older state in its record, and is processed again.
    moment = int(time.monotonic() / SECONDS_OF_A_STAMP)
    try:
        states = [_stamp(path, moment) for path in (case.image, case.within) if path is not None]
    except OSError:
        return []
    return [value for state in states for value in state]


@lru_cache(maxsize=8)
def _stamp(path: Path, moment: int) -> tuple[int, int, int]:
    """Of all files that a scan lies in: number, bytes, newest change."""
    states = file_states(path)
    newest = max((changed for _, _, changed in states), default=0)
    return len(states), sum(size for _, size, _ in states), newest


def _stays_inside(record: Record) -> bool:
    """Whether its files lie in the folder: they may be removed, and a record may be foreign."""
    name, paths = record.case.name, map(PurePath, _paths(record.outcome.files))
    return PurePath(name).name == name and not any(
        path.is_absolute() or ".." in path.parts for path in paths)


def _paths(files: Mapping[str, Any]) -> list[str]:
    """All paths in Outcome.files, the segmentation's first."""
    maps = [path for one in files.get("maps", ()) for path in one.values()]
    single = [files[kind] for kind in ("segmentation", "dicom") if kind in files]
    return [*single, *files.get("thumbnails", ()), *maps]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class CaseRow:
    """A case as the tables and the report show it.

    Attributes:
        status: "waiting", "done", "failed" or "skipped".
        outcome: of a case that has run.
        problem: of one that has failed or was skipped.
    """

    case: Case
    status: str
    outcome: Outcome | None = None
    problem: BatchFailure | None = None


def write_tables(folder: Path, rows: Sequence[CaseRow]) -> None:
    """Writes both tables, each atomically.

    Raises:
        OutputNotWritten: the tables that were there stay.
    """
    write_atomically(folder / CASES, _table(CASE_COLUMNS, map(_case_row, rows)))
    lesions = (lesion for row in rows for lesion in _lesion_rows(row))
    write_atomically(folder / LESIONS, _table(LESION_COLUMNS, lesions))


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """CSV in UTF-8; bytes of a name that are not UTF-8 are written as escapes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_inert(cell) if isinstance(cell, str) else cell for cell in row]
                     for row in rows)
    return text.getvalue().encode(errors="backslashreplace")


def _case_row(row: CaseRow) -> list[Any]:
    outcome, problem = row.outcome, row.problem
    done = outcome is not None and outcome.status == "done"
    measured: list[Any] = [""] * 3
    if outcome is not None and done:
        highest = max(prompt["highest_score"] for prompt in outcome.prompts)
        measured = [len(outcome.lesions), f"{outcome.volume_ml:.3f}", f"{highest:.3f}"]
    return [
        row.case.name, row.status, outcome.modality if outcome else "",
        "; ".join(row.case.prompts), *measured, f"{outcome.seconds:.1f}" if outcome else "",
        problem.code if problem else "", problem.message if problem else "",
        str(row.case.image),
        outcome.files["segmentation"] if outcome is not None and done else "",
        row.case.searched_in,
        outcome.modality_reason if outcome else "", " ".join(outcome.all_notes) if outcome else "",
    ]


def _inert(text: str) -> str:
    """A cell that no spreadsheet takes for a formula, nor a terminal for a command; numbers stay as
    they are, control characters are written as escapes."""
    text = "".join(char.encode("unicode_escape").decode()
                   if unicodedata.category(char) == "Cc" and char not in "\t\r\n" else char
                   for char in text)
    if not text.startswith((*FORMULA, "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f" {text}"
    return text


def _lesion_rows(row: CaseRow) -> list[list[Any]]:
    if row.outcome is None:
        return []
    return [
        [row.case.name, prompt["title"], lesion["number"], label,
         *(f"{lesion[name]:.3f}" for name in LESION_COLUMNS[4:8]),
         *(f"{value:.2f}" for value in lesion["centroid_ras_mm"]),
         f"{lesion['mean_score']:.3f}", f"{lesion['max_score']:.3f}", *lesion["slice_range"]]
        for prompt in row.outcome.prompts
        for lesion, label in zip(prompt["lesions"], prompt["labels"], strict=True)
    ]
