"""What computing on another machine costs beside this one: an SSH server on loopback.

    python Testing/Benchmarks/remote.py [--rounds N]

Prints how long a scan takes to the other side, beside scp and sftp with the same file, in turns;
and the time from a request to the first preview and to the result, beside the worker of this
machine. On loopback no network is in between: what is left is the program's own work.
"""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

TESTING = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(TESTING / "Python"), str(TESTING.parent)]

from support.sshd import CLIENT, SSHD, SshServer  # noqa: E402
from support.worker_process import WorkerProcess  # noqa: E402

from DiffuGTSLib.remote.address import Address  # noqa: E402
from DiffuGTSLib.remote.connection import Connection  # noqa: E402
from DiffuGTSLib.scan.phantom import make_phantom  # noqa: E402

SIZE = (512, 512, 300)


def chest(folder: Path) -> Path:
    """A CT of 512 x 512 x 300 voxels, int16, about as noisy as a real one."""
    phantom = make_phantom("chest").image
    spacing = [s * n / m for s, n, m in zip(phantom.GetSpacing(), phantom.GetSize(), SIZE,
                                            strict=True)]
    fine = sitk.Resample(phantom, SIZE, sitk.Transform(), sitk.sitkLinear, phantom.GetOrigin(),
                         spacing, phantom.GetDirection(), -1000.0, sitk.sitkFloat32)
    noise = np.random.default_rng(0).normal(0, 15, SIZE[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray((sitk.GetArrayFromImage(fine) + noise).astype(np.int16))
    image.CopyInformation(fine)
    path = folder / "scan.nrrd"
    sitk.WriteImage(image, str(path), useCompression=False)
    return path


class Stream:
    """Sends scans over one connection; a prompt that means nothing ends each request at once."""

    def __init__(self, server: SshServer) -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.connection = Connection(Address.parse(server.address), self.events.put)
        self.connection.start("embedded", "cpu")
        self.until("ready")

    def until(self, kind: str) -> None:
        while self.events.get(timeout=600)["type"] != kind:
            pass

    def send(self, path: Path) -> None:
        """To the worker's answer, which it gives once it has the scan."""
        path.touch()  # it counts as another scan
        self.connection.request({"type": "segment", "id": "a", "image": str(path), "prompt": "-",
                                 "folder": str(path.parent / "job")})
        self.until("error")


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def transfers(server: SshServer, path: Path, rounds: int) -> dict[str, float]:
    """Median seconds of each way for the file, in turns."""
    stream = Stream(server)
    target = server.folder / "arrived"
    batch = server.folder / "sftp"
    batch.write_text(f"put {path} {target}\n")
    options = ["-q", "-F", str(server.config)]
    ways: dict[str, Callable[[], object]] = {
        "scp": lambda: subprocess.run(["scp", *options, path, f"gpu:{target}"], check=True),
        "sftp": lambda: subprocess.run(["sftp", *options, "-b", batch, "gpu"], check=True,
                                       stdout=subprocess.DEVNULL),
        "stream": lambda: stream.send(path),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            times[name].append(seconds(work))
    stream.connection.close()
    return {name: statistics.median(each) for name, each in times.items()}


def latencies(worker: WorkerProcess, path: Path, folder: Path) -> tuple[float, float]:
    """Seconds from a request to its preview and to its result."""
    start = time.monotonic()
    worker.send(type="segment", id="a", image=str(path), prompt="lung tumor", folder=str(folder),
                samples=1)
    worker.until("preview", "a")
    preview = time.monotonic() - start
    worker.until("result", "a")
    return preview, time.monotonic() - start


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if SSHD is None or CLIENT is None:
        print("remote: skipped, there is no OpenSSH server on this machine")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = SshServer(folder)
        try:
            measure(server, folder, rounds)
        finally:
            server.stop()


def measure(server: SshServer, folder: Path, rounds: int) -> None:
    """Both tables."""
    os.environ["DIFFUGTS_SSH"] = server.command
    path = chest(folder)
    megabytes = path.stat().st_size / 1e6
    found = transfers(server, path, rounds)
    print(f"a scan of {megabytes:.0f} MB to the other side, median of {rounds}")
    for way, took in found.items():
        print(f"  {way:<7} {took:6.2f} s  {took / found['scp']:5.2f} of scp")
    (folder / "small").mkdir()
    small = make_phantom("chest").write(folder / "small")[0]
    workers = {
        "this machine": WorkerProcess("embedded"),
        "over SSH": WorkerProcess("embedded", [
            "-m", "DiffuGTSLib.remote", f"--host={server.address}", "--device=cpu"]),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for worker in workers.values():
        worker.until("ready")
    for number in range(rounds):
        for name, worker in workers.items():
            small.touch()
            times[name].append(latencies(worker, small, folder / f"{name} {number}"))
    for worker in workers.values():
        worker.close_stdin()
    print("\na chest phantom, median")
    own = [statistics.median(each) for each in zip(*times["this machine"], strict=True)]
    for name, each in times.items():
        preview, result = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"  {name:<13} preview {preview:6.2f} s ({preview / own[0]:.2f})"
              f"  result {result:6.2f} s ({result / own[1]:.2f})")


if __name__ == "__main__":
    main()
