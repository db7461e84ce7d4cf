"""Random crops, MR contrasts, deformations and image degradation for training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage


def random_patch(image: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """A cube (size, size, size) from `image` (X, Y, Z), padded with its edge where too small."""
    missing = [max(0, size - n) for n in image.shape]
    if any(missing):
        image = np.pad(image, [(n // 2, n - n // 2) for n in missing], mode="edge")
    starts = [generator.integers(0, n - size + 1) for n in image.shape]
    window = tuple(slice(s, s + size) for s in starts)
    return image[window].astype(np.float32)


def random_contrast(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Another MR contrast: a random curve through the intensities, zero kept at zero.

    Mostly a gain and a gamma; one time in twenty a curve that may fall as well as rise, so that
    the networks also see sequences that the training scans lack. Drawn more often, it makes brains
    in which no lesion can be distinguished from normal tissue.
    """
    if generator.random() < 0.05:
        knots = np.linspace(0.0, 1.6, 6)
        values = np.concatenate([[0.0], generator.uniform(0.05, 1.2, 5)])
        return np.interp(image, knots, values).astype(np.float32)
    gain = np.exp(generator.uniform(-0.9, 0.4))
    gamma = np.exp(generator.uniform(-0.5, 0.5))
    return (gain * np.clip(image, 0, None) ** gamma).astype(np.float32)


def clip_as_published(image: np.ndarray, ends_hu: tuple[float, float]) -> np.ndarray:
    """A normalised CT, clipped as liver scans are published: below the lower end the body is at
    -100 HU and what is outside it at -1000, above the upper end is the upper end."""
    low, high = ((1000 + end) / 2000 for end in ends_hu)
    inside = np.where(image < low, np.where(image < 0.2, 0.0, 0.45), image)
    return np.minimum(inside, high).astype(np.float32)


def deformed_window(
    stack: torch.Tensor,
    size: Sequence[int],
    focus: np.ndarray | None,
    generator: np.random.Generator,
    mirror_x: bool,
) -> torch.Tensor:
    """A window of `size` from `stack` (C, X, Y, Z), rotated, scaled, mirrored and bent.

    Channel 0 is interpolated linearly, the others take the nearest voxel.

    Args:
        focus: a voxel that the window should contain; None for anywhere inside.
        mirror_x: whether left and right may be exchanged.
    """
    shape = np.array(stack.shape[1:])
    half = (np.array(size) - 1) / 2
    low, high = np.minimum(half, shape / 2), np.maximum(shape - 1 - half, shape / 2)
    # Drawn from a larger range and clipped: the tiles of a large scan often lie at its border,
    # where most is air, so training windows must lie there as often.
    margin = np.minimum(half, high - low) / 2
    centre = np.clip(generator.uniform(low - margin, high + margin), low, high)
    if focus is not None:
        centre = np.clip(focus + generator.uniform(-0.5, 0.5, 3) * half, low, high)
    matrix = _affine(generator, mirror_x)
    axes = [torch.linspace(-float(h), float(h), n) for h, n in zip(half, size, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ torch.tensor(matrix.T).float()
    if generator.random() < 0.5:
        bend = torch.from_numpy(generator.normal(0, 2.0, (1, 3, 4, 4, 4))).float()
        bent = F.interpolate(bend, size=tuple(size), mode="trilinear", align_corners=True)
        points = points + bent[0].movedim(0, -1)
    points = points + torch.from_numpy(centre).float()
    scaled = (points + 0.5) / torch.from_numpy(shape).float() * 2 - 1
    sampling_grid = scaled.flip(-1)[None]  # grid_sample counts the last axis first
    image = F.grid_sample(stack[None, :1], sampling_grid, mode="bilinear", padding_mode="border",
                          align_corners=False)
    labels = F.grid_sample(stack[None, 1:], sampling_grid, mode="nearest", padding_mode="border",
                           align_corners=False)
    return torch.cat([image, labels], 1)[0]


def _affine(generator: np.random.Generator, mirror_x: bool) -> np.ndarray:
    """Rotation by up to some 15 degrees an axis, scale 0.8 to 1.25, mirrored axes."""
    angles = np.deg2rad(generator.normal(0, 7, 3))
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    scale = np.exp(generator.uniform(-0.22, 0.22)) * np.exp(generator.normal(0, 0.04, 3))
    signs = np.array([-1.0 if mirror_x and generator.random() < 0.5 else 1.0, 1.0, 1.0])
    return matrix @ np.diag(scale * signs)


def degrade(
    image: np.ndarray, generator: np.random.Generator, floor: float | None
) -> np.ndarray:
    """Thick slices, blur and noise, each at random; clipped to `floor`..1 where given (CT)."""
    if generator.random() < 0.35:  # slices of 4 to 7 mm, in the plane that most scans have
        thickness = generator.uniform(2.0, 3.5)
        image = ndimage.uniform_filter1d(image, round(thickness), axis=2)
        coarse = image[:, :, :: round(thickness)]
        if coarse.shape[2] > 1:
            positions = np.linspace(0, coarse.shape[2] - 1, image.shape[2])
            image = ndimage.map_coordinates(
                coarse, np.meshgrid(*[np.arange(n) for n in image.shape[:2]], positions,
                                    indexing="ij"), order=1)
    if generator.random() < 0.2:
        image = ndimage.gaussian_filter(image, generator.uniform(0.3, 0.9))
    if generator.random() < 0.4:
        amount = generator.uniform(0.002, 0.02) if floor is not None else generator.uniform(0, 0.05)
        image = image + amount * generator.standard_normal(image.shape).astype(np.float32)
    if floor is not None:
        image = np.clip(image + generator.normal(0, 0.003), floor, 1.0)
    return image.astype(np.float32)
