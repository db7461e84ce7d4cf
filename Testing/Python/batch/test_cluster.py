"""Batches on a real Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from support.batch_runs import BlockedScans, EventStream, batch, statuses, voxels, write_scan
from support.gates import GATED, Gate
from support.tiny_model import PROMPT, write_tiny_model

from DiffuGTSLib.batch.case import BatchSettings
from DiffuGTSLib.batch.driver import run_batch
from DiffuGTSLib.batch.local_executor import LocalExecutor
from DiffuGTSLib.batch.ray_actor import RayWorker
from DiffuGTSLib.batch.ray_connection import (
    ClusterUnreachable,
    Layout,
    NoResources,
    divided,
    located,
)
from DiffuGTSLib.batch.ray_executor import RayExecutor
from DiffuGTSLib.errors import PackageMissing
from DiffuGTSLib.pipeline.options import Options

REPOSITORY = str(Path(__file__).resolve().parents[3])
NAMES = ("a", "b", "c", "d", "e", "f")
# Patient with a busy machine, yet quick to notice that a node is gone.
CLUSTER = {
    "PYTHONPATH": os.pathsep.join((REPOSITORY, str(GATED))), "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0", "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000", "RAY_health_check_failure_threshold": "10",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> BatchSettings:
    model = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    return BatchSettings(Options(str(model), "cpu"), tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scans")
    return [write_scan(folder / f"{name}.nrrd", seed) for seed, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def cluster(one_thread):
    """Two nodes of one core each; no process of them is left behind."""
    pytest.importorskip("ray", reason="the package ray (the extra “cluster”) is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CLUSTER.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        nodes = Cluster()
        try:
            for more in ({"include_dashboard": False}, {}):
                nodes.add_node(num_cpus=1, object_store_memory=80_000_000, **more)
            patch.setenv("RAY_ADDRESS", nodes.address)
            yield nodes
        finally:
            nodes.shutdown()
    assert not processes("raylet", "gcs_server", "ray::")


def processes(*names: str) -> list[psutil.Process]:
    """Those that this one has started and whose command has one of the names in it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            found += [process] if any(name in line for name in names) else []
    return found


@pytest.fixture(scope="module")
def single(one_thread, settings, scans) -> Path:
    """What one child process on this machine makes of the scans, with as many threads."""
    run_batch(scans, (PROMPT,), settings, LocalExecutor())
    return settings.folder


@pytest.fixture(scope="module")
def resumed(cluster, settings, scans, tmp_path_factory):
    """A batch on the cluster that was cancelled in its second case and then resumed."""
    output = tmp_path_factory.mktemp("cluster")
    model, blocked = Path(settings.options.model), BlockedScans(tmp_path_factory.mktemp("blocked"))
    first = EventStream(blocked.paths, output, model, "--cluster", cluster.address, "--jobs", "1")
    first.until("case-done")
    first.cancel()
    blocked.open()
    cancelled = first.until("finished") | {"code": first.process.wait(300)}
    left = psutil.wait_procs(processes("RayWorker"), timeout=300)[1]
    scans = [*blocked.paths, *scans[len(blocked.paths) :]]
    second = EventStream(scans, output, model, "--cluster", "auto", "--resume")
    events = [json.loads(line) for line in second.process.stdout]
    return SimpleNamespace(output=output, cancelled=cancelled, events=events, left=left,
                           code=second.process.wait(300))


class Assembled(RayExecutor):
    """Waits for all workers: the first could do all cases before the second has its model."""

    def start(self, settings: BatchSettings, cases: int) -> dict:
        facts = super().start(settings, cases)
        while not all(worker.ready for worker in self._workers):
            for reference in self._completed():
                self._handle(reference)
        return facts


class NodeKiller:
    """Kills a node in the middle of its cases, once the other workers have done all of theirs.

    All scans are gates, and those that the node is given stay shut until then.
    """

    def __init__(self, cluster, executor: RayExecutor, gates: dict[str, Gate]) -> None:
        self._cluster, self._executor, self._gates = cluster, executor, gates
        (self._node,) = cluster.worker_nodes
        self.starts: Counter[str] = Counter()
        self.lost: list[str] = []

    def on_event(self, event: dict) -> None:
        if event["type"] == "case-started":
            self.starts[event["case"]] += 1
        if self.lost:
            return
        (doomed,) = (one for one in self._executor._workers if one.node == self._node.node_id)
        if event["type"] == "case-started" and event["case"] not in doomed.cases:
            self._gates[event["case"]].open()
        others = [one for one in self._executor._workers if one is not doomed and one.cases]
        if event["type"] == "case-done" and not others:
            self.lost = list(doomed.cases)
            self._kill()
            for gate in self._gates.values():
                gate.open()

    def _kill(self) -> None:
        raylets = {info.process.pid for info in self._node.all_processes["raylet"]}
        (worker,) = (one for one in processes("RayWorker") if one.ppid() in raylets)
        self._cluster.remove_node(self._node, allow_graceful=False)
        worker.kill()
        psutil.wait_procs([worker], timeout=300)


@pytest.fixture(scope="module")
def survived(resumed, cluster, settings, tmp_path_factory):
    """A batch during which one of the two nodes was killed, with cases assigned to it."""
    folder = tmp_path_factory.mktemp("gates")
    gates = {name: Gate(write_scan(folder / f"{name}.nrrd", seed))
             for seed, name in enumerate(NAMES)}
    executor = Assembled(cluster.address)
    killer = NodeKiller(cluster, executor, gates)
    output = tmp_path_factory.mktemp("survived")
    summary = run_batch([gate.path for gate in gates.values()], (PROMPT,),
                        replace(settings, folder=output), executor, on_event=killer.on_event)
    return SimpleNamespace(output=output, summary=summary, lost=killer.lost, starts=killer.starts)


