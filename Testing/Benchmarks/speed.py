"""How fast the whole is: start to ready, first preview, whole run, second prompt, peak memory.

    python Testing/Benchmarks/speed.py [SCAN PROMPT SECOND_PROMPT]...

Without arguments: the two chest scans of the data folder, or a phantom where it is absent. Each
scan is run by a worker of its own, as a person's would be. Shares are of the whole run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORKS = ("encode", "attention", "inpaint", "residual")


@dataclass
class Times:
    """Seconds since the worker was started, or since the request."""

    ready: float = 0.0
    preview: float = 0.0
    whole: float = 0.0
    second_preview: float = 0.0
    second_whole: float = 0.0
    peak_gb: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def scans() -> list[tuple[Path, str, str]]:
    """What to run: from the command line, the data folder, or a phantom."""
    given = sys.argv[1:]
    if given:
        return [(Path(a), b, c) for a, b, c in zip(*[iter(given)] * 3, strict=True)]
    data = Path(os.environ.get("DIFFUGTS_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    found = [data / "chest" / name / "image.nii.gz" for name in ("lung1", "lidc0314")]
    if all(path.exists() for path in found):
        return [(path, "lung tumor", "lung metastasis") for path in found]
    from DiffuGTSLib.scan.phantom import make_phantom

    phantom = make_phantom("chest")
    written = phantom.write(Path(tempfile.mkdtemp()))
    return [(written[0], phantom.prompt, "lung metastasis")]


def events(process: subprocess.Popen[str]) -> Iterator[tuple[float, dict[str, Any]]]:
    """The worker's events with the time at which they came."""
    assert process.stdout is not None
    for line in process.stdout:
        yield time.monotonic(), json.loads(line)


def measure(scan: Path, prompt: str, second: str) -> Times:
    """Runs both prompts in one fresh worker."""
    times, folder = Times(), Path(tempfile.mkdtemp())
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "DiffuGTSLib.worker"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY,
    )
    assert process.stdin is not None
    stream, asked = events(process), started

    def ask(number: int, text: str) -> float:
        request = {"type": "segment", "id": number, "image": str(scan), "prompt": text,
                   "folder": str(folder / str(number))}
        print(json.dumps(request), file=process.stdin, flush=True)
        return time.monotonic()

    stage, since = "", 0.0
    for at, event in stream:
        kind = event["type"]
        if kind == "error":
            raise SystemExit(event["message"])
        if kind == "ready":
            times.ready = at - started
            asked = ask(1, prompt)
            stage, since = "read", asked
        elif event["id"] == 1:
            if kind == "progress" and event["stage"] != stage:
                times.stages[stage] = times.stages.get(stage, 0.0) + at - since
                stage, since = event["stage"], at
            elif kind == "preview":
                times.preview = at - asked
            elif kind == "result":
                times.whole = at - asked
                times.stages[stage] = times.stages.get(stage, 0.0) + at - since
                asked = ask(2, second)
        elif kind == "preview":
            times.second_preview = at - asked
        elif kind == "result":
            times.second_whole = at - asked
            break
        times.peak_gb = max(times.peak_gb, peak_gb(process.pid))
    process.stdin.close()
    process.wait(60)
    return times


def _share(stage: str, times: Times) -> str:
    """Of the whole run."""
    return f"{times.stages.get(stage, 0.0) / times.whole:.0%}"


def peak_gb(pid: int) -> float:
    """The peak resident memory of a living process, where the system tells it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1e6
    except (OSError, IndexError):
        return psutil.Process(pid).memory_info().rss / 1e9


def main() -> None:
    """Prints one table, a column a scan."""
    measured = [(scan, measure(scan, prompt, second)) for scan, prompt, second in scans()]
    table = Table(title="Seconds on this machine; shares of the whole run")
    table.add_column("")
    for scan, _ in measured:
        table.add_column(scan.parent.name, justify="right")
    rows = {
        "start to ready, s": lambda t: f"{t.ready:.1f}",
        "first preview, s": lambda t: f"{t.preview:.1f}",
        "whole run, s": lambda t: f"{t.whole:.1f}",
        "second prompt: attention, s": lambda t: f"{t.second_preview:.1f}",
        "second prompt: whole, s": lambda t: f"{t.second_whole:.1f}",
        "peak memory, GB": lambda t: f"{t.peak_gb:.1f}",
        "second prompt / first": lambda t: f"{t.second_whole / t.whole:.2f}",
        "networks' stages": lambda t: f"{sum(t.stages.get(s, 0) for s in NETWORKS) / t.whole:.0%}",
    }
    for stage in ("read", *NETWORKS, "lesions"):
        rows[f"  {stage}"] = partial(_share, stage)
    for name, value in rows.items():
        table.add_row(name, *[value(t) for _, t in measured])
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
