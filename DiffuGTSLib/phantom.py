"""Digital phantoms: made-up bodies with tumors whose true outline is known.

They replace patients in demonstrations and tests of the software. They say nothing about how
well a model segments real tumors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from DiffuGTSLib.phantom_bodies import Canvas, Triple, draw_brain, draw_chest, draw_liver
from DiffuGTSLib.segmentation_file import write_image

Kind = Literal["chest", "liver", "brain"]


@dataclass(frozen=True)
class _Recipe:
    """What a kind of phantom is made of; extents and radii in mm, intensities in HU or a.u."""

    draw: Callable[[Canvas], np.ndarray]
    prompt: str
    extent: Triple
    spacing: Triple
    air: float
    noise: float
    tumor_value: float
    tumor_texture: float
    tumor_radii: tuple[float, float]
    most_tumors: int


_RECIPES: dict[str, _Recipe] = {
    "chest": _Recipe(
        draw_chest, "lung tumor", (320, 260, 300), (2.5, 2.5, 2.5), -1000, 14, 35, 30, (9, 17), 2
    ),
    "liver": _Recipe(
        draw_liver, "liver tumor", (320, 260, 220), (2.5, 2.5, 2.5), -1000, 9, 55, 9, (10, 20), 1
    ),
    "brain": _Recipe(
        draw_brain, "brain tumor", (184, 224, 216), (2.0, 2.0, 2.0), 0, 11, 690, 40, (10, 19), 1
    ),
}


@dataclass(frozen=True)
class Phantom:
    """A made-up scan with its truth.

    Attributes:
        image: 3D; "chest" and "liver" CT in HU (int16), "brain" FLAIR-like MR (int16, from 0).
        mask: uint8, 1 in the tumors; on the grid of `image`.
        prompt: the text that asks for these tumors.
        organ: uint8, 1 in the organ that holds them (the tumors included).
    """

    image: sitk.Image
    mask: sitk.Image
    prompt: str
    organ: sitk.Image

    def write(self, folder: Path | str) -> list[Path]:
        """Writes image.nii.gz, mask.nii.gz and organ.nii.gz into an existing folder.

        Raises:
            OutputNotWritten: no such folder, no permission, no space.
        """
        images = {"image": self.image, "mask": self.mask, "organ": self.organ}
        return [
            write_image(image, Path(folder) / f"{name}.nii.gz") for name, image in images.items()
        ]


def make_phantom(
    kind: Kind = "chest", seed: int = 0, spacing: Triple | None = None, tumor: bool = True
) -> Phantom:
    """A phantom, the same one for the same arguments.

    Args:
        kind: "chest" (one or two lung tumors), "liver" (one, darker than the liver) or
            "brain" (one, bright).
        seed: another seed, another body and tumor.
        spacing: voxel spacing in mm, (X, Y, Z); None: 2.5 mm, the brain's 2 mm.
        tumor: False draws the same body without tumor, the mask then being empty.

    Raises:
        ValueError: `kind` is another word.
    """
    if kind not in _RECIPES:
        raise ValueError(f"no phantom of kind {kind!r}; there are {', '.join(_RECIPES)}")
    recipe = _RECIPES[kind]
    # Streams of their own: with or without tumor, body and noise are the same.
    body, growth, noise = np.random.default_rng(seed).spawn(3)
    canvas = Canvas(recipe.extent, spacing or recipe.spacing, body, recipe.air)
    organ = recipe.draw(canvas)
    mask = np.zeros_like(organ)
    if tumor:
        canvas.generator = growth
        mask = _grow_tumors(canvas, organ, recipe)
    voxels = _acquire(canvas, recipe, noise)
    return Phantom(
        _image(voxels, canvas.spacing),
        _image(mask.astype(np.uint8), canvas.spacing),
        recipe.prompt,
        _image((organ | mask).astype(np.uint8), canvas.spacing),
    )


def _grow_tumors(canvas: Canvas, organ: np.ndarray, recipe: _Recipe) -> np.ndarray:
    """Paints tumors well inside the organ and returns their voxels."""
    generator = canvas.generator
    mask = np.zeros_like(organ)
    depth = ndimage.distance_transform_edt(organ, sampling=canvas.spacing[::-1])
    for _ in range(int(generator.integers(1, recipe.most_tumors + 1))):
        radius = float(generator.uniform(*recipe.tumor_radii))
        room = depth >= min(1.2 * radius, 0.9 * depth.max())
        if mask.any():
            room &= ndimage.distance_transform_edt(~mask, sampling=canvas.spacing[::-1]) > 50
        if not room.any():
            break
        place = np.unravel_index(generator.choice(np.flatnonzero(room)), organ.shape)
        coordinates = (canvas.right, canvas.anterior, canvas.superior)
        r, a, s = (float(coordinate[place]) for coordinate in coordinates)
        radii = radius * generator.uniform(0.8, 1.25, 3)
        surface = canvas.radius((r, a, s), (radii[0], radii[1], radii[2]))
        mask |= (surface + 0.12 * canvas.field(10) < 1) & organ
    mask = _largest_parts(mask, canvas.spacing)
    canvas.paint(mask, recipe.tumor_value, recipe.tumor_texture, 8)
    return mask


def _largest_parts(mask: np.ndarray, spacing: Triple) -> np.ndarray:
    """`mask` without the crumbs below 0.3 ml that a rough surface leaves."""
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1) * np.prod(spacing) / 1000
    sizes[0] = 0
    return (sizes >= min(0.3, sizes.max()))[labels] & mask


def _acquire(canvas: Canvas, recipe: _Recipe, generator: np.random.Generator) -> np.ndarray:
    """What a scanner makes of the body: blur, noise and, in MR, shading; int16, (Z, Y, X)."""
    blurred = ndimage.gaussian_filter(canvas.values, 0.6)
    noise = recipe.noise * generator.normal(size=(2, *blurred.shape)).astype(np.float32)
    if recipe.air < 0:
        # The kernel of a CT makes its noise grainy; 2.2 restores the strength after the blur.
        grain = 2.2 * ndimage.gaussian_filter(noise[0], 0.6)
        return np.clip(np.round(blurred + grain), -1024, 3071).astype(np.int16)
    canvas.generator = generator
    shaded = blurred * (1 + 0.06 * canvas.field(150))
    return np.round(np.hypot(shaded + noise[0], noise[1])).astype(np.int16)


def _image(voxels: np.ndarray, spacing: Triple) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([float(step) for step in spacing])
    image.SetOrigin([-(n - 1) / 2 * s for n, s in zip(image.GetSize(), spacing, strict=True)])
    return image
