"""All batches of a session: starts them, cancels them, ends them with Slicer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from DiffuGTSPanel.batch import BatchCaseLoader
from DiffuGTSPanel.batch.BatchController import BatchWork
from DiffuGTSPanel.batch.BatchScanExport import BatchScans, split
from DiffuGTSPanel.data.Batch import BatchCallbacks, BatchCase, BatchOptions, BatchRun
from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.library.PythonPackages import Packages
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import Log
from DiffuGTSPanel.scene.ScanExport import JobFolder

_LOOK_MS = 50


class Batches:
    """Each batch is a process of its own; they run at the same time, each into its own folder.

    Args:
        log: for what they print.
        packages: of Slicer's own Python.
    """

    def __init__(self, log: Log, packages: Packages) -> None:
        self._log, self._packages = log, packages
        self._folder = JobFolder()
        self._scans = BatchScans(self._folder)
        self._works: list[BatchWork] = []
        self._open = True

    def start(
        self, inputs: Any, prompts: Sequence[str], folder: Path | str, python: str,
        callbacks: BatchCallbacks, options: BatchOptions,
    ) -> BatchRun:
        """Begins a batch from the event loop and returns at once.

        Raises:
            TypeError: `inputs` holds something that is neither a path nor a node.
        """
        paths, nodes = split(inputs)
        run = BatchRun(uuid.uuid4().hex[:12], tuple(prompts), Path(folder).expanduser().absolute(),
                       options, callbacks)

        def begin() -> None:
            if run.state != "waiting" or not self._open:
                return
            try:
                self._check(python)
                self._works.append(BatchWork(run, paths, nodes, scans=self._scans, log=self._log,
                                             python=python, onEnded=self._works.remove))
            except Failure as failure:
                run.state, run.failure = "failed", failure
                callbacks.tell("onError", run, failure)

        _soon(begin)
        return run

    def cancel(self, run: BatchRun) -> None:
        """Stops a batch; its caller is told from the event loop."""
        work = next((each for each in self._works if each.run is run), None)
        if work is not None:
            _soon(work.cancel)
        elif run.state == "waiting":
            run.state = "cancelled"
            _soon(lambda: run.callbacks.tell("onCancelled", run))

    def wait(self, run: BatchRun) -> None:
        """Runs an event loop until a batch has ended.

        Raises:
            Failure: it could not start or go on, or was cancelled.
        """
        loop = qt.QEventLoop()
        timer = qt.QTimer()
        timer.setInterval(_LOOK_MS)
        timer.connect("timeout()", lambda: None if run.active else loop.quit())
        timer.start()
        while run.active:
            loop.exec_()
        timer.stop()
        if run.state != "finished":
            raise run.failure or Failure("cancelled", _("The run was cancelled."))

    def load(self, case: BatchCase) -> None:
        """Brings scan and result of a case into the scene; see BatchResult."""
        BatchCaseLoader.show(case, self._scans.find(case.image))

    def shutdown(self) -> None:
        """Ends all batches and removes the temporary files; nothing is told any more."""
        self._open = False
        for work in list(self._works):
            work.shutdown()
        self._folder.remove()

    def _check(self, python: str) -> None:
        if LibraryLauncher.isSlicers(python) and self._packages.missing():
            raise Failure("packages-missing", self._packages.sentence(),
                          _("Install them with the button under Set-up."))


def _soon(function: Callable[[], Any]) -> None:
    qt.QTimer.singleShot(0, lambda: function() and None)
