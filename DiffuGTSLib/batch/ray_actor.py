"""The worker on a machine of the cluster: the model, loaded once, and threads that process cases.

Only one line here uses Ray: ray_executor.py makes an actor of the class and calls its methods
remotely. Arguments and results are small plain values; volumes stay on the shared storage.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DiffuGTSLib.batch.case import BatchFailure, BatchSettings, Case
from DiffuGTSLib.errors import DiffuGTSError

if TYPE_CHECKING:
    from DiffuGTSLib.batch.processor import CaseProcessor

Step = tuple[str, str, int, int, float]
# Network file systems may show a new file late to a machine that has listed the folder before.
_SECONDS_TO_APPEAR = 30.0
_POLL_SECONDS = 0.5
_MAX_WAIT_SECONDS = 0.5


class FolderNotShared(DiffuGTSError):
    """A machine of the cluster does not see the output folder that the others write into."""

    code = "folder-not-shared"


class RayWorker:
    """Processes cases on one GPU, or some cores, of a machine; its methods run in threads.

    Args:
        settings: of the run.
        device: where the networks run, as this machine calls it.
        marker: name of a file that the driver has put into the output folder.
    """

    def __init__(self, settings: dict[str, Any], device: str, marker: str) -> None:
        self._settings = BatchSettings.from_dict(settings)
        self._device = device
        self._marker = marker
        self._processor: CaseProcessor | None = None
        self._cancelled = threading.Event()
        self._changed = threading.Condition()
        self._steps: dict[tuple[str, str], Step] = {}

    def load(self) -> dict[str, Any]:
        """Loads the model.

        Returns:
            `facts` of the processor and the `node` that this is; or a `failure`.
        """
        try:
            _check_shared(self._settings.folder, self._marker)
            from DiffuGTSLib.batch.processor import CaseProcessor

            self._processor = CaseProcessor(self._settings, self._device)
        except (DiffuGTSError, RuntimeError, MemoryError, OSError) as error:
            return {"failure": asdict(BatchFailure.of(error))}
        import ray
        import torch

        facts = self._processor.facts() | {"threads": torch.get_num_threads()}
        return {"facts": facts, "node": ray.get_runtime_context().get_node_id()}

    def process(self, case: dict[str, Any]) -> dict[str, Any]:
        """Processes a case; returns its Outcome's fields. Runs in up to WORKER_THREADS threads."""
        assert self._processor is not None
        name = case["name"]

        def progress(stage: str, done: int, total: int, fraction: float) -> None:
            with self._changed:
                # Of a stage that goes on, only the latest state when the driver polls.
                self._steps[name, stage] = (name, stage, done, total, round(fraction, 4))
                self._changed.notify_all()

        outcome = self._processor.process(Case.from_dict(case), progress, self._cancelled)
        return outcome.as_dict()

    def steps(self) -> list[Step]:
        """Progress of the cases since the last call; waits briefly for something new."""
        with self._changed:
            self._changed.wait_for(lambda: self._steps, _MAX_WAIT_SECONDS)
            latest = list(self._steps.values())
            self._steps = {}
        return latest

    def cancel(self) -> None:
        """Cancels the running cases at their next step, and later ones at their first."""
        self._cancelled.set()


def _check_shared(folder: Path, marker: str) -> None:
    """Looks for the driver's marker file, which a local disk at the same path does not have."""
    deadline = time.monotonic() + _SECONDS_TO_APPEAR
    while not (folder.is_dir() and marker in os.listdir(folder)):
        if time.monotonic() > deadline or not folder.is_dir():
            raise FolderNotShared(
                "A machine of the cluster does not see the output folder.",
                "Scans and output folder have to be on storage that all machines have at the "
                "same path.",
            )
        time.sleep(_POLL_SECONDS)