def assert_same_files(one: Path, other: Path) -> None:
    for name in NAMES:
        assert np.array_equal(voxels(one, name), voxels(other, name))
        lesions = [json.loads((folder / "records" / f"{name}.json").read_text("utf-8"))["outcome"]
                   ["prompts"] for folder in (one, other)]
        assert lesions[0] == lesions[1]


def test_a_cluster_does_all_cases_bit_identical_to_a_single_machine(resumed, single):
    assert resumed.code == 0
    assert statuses(resumed.output) == dict.fromkeys(NAMES, "done")
    assert any(voxels(single, name).any() for name in NAMES)
    assert_same_files(resumed.output, single)


def test_a_cancelled_batch_ends_its_workers_and_can_be_resumed(resumed):
    assert (resumed.cancelled["cancelled"], resumed.cancelled["code"]) == (True, 130)
    assert not resumed.left
    finished = resumed.events[-1]
    assert finished["kept"] >= resumed.cancelled["done"] >= 1
    assert finished["kept"] + finished["done"] == len(NAMES)


def test_the_steps_of_every_case_reach_the_driver(resumed):
    stages: dict[str, list[str]] = {}
    for event in resumed.events:
        if event["type"] == "progress":
            stages.setdefault(event["case"], []).append(event["stage"])
    assert set(stages) == {e["case"] for e in resumed.events if e["type"] == "case-done"}
    assert all({"read", "encode", "inpaint"} <= set(one) for one in stages.values())


def test_the_run_says_that_it_was_a_clusters_and_its_threads(resumed):
    part = json.loads((resumed.output / "run.json").read_text(encoding="utf-8"))["parts"][-1]
    assert (part["place"], part["places"], part["threads"]) == ("Ray cluster", 2, 1)


def test_a_node_that_is_killed_loses_no_case_and_changes_no_voxel(survived, single):
    assert survived.lost
    assert survived.starts == {name: 1 + (name in survived.lost) for name in NAMES}
    assert survived.summary.done == len(NAMES)
    assert_same_files(survived.output, single)


def test_a_scan_that_takes_its_process_down_fails_alone(cluster, settings, scans, tmp_path):
    def on_event(event: dict) -> None:
        if event["type"] == "case-started" and event["case"] == "a":
            (worker,) = processes("RayWorker")
            worker.kill()

    ours = replace(settings, folder=tmp_path / "out")
    executor = RayExecutor(cluster.address, jobs=1)
    inputs = [Gate(write_scan(tmp_path / "a.nrrd")).path, scans[1]]
    summary = run_batch(inputs, (PROMPT,), ours, executor, on_event=on_event)
    assert (summary.done, summary.failed) == (1, 1)
    assert statuses(ours.folder) == {"a": "failed", "b": "done"}
    assert json.loads((ours.folder / "records" / "a.json").read_text("utf-8"))["outcome"]["error"][
        "code"] == "worker-died"


def test_nothing_but_results_is_left(survived, resumed):
    for folder in (survived.output, resumed.output):
        assert not [path.name for path in folder.rglob(".*") if path.name != ".lock"]


def test_a_wrong_address_is_one_plain_sentence_and_makes_no_folder(settings, scans, tmp_path):
    pytest.importorskip("ray", reason="the package ray (the extra “cluster”) is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        model = Path(settings.options.model)
        done = batch(scans[:1], tmp_path / "out", model, "--cluster", address)
    assert done.returncode == 1
    assert f"No Ray cluster answers at {address}" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["host:port", ":6379", "host:99999"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ClusterUnreachable, match="no address"):
        located(address)


def test_a_missing_ray_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PackageMissing, match="not installed") as caught:
        RayExecutor("auto")
    assert "diffugts[cluster]" in caught.value.hint


def test_usage_statistics_are_off(monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PackageMissing):
        RayExecutor("auto")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_machine_that_does_not_see_the_output_folder_says_so(settings, tmp_path):
    elsewhere = replace(settings, folder=tmp_path / "none").as_dict()
    answer = RayWorker(elsewhere, "cpu", ".marker").load()
    assert answer["failure"]["code"] == "folder-not-shared"


def machines(*resources: dict[str, float]) -> list[dict]:
    return [{"Alive": True, "Resources": one} for one in resources]


@pytest.mark.parametrize(("nodes", "device", "jobs", "expected"), [
    (machines({"CPU": 8}, {"CPU": 8}), "auto", None, Layout(2, 8, False)),
    (machines({"CPU": 8}, {"CPU": 8}), "auto", 4, Layout(4, 4, False)),
    (machines({"CPU": 2}, {"CPU": 64}, {"CPU": 64}), "cpu", None, Layout(4, 32, False)),
    (machines({}, {"CPU": 4, "GPU": 2}, {"CPU": 16, "GPU": 1}), "auto", None, Layout(3, 2, True)),
    (machines({"CPU": 4, "GPU": 2}), "cpu", None, Layout(1, 4, False)),
])
def test_workers_are_gpus_or_equal_numbers_of_cores(nodes, device, jobs, expected, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert divided(nodes, device, jobs) == expected


def test_the_requested_threads_are_those_of_a_worker(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert divided(machines({"CPU": 8}, {"CPU": 2}), "cpu", None) == Layout(2, 3, False)
    with pytest.raises(NoResources, match="3 cores"):
        divided(machines({"CPU": 2}), "cpu", None)


def test_a_cluster_without_a_gpu_is_refused_where_one_is_requested():
    with pytest.raises(NoResources, match="no GPU"):
        divided(machines({"CPU": 8}), "cuda", None)
