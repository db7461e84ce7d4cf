"""Latent inpainting: the frozen denoiser puts healthy tissue in the place of the candidates.

Source: METHOD.md 3. Only crops around the candidates are denoised: the cost follows the lesion.
Before, the candidates are limited to the half of the body that a prompt names: "left kidney tumor"
leaves the right kidney out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from DiffuGTSLib.networks import Conditioning, Denoiser
from DiffuGTSLib.networks.schedules import Schedule
from DiffuGTSLib.pipeline.scan_size import MIN_CROP_MM
from DiffuGTSLib.progress import Progress
from DiffuGTSLib.scan import Canonical

# Of `continued`: sweeps a level, and voxels an axis of the coarsest.
_SWEEPS, _COARSEST = 12, 2
Box = tuple[slice, slice, slice]
# Of the normalised intensity: fat and denser in a CT (-500 HU), tissue in an MR.
_BODY = {"CT": 0.25, "MR": 0.1}
# A scan that is narrower shows a part of the body, of which the middle is not the midline.
MIN_WIDTH_MM = 200.0
# Of the largest slab along x: with more of the body at one border than at the other, the scan cuts
# it off there.
_MAX_CUT = 0.2
_PERCENTILES = (2.0, 98.0)


@dataclass(frozen=True)
class Candidates:
    """Where healthy tissue is to be inpainted.

    Attributes:
        mask: bool (X, Y, Z), M of METHOD.md 3: the candidates, dilated.
        cores: bool (X, Y, Z), the candidates before dilation.
        boxes: crops of the scan that hold them, each a multiple of the latent's voxel.
    """

    mask: np.ndarray
    cores: np.ndarray
    boxes: list[Box]

    @property
    def found(self) -> bool:
        """Whether there is any candidate."""
        return bool(self.boxes)


@dataclass(frozen=True)
class CandidateOptions:
    """How candidates are drawn from an attention map; lengths in mm, volumes in ml.

    Attributes:
        sensitive: share of the threshold above which a voxel is a candidate.
        dilation_mm: how far M reaches beyond the candidates.
        context_mm: how far a crop reaches beyond M at least.
        min_crop_mm: no crop is smaller, where the scan is larger.
        min_crop: the same in voxels of the map, X, Y, Z: what the denoiser was trained on.
        minimum_ml: smaller candidates are dropped.
        max_count: only so many candidates, the strongest, are inpainted.
    """

    sensitive: float = 0.5
    dilation_mm: float = 6.0
    context_mm: float = 32.0
    min_crop_mm: float = MIN_CROP_MM
    min_crop: tuple[int, int, int] = (0, 0, 0)
    minimum_ml: float = 0.1
    max_count: int = 8


def find_candidates(
    probability: np.ndarray,
    threshold: float,
    spacing: Sequence[float],
    options: CandidateOptions,
    latent_voxel: int = 4,
    multiple: int = 16,
    region: np.ndarray | None = None,
) -> Candidates:
    """Candidates of an AOVA map (X, Y, Z) at a sensitive threshold, with the crops around them.

    Crops start at a latent voxel (`latent_voxel` voxels of the map) and are multiples of
    `multiple`, which the denoiser's levels need.

    Args:
        threshold, options: see `candidate_region`.
        region: bool (X, Y, Z), beyond which nothing is inpainted; the map is 0 there.
    """
    cores, mask = candidate_region(probability, threshold, spacing, options)
    if not cores.any():
        return Candidates(cores, cores, [])
    if region is not None:
        mask &= region
    boxes = _boxes(ndimage.label(mask)[0], mask.shape, spacing, options, latent_voxel, multiple)
    return Candidates(mask, cores, boxes)


def candidate_region(
    probability: np.ndarray, threshold: float, spacing: Sequence[float], options: CandidateOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates of an AOVA map (X, Y, Z), and these dilated: M; both bool.

    A component counts by its summed probability; it must reach `threshold` somewhere, or it would
    be noise that the sensitive threshold let in.
    """
    labels, count = ndimage.label(probability > options.sensitive * threshold)
    voxel_ml = float(np.prod(spacing)) / 1000
    kept: list[tuple[float, int]] = []
    if count:
        inside = np.flatnonzero(labels)  # few: the whole scan is never sorted by its labels
        of, values = labels.ravel()[inside], probability.ravel()[inside]
        peaks = np.zeros(count + 1, probability.dtype)
        np.maximum.at(peaks, of, values)
        good = (np.bincount(of) * voxel_ml >= options.minimum_ml) & (peaks >= threshold)
        masses = np.bincount(of, values)
        found = [(float(masses[n]), int(n)) for n in np.flatnonzero(good)]
        kept = sorted(found, reverse=True)[: options.max_count]
    chosen = np.zeros(count + 1, dtype=bool)
    chosen[[label for _, label in kept]] = True
    cores = chosen[labels]
    reach = [max(1, round(options.dilation_mm / s)) for s in spacing]
    return cores, _dilated(cores, labels, [label for _, label in kept], reach)


