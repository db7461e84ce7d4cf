"""Batches for tests: in child processes or, quicker, in this one."""

from __future__ import annotations

import csv
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.batch.case import WORKER_THREADS, BatchSettings, Case, Outcome
from DiffuGTSLib.batch.processor import CaseProcessor
from support.gates import GATED, Gate
from support.tiny_model import PROMPT, ball_scan

REPOSITORY = Path(__file__).resolve().parents[3]


def write_scan(path: Path, seed: int = 0) -> Path:
    """A small MR-like scan with a bright ball; another seed, other noise."""
    image = ball_scan()[0]
    noise = np.random.default_rng(seed).normal(0, 2, image.GetSize()[::-1])
    noisy = sitk.GetImageFromArray((sitk.GetArrayFromImage(image) + noise).astype(np.int16))
    noisy.CopyInformation(image)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(noisy, str(path))
    return path


def command(inputs: Iterable[Path | str], output: Path, model: Path, *more: str) -> list[str]:
    """The command line of a batch."""
    return [sys.executable, "-m", "DiffuGTSLib.cli", "batch", *map(str, inputs), "--output",
            str(output), "--model", str(model), "--device", "cpu", *more]


def environment() -> dict[str, str]:
    # Other numbers of threads add up in another order: masks differ by some voxels.
    path = os.pathsep.join(map(str, (REPOSITORY, GATED)))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def batch(
    inputs: Iterable[Path | str], output: Path, model: Path, *more: str,
    before: tuple[str, ...] = (), prompt: str = PROMPT,
) -> subprocess.CompletedProcess[str]:
    """Runs a batch to its end; `before` stands in front of the command."""
    prompts = ("--prompt", prompt) if prompt else ()
    return subprocess.run(
        [*before, *command(inputs, output, model, *prompts, *more)], capture_output=True, text=True,
        env=environment(), timeout=300, check=False, stdin=subprocess.DEVNULL,
    )


class EventStream:
    """A running `diffugts batch --json-events`."""

    def __init__(self, inputs: Iterable[Path | str], output: Path, model: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            command(inputs, output, model, "--prompt", PROMPT, "--json-events", *more),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(),
        )

    def until(self, kind: str) -> dict[str, Any]:
        """Reads on to the first event of that kind."""
        assert self.process.stdout is not None
        event = {}
        for line in self.process.stdout:
            event = json.loads(line)
            if event["type"] == kind:
                return dict(event)
        raise AssertionError(f"no {kind}, {event} last; {self.process.communicate()[1]}")


    def cancel(self) -> None:
        """Cancels the run; it has received that when this returns."""
        assert self.process.stdin is not None
        self.process.stdin.write('{"type": "cancel"}\n')
        self.process.stdin.flush()
        self.until_ending()

    def until_ending(self) -> None:
        """Waits until the run confirms that it was cancelled."""
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if line.startswith("Ending."):
                return
        raise AssertionError("".join(said))


class BlockedScans:
    """A normal scan "a", a blocked scan for each thread of a worker, and a last scan.

    Reading a blocked scan waits until its gate is opened. So once "a" is done, all threads of the
    worker wait, and the last scan is not started before a gate is opened.
    """

    def __init__(self, folder: Path) -> None:
        self.names = tuple("abcdefgh"[: WORKER_THREADS + 2])
        self.paths = [write_scan(folder / f"{name}.nrrd", seed)
                      for seed, name in enumerate(self.names)]
        self._gates = [Gate(path) for path in self.paths[1:-1]]

    def open(self) -> None:
        """Opens all gates."""
        for gate in self._gates:
            gate.open()

    def shut(self) -> None:
        """Shuts all gates again."""
        for gate in self._gates:
            gate.shut()


class InThisProcess:
    """An executor that runs the real processor in threads of this process."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, settings: BatchSettings, cases: int) -> dict[str, Any]:
        self._processor = CaseProcessor(settings)
        return self._processor.facts()

    def run(
        self, cases: Iterable[Case], on_progress: Any, cancelled: threading.Event
    ) -> Iterator[Outcome]:
        waiting: queue.SimpleQueue[Case | None] = queue.SimpleQueue()
        ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

        def work() -> None:
            while (case := waiting.get()) is not None:
                def progress(*step: Any, name: str = case.name) -> None:
                    on_progress(name, *step)

                ended.put(self._processor.process(case, progress, cancelled))

        threads = [threading.Thread(target=work, daemon=True) for _ in range(WORKER_THREADS)]
        for thread in threads:
            thread.start()
        for case in cases:
            self.started.append(case.name)
            on_progress(case.name, "start", 0, 1, 0.0)
            waiting.put(case)
        for _ in self.started:
            yield ended.get()
        for _ in threads:
            waiting.put(None)

    def close(self) -> None:
        pass


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def statuses(folder: Path) -> dict[str, str]:
    """Case to status."""
    rows = table(folder / "cases.csv")
    assert len({row["case"] for row in rows}) == len(rows)
    return {row["case"]: row["status"] for row in rows}


def voxels(folder: Path, case: str) -> np.ndarray:
    """The labels that a batch has written for a case."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "segmentations" /
                                                     f"{case}.seg.nrrd")))
