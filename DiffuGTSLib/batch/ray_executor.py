"""An executor on a Ray cluster: one worker per GPU, or per number of cores, holds the model.

The driver keeps the records and assigns cases; the workers are actors, which read scans from the
shared storage and write results to it. When a machine or a process dies, its cases are retried, on
another machine where there is one.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.batch.case import WORKER_THREADS, BatchFailure, BatchSettings, Case, Outcome
from DiffuGTSLib.batch.executor import OnCaseProgress, Worker, WorkerFailed, WorkerPool
from DiffuGTSLib.batch.ray_actor import RayWorker
from DiffuGTSLib.batch.ray_connection import THREADS, divided, import_ray, join, located
from DiffuGTSLib.errors import (
    DiffuGTSError,
    ModelDamaged,
    OutputNotWritten,
    PackageMissing,
    WorkerDied,
)
from DiffuGTSLib.files import temporary_path

# A case during which three workers died has failed, even if machines were lost each time.
_MAX_TRIES = 3
_POLL_SECONDS = 0.5
# Clusters that grow on demand take minutes for a new machine.
_MAX_SECONDS_WITHOUT_WORKER = 900.0


class OtherVersion(DiffuGTSError):
    """A machine of the cluster has another version of DiffuGTS."""

    code = "other-version"


@dataclass(eq=False)
class _Actor(Worker):
    """An actor.

    Attributes:
        node: Ray's identifier of its machine, once it is ready.
    """

    actor: Any = field(kw_only=True)
    node: str = ""


class RayExecutor(WorkerPool[_Actor]):
    """Processes cases on a Ray cluster; see executor.Executor.

    Args:
        address: "auto" for the cluster that this machine is a node of, "local" for one that is
            started on this machine, or HOST:PORT.
        jobs: number of workers; None for as many as fit into the cluster.

    Raises:
        PackageMissing, ClusterUnreachable: there is no Ray, or no cluster.
    """

    def __init__(self, address: str, jobs: int | None = None) -> None:
        super().__init__()
        self._ray = import_ray()
        self._address = located(address)
        self._jobs = jobs
        self._joined = False
        self._marker: Path | None = None
        self._facts: dict[str, Any] | None = None
        self._pending: dict[Any, tuple[_Actor, str]] = {}
        self._failed_nodes: dict[str, list[str]] = defaultdict(list)
        self._failed_starts = 0
        self._last_ready = time.monotonic()

    def start(self, settings: BatchSettings, cases: int) -> dict[str, Any]:
        """Joins the cluster and waits until the first worker, of one a case at most, has loaded
        the model.

        Raises:
            ClusterUnreachable, NoResources, FolderNotShared, OtherVersion: the cluster cannot work.
            ModelMissing, ModelDamaged, WorkerDied: as any executor.
        """
        self._joined = join(self._ray, self._address)
        self._settings = settings
        self._layout = divided(self._ray.nodes(), settings.options.device, self._jobs)
        self._marker = _marker_file(settings.folder)
        self._workers = [self._new_worker() for _ in range(min(self._layout.count, max(1, cases)))]
        self._last_ready = time.monotonic()
        while self._facts is None:
            for reference in self._completed():
                self._handle(reference)
        return self._facts

    def close(self) -> None:
        """Ends the workers and leaves the cluster."""
        for worker in self._workers:
            self._kill(worker)
        self._workers, self._pending = [], {}
        if self._marker is not None:
            with contextlib.suppress(OSError):
                self._marker.unlink(missing_ok=True)
        if self._joined:
            self._joined = False
            self._ray.shutdown()

    def _new_worker(self) -> _Actor:
        """Requests an actor; it is ready once the cluster has resources and the model is loaded."""
        assert self._marker is not None
        layout, device = self._layout, self._settings.options.device
        threads = str(layout.threads)
        # Ray shows each worker only its own GPU, as the first one.
        actor = self._ray.remote(RayWorker).options(
            num_cpus=layout.cores, num_gpus=int(layout.gpu), scheduling_strategy="SPREAD",
            # Two more threads than cases: for `steps` and for `cancel`.
            max_concurrency=WORKER_THREADS + 2, max_restarts=0,
            runtime_env={"env_vars": {
                THREADS: threads, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": threads}},
        ).remote(self._settings.as_dict(),
                 "cuda" if layout.gpu else "cpu" if device == "auto" else device, self._marker.name)
        worker = _Actor(actor=actor)
        self._pending[actor.load.remote()] = worker, "load"
        return worker

    def _submit(self, worker: _Actor, case: Case) -> None:
        self._pending[worker.actor.process.remote(case.as_dict())] = worker, case.name

    def _cancel(self, worker: _Actor) -> None:
        worker.actor.cancel.remote()

    def _poll(self, on_progress: OnCaseProgress) -> Iterator[Outcome]:
        for reference in self._completed():
            yield from self._handle(reference, on_progress)

    def _next_retry(self, worker: _Actor) -> Case | None:
        """Prefers a machine on which the case has not failed yet, if there is one."""
        nodes = {other.node for other in self._workers if other.ready}
        for case in self._retries:
            failed_on = set(self._failed_nodes[case.name])
            if worker.node not in failed_on or nodes <= failed_on:
                self._retries.remove(case)
                return case
        return None

    def _completed(self) -> list[Any]:
        """The calls that have completed, after a short wait.

        Raises:
            WorkerDied: there has been no worker for too long.
        """
        now = time.monotonic()
        if any(worker.ready for worker in self._workers):
            self._last_ready = now
        elif now - self._last_ready > _MAX_SECONDS_WITHOUT_WORKER:
            raise WorkerDied(
                "The cluster has had no free worker for the batch for "
                f"{_MAX_SECONDS_WITHOUT_WORKER / 60:.0f} minutes.",
                "See what it is busy with: ray status; later go on with --resume.",
            )
        pending = list(self._pending)
        ready, _ = self._ray.wait(pending, num_returns=1, timeout=_POLL_SECONDS)
        if ready:
            ready, _ = self._ray.wait(pending, num_returns=len(pending), timeout=0)
        return list(ready)

    def _handle(
        self, reference: Any, on_progress: OnCaseProgress | None = None
    ) -> list[Outcome]:
        """Handles a completed call; returns the outcomes that it brings."""
        worker, what = self._pending.pop(reference)
        if worker not in self._workers:
            return []
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._on_exit(worker, error)
        if what == "load":
            self._on_ready(worker, answer)
        elif what == "steps/":
            self._report(worker, answer, on_progress)
        else:
            return [self._complete(worker, Outcome.from_dict(answer))]
        self._pending[worker.actor.steps.remote()] = worker, "steps/"
        return []

    def _report(
        self, worker: _Actor, steps: list[Any], on_progress: OnCaseProgress | None
    ) -> None:
        for name, *step in steps:
            # Steps may arrive after the outcome of their case.
            if on_progress and name in worker.cases:
                on_progress(name, *step)

    def _on_ready(self, worker: _Actor, answer: dict[str, Any]) -> None:
        if "failure" in answer:
            raise WorkerFailed(BatchFailure(**answer["failure"]))
        facts = answer["facts"]
        worker.ready, worker.node = True, answer["node"]
        if facts["version"] != __version__:
            raise OtherVersion(
                f"A machine of the cluster has DiffuGTS {facts['version']}, this one "
                f"{__version__}.", "Install the same version on all machines.",
            )
        if self._facts is None:
            self._facts = facts | {"places": self._layout.count}
        elif facts["model_sha256"] != self._facts["model_sha256"]:
            raise ModelDamaged("The machines of the cluster have different models.",
                               "Give all of them the same one, and start again.")

    def _on_exit(self, worker: _Actor, error: Exception) -> list[Outcome]:
        """Replaces a worker that has died; its cases are retried, or have failed."""
        self._kill(worker)
        if "No module named" in str(error):
            raise PackageMissing(
                "A machine of the cluster lacks DiffuGTS, or a package that it needs.",
                "Install it on all machines; see there: diffugts doctor",
            )
        lost = worker.node in self._lost_nodes()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_TRIES:
                raise WorkerDied("The workers of the cluster end before the model is loaded.",
                                 "Memory may have run out; see there: diffugts doctor")
        self._workers[self._workers.index(worker)] = self._new_worker()
        outcomes = []
        for case in worker.cases.values():
            self._failed_nodes[case.name].append(worker.node)
            if len(self._failed_nodes[case.name]) < _MAX_TRIES and (lost or not worker.isolated):
                self._retries.append(case)
            else:
                outcomes.append(Outcome(case.name, "failed", error=BatchFailure(
                    WorkerDied.code, "The process working on this scan ended unexpectedly.",
                    "Memory may have run out: crop the scan, or use machines with more.")))
        return outcomes

    def _lost_nodes(self) -> set[str]:
        """The machines that the cluster has lost."""
        return {node["NodeID"] for node in self._ray.nodes() if not node["Alive"]}

    def _kill(self, worker: _Actor) -> None:
        with contextlib.suppress(Exception):  # it has gone already, or the cluster has
            self._ray.kill(worker.actor)


def _marker_file(folder: Path) -> Path:
    """A new file by which machines recognise the folder; `remove_unfinished` knows its name."""
    path = temporary_path(folder / "marker", ".cluster")
    try:
        path.touch()
    except OSError:
        raise OutputNotWritten(f"The folder {folder.name} cannot be written to.",
                               "Check its rights and the space on the disk.") from None
    return path
