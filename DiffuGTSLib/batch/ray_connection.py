"""Finding a Ray cluster, joining it, and dividing it into equal workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from DiffuGTSLib.errors import DiffuGTSError, PackageMissing

LOCAL, AUTO = "local", "auto"
THREADS = "OMP_NUM_THREADS"
_DEFAULT_PORT = 6379
_TIMEOUT_SECONDS = 10.0


class ClusterUnreachable(DiffuGTSError):
    """There is no Ray cluster at the address, or it rejects this machine."""

    code = "cluster-unreachable"


class NoResources(DiffuGTSError):
    """The cluster has no GPU or no cores for the batch."""

    code = "no-place"


@dataclass(frozen=True)
class Layout:
    """How a cluster is divided.

    Attributes:
        count: of workers.
        cores: of each worker; 0 on GPU machines that offer none.
        gpu: whether each worker has a GPU.
    """

    count: int
    cores: int
    gpu: bool

    @property
    def threads(self) -> int:
        """Of the networks on the CPU; the same in all workers, as results depend on it."""
        return max(1, self.cores)


def import_ray() -> Any:
    """The package, with its usage statistics off: nothing is sent anywhere.

    Raises:
        PackageMissing: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise PackageMissing("A cluster needs the package ray, which is not installed.",
                             "Run: pip install diffugts[cluster]") from None
    return ray


def located(address: str) -> str:
    """The address of the cluster, which answers; "local" stays what it is.

    Args:
        address: "auto", "local", HOST, HOST:PORT or ray://HOST:PORT.

    Raises:
        ClusterUnreachable: nothing answers there.
    """
    if address == LOCAL:
        return LOCAL
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or _found()
    scheme = "ray://" if address.startswith("ray://") else ""
    host, port = _host_and_port(address.removeprefix(scheme))
    # Ray itself tries for minutes, and may then end the process.
    try:
        socket.create_connection((host, port), _TIMEOUT_SECONDS).close()
    except OSError:
        raise ClusterUnreachable(
            f"No Ray cluster answers at {host}:{port}.",
            "Check the address, and that the cluster runs: ray status",
        ) from None
    return f"{scheme}{f'[{host}]' if ':' in host else host}:{port}"


def join(ray: Any, address: str) -> bool:
    """Joins the cluster that `located` found; False where this process has joined one before.

    Raises:
        ClusterUnreachable: it rejects this machine.
    """
    if ray.is_initialized():
        return False
    more = {"include_dashboard": False} if address == LOCAL else {}
    try:
        with _handlers_kept():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **more)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterUnreachable(
            "The Ray cluster rejects this machine.",
            "Start the batch on a machine of the cluster, with the same versions of Python and "
            "Ray.",
        ) from error
    return True


def divided(nodes: Sequence[Mapping[str, Any]], device: str, jobs: int | None) -> Layout:
    """A worker per GPU; without GPUs, or where the CPU is requested, workers of some cores each.

    On the CPU a worker has as many cores as a node; of unequal nodes, the largest number with
    which there are as many workers as nodes. OMP_NUM_THREADS, if set, overrides it.

    Args:
        nodes: as ray.nodes() describes them.
        device: as in Settings.
        jobs: number of workers; None for as many as fit.

    Raises:
        NoResources: not even one fits.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    requested = os.environ.get(THREADS, "")
    threads = int(requested) if requested.isdigit() and int(requested) else None
    gpus = sum(int(node.get("GPU", 0)) for node in resources)
    if device.startswith("cuda") or (device == AUTO and gpus):
        if not gpus:
            raise NoResources("The cluster has no GPU.", "Use --device cpu, or another cluster.")
        beside = min(int(node.get("CPU", 0) // node["GPU"]) for node in resources
                     if node.get("GPU", 0) >= 1)
        return Layout(jobs or gpus, min(threads or beside, beside), True)
    cores = [int(node.get("CPU", 0)) for node in resources if node.get("CPU", 0) >= 1]
    each = threads or _max_cores(cores, jobs or len(cores))
    count = sum(number // each for number in cores)
    if not count:
        raise NoResources(
            f"No machine of the cluster has {each} core{'s' if each > 1 else ''} for the batch.",
            f"Set {THREADS} to fewer, or add machines.",
        )
    return Layout(jobs or count, each, False)


def _max_cores(cores: Sequence[int], wanted: int) -> int:
    """The most cores per worker with which `wanted` workers fit; 1 if they never do."""
    fitting = (each for each in range(max(cores, default=1), 0, -1)
               if sum(number // each for number in cores) >= wanted)
    return next(fitting, 1)


def _found() -> str:
    """The cluster that this machine is a node of."""
    # Ray offers this only as a part of ray.init, which waits for minutes for one that has ended.
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return str(canonicalize_bootstrap_address(AUTO))
    except ConnectionError:
        raise ClusterUnreachable(
            "This machine belongs to no Ray cluster.",
            "Start one here with: ray start --head --disable-usage-stats; or say where it is: "
            "--cluster HOST:PORT",
        ) from None


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(_DEFAULT_PORT)
    if not port.isdigit() or int(port) > 65535 or not host:
        raise ClusterUnreachable(f"“{address}” is no address of a cluster.",
                                 "Use auto, local or HOST:PORT.")
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray replaces the handler of SIGTERM, with which a batch exits cleanly."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
