"""The queue of runs, and the worker process that they share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure, failureFrom, unexpectedFailure
from DiffuGTSPanel.data.Run import Run
from DiffuGTSPanel.library.PythonPackages import PythonPackages
from DiffuGTSPanel.process.ChildProcess import Log, ProcessExit
from DiffuGTSPanel.process.ComputeTarget import ComputeTarget, targetOf
from DiffuGTSPanel.process.Piecewise import IdleTask, Piecewise, callLater, singleShotTimer
from DiffuGTSPanel.process.WorkerProcess import Event, Worker, WorkerProcess, WorkerState
from DiffuGTSPanel.run.RunController import RunController
from DiffuGTSPanel.run.ThresholdChange import ThresholdQueue
from DiffuGTSPanel.scene.ScanExport import JobFolder

# A worker cancels within a denoising step; one that does not is killed.
CANCEL_TIMEOUT_SECONDS = 30.0
# Finished runs whose files are kept for the evidence: a gigabyte each for a large CT.
KEPT_RUNS = 4


@dataclass(frozen=True)
class _WorkerSettings:
    """What a worker was started with; a run with other settings restarts it."""

    target: ComputeTarget
    model: str
    device: str


class RunQueue:
    """Runs one run after the other on one worker, started when needed and kept.

    Args:
        log: for the worker's output.
        packages: of Slicer's own Python.
        makeWorker: creates the worker; replaceable for tests.

    Attributes:
        python: the Python of the next worker; "" is Slicer's own.
        worker: state of the worker.
        onWorker: called when that changes.
    """

    def __init__(
        self, log: Log, packages: PythonPackages, makeWorker: Callable[..., Worker] = WorkerProcess
    ) -> None:
        self.python = ""
        self.worker = WorkerState()
        self.onWorker: Callable[[WorkerState], None] | None = None
        self._log, self._packages = log, packages
        self._process = makeWorker(onEvent=self._onEvent, onLog=log.add, onEnded=self._workerDied)
        self._settings: _WorkerSettings | None = None
        self._startFailure: Failure | None = None
        self._folder = JobFolder()
        self._waiting: deque[RunController] = deque()
        self._current: RunController | None = None
        self._finished: deque[RunController] = deque()
        self._thresholdQueue = ThresholdQueue(self._folder, self._process)
        self._readTasks: list[IdleTask] = []
        self._nextTimer = singleShotTimer(self._next)
        self._cancelTimer: Any = None

    # Runs ----------------------------------------------------------------------------------------

    def add(self, run: Run) -> None:
        """Adds a run to the queue; it starts from the event loop."""
        self._waiting.append(RunController(run, self._folder, self))
        self._nextTimer.start()

    def cancel(self, run: Run) -> None:
        """Cancels a run; its callback follows from the event loop."""
        if self._current is not None and self._current.run is run:
            self._cancelCurrent(self._current)
            return
        waiting = next((each for each in self._waiting if each.run is run), None)
        if waiting is not None:
            self._waiting.remove(waiting)
            callLater(waiting.cancel)

    def _cancelCurrent(self, controller: RunController) -> None:
        def stop() -> None:
            job = controller.jobId
            if controller.run.active and not controller.cancelling and controller.cancel():
                self.cancelJob(job)
                self._cancelTimer = singleShotTimer(
                    lambda: self._cancelTimedOut(controller), CANCEL_TIMEOUT_SECONDS)
                self._cancelTimer.start()

        callLater(stop)

    def _cancelTimedOut(self, controller: RunController) -> None:
        if controller.run.active:
            self._log.add(_("The background process did not stop in time and was terminated."))
            self._process.kill()
            self._setOff()
            self._thresholdQueue.fail()
            controller.take({"type": "cancelled"})

    def _next(self) -> None:
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._current.begin()

    def ended(self, controller: RunController) -> None:
        """Starts the next run after this one."""
        if controller is self._current:
            self._current = None
        if controller.run.state == "finished":
            self._finished.append(controller)
            while len(self._finished) > KEPT_RUNS:
                for job in self._finished.popleft().jobs:
                    self._folder.removeJob(job.id)
        if self._process.running and self.worker.state == "working":
            self._setState(self.worker.withState("ready"))
        self._nextTimer.start()

    # The worker ----------------------------------------------------------------------------------

    def request(self, run: Run, request: Event) -> None:
        """Sends a request to a worker with the run's model, device and computer.

        Raises:
            Failure: packages are missing.
        """
        options = run.options
        settings = _WorkerSettings(
            targetOf(options.host, self.python), options.model, options.device)
        if not self._process.running or settings != self._settings:
            self._start(settings)
        elif self.worker.state == "ready":
            self._setState(self.worker.withState("working"))
        self._process.send(request)

    def cancelJob(self, jobId: str) -> None:
        """Asks the worker, where it is running, to cancel a job."""
        if jobId and self._process.running:
            self._process.send({"type": "cancel", "id": jobId})

    def _start(self, settings: _WorkerSettings) -> None:
        problem = self._packages.problem() if settings.target.needsSlicersPackages else None
        if problem is not None:
            raise problem
        self._settings, self._startFailure = settings, None
        self._thresholdQueue.fail()
        self._setState(WorkerState("starting", settings.model))
        self._process.start(settings.target.launch(settings.model, settings.device))

    def _onEvent(self, event: Event) -> None:
        kind, job = event["type"], event["id"]
        if kind == "ready":
            state = "working" if self._current else "ready"
            self._setState(WorkerState.fromReady(event).withState(state))
        elif self._current is not None and job is not None and job == self._current.jobId:
            self._current.take(event)
        elif job is None and kind == "error":
            # It could not start: it reports why, then it ends.
            self._startFailure = failureFrom(event)
            self._log.add(event["message"])
        else:
            self._thresholdQueue.take(event)

    def _workerDied(self, result: ProcessExit) -> None:
        failure = self._startFailure or _exitFailure(result, self.worker.state == "starting")
        self._log.add(failure.message)
        self._setOff()
        self._thresholdQueue.fail(failure)
        if self._current is not None and self._current.jobId:
            self._current.fail(failure)

    def _setOff(self) -> None:
        self._settings = None
        self._setState(WorkerState())

    def _setState(self, state: WorkerState) -> None:
        self.worker = state
        if self.onWorker is not None:
            self.onWorker(state)

    # Finished runs -------------------------------------------------------------------------------

    def finished(self, run: Run) -> RunController | None:
        """The controller of a finished run whose files are kept; None for others."""
        return next((each for each in self._finished if each.run is run), None)

    def setThreshold(self, controller: RunController, threshold: float) -> None:
        """Applies another threshold to a finished run."""
        self._thresholdQueue.add(controller, threshold)

    def read(
        self, work: Piecewise, onDone: Callable[[], None], onError: Callable[[Failure], None]
    ) -> None:
        """Reads data of a finished run in pieces."""

        def failed(error: Exception) -> None:
            onError(error if isinstance(error, Failure) else unexpectedFailure(error))

        self._readTasks = [each for each in self._readTasks if each.running]
        self._readTasks.append(IdleTask(work, onDone, failed))

    # Shutdown ------------------------------------------------------------------------------------

    def sceneCloses(self) -> None:
        """Cancels all runs and drops the finished ones: their nodes are about to be removed."""
        for task in self._readTasks:
            task.stop()
        self._readTasks.clear()
        self._thresholdQueue.clear()
        for controller in self._finished:
            run = controller.run
            run.volume = run.roi = run.within = run.target = None
            for job in controller.jobs:
                self._folder.removeJob(job.id)
        self._finished.clear()
        for controller in list(self._waiting):
            self.cancel(controller.run)
        if self._current is not None:
            self.cancel(self._current.run)

    def shutdown(self) -> None:
        """Ends the worker and removes all files; no callback follows."""
        for controller in [*self._waiting, *filter(None, [self._current])]:
            controller.run.callbacks.clear()
        self.sceneCloses()
        self._waiting.clear()
        self._process.stop(wait=True)
        self._setOff()
        if self._current is not None:
            self._current.take({"type": "cancelled"})
        self._folder.remove()


def _exitFailure(result: ProcessExit, starting: bool) -> Failure:
    last = result.errorLines[-1] if result.errorLines else ""
    if result.kind == "not-started":
        return Failure("python-unusable", _("The Python of the background process cannot be "
                       "started."), _("Choose another one under Advanced, or Slicer's own."))
    if starting and result.kind == "ended":
        return Failure("worker-not-started", _("The background process could not start: "
                       "{reason}").format(reason=last or result.reason),
                       _("See the log and check the Python under Advanced."))
    return Failure(
        "worker-died",
        _("The background process ended unexpectedly ({reason}).").format(reason=result.reason),
        _("Run again to restart it. If it happens again, memory may be too small: choose a region "
          "of interest or close other programs."))
