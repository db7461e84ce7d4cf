"""Batches on the stand-in host, with the real command in a child process and a tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROMPT = "brain tumor"
SECONDS = 240.0
FOLDER = "Ärzte 患者"


@dataclass(frozen=True)
class Material:
    """A tiny model, and a folder with two small scans, a damaged one and a text."""

    model: Path
    scans: Path


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Made once."""
    # Here, and not at the top: these import torch.
    from support.batch_runs import write_scan
    from support.tiny_model import write_tiny_model

    folder = tmp_path_factory.mktemp("batch")
    made = Material(folder / "tiny", folder / FOLDER)
    write_tiny_model(made.model)
    write_scan(made.scans / "eins.nrrd", 0)
    write_scan(made.scans / "zwei.nrrd", 1)
    (made.scans / "kaputt.nii.gz").write_bytes(b"nothing that is an image")
    (made.scans / "Notizen.txt").write_text("nothing that is a scan")
    return made


class BatchEvents:
    """The callbacks of a batch."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.statuses: list[tuple[str, str]] = []
        self.steps: list[Any] = []
        self.failure: Any = None

    def callbacks(self) -> dict[str, Any]:
        """For `segmentBatch`."""
        return {
            "onProgress": lambda run, step: self.steps.append(step),
            "onCase": lambda run, case: self.statuses.append((case.name, case.status)),
            "onFinished": lambda run: self.ends.append("finished"),
            "onCancelled": lambda run: self.ends.append("cancelled"),
            "onError": self._error,
        }

    def _error(self, run: Any, failure: Any) -> None:
        self.ends.append("error")
        self.failure = failure


def statuses(run: Any) -> dict[str, str]:
    """Of the run's cases, by name."""
    return {case.name: case.status for case in run.cases}


def run_batch(host: Any, logic: Any, inputs: Any, folder: Path, material: Material,
              prompt: str = PROMPT, **options: Any) -> tuple[Any, BatchEvents]:
    """A batch and its callbacks, when it has ended."""
    events = BatchEvents()
    run = logic.segmentBatch(inputs, prompt, folder, **events.callbacks(),
                             **{"model": str(material.model), "device": "cpu"} | options)
    host.until(lambda: not run.active, SECONDS, "the end of the batch")
    return run, events
