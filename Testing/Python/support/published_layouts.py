"""Synthetic folders in the layouts of the published data sets; a tumor is a 4 x 4 x 4 cube."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.datasets.layouts import published

SIZE = (12, 14, 16)  # z, y, x
TUMOR_ML = 64 * 2 * 2 * 3 / 1000


def write(array: np.ndarray, path: Path, shift_mm: float = 0.0) -> Path:
    """Writes (z, y, x), or (t, z, y, x), with voxels of 2 x 2 x 3 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.ndim == 4:
        image = sitk.JoinSeries([_image(part, shift_mm) for part in array])
    else:
        image = _image(array, shift_mm)
    sitk.WriteImage(image, str(path))
    return path


def _image(array: np.ndarray, shift_mm: float) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetOrigin((shift_mm, -5.0, 7.0))
    return image


def scan(modality: str, channels: int = 1) -> np.ndarray:
    """CT in HU with air around the body, or MR; one volume more for each channel."""
    noise = np.random.default_rng(0).normal(0, 20, (channels, *SIZE))
    body = np.zeros(SIZE, bool)
    body[1:-1, 2:-2, 2:-2] = True
    values = np.where(body, 40, -1000) if modality == "CT" else np.where(body, 300, 0)
    volumes = (values + noise + 100 * np.arange(channels)[:, None, None, None]).astype(np.int16)
    return volumes if channels > 1 else volumes[0]


def labels(dataset: str) -> np.ndarray:
    """A block of organ with a cube of tumor in it, in the values of `dataset`."""
    entry = published()[dataset]
    mask = np.zeros(SIZE, np.uint8)
    if entry.organ:
        mask[2:10, 3:11, 3:13] = entry.organ[0]
    mask[4:8, 5:9, 5:9] = entry.tumor[-1]
    if len(entry.tumor) > 1:
        mask[4:6, 5:9, 5:9] = entry.tumor[0]
    return mask


def write_msd(root: Path, dataset: str, names: tuple[str, ...]) -> Path:
    """A decathlon folder with the scans of `names` and its dataset.json."""
    entry = published()[dataset]
    folder = root / entry.folder
    channels = len(entry.sequences) or 1
    for name in names:
        write(scan(entry.modality, channels), folder / "imagesTr" / f"{name}.nii.gz")
        write(labels(dataset), folder / "labelsTr" / f"{name}.nii.gz")
    document = {
        "name": entry.title, "tensorImageSize": "4D" if channels > 1 else "3D",
        "modality": dict(enumerate(entry.sequences or ["CT"])),
        "labels": entry.labels, "numTraining": len(names),
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"}
                     for n in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


def write_kits(folder: Path, numbers: tuple[int, ...] = (0, 1)) -> Path:
    """KiTS23 as its repository fills it."""
    for number in numbers:
        case = folder / f"case_{number:05d}"
        write(scan("CT"), case / "imaging.nii.gz")
        write(labels("kits23"), case / "segmentation.nii.gz")
    return folder


def write_brats(folder: Path, name: str = "BraTS-GLI-00002-000") -> Path:
    """BraTS23 with one patient."""
    for file in published()["brats23"].sequences:
        write(scan("MR"), folder / name / f"{name}-{file}.nii.gz")
    write(labels("brats23"), folder / name / f"{name}-seg.nii.gz")
    return folder


def write_cases(folder: Path, *entries: dict) -> Path:
    """A CASES.json with `entries`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "CASES.json"
    path.write_text(json.dumps(list(entries)))
    return path
