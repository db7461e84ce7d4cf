"""Damaged files: each has to be refused in a sentence, or read with the geometry that it states.

They are read in a child process, which may crash or hang: that is wrong, and seen.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from support.dicom_files import write_series
from tally import Tally

SECONDS = 20.0  # for one file
TRIES = 70  # of each format
VALUES = ("", "0", "-1", "nan", "inf", "1e308", "999999999999", "-0.5", "a", "1 2", "( , , )",
          "\u00e9")
READER = """
import json, sys
from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.scan import as_scan
for line in sys.stdin:
    try:
        scan = as_scan(line.rstrip("\\n"), "MR")
        image = scan.image
        print(json.dumps({"size": image.GetSize(), "spacing": image.GetSpacing(),
                          "origin": image.GetOrigin(), "direction": image.GetDirection()}))
    except DiffuGTSError as error:
        print(json.dumps({"error": error.code, "sentence": error.message}))
    except BaseException as error:
        print(json.dumps({"fault": repr(error)[:200]}))
    sys.stdout.flush()
"""


class Reader:
    """A child process that reads one file after the other; a new one after a crash or a hang."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._lines: Queue[str] = Queue()
        Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def read(self, path: Path) -> dict[str, Any]:
        """What came out: the geometry, an "error" with its sentence, or a "fault"."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{path}\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=SECONDS)
        except Empty:
            line = "hang"
        except OSError:
            line = ""
        if line not in ("", "hang"):
            return dict(json.loads(line))
        self.close()
        code = self._process.returncode
        self._start()
        return {"fault": "no answer" if line else f"the process ended ({code})"}

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def base_image() -> sitk.Image:
    """A small oblique scan."""
    voxels = np.random.default_rng(0).normal(300, 40, (24, 40, 36)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-20.0, 10.0, 5.0))
    turn = np.deg2rad(12)
    image.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1))
    return image


def flipped(content: bytes, among: int, chance: random.Random) -> bytes:
    """One to four bytes of the first `among` replaced."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(min(among, len(changed)))] = chance.randrange(256)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    """Only the beginning."""
    return content[: chance.randrange(len(content))]


def edited(content: bytes, chance: random.Random) -> bytes:
    """A text header with a line removed, doubled, or with another value."""
    end = re.search(rb"\n\n|ElementDataFile[^\n]*\n", content)
    head, rest = (content[: end.end()], content[end.end():]) if end else (content, b"")
    lines = head.split(b"\n")
    place = chance.randrange(max(1, len(lines) - 1))
    how = chance.random()
    if how < 0.15:
        del lines[place]
    elif how < 0.25:
        lines.insert(place, lines[place])
    else:
        name = re.match(rb"[^:=]*(?::=|: ?|= ?)", lines[place])
        value = chance.choice(VALUES).encode()
        lines[place] = (name[0] if name else b"") + value
    return b"\n".join(lines) + rest


def formats(folder: Path) -> Iterator[tuple[str, Path, Callable[[bytes, random.Random], bytes]]]:
    """Name of a format, a whole file of it, and how its header is damaged."""
    image = base_image()
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"):
        path = folder / f"whole{suffix}"
        sitk.WriteImage(image, str(path))
        damage = edited if suffix in (".nrrd", ".mha", ".mhd") else (
            lambda content, chance: flipped(content, 352, chance))
        if suffix == ".nii.gz":
            yield suffix, path, lambda content, chance: gzip.compress(
                flipped(gzip.decompress(content), 352, chance), 1)
        yield suffix, path, damage
    write_series(folder / "series", image)
    slices = sorted((folder / "series").iterdir())
    yield "DICOM", slices[len(slices) // 2], lambda content, chance: flipped(content, 2500, chance)


def agrees(path: Path, found: dict[str, Any]) -> bool:
    """Whether a NIfTI file was read as another reader reads it: sizes, spacing and sides."""
    if "size" not in found or not path.name.endswith((".nii", ".nii.gz")):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = nibabel.load(path)
            shape = [n for n in other.shape if n > 1] or list(other.shape)
            affine = np.array(other.affine, float)
    except Exception:
        return True  # nothing to compare with
    if sorted(n for n in found["size"] if n > 1) != sorted(shape[:3]):
        return False
    directions = np.reshape(found["direction"], (3, 3)) @ np.diag(found["spacing"])
    own = np.diag([-1.0, -1, 1]) @ directions
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(sizes, found["spacing"], rtol=0.02, atol=1e-3)
                and np.allclose(own, affine[:3, :3], rtol=0.02, atol=0.05))


def campaign(folder: Path, seed: int = 1) -> Tally:
    """Damages headers and contents, and reads what is left."""
    tally, reader = Tally("damaged headers"), Reader()
    for name, whole, damage in formats(folder):
        content = whole.read_bytes()
        for number in range(TRIES):
            chance = random.Random(f"{seed} {name} {number}")
            broken = cut(content, chance) if chance.random() < 0.15 else damage(content, chance)
            path = folder / f"try{name if name != 'DICOM' else '.dcm'}"
            if name == "DICOM":
                path = whole
            path.write_bytes(broken)
            found = reader.read(path.parent if name == "DICOM" else path)
            right = "fault" not in found and agrees(path, found) and (
                "error" not in found or bool(found["sentence"]))
            tally.check(right, f"{name} {number} (seed {seed}): {found}")
        whole.write_bytes(content)
    reader.close()
    return tally
