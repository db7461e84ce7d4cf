"""Digital phantoms: made-up bodies with tumors whose true outline is known.

They replace patients in demonstrations and tests of the software. They say nothing about how
well a model segments real tumors.

Rough bodies, drawn from warped ellipsoids: chest and upper abdomen in HU, head as FLAIR.
Coordinates are mm from the centre of the field of view, to the right, anterior and superior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.interpolate import CubicSpline

from DiffuGTSLib.scan.segmentation_file import refuse_foreign, write_image

Kind = Literal["chest", "liver", "brain"]
Array = np.ndarray
Triple = tuple[float, float, float]


class Canvas:
    """A field of view with a warped coordinate system to draw in.

    Attributes:
        values: float32, (Z, Y, X); index axes to the superior, posterior and left.
        right, anterior, superior: warped coordinates of each voxel in mm, shape as `values`.
    """

    def __init__(
        self, extent: Triple, spacing: Triple, generator: np.random.Generator, air: float
    ) -> None:
        self.extent = extent
        self.spacing = spacing
        self.generator = generator
        size = [max(8, round(e / s)) for e, s in zip(extent, spacing, strict=True)]
        self.values = np.full(size[::-1], air, dtype=np.float32)
        centred = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
        self.right = -centred[0][None, None, :] + 4 * self.field(110)
        self.anterior = -centred[1][None, :, None] + 4 * self.field(110)
        self.superior = centred[2][:, None, None] + 4 * self.field(110)

    def field(self, detail: float) -> Array:
        """A smooth random field of about unit variance, (Z, Y, X); `detail` in mm."""
        knots = [max(4, round(e / detail) + 2) for e in self.extent[::-1]]
        field = self.generator.normal(size=knots)
        for axis, (count, length) in enumerate(zip(knots, self.values.shape, strict=True)):
            # Spline weights per axis: the same field at any spacing.
            positions = (np.arange(length) + 0.5) / length * (count - 1)
            weights = CubicSpline(np.arange(count), np.eye(count))(positions)
            field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
        return (1.4 * field).astype(np.float32)

    def radius(self, centre: Triple, radii: Triple, power: float = 2.0) -> Array:
        """1 on the surface of a superellipsoid, less inside, more outside."""
        coordinates = (self.right, self.anterior, self.superior)
        total = np.zeros_like(self.values)
        for coordinate, middle, half in zip(coordinates, centre, radii, strict=True):
            if np.isfinite(half):
                total += np.abs((coordinate - middle) / half) ** power
        return total ** (1 / power)

    def inside(self, centre: Triple, radii: Triple, power: float = 2.0) -> Array:
        """The voxels of a superellipsoid; an infinite radius makes a cylinder."""
        return self.radius(centre, radii, power) < 1

    def tubes(self, detail: float, width: Array | float) -> Array:
        """Winding tubes: where two random fields are both near 0."""
        return np.hypot(self.field(detail), self.field(detail)) < width

    def paint(self, where: Array, value: float, texture: float = 0.0, detail: float = 12) -> None:
        """Sets the voxels in `where`, with a random texture of that strength around `value`."""
        self.values[where] = value
        if texture > 0:
            self.values[where] += texture * self.field(detail)[where]


def draw_chest(canvas: Canvas) -> Array:
    """Paints a chest CT; returns the lungs, vessels among them."""
    _trunk(canvas)
    _ribs(canvas, (127.0, 88.0, np.inf))
    superior = canvas.superior
    mediastinum = canvas.inside((-4, 0, 0), (34, 74, np.inf), 3)
    heart = canvas.inside((-24, 24, -38), (46, 38, 48))
    dome = 30 - 0.0035 * ((canvas.right - 60) ** 2 + canvas.anterior**2)
    above = superior > np.maximum(dome, -25) - 100
    lungs = canvas.inside((58, -2, -5), (60, 78, 122), 2.4)
    lungs |= canvas.inside((-58, -2, -5), (58, 76, 120), 2.4)
    lungs &= above & ~mediastinum & ~heart
    canvas.paint(canvas.inside((0, 0, 0), (122, 82, np.inf), 2.6) & ~above, 60, 8)
    canvas.paint(mediastinum, -20, 45, 18)
    canvas.paint(lungs, -860, 25, 25)
    to_hila = [canvas.radius((side, -8, 0), (1, 1, 1)) for side in (28, -28)]
    hilum = np.minimum(*to_hila)
    vessels = lungs & canvas.tubes(24, 0.16 + 0.35 * np.exp(-hilum / 35))
    canvas.paint(vessels, 20, 15)
    canvas.paint(heart, 45, 10)
    canvas.paint(canvas.inside((-20, -42, 0), (12, 12, np.inf)), 55)
    canvas.paint(canvas.inside((8, 12, 45), (15, 15, 40)), 55)
    canvas.paint(canvas.inside((2, -12, 90), (9, 8, 75), 4), -990)
    _spine(canvas)
    canvas.paint(canvas.inside((0, 84, 10), (15, 6, 75), 4), 250, 40)
    return lungs


def draw_liver(canvas: Canvas) -> Array:
    """Paints a CT of the upper abdomen in the portal phase; returns the liver."""
    _trunk(canvas)
    _ribs(canvas, (128.0, 90.0, np.inf))
    cavity = canvas.inside((0, 6, 0), (118, 78, np.inf), 2.6)
    canvas.paint(cavity, -95, 20)
    canvas.paint(cavity & canvas.tubes(35, 0.75), 30, 20)
    lung_base = canvas.radius((0, -5, 0), (116, 76, 92), 3) > 1
    canvas.paint(cavity & lung_base & (canvas.superior > 0), -850, 30)
    canvas.paint(canvas.inside((-58, 34, 20), (36, 32, 40)), 20, 10)
    bubble = canvas.inside((-58, 34, 20), (32, 28, 36)) & (canvas.anterior > 46)
    canvas.paint(bubble, -960)
    canvas.paint(canvas.inside((-84, -28, 28), (27, 40, 42), 2.4), 120, 6)
    for side in (52.0, -52.0):
        canvas.paint(canvas.inside((side, -46, -40), (25, 23, 46)), 185, 12)
        canvas.paint(canvas.inside((0.9 * side, -45, -40), (12, 11, 30)), 70, 20)
    liver = canvas.inside((56, 6, 18), (62, 68, 66), 2.3)
    liver |= canvas.inside((2, 40, 30), (62, 32, 32), 2.3)
    liver &= cavity
    canvas.paint(liver, 112, 5)
    canvas.paint(liver & canvas.tubes(32, 0.22), 165, 8)
    canvas.paint(canvas.inside((-8, -36, 0), (11, 11, np.inf)), 175, 5)
    canvas.paint(canvas.inside((18, -30, 0), (13, 10, np.inf)), 150, 5)
    _spine(canvas)
    return liver


def draw_brain(canvas: Canvas) -> Array:
    """Paints a FLAIR-like head MR, arbitrary units; returns the brain, ventricles among it."""
    head = canvas.inside((0, 0, 10), (76, 96, 92), 2.2)
    head |= canvas.inside((0, -12, -70), (50, 60, np.inf), 2.2) & (canvas.superior < -30)
    canvas.paint(head, 300, 60, 15)
    skull = canvas.radius((0, 0, 14), (70, 89, 82), 2.2)
    canvas.paint(skull < 1, 40, 12)
    cranium = canvas.radius((0, 0, 14), (65, 83, 76), 2.2) + 0.012 * canvas.field(30)
    brain = (cranium < 1) & (canvas.superior > -52 + 0.25 * canvas.anterior)
    canvas.paint(brain, 60, 10)
    folds = (np.abs(canvas.field(14)) < 0.16) & (cranium > 0.72)
    matter = brain & (cranium < 0.97) & ~folds & (np.abs(canvas.right) > 1.5)
    canvas.paint(matter, 430, 18)
    white = matter & (cranium < 0.82 + 0.09 * canvas.field(16))
    canvas.paint(white, 330, 12, 25)
    for side in (1.0, -1.0):
        canvas.paint(matter & canvas.inside((19 * side, 8, 6), (10, 18, 12)), 410, 10)
        horns = canvas.inside((11 * side, 4, 22), (7, 34, 9))
        canvas.paint(matter & horns, 55, 8)
    canvas.paint(matter & canvas.inside((0, -2, 2), (3, 14, 12)), 55, 8)
    canvas.paint(canvas.inside((0, -22, -60), (13, 13, 45)) & brain, 340, 10)
    for side in (32.0, -32.0):
        canvas.paint(canvas.inside((side, 78, -30), (13, 13, 13)), 90, 10)
    canvas.paint(canvas.inside((0, 76, -50), (16, 20, 22)), 10)
    return brain


def _trunk(canvas: Canvas) -> None:
    """Skin and fat around a wall of muscle."""
    canvas.paint(canvas.inside((0, 0, 0), (150, 112, np.inf), 2.6), -100, 10)
    canvas.paint(canvas.inside((0, 0, 0), (136, 97, np.inf), 2.6), 50, 15)


def _ribs(canvas: Canvas, radii: Triple) -> None:
    """Slanted rings of bone in the body wall."""
    wall = canvas.radius((0, 0, 0), radii, 2.6)
    height = (canvas.superior + 0.45 * canvas.anterior) % 30
    ribs = (np.abs(wall - 1) < 0.035) & (height < 11)
    canvas.paint(ribs & (np.abs(canvas.right) > 18), 420, 90)


def _spine(canvas: Canvas) -> None:
    """Vertebrae and discs around a canal, with spinous processes."""
    level = canvas.superior % 32
    canvas.paint(canvas.inside((0, -62, 0), (20, 17, np.inf), 2.5), 90, 10)
    body = canvas.inside((0, -62, 0), (20, 17, np.inf), 2.5) & (level < 25)
    canvas.paint(body, 210, 50, 8)
    arch = canvas.inside((0, -86, 0), (26, 14, np.inf)) & (level < 20)
    arch |= canvas.inside((0, -96, 0), (5, 16, np.inf)) & (level < 14)
    canvas.paint(arch, 350, 60, 8)
    canvas.paint(canvas.inside((0, -83, 0), (9, 8, np.inf)), 25)


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
    max_tumors: int


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
        prompt: the text that names these tumors.
        organ: uint8, 1 in the organ that holds them (the tumors included).
    """

    image: sitk.Image
    mask: sitk.Image
    prompt: str
    organ: sitk.Image

    def write(self, folder: Path | str) -> list[Path]:
        """Writes image.nii.gz, mask.nii.gz and organ.nii.gz into an existing folder.

        Raises:
            OutputNotWritten: no such folder, no permission, no space, files of another program.
        """
        images = {"image": self.image, "mask": self.mask, "organ": self.organ}
        paths = {name: Path(folder) / f"{name}.nii.gz" for name in images}
        for path in paths.values():
            refuse_foreign(path)
        return [write_image(image, paths[name]) for name, image in images.items()]


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
    for _ in range(int(generator.integers(1, recipe.max_tumors + 1))):
        radius = float(generator.uniform(*recipe.tumor_radii))
        free = depth >= min(1.2 * radius, 0.9 * depth.max())
        if mask.any():
            free &= ndimage.distance_transform_edt(~mask, sampling=canvas.spacing[::-1]) > 50
        if not free.any():
            break
        centre = np.unravel_index(generator.choice(np.flatnonzero(free)), organ.shape)
        coordinates = (canvas.right, canvas.anterior, canvas.superior)
        r, a, s = (float(coordinate[centre]) for coordinate in coordinates)
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
