"""One run after the other on one worker, which is started when needed and kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure, failureOf, unexpected
from DiffuGTSPanel.data.Run import Run
from DiffuGTSPanel.library.PythonPackages import Packages
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import Ending, Log
from DiffuGTSPanel.process.Piecewise import Piecewise, Steps
from DiffuGTSPanel.process.WorkerProcess import Event, Worker, WorkerProcess, WorkerState
from DiffuGTSPanel.run.RunController import Work
from DiffuGTSPanel.run.ThresholdChange import Thresholds
from DiffuGTSPanel.scene.ScanExport import JobFolder

# A cancel takes effect within a denoising step; a worker that cannot is ended.
CANCEL_PATIENCE_SECONDS = 30.0
# Their files stay for the evidence; those of a large CT take a gigabyte a run.
KEPT_RUNS = 4


@dataclass(frozen=True)
class _Setting:
    """What a worker was started with; for another one it is started anew."""

    python: str
    model: str
    device: str


class Engine:
    """Queues runs and holds the worker.

    Args:
        log: for what the worker prints.
        packages: of Slicer's own Python.
        makeWorker: makes the worker; another one in tests.

    Attributes:
        python: the Python of the next worker; "" is Slicer's own.
        worker: what is known of the worker.
        onWorker: called when that changes.
    """

    def __init__(
        self, log: Log, packages: Packages, makeWorker: Callable[..., Worker] = WorkerProcess
    ) -> None:
        self.python = ""
        self.worker = WorkerState()
        self.onWorker: Callable[[WorkerState], None] | None = None
        self._log, self._packages = log, packages
        self._process = makeWorker(onEvent=self._take, onLog=log.add, onEnded=self._died)
        self._setting: _Setting | None = None
        self._refusal: Failure | None = None
        self._folder = JobFolder()
        self._waiting: deque[Work] = deque()
        self._current: Work | None = None
        self._finished: deque[Work] = deque()
        self._thresholds = Thresholds(self._folder, self._process)
        self._reading: list[Steps] = []
        self._turn = _later(self._next)

    # Runs ----------------------------------------------------------------------------------------

    def add(self, run: Run) -> None:
        """Puts a run into the queue; it begins from the event loop."""
        self._waiting.append(Work(run, self._folder, self))
        self._turn.start()

    def cancel(self, run: Run) -> None:
        """Stops a run; its caller is told from the event loop."""
        if self._current is not None and self._current.run is run:
            self._cancelCurrent(self._current)
            return
        work = next((each for each in self._waiting if each.run is run), None)
        if work is not None:
            self._waiting.remove(work)
            _soon(work.cancel)

    def _cancelCurrent(self, work: Work) -> None:
        def stop() -> None:
            job = work.jobId
            if work.run.active and not work.cancelling and work.cancel():
                self.withdraw(job)
                self._patience = _after(CANCEL_PATIENCE_SECONDS, lambda: self._lostPatience(work))

        _soon(stop)

    def _lostPatience(self, work: Work) -> None:
        if work.run.active:
            self._log.add(_("The background process did not stop; it is ended."))
            self._process.kill()
            self._off()
            work.take({"type": "cancelled"})

    def _next(self) -> None:
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._current.begin()

    def ended(self, work: Work) -> None:
        """A run has ended: the next one may begin."""
        if work is self._current:
            self._current = None
        if work.run.state == "finished":
            self._finished.append(work)
            while len(self._finished) > KEPT_RUNS:
                for job in self._finished.popleft().jobs:
                    self._folder.removeJob(job.id)
        if self._process.running and self.worker.state == "working":
            self._say(self.worker.at("ready"))
        self._turn.start()

    # The worker ----------------------------------------------------------------------------------

    def request(self, run: Run, request: Event) -> None:
        """Sends a request, with a worker that has the run's model, device and Python.

        Raises:
            Failure: packages are missing.
        """
        options = run.options
        setting = _Setting(self.python, options.model, options.device)
        if not self._process.running or setting != self._setting:
            self._start(setting)
        elif self.worker.state == "ready":
            self._say(self.worker.at("working"))
        self._process.send(request)

    def withdraw(self, jobId: str) -> None:
        """Asks the worker to stop a job; nothing to do where there is no worker."""
        if jobId and self._process.running:
            self._process.send({"type": "cancel", "id": jobId})

    def _start(self, setting: _Setting) -> None:
        if LibraryLauncher.isSlicers(setting.python) and self._packages.missing():
            raise Failure("packages-missing", self._packages.sentence(),
                          _("Install them with the button under Set-up."))
        arguments = ["--model", setting.model, "--device", setting.device]
        self._setting, self._refusal = setting, None
        self._thresholds.forget()
        self._say(WorkerState("starting", setting.model))
        self._process.start(LibraryLauncher.launch("worker", arguments, setting.python))

    def _take(self, event: Event) -> None:
        kind, job = event["type"], event["id"]
        if kind == "ready":
            self._say(self.worker.said(event).at("working" if self._current else "ready"))
        elif self._current is not None and job is not None and job == self._current.jobId:
            self._current.take(event)
        elif job is None and kind == "error":
            # It cannot start: it says why, then it ends.
            self._refusal = failureOf(event)
            self._log.add(event["message"])
        else:
            self._thresholds.take(event)

    def _died(self, ending: Ending) -> None:
        failure = self._refusal or _endingInWords(ending, self.worker.state == "starting")
        self._log.add(failure.message)
        self._off()
        self._thresholds.fail(failure)
        if self._current is not None and self._current.jobId:
            self._current.fail(failure)

    def _off(self) -> None:
        self._setting = None
        self._say(WorkerState())

    def _say(self, state: WorkerState) -> None:
        self.worker = state
        if self.onWorker is not None:
            self.onWorker(state)

    # Finished runs -------------------------------------------------------------------------------

    def finished(self, run: Run) -> Work | None:
        """The work of a run that has finished and whose files are still there."""
        return next((each for each in self._finished if each.run is run), None)

    def setThreshold(self, work: Work, threshold: float) -> None:
        """Another threshold on a finished run."""
        self._thresholds.ask(work, threshold)

    def read(
        self, work: Piecewise, onDone: Callable[[], None], onError: Callable[[Failure], None]
    ) -> None:
        """Reads something of a finished run, in pieces."""

        def failed(error: Exception) -> None:
            onError(error if isinstance(error, Failure) else unexpected(error))

        self._reading = [each for each in self._reading if each.running]
        self._reading.append(Steps(work, onDone, failed))

    # Ends ----------------------------------------------------------------------------------------

    def sceneCloses(self) -> None:
        """Stops all runs and forgets the finished ones: their nodes are about to go."""
        for steps in self._reading:
            steps.stop()
        self._reading.clear()
        self._thresholds.forget()
        for work in self._finished:
            work.run.volume = work.run.roi = work.run.target = None
            for job in work.jobs:
                self._folder.removeJob(job.id)
        self._finished.clear()
        for work in list(self._waiting):
            self.cancel(work.run)
        if self._current is not None:
            self.cancel(self._current.run)

    def shutdown(self) -> None:
        """Ends the worker and removes all files; nothing is told any more."""
        for work in [*self._waiting, *filter(None, [self._current])]:
            work.run.callbacks.forget()
        self.sceneCloses()
        self._waiting.clear()
        self._process.stop(wait=True)
        self._off()
        if self._current is not None:
            self._current.take({"type": "cancelled"})
        self._folder.remove()


def _endingInWords(ending: Ending, starting: bool) -> Failure:
    last = ending.words[-1] if ending.words else ""
    if ending.kind == "not-started":
        return Failure("python-unusable", _("The Python of the background process cannot be "
                       "started."), _("Choose another one under Advanced, or Slicer's own."))
    if starting and ending.kind == "ended":
        reason = last or _("exit code {code}").format(code=ending.code)
        return Failure("worker-not-started", _("The background process could not start: "
                       "{reason}").format(reason=reason),
                       _("Look at the log; check the Python under Advanced."))
    return Failure(
        "worker-died",
        _("The background process ended unexpectedly ({kind} {code}).").format(
            kind=_("signal") if ending.kind == "killed" else _("exit code"), code=ending.code),
        _("Run again: it is started anew. If it happens again, memory may be short: choose a "
          "region of interest or close other programs."))


def _later(function: Callable[[], None]) -> Any:
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(0)
    timer.connect("timeout()", function)
    return timer


def _soon(function: Callable[[], Any]) -> None:
    qt.QTimer.singleShot(0, lambda: function() and None)


def _after(seconds: float, function: Callable[[], None]) -> Any:
    timer = _later(function)
    timer.start(int(seconds * 1000))
    return timer
