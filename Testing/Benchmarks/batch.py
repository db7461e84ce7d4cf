"""What a batch saves over single runs, how busy it keeps the networks, and whether it grows.

    python Testing/Benchmarks/batch.py [--scans 3] [--cases 50] [--jobs 1] [--model embedded]

The same scans one by one through `diffugts segment`, then through `diffugts batch`, both with
start-up and loading. Then a batch over many small scans of different sizes, while its memory is
watched. The scans are crops of the data folder, or of a phantom where it is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[2]
PROMPT = "soft tissue sarcoma"
_WARM_UP = 0.2  # of the cases: pools and caches fill


@dataclass
class Measured:
    """A batch: seconds with start-up, its own account of them, and memory after each case."""

    seconds: float
    summary: dict[str, Any]
    memory_mb: np.ndarray


def sources() -> list[sitk.Image]:
    """Real scans, the smallest first, or a phantom."""
    data = Path(os.environ.get("DIFFUGTS_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    paths = sorted(data.glob("sarcoma/*_t1/image.nii.gz"), key=lambda path: path.stat().st_size)
    if paths:
        return [sitk.ReadImage(str(path)) for path in paths[:12]]
    from DiffuGTSLib.scan.phantom import make_phantom

    return [make_phantom("chest").image]


def write_scans(folder: Path, count: int, side_mm: float | None) -> list[Path]:
    """`count` scans; as they are, or crops of about `side_mm` of different shapes."""
    scans, generator = sources(), np.random.default_rng(0)
    paths = []
    for number in range(count):
        image = scans[number % len(scans)]
        if side_mm is not None:
            sides = side_mm * generator.uniform(0.7, 1.3, 3) / image.GetSpacing()
            size = [int(min(n, max(8, side)))
                    for n, side in zip(image.GetSize(), sides, strict=True)]
            start = [(n - part) // 2 for n, part in zip(image.GetSize(), size, strict=True)]
            image = sitk.RegionOfInterest(image, size, start)
        paths.append(folder / f"{number:03d}.nii.gz")
        sitk.WriteImage(image, str(paths[-1]))
    return paths


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "DiffuGTSLib.cli", *map(str, arguments), "--prompt", PROMPT]


def one_by_one(scans: list[Path], output: Path, options: argparse.Namespace) -> float:
    """Seconds for all of them."""
    started = time.monotonic()
    for scan in scans:
        subprocess.run(
            command("segment", scan, "--output", output / f"{scan.name}.seg.nrrd",
                    "--device", options.device, "--model", options.model),
            check=True, capture_output=True, cwd=REPOSITORY,
        )
    return time.monotonic() - started


def in_a_batch(scans: list[Path], output: Path, options: argparse.Namespace) -> Measured:
    """The same with one command."""
    started = time.monotonic()
    process = subprocess.Popen(
        command("batch", *scans, "--output", output, "--device", options.device,
                "--model", options.model, "--jobs", options.jobs, "--json-events"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
    )
    assert process.stdout is not None
    memory, event = [], {}
    for line in process.stdout:
        event = json.loads(line)
        if event["type"] in ("case-failed", "error"):
            print(event["message"], event["hint"], file=sys.stderr)
        if event["type"] == "case-done":
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
            memory.append(sum(one.memory_info().rss for one in tree) / 1e6)
    process.wait()
    if event.get("type") != "finished" or event["failed"]:
        sys.exit("The batch did not do all cases; no figures.")
    return Measured(time.monotonic() - started, event, np.array(memory))


def growth(memory_mb: np.ndarray) -> tuple[float, float]:
    """MB a case once it is warm, as a straight line; and the peak in MB."""
    warm = memory_mb[int(_WARM_UP * len(memory_mb)) :]
    if len(warm) < 3:
        return float("nan"), float(memory_mb.max(initial=0))
    return float(np.polyfit(np.arange(len(warm)), warm, 1)[0]), float(memory_mb.max())


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=3, help="for the comparison")
    parser.add_argument("--cases", type=int, default=50, help="for the memory")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    if Path(options.model).is_dir():
        options.model = str(Path(options.model).resolve())  # the commands run elsewhere
    title = f"Model {Path(options.model).name}, {options.jobs} at a time; {load}"
    table = Table(title=title, show_header=False)
    table.add_column("", min_width=48)
    table.add_column("", justify="right", min_width=28)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.scans:
            compare(folder, options, table)
        if options.cases:
            watch(folder, options, table)
    Console(width=100).print(table)


def compare(folder: Path, options: argparse.Namespace, table: Table) -> None:
    """The same scans both ways."""
    scans = write_scans(folder, options.scans, None)
    single = one_by_one(scans, folder, options) / len(scans)
    batch = in_a_batch(scans, folder / "few", options)
    each = batch.seconds / len(scans)
    networks = batch.summary["network_seconds"] / batch.summary["seconds"] / options.jobs
    table.add_row(f"one by one, seconds a scan ({len(scans)} scans)", f"{single:.1f}")
    table.add_row("in a batch, seconds a scan", f"{each:.1f}")
    table.add_row("batch / one by one", f"{each / single:.2f}")
    table.add_row("of this, once the model is loaded", f"{batch.summary['seconds']:.1f} s in all")
    table.add_row("share of that time in networks", f"{networks:.0%}")


def watch(folder: Path, options: argparse.Namespace, table: Table) -> None:
    """The memory over many cases."""
    (folder / "crops").mkdir()
    scans = write_scans(folder / "crops", options.cases, 48.0)
    batch = in_a_batch(scans, folder / "many", options)
    slope, peak = growth(batch.memory_mb)
    networks = batch.summary["network_seconds"] / batch.summary["seconds"] / options.jobs
    table.add_row(f"memory over {len(scans)} small scans: growth", f"{slope:+.2f} MB a scan")
    table.add_row("  first, middle and last case", ", ".join(
        f"{value:.0f} MB" for value in batch.memory_mb[[0, len(scans) // 2, -1]]))
    table.add_row("  peak after a case", f"{peak:.0f} MB")
    table.add_row("  seconds a scan once loaded", f"{batch.summary['seconds'] / len(scans):.2f}")
    table.add_row("  share of time in networks", f"{networks:.0%}")


if __name__ == "__main__":
    main()
