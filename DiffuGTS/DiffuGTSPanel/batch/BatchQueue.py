"""All batches of a session: starts, cancels and ends them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from DiffuGTSPanel.batch import BatchCaseLoader
from DiffuGTSPanel.batch.BatchController import BatchController
from DiffuGTSPanel.batch.BatchScanExport import BatchScanExport, splitInputs
from DiffuGTSPanel.data.Batch import BatchCallbacks, BatchCase, BatchOptions, BatchRun
from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.library.PythonPackages import PythonPackages
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import Log
from DiffuGTSPanel.process.Piecewise import callLater
from DiffuGTSPanel.scene.ScanExport import JobFolder

_POLL_MS = 50


class BatchQueue:
    """Runs each batch in a process of its own, at once, each into its own folder.

    Args:
        log: for their output.
        packages: of Slicer's own Python.
    """

    def __init__(self, log: Log, packages: PythonPackages) -> None:
        self._log, self._packages = log, packages
        self._folder = JobFolder()
        self._scanExport = BatchScanExport(self._folder)
        self._controllers: list[BatchController] = []
        self._open = True

    def start(
        self, inputs: Any, prompts: Sequence[str], folder: Path | str, python: str,
        callbacks: BatchCallbacks, options: BatchOptions,
    ) -> BatchRun:
        """Starts a batch from the event loop; returns at once.

        Raises:
            TypeError: `inputs` holds something that is neither a path nor a node.
        """
        paths, nodes = splitInputs(inputs)
        run = BatchRun(uuid.uuid4().hex[:12], tuple(prompts), Path(folder).expanduser().absolute(),
                       options, callbacks)

        def begin() -> None:
            if run.state != "waiting" or not self._open:
                return
            try:
                self._check(python)
                self._controllers.append(BatchController(
                    run, paths, nodes, scanExport=self._scanExport, log=self._log, python=python,
                    onEnded=self._controllers.remove))
            except Failure as failure:
                run.state, run.failure = "failed", failure
                callbacks.call("onError", run, failure)

        callLater(begin)
        return run

    def cancel(self, run: BatchRun) -> None:
        """Cancels a batch; its callback follows from the event loop."""
        controller = next((each for each in self._controllers if each.run is run), None)
        if controller is not None:
            callLater(controller.cancel)
        elif run.state == "waiting":
            run.state = "cancelled"
            callLater(lambda: run.callbacks.call("onCancelled", run))

    def wait(self, run: BatchRun) -> None:
        """Runs an event loop until a batch has ended.

        Raises:
            Failure: it could not start or continue, or was cancelled.
        """
        loop = qt.QEventLoop()
        timer = qt.QTimer()
        timer.setInterval(_POLL_MS)
        timer.connect("timeout()", lambda: None if run.active else loop.quit())
        timer.start()
        while run.active:
            loop.exec_()
        timer.stop()
        if run.state != "finished":
            raise run.failure or Failure("cancelled", _("The run was cancelled."))

    def load(self, case: BatchCase) -> None:
        """Loads scan and result of a case into the scene; see BatchCaseLoader."""
        BatchCaseLoader.loadCase(case, self._scanExport.find(case.image))

    def shutdown(self) -> None:
        """Ends all batches and removes the temporary files; no callback follows."""
        self._open = False
        for controller in list(self._controllers):
            controller.shutdown()
        self._folder.remove()

    def _check(self, python: str) -> None:
        problem = self._packages.problem() if LibraryLauncher.isSlicers(python) else None
        if problem is not None:
            raise problem
