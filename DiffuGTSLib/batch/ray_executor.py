"""An executor on a Ray cluster: one place a GPU, or a number of cores, which holds the model.

The driver keeps the books and hands out cases; the places are actors, which read scans from the
shared storage and write results to it. When a machine or a process dies, the cases that it had at
hand run again, on another machine where there is one.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.batch.case import HANDS, Case, Failure, Outcome, Settings
from DiffuGTSLib.batch.executor import ChildFailed, Listen, Place, Places
from DiffuGTSLib.batch.ray_actor import ClusterPlace
from DiffuGTSLib.batch.ray_connection import THREADS, divided, import_ray, join, located
from DiffuGTSLib.errors import (
    DiffuGTSError,
    ModelDamaged,
    OutputNotWritten,
    PackageMissing,
    WorkerDied,
)

# A case that three places have died of is not innocent, whatever they died of.
_TRIES = 3
_SECONDS_BETWEEN_LOOKS = 0.5
# Clusters that grow on demand take minutes for a new machine.
_SECONDS_WITHOUT_PLACE = 900.0


class OtherVersion(DiffuGTSError):
    """A machine of the cluster has another version of DiffuGTS."""

    code = "other-version"


@dataclass(eq=False)
class _Place(Place):
    """An actor.

    Attributes:
        node: identifier of its machine, once it is ready.
    """

    actor: Any = field(kw_only=True)
    node: str = ""


class RayExecutor(Places[_Place]):
    """Processes cases on a Ray cluster; see batch_executor.Executor.

    Args:
        address: "auto" for the cluster that this machine is a node of, "local" for one that is
            started on this machine, or HOST:PORT.
        jobs: number of places; None for as many as the cluster has room for.

    Raises:
        PackageMissing, ClusterUnreachable: there is no Ray, or no cluster.
    """

    def __init__(self, address: str, jobs: int | None = None) -> None:
        super().__init__()
        self._ray = import_ray()
        self._address = located(address)
        self._jobs = jobs
        self._joined = False
        self._sign: Path | None = None
        self._facts: dict[str, Any] | None = None
        self._asked: dict[Any, tuple[_Place, str]] = {}
        self._deaths: dict[str, list[str]] = defaultdict(list)
        self._stillborn = 0
        self._last_ready = time.monotonic()

    def start(self, settings: Settings) -> dict[str, Any]:
        """Joins the cluster and waits until the first place has loaded the model.

        Raises:
            ClusterUnreachable, NoPlace, FolderNotShared, OtherVersion: the cluster cannot work.
            ModelMissing, ModelDamaged, WorkerDied: as any executor.
        """
        self._joined = join(self._ray, self._address)
        self._settings = settings
        self._layout = divided(self._ray.nodes(), settings.device, self._jobs)
        self._sign = _sign(settings.folder)
        self._places = [self._place() for _ in range(self._layout.count)]
        self._last_ready = time.monotonic()
        while self._facts is None:
            for reference in self._answered():
                self._handle(reference)
        return self._facts

    def close(self) -> None:
        """Ends the places and leaves the cluster."""
        for place in self._places:
            self._kill(place)
        self._places, self._asked = [], {}
        if self._sign is not None:
            with contextlib.suppress(OSError):
                self._sign.unlink(missing_ok=True)
        if self._joined:
            self._joined = False
            self._ray.shutdown()

    def _place(self) -> _Place:
        """Asks for one; it is ready once the cluster has room and the model is loaded."""
        assert self._sign is not None
        layout, device = self._layout, self._settings.device
        threads = str(layout.threads)
        # Ray shows each place its own GPU only, as the first one.
        actor = self._ray.remote(ClusterPlace).options(
            num_cpus=layout.cores, num_gpus=int(layout.gpu), scheduling_strategy="SPREAD",
            # Two threads more than cases: to be asked for steps, and to be told to cancel.
            max_concurrency=HANDS + 2, max_restarts=0,
            runtime_env={"env_vars": {
                THREADS: threads, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": threads}},
        ).remote(self._settings.as_dict(),
                 "cuda" if layout.gpu else "cpu" if device == "auto" else device, self._sign.name)
        place = _Place(actor=actor)
        self._asked[actor.load.remote()] = place, "load"
        return place

    def _give(self, place: _Place, case: Case) -> None:
        self._asked[place.actor.process.remote(case.as_dict())] = place, case.name

    def _cancel(self, place: _Place) -> None:
        place.actor.cancel.remote()

    def _news(self, listen: Listen) -> Iterator[Outcome]:
        for reference in self._answered():
            yield from self._handle(reference, listen)

    def _suspect(self, place: _Place) -> Case | None:
        """One that another machine has lost, or any where there is no other machine."""
        nodes = {other.node for other in self._places if other.ready}
        for case in self._suspects:
            died_at = set(self._deaths[case.name])
            if place.node not in died_at or nodes <= died_at:
                self._suspects.remove(case)
                return case
        return None

    def _answered(self) -> list[Any]:
        """What the places have answered, after a short wait.

        Raises:
            WorkerDied: for long there has been no place.
        """
        now = time.monotonic()
        if any(place.ready for place in self._places):
            self._last_ready = now
        elif now - self._last_ready > _SECONDS_WITHOUT_PLACE:
            raise WorkerDied(
                "The cluster has had no free place for the batch for "
                f"{_SECONDS_WITHOUT_PLACE / 60:.0f} minutes.",
                "See what it is busy with: ray status; later go on with --resume.",
            )
        asked = list(self._asked)
        ready, _ = self._ray.wait(asked, num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
        if ready:
            ready, _ = self._ray.wait(asked, num_returns=len(asked), timeout=0)
        return list(ready)

    def _handle(self, reference: Any, listen: Listen | None = None) -> list[Outcome]:
        """What an answer means; the outcomes that it brings."""
        place, what = self._asked.pop(reference)
        if place not in self._places:
            return []
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return self._bury(place, error)
        if what == "load":
            self._welcome(place, answer)
        elif what == "steps/":
            self._tell(place, answer, listen)
        else:
            return [self._take(place, Outcome.from_dict(answer))]
        self._asked[place.actor.steps.remote()] = place, "steps/"
        return []

    def _tell(self, place: _Place, steps: list[Any], listen: Listen | None) -> None:
        for name, *step in steps:
            # Steps may come after the outcome of their case.
            if listen and name in place.cases:
                listen(name, *step)

    def _welcome(self, place: _Place, answer: dict[str, Any]) -> None:
        if "failure" in answer:
            raise ChildFailed(Failure(**answer["failure"]))
        facts = answer["facts"]
        place.ready, place.node = True, answer["node"]
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

    def _bury(self, place: _Place, error: Exception) -> list[Outcome]:
        """Replaces a place that has died; its cases are run again, or one has failed."""
        self._kill(place)
        if "No module named" in str(error):
            raise PackageMissing(
                "A machine of the cluster lacks DiffuGTS, or a package that it needs.",
                "Install it on all machines; see there: diffugts doctor",
            )
        lost = place.node in self._lost()
        if not place.ready:
            self._stillborn += 1
            if self._stillborn >= _TRIES:
                raise WorkerDied("The places of the cluster end before the model is loaded.",
                                 "Memory may have run out; see there: diffugts doctor")
        self._places[self._places.index(place)] = self._place()
        outcomes = []
        for case in place.cases.values():
            self._deaths[case.name].append(place.node)
            if len(self._deaths[case.name]) < _TRIES and (lost or not place.alone):
                self._suspects.append(case)
            else:
                outcomes.append(Outcome(case.name, "failed", error=Failure(
                    WorkerDied.code, "The process that worked on this scan ended without a word.",
                    "Memory may have run out: crop the scan, or use machines with more.")))
        return outcomes

    def _lost(self) -> set[str]:
        """The machines that the cluster has lost."""
        return {node["NodeID"] for node in self._ray.nodes() if not node["Alive"]}

    def _kill(self, place: _Place) -> None:
        with contextlib.suppress(Exception):  # it is gone already, or the cluster is
            self._ray.kill(place.actor)


def _sign(folder: Path) -> Path:
    """A file by which the other machines know the folder; named as unfinished ones are."""
    path = folder / f".{uuid.uuid4().hex}.cluster"
    try:
        path.touch()
    except OSError:
        raise OutputNotWritten(f"The folder {folder.name} cannot be written to.",
                               "Check its rights and the space on the disk.") from None
    return path
