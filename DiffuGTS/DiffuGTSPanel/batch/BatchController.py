"""A batch at work: scene volumes to files, the command `diffugts batch`, its events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from DiffuGTSPanel.batch.BatchScanExport import BatchScans
from DiffuGTSPanel.data.Batch import BatchCase, BatchProgress, BatchRun, leftOut
from DiffuGTSPanel.data.Failure import Failure, hintOf, unexpected
from DiffuGTSPanel.data.Run import stageText
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import ChildProcess, Ending, Log
from DiffuGTSPanel.process.Piecewise import Piecewise, Steps

Event = dict[str, Any]
# The command waits ten seconds for its own children.
PATIENCE_SECONDS = 30.0
_SECONDS_AT_THE_END = 2.0
# While the networks work on one scan, others are read and written; that is not worth telling.
_BESIDE = ("read", "write")


class BatchWork:
    """Brings one batch from its start to its end.

    The command ends when its stdin closes, so that it cannot outlive Slicer, however that ends.

    Args:
        run: which one.
        paths: of files, folders, patterns and tables.
        nodes: volumes of the scene.
        scans: writes the volumes to files.
        log: for what the command prints on stderr.
        python: to run it in; "" is Slicer's own.
        onEnded: called once it has ended, before the run's caller is told.
    """

    def __init__(
        self, run: BatchRun, paths: Sequence[Path], nodes: Sequence[Any], *, scans: BatchScans,
        log: Log, python: str, onEnded: Callable[[BatchWork], None],
    ) -> None:
        self.run = run
        self._paths, self._nodes = paths, nodes
        self._scans, self._log, self._python = scans, log, python
        self._onEnded = onEnded
        self._child: ChildProcess | None = None
        self._cases: dict[str, BatchCase] = {}
        self._failure: Failure | None = None
        self._ending: Ending | None = None
        self._cancelling = False
        self._shown = ("", "")
        self._patience: Any = None
        run.state = "running"
        self._tell(_("Preparing the scans"), "", 0.0, None)
        self._steps: Steps | None = Steps(scans.write(nodes), self._start, self._stepsFailed)

    @property
    def processId(self) -> int:
        """Of the command; 0 when it does not run."""
        return self._child.processId if self._child is not None else 0

    def cancel(self) -> None:
        """Stops the batch; what is finished stays."""
        if self._cancelling or not self.run.active:
            return
        self._cancelling = True
        if self._child is None:
            self._stopSteps()
            self._end("cancelled")
            return
        self._child.write(b'{"type": "cancel"}\n')
        self._patience = qt.QTimer()
        self._patience.setSingleShot(True)
        self._patience.connect("timeout()", self._child.endTree)
        self._patience.start(int(PATIENCE_SECONDS * 1000))

    def shutdown(self) -> None:
        """Ends the command, waiting for it a little: Slicer itself is about to end."""
        self.run.callbacks.forget()
        self._stopSteps()
        child = self._child
        if child is None or not child.running:
            self._end("cancelled")
        else:
            self._cancelling = True
            child.closeStdin()
            if not child.wait(_SECONDS_AT_THE_END):
                child.endTree()
                child.wait(_SECONDS_AT_THE_END)

    def _start(self) -> None:
        self._steps = None
        try:
            inputs = self._scans.table(self.run.id, self._paths, self._nodes)
        except Failure as failure:
            self._end("failed", failure)
            return
        self._tell(_("Starting the model"), "", 0.0, None)
        arguments = ["batch", "--json-events", f"--output={self.run.folder}",
                     *(f"--prompt={text}" for text in self.run.prompts),
                     *self.run.options.arguments(), "--", *map(str, inputs)]
        self._child = ChildProcess(
            LibraryLauncher.launch("cli", arguments, self._python), onOut=self._line,
            onErr=self._log.add, onEnded=self._ended)
        self._child.start()

    def _line(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            self._log.add(line)
            return
        take = {"started": self._started, "case-started": self._caseStarted,
                "progress": self._progress, "case-done": self._caseDone,
                "case-failed": self._caseFailed, "finished": self._finished,
                "error": self._error}.get(event["type"])
        if take is not None:
            take(event)

    # Events of the command.

    def _started(self, event: Event) -> None:
        run = self.run
        run.leftOut = leftOut(event["left_out"])
        run.cases = [
            BatchCase(each["name"], Path(each["image"]), each["series"], tuple(each["prompts"]),
                      each["status"]) for each in event["cases"]]
        self._cases = {case.name: case for case in run.cases}
        kept = [case for case in run.cases if case.status in ("done", "failed")]
        for case in run.cases:
            scan = self._scans.find(case.image)
            case.volume = scan.volume if scan is not None else None
        for case in run.cases:
            run.callbacks.tell("onCase", run, case)
        self._steps = Steps(self._readKept(kept), self._keptRead, self._stepsFailed)

    def _readKept(self, cases: Sequence[BatchCase]) -> Piecewise:
        """What earlier runs have found, from their records."""
        for case in cases:
            record = self.run.folder / "records" / f"{case.name}.json"
            try:
                outcome = json.loads(record.read_text(encoding="utf-8"))["outcome"]
            except (OSError, ValueError, KeyError):
                continue  # it is about to run again
            case.results, case.seconds = outcome["prompts"], outcome["seconds"]
            if case.status == "done":
                case.segmentation = self.run.folder / outcome["files"]["segmentation"]
            elif outcome["error"] and case.failure is None:
                case.failure = Failure(**outcome["error"])
            self.run.callbacks.tell("onCase", self.run, case)
            yield

    def _keptRead(self) -> None:
        self._steps = None
        if self._ending is not None:
            self._ended(self._ending)

    def _caseStarted(self, event: Event) -> None:
        self._set(event["case"], status="running", fraction=0.0)

    def _progress(self, event: Event) -> None:
        case = self._set(event["case"], fraction=event["fraction"])
        if event["stage"] not in _BESIDE or not self._shown[0]:
            stage = event["stage"]
            self._shown = case.name, _("Writing the result") if stage == "write" else (
                stageText(stage))
        self._tell(self._shown[1], self._shown[0], event["overall"], event["seconds_left"])

    def _caseDone(self, event: Event) -> None:
        self._set(event["case"], status="done", fraction=1.0, seconds=event["seconds"],
                  results=event["prompts"], segmentation=Path(event["segmentation"]),
                  failure=None)
        try:
            self._scans.touch()
        except Failure as failure:
            self._log.add(failure.message)  # the cases that need the files will say so, too

    def _caseFailed(self, event: Event) -> None:
        failure = Failure(event["code"], event["message"], hintOf(event))
        self._set(event["case"], status="failed", seconds=event["seconds"], failure=failure)

    def _finished(self, event: Event) -> None:
        self.run.seconds = event["seconds"]

    def _error(self, event: Event) -> None:
        self._failure = Failure(event["code"], event["message"], _hint(event))

    def _set(self, name: str, **values: Any) -> BatchCase:
        case = self._cases[name]
        for key, value in values.items():
            setattr(case, key, value)
        self.run.callbacks.tell("onCase", self.run, case)
        return case

    # The end.

    def _ended(self, ending: Ending) -> None:
        self._ending = ending
        if self._patience is not None:
            self._patience.stop()
        if self._steps is not None:
            return  # what earlier runs have found is still being read
        if self._cancelling:
            self._end("cancelled")
        elif self._failure is not None:
            self._end("failed", self._failure)
        elif ending.kind == "ended" and ending.code in (0, 1) and self.run.cases:
            self._end("finished")
        else:
            self._end("failed", _endingInWords(ending))

    def _stepsFailed(self, error: Exception) -> None:
        self._steps = None
        failure = error if isinstance(error, Failure) else unexpected(error)
        if self._child is None:
            self._end("failed", failure)
            return
        self._log.add(failure.message)
        self._keptRead()

    def _stopSteps(self) -> None:
        if self._steps is not None:
            self._steps.stop()
        self._steps = None

    def _end(self, state: str, failure: Failure | None = None) -> None:
        if not self.run.active:
            return
        run = self.run
        run.state, run.failure = state, failure
        for case in run.cases:
            if case.status == "running":
                self._set(case.name, status="waiting", fraction=0.0)
        if state == "finished" and not run.count("failed"):
            # Otherwise they are needed again to go on.
            self._scans.remove(case.image for case in run.cases)
        self._onEnded(self)
        if failure is not None:
            run.callbacks.tell("onError", run, failure)
        else:
            run.callbacks.tell("onFinished" if state == "finished" else "onCancelled", run)

    def _tell(
        self, text: str, case: str, fraction: float, secondsLeft: float | None
    ) -> None:
        run = self.run
        total = len(run.cases) - run.count("skipped")
        run.callbacks.tell("onProgress", run, BatchProgress(
            run.count("done"), run.count("failed"), total, case, fraction, secondsLeft, text))


def _hint(event: Event) -> str:
    """The command's hints name its options; here they are called otherwise."""
    resume = _("Go on with the earlier run (resume), or choose another folder.")
    return {"folder-not-empty": resume,
            "output-not-written": _("Free some space on the disk, then go on with the earlier run "
                                    "(resume)."),
            }.get(event["code"], hintOf(event))


def _endingInWords(ending: Ending) -> Failure:
    hint = _("What is finished is kept: run again and go on with the earlier run (resume).")
    if ending.kind == "not-started":
        return Failure("python-unusable", _("The Python of the background process cannot be "
                       "started."), _("Choose another one under Advanced, or Slicer's own."))
    said = [word for word in ending.words if word.strip() and not word.startswith("Hint: ")]
    if ending.kind == "ended" and said:
        return Failure("batch-failed", said[-1], hint)
    return Failure("worker-died", _("The batch ended unexpectedly ({kind} {code}).").format(
        kind=_("signal") if ending.kind == "killed" else _("exit code"), code=ending.code), hint)
