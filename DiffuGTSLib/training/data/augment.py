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


def random_gain(
    image: np.ndarray, generator: np.random.Generator, darkest: float = -0.3
) -> np.ndarray:
    """A mild change of an MR's contrast: a gain and a gamma, zero kept at zero.

    Where lesions are learned: with the wilder curves of `random_contrast` fewer are found.

    Args:
        darkest: the least gain, its logarithm.
    """
    gain = np.exp(generator.uniform(darkest, 0.2))
    gamma = np.exp(generator.uniform(-0.2, 0.2))
    return (gain * np.clip(image, 0, None) ** gamma).astype(np.float32)


def random_bias_and_curve(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An MR from another scanner: at times a bias field, at times a rising curve of contrasts.

    The same sequence of two hospitals differs by both; a model that has seen one of them lost
    two thirds of its Dice on the other's.
    """
    if generator.random() < 0.35:
        field = smooth_noise(image.shape, generator.uniform(14, 30), generator)
        strength = generator.uniform(0.05, 0.3)
        image = image * np.exp(strength * np.clip(field, -2.5, 2.5))
    if generator.random() < 0.15:
        highest = max(float(image.max()), 1e-3)
        steps = np.exp(generator.uniform(0.2, 0.6) * generator.standard_normal(5))
        values = np.concatenate([[0.0], np.cumsum(steps)])
        image = highest * np.interp(image / highest, np.linspace(0, 1, 6), values / values[-1])
    return image.astype(np.float32)


def simulated_head(
    image: np.ndarray, brain: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Fluid, skull, scalp and neck around a stripped brain, so that a network sees whole heads.

    Shells at random distances from the brain, with random intensities: every sequence differs.

    Args:
        image: an MR (X, Y, Z) at 2 mm, 0 outside the brain.
        brain: bool, the same size.
    """
    middle = float(np.median(image[brain]))
    distance = ndimage.distance_transform_edt(~brain).astype(np.float32)
    distance += generator.uniform(0.2, 0.8) * smooth_noise(
        image.shape, generator.uniform(3, 8), generator)
    inner = generator.uniform(0.8, 2.0)
    outer = inner + generator.uniform(1.5, 4.0)
    height = np.arange(image.shape[2], dtype=np.float32)[None, None]
    planes = np.flatnonzero(brain.any((0, 1)))
    base = planes[0] + generator.uniform(0.0, 0.5) * (planes[-1] - planes[0])
    skin = (outer + generator.uniform(1.0, 4.0)
            + generator.uniform(0, 1.5) * np.maximum(0, base - height))

    def level(low: float, high: float) -> float:
        return float(middle * np.exp(generator.uniform(np.log(low), np.log(high))))

    air = np.abs(generator.normal(0, 0.01) * generator.standard_normal(image.shape))
    grain = smooth_noise(image.shape, generator.uniform(2, 6), generator)
    fat, muscle = level(0.8, 2.6), level(0.3, 0.9)
    soft = np.where(grain > generator.uniform(-0.8, 1.2), fat, muscle)
    soft = soft * (1 + 0.15 * smooth_noise(image.shape, 2.0, generator))
    soft = np.where((grain < -1.2) & (height < base), 0.02, soft)
    head = np.where((distance > outer) & (distance <= skin), soft, air)
    head = np.where((distance > inner) & (distance <= outer), level(0.03, 0.25), head)
    if generator.random() < 0.5:  # marrow between the two tables of the skull
        depth = (distance - inner) / (outer - inner)
        head = np.where((depth > 0.3) & (depth < 0.75), level(0.3, 1.5), head)
    head = np.where((distance > 0) & (distance <= inner), level(0.15, 2.0), head)
    return np.where(brain, image, ndimage.gaussian_filter(head, 0.4)).astype(np.float32)


def smooth_noise(
    shape: tuple[int, ...], scale: float, generator: np.random.Generator
) -> np.ndarray:
    """Smooth noise of unit deviation with features of `scale` voxels."""
    coarse = [max(3, int(np.ceil(n / max(scale, 1.0))) + 2) for n in shape]
    grid = generator.standard_normal(coarse).astype(np.float32)
    zoom = [n / c for n, c in zip(shape, coarse, strict=True)]
    smooth = ndimage.zoom(grid, zoom, order=1, grid_mode=True, mode="nearest")
    smooth = smooth[tuple(slice(0, n) for n in shape)]
    return (smooth / (smooth.std() + 1e-6)).astype(np.float32)


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
    """Blur, thick slices and noise, each at random; clipped to `floor`..1 where given (CT).

    The noise of a CT stays below that of its soft tissue, or it would hide what tells a lesion from
    the liver.
    """
    if generator.random() < 0.2:
        image = ndimage.gaussian_filter(image, generator.uniform(0.3, 0.8))
    if generator.random() < 0.25 and image.shape[2] > 8:
        image = _thick_slices(image, int(generator.integers(2, 4)))
    if generator.random() < 0.3:
        amount = generator.uniform(*((0.001, 0.008) if floor is not None else (0, 0.04)))
        image = image + amount * generator.standard_normal(image.shape).astype(np.float32)
    if floor is not None:
        image = np.clip(image + generator.normal(0, 0.003), floor, 1.0)
    return image.astype(np.float32)


def _thick_slices(image: np.ndarray, voxels: int) -> np.ndarray:
    """As if its slices, in the plane that most scans have, were so many voxels thick."""
    coarse = ndimage.uniform_filter1d(image, voxels, axis=2)[:, :, ::voxels]
    places = np.linspace(0, coarse.shape[2] - 1, image.shape[2])
    low = np.floor(places).astype(int)
    high, share = np.minimum(low + 1, coarse.shape[2] - 1), places - low
    return np.asarray(coarse[:, :, low] * (1 - share) + coarse[:, :, high] * share)
