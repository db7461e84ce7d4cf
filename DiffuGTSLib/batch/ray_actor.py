"""What runs on a cluster's machines: the model, loaded once, and the threads that process cases.

Nothing here knows Ray but one line: cluster.py makes an actor of the class, and calls its methods
from afar. What they take and return is plain and small; volumes stay on the shared storage.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DiffuGTSLib.batch.case import Case, Failure, Settings
from DiffuGTSLib.errors import DiffuGTSError

if TYPE_CHECKING:
    from DiffuGTSLib.batch.processor import CaseProcessor

Step = tuple[str, str, int, int, float]
# Network file systems show a new file late to a machine that has looked into the folder before.
_SECONDS_TO_APPEAR = 30.0
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_WITHOUT_STEPS = 0.5


class FolderNotShared(DiffuGTSError):
    """A machine of the cluster does not see the output folder that the others write into."""

    code = "folder-not-shared"


class ClusterPlace:
    """Processes cases on one GPU, or some cores, of a machine; its methods run in threads.

    Args:
        settings: of the run.
        device: where the networks run, as this machine calls it.
        sign: name of a file that the driver has put into the output folder.
    """

    def __init__(self, settings: dict[str, Any], device: str, sign: str) -> None:
        self._settings = Settings.from_dict(settings)
        self._device = device
        self._sign = sign
        self._processor: CaseProcessor | None = None
        self._cancelled = threading.Event()
        self._news = threading.Condition()
        self._steps: dict[tuple[str, str], Step] = {}

    def load(self) -> dict[str, Any]:
        """Loads the model.

        Returns:
            `facts` of the processor and the `node` that this is; or a `failure`.
        """
        try:
            _check_shared(self._settings.folder, self._sign)
            from DiffuGTSLib.batch.processor import CaseProcessor

            self._processor = CaseProcessor(self._settings, self._device)
        except (DiffuGTSError, RuntimeError, MemoryError, OSError) as error:
            return {"failure": asdict(Failure.of(error))}
        import ray
        import torch

        facts = self._processor.facts() | {"threads": torch.get_num_threads()}
        return {"facts": facts, "node": ray.get_runtime_context().get_node_id()}

    def process(self, case: dict[str, Any]) -> dict[str, Any]:
        """Processes a case, from HANDS threads at once; returns its Outcome's fields."""
        assert self._processor is not None
        name = case["name"]

        def tell(stage: str, done: int, total: int, fraction: float) -> None:
            with self._news:
                # Of a stage that goes on, only how far it is by the time the driver asks.
                self._steps[name, stage] = (name, stage, done, total, round(fraction, 4))
                self._news.notify_all()

        outcome = self._processor.process(Case.from_dict(case), tell, self._cancelled)
        return outcome.as_dict()

    def steps(self) -> list[Step]:
        """What the cases have reached since the last call; waits a little for something new."""
        with self._news:
            self._news.wait_for(lambda: self._steps, _SECONDS_WITHOUT_STEPS)
            news = list(self._steps.values())
            self._steps = {}
        return news

    def cancel(self) -> None:
        """The cases at hand end at their next step, and those that come at their first."""
        self._cancelled.set()


def _check_shared(folder: Path, sign: str) -> None:
    """Looks for the driver's file: the same path on a disk of this machine alone will not do."""
    deadline = time.monotonic() + _SECONDS_TO_APPEAR
    while not (folder.is_dir() and sign in os.listdir(folder)):
        if time.monotonic() > deadline or not folder.is_dir():
            raise FolderNotShared(
                "A machine of the cluster does not see the output folder.",
                "Scans and output folder have to be on storage that all machines have at the "
                "same path.",
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)
