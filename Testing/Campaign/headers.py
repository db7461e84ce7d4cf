"""Damaged files: each has to be refused in a sentence, or read with the geometry that it states.

And files that are whole and wrong, of kinds that were once read silently: each has to be refused,
or its values to be those of the rest, with a note.

They are read in a child process, which may crash or hang: that is wrong, and seen.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import shutil
import struct
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
import pydicom
import SimpleITK as sitk
from support.dicom_files import write_series
from tally import Tally

SECONDS = 20.0  # for one file
TRIES = 70  # of each format
WRONG_TRIES = 40  # of each kind of file that is whole and wrong
VALUES = ("", "0", "-1", "nan", "inf", "1e308", "999999999999", "-0.5", "a", "1 2", "( , , )",
          "\u00e9")
READER = """
import json, sys
import SimpleITK as sitk
from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.scan import as_scan
for line in sys.stdin:
    try:
        path, _, modality = line.rstrip("\\n").partition("\\t")
        scan = as_scan(path, modality or "MR")
        image = scan.image
        values = sitk.GetArrayViewFromImage(image)
        print(json.dumps({"size": image.GetSize(), "spacing": image.GetSpacing(),
                          "origin": image.GetOrigin(), "direction": image.GetDirection(),
                          "notes": list(scan.notes), "lowest": float(values.min()),
                          "highest": float(values.max())}))
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

    def read(self, path: Path, modality: str = "MR") -> dict[str, Any]:
        """What came out: the geometry, an "error" with its sentence, or a "fault"."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{path}\t{modality}\n")
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


def wrong_nifti(folder: Path, chance: random.Random) -> tuple[Path, str]:
    """A whole NIfTI file: voxels that begin in its header, or a rescaling that cannot be."""
    sitk.WriteImage(base_image(), str(folder / "wrong.nii"))
    content = bytearray((folder / "wrong.nii").read_bytes())
    if chance.random() < 0.5:
        struct.pack_into("<f", content, 108, chance.choice([0.0, chance.randrange(352)]))
    else:
        bad = chance.choice([math.inf, -math.inf])
        slope, intercept = chance.choice([(bad, 0.0), (2.0, bad), (-3.0, math.nan)])
        struct.pack_into("<2f", content, 112, slope, intercept)
    (folder / "wrong.nii").write_bytes(content)
    return folder / "wrong.nii", "MR"


def hot_scan(folder: Path, chance: random.Random) -> tuple[Path, str]:
    """A scan of which up to 4 % of the voxels, scattered or in a block, are no signal."""
    modality = chance.choice(["CT", "MR"])
    image = base_image()
    voxels = sitk.GetArrayFromImage(image).astype(np.float64)
    voxels[: len(voxels) // 2] -= 1300 if modality == "CT" else 0
    share, count = 10 ** chance.uniform(-4, -1.4), voxels.size
    chosen = (np.random.default_rng(chance.randrange(10**6)).random(count) < share
              if chance.random() < 0.5 else np.arange(count) < share * count)
    voxels.ravel()[chosen] = chance.choice([32767, -32768, 65535, 1e6, -1e10, 1e30])
    hot = sitk.GetImageFromArray(voxels.astype(np.float32))
    hot.CopyInformation(image)
    sitk.WriteImage(hot, str(folder / "hot.nrrd"))
    return folder / "hot.nrrd", modality


def wrong_series(folder: Path, chance: random.Random) -> tuple[Path, str]:
    """A DICOM series without pixel spacing, of two patients, or with padding."""
    shutil.rmtree(folder / "wrong", ignore_errors=True)
    files = sorted(write_series(folder / "wrong", base_image() - 1000).iterdir())
    kind = chance.choice(["spacing", "patients", "padding"])
    padding = chance.choice([63536, 40000, 5000])
    for index, file in enumerate(files):
        data = pydicom.dcmread(file)
        if kind == "spacing":
            del data.PixelSpacing
        elif kind == "patients" and index % 3 == 0:
            data.PatientID = "other"
        elif kind == "padding":
            stored = np.frombuffer(data.PixelData, np.uint16).copy()
            stored[: chance.randrange(data.Columns, 10 * data.Columns)] = padding
            data.PixelData = stored.tobytes()
            data.add_new("PixelPaddingValue", "US", padding)
        data.save_as(file)
    return folder / "wrong", "CT"


def wrong_files(folder: Path, seed: int, tally: Tally, reader: Reader) -> None:
    """Files that are whole and wrong: refused, or without what is no signal."""
    for make in (wrong_nifti, hot_scan, wrong_series):
        for number in range(WRONG_TRIES):
            path, modality = make(folder, random.Random(f"{seed} {make.__name__} {number}"))
            found = reader.read(path, modality)
            usual = ("highest" in found and make is not wrong_nifti
                     and -1200 <= found["lowest"] <= found["highest"] <= 3071
                     and (make is wrong_series or bool(found["notes"])))
            tally.check("error" in found or usual,
                        f"{make.__name__} {number} (seed {seed}): {found}")


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
    wrong_files(folder, seed, tally, reader)
    reader.close()
    return tally
