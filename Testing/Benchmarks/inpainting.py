"""How well healthy tissue is painted: held-out healthy regions against what is truly there.

    python Testing/Benchmarks/inpainting.py --data DIR --data DIR2 [--model NAME] [--regions N]

Balls of 20, 30 and 40 mm in scans of validation patients, inside the organ and away from every
outline. Mean absolute error on the normalised scale, beside that of (a) the mean of the tissue
around, (b) a harmonic interpolation from it, (c) the autoencoder alone; and the energy of the
gradient as a share of the truth's: below 1 the painted tissue is too smooth.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.linalg import spsolve

from DiffuGTSLib.pipeline import EncodedScan, Segmenter
from DiffuGTSLib.pipeline.inpainting import CandidateOptions, find_candidates
from DiffuGTSLib.pipeline.refinement import CropComparison
from DiffuGTSLib.progress import Progress
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.training.data.cases import TrainingCase, load_volume, read_cases
from DiffuGTSLib.training.data.scan_table import ORGANS
from DiffuGTSLib.training.data.windows import label_volume
from DiffuGTSLib.training.embedded.validation import title

DIAMETERS_MM = (20.0, 30.0, 40.0)
VOXEL_MM = 2.0
FIGURES = ("painted", "mean of the ring", "harmonic", "autoencoder", "gradient energy")


class Region(NamedTuple):
    """A ball of healthy tissue, bool (X, Y, Z), and its diameter in mm."""

    ball: np.ndarray
    diameter_mm: float


def regions(
    healthy: np.ndarray, count: int, generator: np.random.Generator
) -> Iterator[Region]:
    """Balls inside `healthy`, `count` of each diameter where they fit."""
    depth = ndimage.distance_transform_edt(np.pad(healthy, 1))[1:-1, 1:-1, 1:-1]
    grid = np.indices(healthy.shape)
    for diameter in DIAMETERS_MM:
        radius = diameter / 2 / VOXEL_MM
        centres = np.argwhere(depth > radius + 1)
        for place in generator.permutation(len(centres))[:count]:
            offsets = grid - centres[place][:, None, None, None]
            yield Region((offsets**2).sum(0) <= radius**2, diameter)


def harmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the solution of Laplace's equation inside `mask` (not at the border)."""
    inside = np.argwhere(mask)
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(len(inside))
    rows, columns, known = [], [], np.zeros(len(inside))
    for axis in range(3):
        for step in (-1, 1):
            near = inside.copy()
            near[:, axis] += step
            other = number[tuple(near.T)]
            rows.append(np.flatnonzero(other >= 0))
            columns.append(other[other >= 0])
            known += np.where(other < 0, image[tuple(near.T)], 0.0)
    each = np.arange(len(inside))
    values = np.concatenate([np.full(len(each), 6.0), -np.ones(sum(map(len, rows)))])
    matrix = csr_array((values, (np.concatenate([each, *rows]), np.concatenate([each, *columns]))))
    filled = image.astype(float).copy()
    filled[mask] = spsolve(matrix, known)
    return filled


def gradient_energy(image: np.ndarray, mask: np.ndarray) -> float:
    """The mean squared gradient inside a mask."""
    return float(sum(part[mask] ** 2 for part in np.gradient(image)).mean())


def painted(segmenter: Segmenter, scan: EncodedScan, region: Region, prompt: str, seed: int
            ) -> tuple[np.ndarray, np.ndarray]:
    """The first healthy sample's mean over all, and M: both (X, Y, Z)."""
    package = segmenter.package
    found = find_candidates(
        region.ball.astype(np.float32), 0.5, scan.canonical.spacing, CandidateOptions(),
        package.autoencoder.downscale, segmenter.limits.multiple)
    crops = CropComparison(
        package, segmenter.planner, scan.latent, scan.rebuilt, found,
        segmenter._conditioning(scan, understand(prompt)), 1, seed, Progress(None), lambda _: None)
    out = scan.canonical.tensor[0, 0].numpy().copy()
    for box, comparison in crops.compare_each():
        inside = found.mask[box]
        out[box][inside] = comparison.healthy.float().cpu().numpy()[inside]
    return out, found.mask


def measured(
    segmenter: Segmenter, case: TrainingCase, count: int
) -> Iterator[tuple[float, ...]]:
    """The FIGURES of each region of a scan."""
    labelled = label_volume(load_volume(case))
    prompt = case.prompt or case.kind.asked[0]
    organ = ORGANS.index(understand(prompt).anatomy) + 1
    scan = segmenter.encode(
        sitk.ReadImage(str(case.folder / "image.nii.gz")), case.modality,
        sequence=case.sequence or None, skull_stripped=case.skull_stripped)
    image = scan.canonical.tensor[0, 0].numpy()
    index, lesion = labelled.stack[1].numpy(), labelled.stack[2:].numpy().any(0)
    healthy = np.zeros(image.shape, bool)
    x, y, z = index.shape
    healthy[:x, :y, :z] = (index == organ) & ~ndimage.binary_dilation(lesion, iterations=3)
    if case.modality == "CT" and case.kind.organs == "body":
        healthy &= (image > 0.48) & (image < 0.58)  # muscle
        healthy = ndimage.binary_opening(ndimage.binary_closing(healthy, iterations=2))
    latent = scan.latent / segmenter.package.card.scale_factor
    again = segmenter.package.autoencoder.decode(latent)[0, 0].detach().float().numpy()
    for number, region in enumerate(regions(healthy, count, np.random.default_rng(7))):
        found, mask = painted(segmenter, scan, region, prompt, number)
        ring = ndimage.binary_dilation(mask, iterations=2) & ~mask
        inner = np.zeros_like(mask)
        inner[1:-1, 1:-1, 1:-1] = True

        def error(other: np.ndarray, ball: np.ndarray = region.ball) -> float:
            return float(np.abs(other - image)[ball].mean())

        yield (error(found), error(np.full_like(image, image[ring].mean())),
               error(harmonic(image, mask & inner)), error(again),
               gradient_energy(found, region.ball) / gradient_energy(image, region.ball))


def main() -> None:
    """Measures and prints, a row a group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--regions", type=int, default=2, help="of each size in a scan")
    parser.add_argument("--scans", type=int, default=4, help="of each group")
    chosen = parser.parse_args()
    segmenter = Segmenter.from_pretrained(chosen.model, "cpu")
    groups: dict[str, list[TrainingCase]] = {}
    for case in (case for root in chosen.data for case in read_cases(root)):
        if case.split == "validation" and case.kind.organs:
            groups.setdefault(title(case), []).append(case)
    table = Table("group", "regions", *FIGURES)
    for name, cases in groups.items():
        rows = [row for case in cases[: chosen.scans]
                for row in measured(segmenter, case, chosen.regions)]
        if rows:
            table.add_row(name, str(len(rows)), *(f"{v:.3f}" for v in np.mean(rows, axis=0)))
    Console().print(table)


if __name__ == "__main__":
    main()
