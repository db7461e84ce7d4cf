"""Bad input through the real command: exit 1, one sentence, no traceback, nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.tiny_model import ball_scan, write_tiny_model

REPOSITORY = Path(__file__).resolve().parents[3]
# Runs each of the commands on stdin; its exit code and its stderr, C libraries' too, to stdout.
EACH = """
import json, os, sys, tempfile
from DiffuGTSLib.cli.app import app

def run(arguments):
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            app(arguments)
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        return code, said.read().decode()

print(json.dumps([run(arguments) for arguments in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("bad") / "tiny")


def volume(values: np.ndarray, spacing: tuple[float, ...] = (2.0, 2.0, 2.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    return image


def noise(*shape: int, kind: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(kind)


def save(image: sitk.Image, name: str = "scan.nrrd") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        sitk.WriteImage(image, str(folder / name))
        return folder / name
    return make


def holding(value: float) -> sitk.Image:
    values = noise(20, 40, 40, kind=np.float32)
    values[3, 4, 5] = value
    return volume(values)


def text_called_nifti(folder: Path) -> Path:
    (folder / "scan.nii").write_text("this is no image")
    return folder / "scan.nii"


def truncated(folder: Path) -> Path:
    whole = save(volume(noise(40, 40, 40)), "whole.nii.gz")(folder)
    path = folder / "scan.nii.gz"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


def empty_folder(folder: Path) -> Path:
    (folder / "series").mkdir()
    (folder / "series" / "notes.txt").write_text("no DICOM here")
    return folder / "series"


def huge_header(folder: Path) -> Path:
    header = ("NRRD0004\ntype: short\ndimension: 3\nsizes: 2000 2000 2000\nencoding: gzip\n"
              "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
              "space origin: (0,0,0)\nendian: little\n\n")
    (folder / "scan.nrrd").write_bytes(header.encode() + gzip.compress(bytes(1000)))
    return folder / "scan.nrrd"


def complex_scan() -> sitk.Image:
    part = sitk.Cast(volume(noise(20, 40, 40)), sitk.sitkFloat32)
    return sitk.RealAndImaginaryToComplex(part, part)


CASES: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "scan.nrrd",
    "text": text_called_nifti,
    "truncated": truncated,
    "no DICOM": empty_folder,
    "2D": save(volume(noise(40, 40), (1.0, 1.0)), "scan.png.nrrd"),
    "one slice": save(volume(noise(1, 40, 40))),
    "3 slices": save(volume(noise(3, 40, 40))),
    "4D": save(sitk.JoinSeries([volume(noise(20, 40, 40))] * 3), "scan.nii.gz"),
    "colour": save(sitk.GetImageFromArray(noise(20, 40, 40, 3, kind=np.uint8), isVector=True)),
    "complex": save(complex_scan(), "scan.nii.gz"),
    "constant": save(volume(np.full((20, 40, 40), 7, np.int16))),
    "NaN": save(holding(float("nan"))),
    "infinite": save(holding(float("inf"))),
    "absurd spacing": save(volume(noise(20, 40, 40), (2.0, 2.0, 900.0))),
    "2000^3": huge_header,
}


def segment(
    scan: Path, output: Path, model: Path, *more: str, limit: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "DiffuGTSLib.cli", "segment", str(scan), "--prompt",
               "brain tumor", "--output", str(output), "--model", str(model), *more]
    shell = ["bash", "-c", f'{limit} exec "$@"', "bash", *command]
    return subprocess.run(shell, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


def assert_plain_failure(
    done: subprocess.CompletedProcess[str] | Refusal, folder: Path
) -> None:
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert "Traceback" not in done.stderr
    assert str(folder) not in done.stderr
    assert 1 <= len(lines) <= 2, done.stderr  # the sentence, and a hint
    assert lines[0].endswith(".")
    assert len(lines) == 1 or lines[1].startswith("Hint: ")


@dataclass(frozen=True)
class Refusal:
    """What one run of the command left: exit code, stderr, and the folder before and after."""

    returncode: int
    stderr: str
    folder: Path
    before: list[str]
    after: list[str]


@pytest.fixture(scope="module")
def refusals(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Refusal]:
    """All cases, run by one process: starting Python takes longer than refusing a scan."""
    folders = {name: tmp_path_factory.mktemp("case") for name in CASES}
    scans = {name: CASES[name](folder) for name, folder in folders.items()}
    before = {name: names_in(folder) for name, folder in folders.items()}
    commands = [["segment", str(scans[name]), "--prompt", "brain tumor", "--output",
                 str(folders[name] / "mask.nrrd"), "--model", str(model)] for name in CASES]
    done = subprocess.run([sys.executable, "-c", EACH], input=json.dumps(commands), text=True,
                          capture_output=True, cwd=REPOSITORY, timeout=240, check=True)
    answers = json.loads(done.stdout)
    return {name: Refusal(code, said, folders[name], before[name], names_in(folders[name]))
            for name, (code, said) in zip(CASES, answers, strict=True)}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", list(CASES))
def test_bad_scans_fail_in_one_sentence_and_leave_nothing(
    name: str, refusals: dict[str, Refusal]
) -> None:
    refusal = refusals[name]
    assert_plain_failure(refusal, refusal.folder)
    assert refusal.after == refusal.before


def test_8_bit_is_no_ct(tmp_path: Path, model: Path) -> None:
    scan = save(volume(noise(20, 40, 40, kind=np.uint8)))(tmp_path)
    assert_plain_failure(segment(scan, tmp_path / "m.nrrd", model, "--modality", "CT"), tmp_path)
    assert not (tmp_path / "m.nrrd").exists()


def test_an_output_folder_that_is_missing(tmp_path: Path, model: Path) -> None:
    scan = save(ball_scan()[0])(tmp_path)
    assert_plain_failure(segment(scan, tmp_path / "none" / "mask.nrrd", model), tmp_path)
    assert not (tmp_path / "none").exists()


def test_no_space_for_the_output(tmp_path: Path, model: Path) -> None:
    scan = save(ball_scan()[0])(tmp_path)
    (tmp_path / "maps").mkdir()
    # No file may grow beyond 1 KB, as on a full disk; the signal would hide the error.
    done = segment(scan, tmp_path / "mask.nii.gz", model, "--maps", str(tmp_path / "maps"),
                   limit="trap '' XFSZ; ulimit -f 1;")
    assert_plain_failure(done, tmp_path)
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "scan.nrrd"]
    assert left == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_scan_that_may_not_be_read(tmp_path: Path, model: Path) -> None:
    scan = save(ball_scan()[0])(tmp_path)
    scan.chmod(0)
    assert_plain_failure(segment(scan, tmp_path / "mask.nrrd", model), tmp_path)
