"""Synthetic lesions in real tissue: shape, profile, rim, core, halo and texture.

Source: METHOD.md 7 (label-free tumor synthesis); intensities by organ are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from DiffuGTSLib.scan.canonical import Modality
from DiffuGTSLib.training.data.augment import smooth_noise

HU = 1 / 2000.0  # one Hounsfield unit on the normalised CT scale
# Smallest and largest radius in mm, by organ.
RADII_MM = {
    "lung": (3.5, 22.0), "liver": (4.0, 35.0), "kidney": (4.0, 35.0), "pancreas": (4.0, 20.0),
    "colon": (6.0, 28.0), "brain": (5.0, 38.0), "soft_tissue": (8.0, 50.0),
}
OTHER_RADII_MM = (4.0, 20.0)


@dataclass(frozen=True)
class SyntheticLesion:
    """A scan with a synthetic lesion.

    Attributes:
        image: (X, Y, Z), normalised.
        mask: bool, the lesion.
        halo: bool, oedema around the lesion, which readers may or may not outline.
    """

    image: np.ndarray
    mask: np.ndarray
    halo: np.ndarray


def add_lesion(
    image: np.ndarray,
    organ: np.ndarray,
    name: str,
    modality: Modality,
    generator: np.random.Generator,
    voxel_mm: float = 2.0,
) -> SyntheticLesion | None:
    """Adds a lesion inside `organ` (bool, X, Y, Z) of a normalised scan; None if it does not fit.

    Args:
        name: the organ's name, which decides size and intensity.
        voxel_mm: edge of the (isotropic) voxels.
    """
    voxels = np.flatnonzero(organ)
    if voxels.size < 30:
        return None
    centre = np.array(np.unravel_index(generator.choice(voxels), organ.shape))
    low, high = RADII_MM.get(name, OTHER_RADII_MM)
    radius = float(np.exp(generator.uniform(np.log(low), np.log(high)))) / voxel_mm
    reach = int(np.ceil(radius * 2.2)) + 3
    window = tuple(
        slice(max(0, c - reach), min(n, c + reach + 1))
        for c, n in zip(centre, organ.shape, strict=True)
    )
    local = centre - np.array([w.start for w in window])
    inside = organ[window]
    distance = _distance(inside.shape, local, radius, generator)
    edge = generator.uniform(0.4, 1.6)  # voxels over which the lesion fades
    allowed = ndimage.binary_dilation(inside, iterations=1) if name == "lung" else inside
    share = ndimage.gaussian_filter(allowed.astype(np.float32), 0.5)
    opacity = share / (1 + np.exp(np.clip((distance - 1) * radius / edge * 2, -30, 30)))
    mask = opacity > 0.5
    if mask.sum() < 8:
        return None
    scan = image[window].astype(np.float32)
    opacity, halo = opacity.astype(np.float32), np.zeros_like(mask)
    if modality == "CT":
        blended = _ct_intensities(scan, inside, opacity, distance, name, generator)
    else:
        blended, halo = _mr_intensities(scan, inside, opacity, distance, share, name, generator)
    result, full, around = image.copy(), np.zeros_like(organ), np.zeros_like(organ)
    result[window], full[window], around[window] = blended, mask, halo & ~mask
    return SyntheticLesion(result, full, around)


def _distance(
    shape: tuple[int, ...], centre: np.ndarray, radius: float, generator: np.random.Generator
) -> np.ndarray:
    """A dented ellipsoid's distance: 0 at the centre, 1 at the surface."""
    axes = radius * np.exp(generator.normal(0, 0.22, 3))
    rotation, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    offsets = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) - centre
    distance = np.linalg.norm((offsets @ rotation) / axes, axis=-1)
    dents = generator.uniform(0.05, 0.35) * smooth_noise(shape, radius * 0.7, generator)
    fine = generator.uniform(0.0, 0.12) * smooth_noise(shape, max(1.5, radius * 0.25), generator)
    return (distance * (1 + np.clip(dents + fine, -0.6, 0.9))).astype(np.float32)


def _ct_intensities(
    scan: np.ndarray, inside: np.ndarray, opacity: np.ndarray, distance: np.ndarray, name: str,
    generator: np.random.Generator,
) -> np.ndarray:
    """Intensities of a CT lesion; figures in HU."""
    rough = smooth_noise(scan.shape, generator.uniform(1.0, 3.0), generator)
    if name == "lung":
        solid = generator.random() < 0.88
        value = generator.uniform(-60, 90) if solid else generator.uniform(-650, -300)
        lesion = value + generator.uniform(5, 35) * rough
        if generator.random() < 0.1:  # a cavity
            lesion = np.where(distance < generator.uniform(0.3, 0.6), -800, lesion)
        return scan * (1 - opacity) + (0.5 + HU * lesion) * opacity
    tissue = scan[inside]
    middle, spread = float(np.median(tissue)), float(np.clip(tissue.std(), 4 * HU, 40 * HU))
    step = generator.uniform(15, 75) * (-1 if generator.random() < 0.7 else 1)
    if name in ("colon", "stomach", "small_bowel", "urinary_bladder", "soft_tissue"):
        middle, step = 0.5 + HU * generator.uniform(10, 75), 0.0  # replaced by a solid mass
    level = np.full(scan.shape, step, np.float32)
    if generator.random() < 0.35:
        level = np.where(distance < generator.uniform(0.4, 0.75),
                         step + generator.uniform(-40, 10), step)
    if generator.random() < 0.25:
        level = level + np.where(distance > 0.75, generator.uniform(10, 60), 0)
    if generator.random() < 0.4 and step:  # the tissue's own grain shows through
        return scan + opacity * HU * (level + generator.uniform(2, 8) * rough)
    lesion = middle + HU * level + spread * 0.7 * rough
    return scan * (1 - opacity) + lesion * opacity


def _mr_intensities(
    scan: np.ndarray, inside: np.ndarray, opacity: np.ndarray, distance: np.ndarray,
    share: np.ndarray, name: str, generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Intensities of an MR lesion relative to the tissue around, and its halo."""
    middle = float(np.median(scan[inside]))
    rough = smooth_noise(scan.shape, generator.uniform(1.0, 4.0), generator)
    # Tumors are bright on FLAIR, T2 and, where they enhance, on T1. Networks that were trained for
    # minutes could not separate dark lesions from fluid, and learned the bright ones less well.
    brighter = generator.random() < 0.8
    factor = generator.uniform(1.3, 2.3) if brighter else generator.uniform(0.35, 0.7)
    level = np.full(scan.shape, factor, np.float32)
    kind = generator.random()
    if kind < 0.3:  # enhancing rim, dark core
        rim = generator.uniform(0.6, 0.85)
        level = np.where(distance < rim, generator.uniform(0.35, 0.95), generator.uniform(1.4, 2.4))
    elif kind < 0.45:
        level = np.where(distance < generator.uniform(0.3, 0.7),
                         factor * generator.uniform(0.6, 1.2), factor)
    lesion = middle * (level + generator.uniform(0.02, 0.12) * rough)
    halo = np.zeros(scan.shape, dtype=bool)
    if name == "brain" and generator.random() < 0.4:
        width = generator.uniform(1.2, 1.8)
        fade = share / (1 + np.exp(np.clip((distance - width) * 8, -30, 30)))
        gain = generator.uniform(1.1, 1.5) if brighter else generator.uniform(0.7, 0.92)
        scan = scan * (1 - fade) + scan * gain * fade
        halo = fade > 0.3
    return scan * (1 - opacity) + lesion * opacity, halo
