"""Real lesions of training scans, put into other scans of the same organ and sequence.

Crops around a lesion say nothing of what a whole chest or head looks like with one; the few whole
scans hold few lesions. A lesion that is cut out of one and blended into the other shows both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from DiffuGTSLib.training.data.scan_table import ORGANS
from DiffuGTSLib.training.data.synthetic_lesions import SyntheticLesion

if TYPE_CHECKING:
    from DiffuGTSLib.training.data.windows import LabelledVolume

_MARGIN = 3  # voxels around a lesion that are cut out with it
_LEAST, _LONGEST = 12, 44  # voxels of a lesion, and along an axis, that is cut out
_LONGEST_PUT = 46  # voxels along an axis after scaling
_TRIES = 6  # places
_LEAST_INSIDE = 0.6  # of a lesion, that has to lie in the organ
# A lesion of the enhanced sequence where the scan is not: a T1 shows either kind.
_ENHANCED, _ENHANCED_SHARE = {"t1": "t1c"}, 0.7


@dataclass(frozen=True)
class _Cutting:
    """A lesion with its surroundings, all (X, Y, Z).

    Attributes:
        image: normalised.
        mask: bool.
        tissue: median of the organ around; None where too little of it is in the scan.
    """

    image: np.ndarray
    mask: np.ndarray
    tissue: float | None


class Transplants:
    """The lesions of some scans, cut out when they are first needed.

    Args:
        volumes: the training scans; those with outlined lesions of a prompt's organ are donors.
    """

    def __init__(self, volumes: Iterable[LabelledVolume]) -> None:
        self._donors: dict[tuple[str, int, str], dict[str, list[LabelledVolume]]] = {}
        self._cut: dict[int, list[_Cutting]] = {}
        for volume in volumes:
            kind = volume.kind
            if kind.prompted_organ and not kind.phantom and bool(volume.stack[2].any()):
                key = (kind.prompted_organ, volume.modality, volume.sequence)
                self._donors.setdefault(key, {}).setdefault(kind.name, []).append(volume)

    def put(
        self, image: np.ndarray, inside: np.ndarray, organ: str, modality: int, sequence: str,
        generator: np.random.Generator,
    ) -> SyntheticLesion | None:
        """The scan with a lesion of another one inside an organ; None where none is or fits.

        Args:
            image: (X, Y, Z), normalised.
            inside: bool (X, Y, Z), the organ.
            organ: its name.
            modality: index into attention.MODALITIES.
            sequence: of an MR.
        """
        cutting = self._draw(organ, modality, sequence, generator)
        voxels = np.flatnonzero(inside)
        if cutting is None or not voxels.size:
            return None
        lesion, share = _varied(cutting, generator)
        if np.count_nonzero(share > 0.5) < 8:
            return None
        for _ in range(_TRIES):
            centre = np.unravel_index(generator.choice(voxels), inside.shape)
            lows = [int(c) - n // 2 for c, n in zip(centre, share.shape, strict=True)]
            window = tuple(slice(max(0, a), min(n, a + m)) for a, n, m in zip(
                lows, inside.shape, share.shape, strict=True))
            own = tuple(slice(w.start - a, w.stop - a)
                        for w, a in zip(window, lows, strict=True))
            opacity = ndimage.gaussian_filter(share, generator.uniform(0.4, 1.0))[own]
            there = inside[window]
            if np.count_nonzero((opacity > 0.5) & there) > _LEAST_INSIDE * (share > 0.5).sum():
                break
        else:
            return None
        allowed = ndimage.binary_dilation(there) if organ == "lung" else there
        opacity = opacity * ndimage.gaussian_filter(allowed.astype(np.float32), 0.5)
        mask = opacity > 0.5
        if mask.sum() < 8:
            return None
        lesion = lesion[own]
        if organ != "lung" and cutting.tissue:  # the air of a lung is the same in all scans
            middle = float(np.median(image[inside]))
            lesion = lesion * (middle / cutting.tissue) if modality else (
                lesion + (middle - cutting.tissue))
        result, full, halo = image.copy(), np.zeros_like(inside), np.zeros_like(inside)
        result[window] = image[window] * (1 - opacity) + lesion * opacity
        full[window], halo[window] = mask, (opacity > 0.15) & ~mask
        return SyntheticLesion(result.astype(np.float32), full, halo)

    def _draw(
        self, organ: str, modality: int, sequence: str, generator: np.random.Generator
    ) -> _Cutting | None:
        """A lesion for such a scan: kinds of donors with equal probability, then their scans."""
        if sequence in _ENHANCED and generator.random() < _ENHANCED_SHARE:
            sequence = _ENHANCED[sequence]
        kinds = self._donors.get((organ, modality, sequence))
        if not kinds:
            return None
        volumes = kinds[str(generator.choice(sorted(kinds)))]
        volume = volumes[int(generator.integers(len(volumes)))]
        if id(volume) not in self._cut:
            self._cut[id(volume)] = _cuttings(volume, organ)
        cuttings = self._cut[id(volume)]
        return cuttings[int(generator.integers(len(cuttings)))] if cuttings else None


def _cuttings(volume: LabelledVolume, organ: str) -> list[_Cutting]:
    """The lesions of a scan, of those that are neither too small nor too large."""
    image, index, outlined = (channel.numpy() for channel in volume.stack[:3])
    lesions = outlined > 0.5
    tissue = None
    if not volume.kind.crop:
        healthy = image[(index == ORGANS.index(organ) + 1) & ~lesions]
        tissue = float(np.median(healthy)) if healthy.size > 200 else None
    labels, _ = ndimage.label(lesions)
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        lesion = labels[box] == number
        if lesion.sum() < _LEAST or max(lesion.shape) > _LONGEST:
            continue
        around = tuple(slice(max(0, s.start - _MARGIN), s.stop + _MARGIN) for s in box)
        found.append(_Cutting(image[around].astype(np.float32), labels[around] == number, tissue))
    return found


def _varied(
    cutting: _Cutting, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A lesion mirrored, turned and scaled at random, and each voxel's share of it; (X, Y, Z)."""
    image, mask = cutting.image, cutting.mask
    for axis in range(3):
        if generator.random() < 0.5:
            image, mask = np.flip(image, axis), np.flip(mask, axis)
    if generator.random() < 0.5:
        image, mask = image.swapaxes(0, 1), mask.swapaxes(0, 1)
    zoom = np.exp(generator.uniform(-0.35, 0.3)) * np.exp(generator.uniform(-0.12, 0.12, 3))
    zoom = zoom * min(1.0, _LONGEST_PUT / (max(mask.shape) * float(zoom.max())))
    return (ndimage.zoom(image, zoom, order=1),
            ndimage.zoom(mask.astype(np.float32), zoom, order=1))
