"""How well healthy tissue is painted: held-out healthy regions against what is truly there.

    python Testing/Benchmarks/inpainting.py --data DIR --data DIR2 [--model NAME] [--regions N]
    python Testing/Benchmarks/inpainting.py --data DIR --data DIR2 --pictures tumors_painted.png

Balls of 20, 30 and 40 mm in scans of validation patients, inside the organ and away from every
outline. Mean absolute error on the normalised scale, beside that of (a) the mean of the tissue
around, (b) a harmonic interpolation from it, (c) the autoencoder alone, (d) the truth itself
without what is finer than some 8 mm, which no painter can know; and the energy of the gradient as a
share of the truth's: below 1 the painted tissue is too smooth. With --pictures: the outlined tumors
of twelve patients painted over, each beside its scan.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import zip_longest
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
SMOOTH_MM = 4.0  # standard deviation
FIGURES = ("painted", "mean of the ring", "harmonic", "autoencoder", "truth, smoothed",
           "gradient energy")


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
               error(ndimage.gaussian_filter(image, SMOOTH_MM / VOXEL_MM)),
               gradient_energy(found, region.ball) / gradient_energy(image, region.ball))


def painted_tumors(
    segmenter: Segmenter, cases: list[TrainingCase]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, and in the slice of each tumor's largest section: scan, painted scan and outline."""
    for number, case in enumerate(cases):
        scan = segmenter.encode(
            sitk.ReadImage(str(case.folder / "image.nii.gz")), case.modality,
            sequence=case.sequence or None, skull_stripped=case.skull_stripped)
        image = scan.canonical.tensor[0, 0].numpy()
        tumor = np.zeros(image.shape, bool)
        stack = label_volume(load_volume(case)).stack
        x, y, z = stack.shape[1:]
        tumor[:x, :y, :z] = stack[2].numpy() > 0.5
        found, _ = painted(segmenter, scan, Region(tumor, 0.0), case.prompt or case.kind.asked[0],
                           number)
        section = int(tumor.sum((0, 1)).argmax())
        scan_slice, painted_slice, outline = (
            part[:x, :y, section].T for part in (image, found, tumor))
        yield case.name, scan_slice, painted_slice, outline


def draw(segmenter: Segmenter, groups: dict[str, list[TrainingCase]], path: Path) -> None:
    """The tumors of twelve patients, from all groups in turn, into a picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    outlined = [[c for c in cases if c.lesion_mask] for cases in groups.values()]
    turns: dict[str, TrainingCase] = {}
    for case in (case for row in zip_longest(*outlined) for case in row if case is not None):
        turns.setdefault(case.patient, case)
    figure, axes = pyplot.subplots(4, 6, figsize=(9, 6.6))
    pairs = axes.reshape(-1, 2)
    for axis in axes.ravel():
        axis.set_axis_off()
    for (left, right), (name, image, found, tumor) in zip(
            pairs, painted_tumors(segmenter, list(turns.values())[: len(pairs)]), strict=False):
        low, high = np.percentile(image, (1, 99.5))
        for axis, shown in ((left, image), (right, found)):
            axis.imshow(shown, cmap="gray", vmin=low, vmax=high, origin="lower")
            axis.contour(tumor, [0.5], colors="#e8c000", linewidths=0.6)
        left.set_title(name, fontsize=6, loc="left", pad=2)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.96, 0.03, 0.12)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Measures and prints, a row a group."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--regions", type=int, default=2, help="of each size in a scan")
    parser.add_argument("--scans", type=int, default=4, help="of each group")
    parser.add_argument("--pictures", type=Path, help="only draw tumors painted over")
    chosen = parser.parse_args()
    segmenter = Segmenter.from_pretrained(chosen.model, "cpu")
    groups: dict[str, list[TrainingCase]] = {}
    for case in (case for root in chosen.data for case in read_cases(root)):
        if case.split == "validation" and case.kind.organs:
            groups.setdefault(title(case), []).append(case)
    if chosen.pictures:
        draw(segmenter, groups, chosen.pictures)
        return
    table = Table("group", "regions", *FIGURES)
    for name, cases in groups.items():
        rows = [row for case in cases[: chosen.scans]
                for row in measured(segmenter, case, chosen.regions)]
        if rows:
            table.add_row(name, str(len(rows)), *(f"{v:.3f}" for v in np.mean(rows, axis=0)))
    Console().print(table)


if __name__ == "__main__":
    main()
