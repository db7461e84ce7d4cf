"""Kills at every moment and full disks: files are whole or not there, and a batch goes on."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from support.batch_runs import command, statuses, voxels, write_scan
from support.tiny_model import PROMPT, ball_scan
from tally import Tally

KILLS, BATCH_KILLS, SCANS = 24, 10, 4
LIMITS = (0, 1000, 20_000, 100_000, 400_000)


def segment(scan: Path, model: Path, output: Path, *more: str) -> list[str]:
    """The command for one scan."""
    return [sys.executable, "-m", "DiffuGTSLib.cli", "segment", str(scan), "-p", PROMPT, "-o",
            str(output), "--model", str(model), "--device", "cpu", *more]


def labels(path: Path) -> np.ndarray:
    """The voxels of a segmentation."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def killed(arguments: list[str], after: float) -> None:
    """Runs a command and kills it after some seconds."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def kills_of_one_scan(folder: Path, model: Path, seed: int) -> Tally:
    """The output of an earlier run stays whole, or is the new one's."""
    tally, chance = Tally("kills of a run of one scan"), random.Random(seed)
    scan, output = folder / "scan.nii.gz", folder / "out.nii.gz"
    sitk.WriteImage(ball_scan()[0], str(scan))
    started = time.monotonic()
    subprocess.run(segment(scan, model, output), check=True, capture_output=True)
    took, whole = time.monotonic() - started, labels(output)
    for number in range(KILLS):
        killed(segment(scan, model, output, "--maps", str(folder / "maps")),
               took * (number + chance.random()) / KILLS)
        try:
            same = np.array_equal(labels(output), whole)
        except RuntimeError:
            same = False
        tally.check(same, f"kill {number}: {output.name} is damaged or gone")
        for path in (folder / "maps").glob("*.nii.gz"):
            try:
                labels(path)
            except RuntimeError:
                tally.check(False, f"kill {number}: {path.name} is damaged")
    subprocess.run(segment(scan, model, output), check=True, capture_output=True)
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    tally.check(not left, f"left behind: {left}")
    return tally


def kills_of_a_batch(folder: Path, model: Path, seed: int) -> Tally:
    """Killed and resumed until it is done, a batch gives what an undisturbed one gives."""
    tally, chance = Tally("kills of a batch"), random.Random(seed)
    scans = [write_scan(folder / f"scan{n}.nii.gz", n) for n in range(SCANS)]
    started = time.monotonic()
    asked = ("--prompt", PROMPT)
    subprocess.run(command(scans, folder / "whole", model, *asked), check=True, capture_output=True)
    took = time.monotonic() - started
    for number in range(BATCH_KILLS):
        more = ("--resume",) if (folder / "part" / "run.json").exists() else ()
        killed(command(scans, folder / "part", model, *asked, *more),
               took * chance.uniform(0.2, 0.9))
        tally.check(True, f"kill {number}")
    done = subprocess.run(command(scans, folder / "part", model, *asked, "--resume"),
                          check=False, capture_output=True, text=True)
    tally.check(done.returncode == 0, f"the last resume failed: {done.stderr[-300:]}")
    tally.check(statuses(folder / "part") == statuses(folder / "whole"), "other outcomes")
    for case in statuses(folder / "whole"):
        same = np.array_equal(voxels(folder / "part", case), voxels(folder / "whole", case))
        tally.check(same, f"{case} has other voxels")
    return tally


def limited(size: int) -> Callable[[], None]:
    """Files may not become larger: what a full disk does to a program."""
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return limit


def full_disks(folder: Path, model: Path) -> Tally:
    """A sentence, exit code 1, and no half-written file."""
    tally = Tally("full disks")
    scan = folder / "scan.nii.gz"
    sitk.WriteImage(ball_scan()[0], str(scan))
    for size in LIMITS:
        for suffix in (".nii.gz", ".seg.nrrd"):
            output = folder / f"limited{suffix}"
            output.unlink(missing_ok=True)
            done = subprocess.run(
                segment(scan, model, output, "--maps", str(folder / "limited")), check=False,
                capture_output=True, text=True, preexec_fn=limited(size))
            what = f"{size} bytes, {suffix}: exit {done.returncode}, {done.stderr[-200:]!r}"
            plain = "Traceback" not in done.stderr and done.returncode in (0, 1)
            tally.check(plain, what)
            if output.exists():
                try:
                    labels(output)
                except RuntimeError:
                    tally.check(False, f"{what}: {output.name} is half written")
            tally.check(output.exists() == (done.returncode == 0), what)
    return tally
