"""Controls one batch: export of volumes, the command `diffugts batch`, its events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSPanel.batch.BatchScanExport import BatchScanExport
from DiffuGTSPanel.data.Batch import BatchCase, BatchProgress, BatchRun, leftOutText
from DiffuGTSPanel.data.Failure import Failure, hintFrom, unexpectedFailure
from DiffuGTSPanel.data.Run import stageText
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import ChildProcess, Log, ProcessExit
from DiffuGTSPanel.process.Piecewise import IdleTask, Piecewise, singleShotTimer

Event = dict[str, Any]
# The command waits ten seconds for its own children.
CANCEL_TIMEOUT_SECONDS = 30.0
_SHUTDOWN_SECONDS = 2.0
# Other scans are read and written while one is in the networks; those stages are not shown.
_BACKGROUND_STAGES = ("read", "write")


class BatchController:
    """Controls one batch from its start to its end.

    The command ends when its stdin closes, so it cannot outlive Slicer, whatever ends that.

    Args:
        run: to control.
        paths: of files, folders, patterns and tables.
        nodes: volumes of the scene.
        scanExport: writes the volumes to files.
        log: for the command's stderr.
        python: to run it in; "" is Slicer's own.
        onEnded: called when the batch has ended, before the run's own callback.
    """

    def __init__(
        self, run: BatchRun, paths: Sequence[Path], nodes: Sequence[Any], *,
        scanExport: BatchScanExport, log: Log, python: str,
        onEnded: Callable[[BatchController], None],
    ) -> None:
        self.run = run
        self._paths, self._nodes = paths, nodes
        self._scanExport, self._log, self._python = scanExport, log, python
        self._onEnded = onEnded
        self._child: ChildProcess | None = None
        self._cases: dict[str, BatchCase] = {}
        self._introduced: set[str] = set()
        self._failure: Failure | None = None
        self._exit: ProcessExit | None = None
        self._hasFinished = self._cancelling = False
        self._shown = ("", "")
        self._reported: tuple[str, str, float, float | None] = ("", "", 0.0, None)
        self._cancelTimer: Any = None
        run.state = "running"
        self._reportProgress(_("Preparing the scans"), "", 0.0, None)
        self._task: IdleTask | None = IdleTask(
            scanExport.write(nodes), self._start, self._taskFailed)

    @property
    def processId(self) -> int:
        """Of the command; 0 when it is not running."""
        return self._child.processId if self._child is not None else 0

    def cancel(self) -> None:
        """Cancels the batch; finished cases are kept."""
        if self._cancelling or not self.run.active:
            return
        self._cancelling = True
        if self._child is None:
            self._stopTask()
            self._end("cancelled")
            return
        self._child.write(b'{"type": "cancel"}\n')
        self._cancelTimer = singleShotTimer(self._child.killTree, CANCEL_TIMEOUT_SECONDS)
        self._cancelTimer.start()

    def shutdown(self) -> None:
        """Ends the command, waiting briefly: Slicer itself is about to end."""
        self.run.callbacks.clear()
        self._stopTask()
        child = self._child
        if child is None or not child.running:
            self._end("cancelled")
        else:
            self._cancelling = True
            child.closeStdin()
            if not child.wait(_SHUTDOWN_SECONDS):
                child.killTree()
                child.wait(_SHUTDOWN_SECONDS)

    def _start(self) -> None:
        self._task = None
        try:
            inputs = self._scanExport.table(self.run.id, self._paths, self._nodes)
        except Failure as failure:
            self._end("failed", failure)
            return
        self._reportProgress(_("Starting the model"), "", 0.0, None)
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
        handle = {"started": self._started, "case-started": self._caseStarted,
                "progress": self._progress, "case-done": self._caseDone,
                "case-failed": self._caseFailed, "finished": self._finished,
                "error": self._error}.get(event["type"])
        if handle is not None:
            handle(event)

    # Events of the command

    def _started(self, event: Event) -> None:
        run = self.run
        run.leftOut = leftOutText(event["left_out"])
        run.cases = [
            BatchCase(each["name"], Path(each["image"]), each["series"], tuple(each["prompts"]),
                      each["status"]) for each in event["cases"]]
        self._cases = {case.name: case for case in run.cases}
        earlier = [case for case in run.cases if case.status in ("done", "failed")]
        self._task = IdleTask(self._introduce(earlier), self._recordsRead, self._taskFailed)

    def _introduce(self, earlier: Sequence[BatchCase]) -> Piecewise:
        """Reports all cases in their order, then what earlier runs have left of some."""
        for case in self.run.cases:
            scan = self._scanExport.find(case.image)
            case.volume = scan.volume if scan is not None else None
            self._introduced.add(case.name)
            self.run.callbacks.call("onCase", self.run, case)
            yield
        yield from self._readRecords(earlier)

    def _readRecords(self, cases: Sequence[BatchCase]) -> Piecewise:
        """Reads the results of earlier runs from their records."""
        for case in cases:
            record = self.run.folder / "records" / f"{case.name}.json"
            try:
                outcome = json.loads(record.read_text(encoding="utf-8"))["outcome"]
            except (OSError, ValueError, KeyError):
                continue  # the case will run again
            case.results, case.seconds = outcome["prompts"], outcome["seconds"]
            if case.status == "done":
                case.segmentation = self.run.folder / outcome["files"]["segmentation"]
            elif outcome["error"] and case.failure is None:
                case.failure = Failure(**outcome["error"])
            self.run.callbacks.call("onCase", self.run, case)
            yield

    def _recordsRead(self) -> None:
        self._task = None
        if self._exit is not None:
            self._ended(self._exit)

    def _caseStarted(self, event: Event) -> None:
        self._set(event["case"], status="running", fraction=0.0)

    def _progress(self, event: Event) -> None:
        case = self._set(event["case"], fraction=event["fraction"])
        if event["stage"] not in _BACKGROUND_STAGES or not self._shown[0]:
            stage = event["stage"]
            self._shown = case.name, _("Writing the result") if stage == "write" else (
                stageText(stage))
        name, text = self._shown
        self._reportProgress(text, name, event["overall"], event["seconds_left"])

    def _caseDone(self, event: Event) -> None:
        self._set(event["case"], status="done", fraction=1.0, seconds=event["seconds"],
                  results=event["prompts"], segmentation=Path(event["segmentation"]),
                  failure=None)
        self._reportProgress(*self._reported)  # one more has ended
        try:
            self._scanExport.touch()
        except Failure as failure:
            self._log.add(failure.message)  # cases that need the files will fail, too

    def _caseFailed(self, event: Event) -> None:
        failure = Failure(event["code"], event["message"], hintFrom(event))
        self._set(event["case"], status="failed", seconds=event["seconds"], failure=failure)
        self._reportProgress(*self._reported)

    def _finished(self, event: Event) -> None:
        self._hasFinished = True
        self.run.seconds = event["seconds"]

    def _error(self, event: Event) -> None:
        self._failure = Failure(event["code"], event["message"], _hint(event))

    def _set(self, name: str, **values: Any) -> BatchCase:
        case = self._cases[name]
        for key, value in values.items():
            setattr(case, key, value)
        if name in self._introduced:  # else it is still to come, in its place
            self.run.callbacks.call("onCase", self.run, case)
        return case

    # End of the batch

    def _ended(self, result: ProcessExit) -> None:
        self._exit = result
        if self._cancelTimer is not None:
            self._cancelTimer.stop()
        if self._task is not None:
            return  # the records of earlier runs are still being read
        if self._cancelling:
            self._end("cancelled")
        elif self._failure is not None:
            self._end("failed", self._failure)
        elif self._hasFinished:
            self._end("finished")
        else:
            # The exit code says nothing: Slicer's launcher of Python ends with 1 after a crash,
            # as the command does after a case that failed.
            self._end("failed", _exitFailure(result, starting=not self.run.cases))

    def _taskFailed(self, error: Exception) -> None:
        self._task = None
        failure = error if isinstance(error, Failure) else unexpectedFailure(error)
        if self._child is None:
            self._end("failed", failure)
            return
        self._log.add(failure.message)
        self._recordsRead()

    def _stopTask(self) -> None:
        if self._task is not None:
            self._task.stop()
        self._task = None

    def _end(self, state: str, failure: Failure | None = None) -> None:
        if not self.run.active:
            return
        run = self.run
        run.state, run.failure = state, failure
        for case in run.cases:
            if case.status == "running":
                self._set(case.name, status="waiting", fraction=0.0)
        if state == "finished" and not run.count("failed"):
            # Otherwise they are needed to resume.
            self._scanExport.remove(case.image for case in run.cases)
        self._onEnded(self)
        if failure is not None:
            run.callbacks.call("onError", run, failure)
        else:
            run.callbacks.call("onFinished" if state == "finished" else "onCancelled", run)

    def _reportProgress(
        self, text: str, case: str, fraction: float, secondsLeft: float | None
    ) -> None:
        self._reported = text, case, fraction, secondsLeft
        run = self.run
        total = len(run.cases) - run.count("skipped")
        run.callbacks.call("onProgress", run, BatchProgress(
            run.count("done"), run.count("failed"), total, case, fraction, secondsLeft, text))


def _hint(event: Event) -> str:
    """The hint in the panel's terms; the command's name its options."""
    resume = _("To continue there, resume the earlier run; or choose another folder.")
    return {"folder-not-empty": resume,
            "output-not-written": _("Free some space on the disk, then resume the earlier run."),
            }.get(event["code"], hintFrom(event))


def _exitFailure(result: ProcessExit, starting: bool) -> Failure:
    hint = _("Finished scans are kept: run again and resume the earlier run.")
    if result.kind == "not-started":
        return Failure("python-unusable", _("The Python of the background process cannot be "
                       "started."), _("Choose another one under Advanced, or Slicer's own."))
    lines = [line for line in result.errorLines if not line.startswith("Hint: ")]
    if starting and result.kind == "ended" and lines:
        return Failure("batch-failed", lines[-1], hint)
    return Failure("worker-died", _("The batch ended unexpectedly ({reason}).").format(
        reason=result.reason), hint)