def _dilated(
    cores: np.ndarray, labels: np.ndarray, kept: Sequence[int], reach: Sequence[int]
) -> np.ndarray:
    """The cores with all that lies within a box of `reach` voxels around one of theirs."""
    mask = np.zeros(cores.shape, bool)
    extents = ndimage.find_objects(labels)
    for label in kept:
        x, y, z = (slice(max(0, s.start - r), s.stop + r)
                   for s, r in zip(extents[label - 1], reach, strict=True))
        # Axis after axis: a tenth of the time of one dilation in three dimensions.
        mask[x, y, z] |= ndimage.maximum_filter(
            cores[x, y, z].view(np.uint8), [2 * r + 1 for r in reach], mode="constant"
        ).view(bool)
    return mask


def _boxes(
    labels: np.ndarray, shape: tuple[int, ...], spacing: Sequence[float],
    options: CandidateOptions, latent_voxel: int, multiple: int,
) -> list[Box]:
    """A crop around each component of M; components that lie in one crop share it."""
    crops: list[Box] = []
    for found in ndimage.find_objects(labels):
        axes = []
        for axis, extent in enumerate(found):
            context = options.context_mm / spacing[axis]
            least = max(options.min_crop_mm / spacing[axis], options.min_crop[axis])
            length = max(extent.stop - extent.start + 2 * context, least)
            length = min(shape[axis], int(np.ceil(length / multiple)) * multiple)
            middle = (extent.start + extent.stop) / 2
            start = int(np.clip(middle - length / 2, 0, shape[axis] - length))
            axes.append((start // latent_voxel * latent_voxel, length))
        x, y, z = (slice(start, start + length) for start, length in axes)
        crops.append((x, y, z))
    return _without_duplicates(crops, ndimage.find_objects(labels))


def _without_duplicates(crops: list[Box], extents: list[Box]) -> list[Box]:
    """Crops without those whose component already lies inside an earlier, larger one."""
    order = sorted(range(len(crops)), key=lambda i: -_volume(crops[i]))
    chosen: list[Box] = []
    for i in order:
        if not any(_inside(extents[i], crop) for crop in chosen):
            chosen.append(crops[i])
    return chosen


def _volume(box: Box) -> int:
    return int(np.prod([s.stop - s.start for s in box]))


def _inside(inner: Box, outer: Box) -> bool:
    return all(o.start <= i.start and i.stop <= o.stop for i, o in zip(inner, outer, strict=True))


def latent_mask(mask: torch.Tensor, factor: int) -> torch.Tensor:
    """(X, Y, Z) bool -> (1, 1, X/f, Y/f, Z/f) float: a latent voxel touched is one replaced."""
    return F.max_pool3d(mask.float()[None, None], factor)


def continued(latent: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The latent with a smooth continuation of its known part where `mask` is 1.

    The solution of Laplace's equation with the known part as its border, to a few per cent: coarse
    to fine, so that a hole of any size is filled in a few sweeps.

    Args:
        latent: (N, C, x, y, z); what it holds inside the mask does not matter.
        mask: (N, 1, x, y, z), 0 or 1.

    Returns:
        (N, C, x, y, z), equal to `latent` outside the mask; 0 where nothing is known at all.
    """
    known = 1 - mask
    kept = torch.where(mask > 0, torch.zeros_like(latent), latent)
    return torch.where(mask > 0, _filled(kept, known), latent)


def _filled(kept: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Everywhere: the values where `known` is 1, and what follows from them elsewhere.

    Args:
        kept: values times `known`, (N, C, x, y, z).
        known: (N, 1, x, y, z), 0 to 1: the share of a voxel that is known.
    """
    first = torch.zeros_like(kept)
    if max(kept.shape[2:]) > _COARSEST and bool((known == 0).any()):
        window = [min(2, n) for n in kept.shape[2:]]
        share = F.avg_pool3d(known, window, ceil_mode=True, count_include_pad=False)
        sums = F.avg_pool3d(kept * known, window, ceil_mode=True, count_include_pad=False)
        coarse = _filled(sums / share.clamp_min(1e-6), (share > 0).to(kept))
        first = F.interpolate(coarse, size=kept.shape[2:], mode="trilinear")
    values = torch.where(known > 0, kept, first)
    for _ in range(_SWEEPS):
        padded = F.pad(values, (1,) * 6, mode="replicate")
        around = F.avg_pool3d(padded, 3, 1)
        values = torch.where(known > 0, kept, around)
    return values


def inpaint(
    denoiser: Denoiser,
    schedule: Schedule,
    latent: torch.Tensor,
    mask: torch.Tensor,
    conditioning: Conditioning,
    generator: torch.Generator,
    progress: Progress,
    done: int,
    total: int,
    resamplings: int = 1,
) -> torch.Tensor:
    """Inpaints the masked part of a latent from pure noise (METHOD.md 3, step 2).

    A plain denoiser (MAISI's) sees the known part at the noise level of the step. One that was
    trained to inpaint has an input channel more, the mask, and sees the known part clean, as in
    its training; the embedded one starts from the smooth continuation of that part, too.

    Args:
        latent: z = mu(E(I)) x scale, (1, L, x, y, z).
        mask: (1, 1, x, y, z), 1 where tissue is replaced.
        conditioning: what the denoiser is given of the scan.
        progress: gets `done` + steps of `total`, stage "inpaint"; a cancel stops the next step.
        resamplings: how often each level is walked (RePaint); 1 for plain denoising.

    Returns:
        z0, (1, L, x, y, z): equal to `latent` outside the mask, to the bit.

    Raises:
        Cancelled: through `progress`.
    """
    continues = bool(denoiser.config.continues)
    trained_to_inpaint = continues or denoiser.config.in_channels == latent.shape[1] + 1
    surroundings = [continued(latent, mask)] if continues else []

    def known(noise: torch.Tensor, index: int) -> torch.Tensor:
        return latent if trained_to_inpaint else schedule.noised(latent, noise, index)

    noise = torch.randn(latent.shape, generator=generator).to(latent)
    z = torch.where(mask > 0, noise, known(noise, 0))
    for index in range(len(schedule)):
        for turn in range(resamplings):
            shown = torch.cat([z, mask, *surroundings], 1) if trained_to_inpaint else z
            timestep = schedule.timesteps[index].reshape(1).to(latent.device)
            output = conditioning.predict(denoiser, shown, timestep).to(latent.dtype)
            stepped = schedule.step(output, index, z, generator)
            z = torch.where(mask > 0, stepped, known(noise, index + 1))
            if turn + 1 < resamplings:
                noise = torch.randn(latent.shape, generator=generator).to(latent)
                z = torch.where(mask > 0, _back(schedule, z, noise, index), known(noise, index))
        progress.step("inpaint", done + index + 1, total)
    return torch.where(mask > 0, z, latent)


def _back(
    schedule: Schedule, z: torch.Tensor, noise: torch.Tensor, index: int
) -> torch.Tensor:
    """From level `index` + 1 back up to level `index`, with fresh noise (RePaint).

    At level s a latent is a_s x0 + s eps. Scaled to the higher level's share of x0, it lacks just
    the noise that makes its deviation up to that level.
    """
    one, nothing = torch.ones_like(z), torch.zeros_like(z)
    here, there = schedule.noised(one, nothing, index + 1), schedule.noised(one, nothing, index)
    share = there / here.clamp_min(1e-6)
    lacking = schedule.levels[index] ** 2 - (share * schedule.levels[index + 1]) ** 2
    return share * z + lacking.clamp_min(0).sqrt() * noise


def midline(canonical: Canonical) -> float | None:
    """Where the body's middle plane lies on the x axis (from left to right) of the model's grid,
    in voxels; None where the scan does not show both sides alike."""
    x = canonical.geometry.GetSize()[0]
    body = canonical.tensor[0, 0, :x].numpy() > _BODY[canonical.modality]
    profile = body.sum(axis=(1, 2))
    total = int(profile.sum())
    if not total:
        return None
    cut = abs(float(profile[0]) - float(profile[-1])) / float(profile.max())
    share = np.cumsum(profile) / total * 100
    first, last = (float(np.searchsorted(share, level)) for level in _PERCENTILES)
    wide = (last - first) * canonical.spacing[0] >= MIN_WIDTH_MM
    return (first + last) / 2 if wide and cut <= _MAX_CUT else None


def on_one_side(
    attention: np.ndarray, side: str, middle: float, threshold: float
) -> np.ndarray:
    """The attention map without what lies on the other side.

    A lesion that reaches beyond the midline is kept whole where most of it lies on the named side.

    Args:
        attention: (X, Y, Z), x from the patient's left to the right.
        side: "left" or "right".
        middle: of `midline`.
        threshold: above it, neighbouring voxels are one candidate.

    Returns:
        A map of the same shape; 0 where nothing is searched.
    """
    position = np.arange(attention.shape[0])[:, None, None]
    right = (position <= middle) if side == "left" else (position >= middle)
    labels, shares = shares_inside(attention, threshold, right)
    return np.where(right | (shares > 0.5)[labels], attention, 0).astype(attention.dtype)


def shares_inside(
    attention: np.ndarray, threshold: float, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates of a map, and how much of each one's summed attention lies somewhere.

    Args:
        attention: (X, Y, Z).
        threshold: above it, neighbouring voxels are one candidate.
        inside: bool, as large as the map or repeated along its axes.

    Returns:
        The number of each voxel's candidate (X, Y, Z), 0 for none; and a share, 0 to 1, for each
        number, 0 for number 0.
    """
    labels, count = ndimage.label(attention > threshold)
    index = np.arange(1, count + 1)
    if not count:
        return labels, np.zeros(1)
    mass = ndimage.sum_labels(attention, labels, index)
    there = ndimage.sum_labels(attention * inside, labels, index)
    return labels, np.concatenate([[0.0], there / mass])
