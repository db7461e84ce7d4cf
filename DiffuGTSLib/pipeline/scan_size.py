"""How large a scan is for a model, and how much memory its run needs.

All of it follows from the scan's grid, which its header states, and from the card and the
configurations of the model package: no voxel is read, no weight is loaded, torch is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from DiffuGTSLib.networks.tiling import GATE_MARGIN, MIN_SLAB, Tiling
from DiffuGTSLib.scan.header import ScanGrid, Size, Triple

MULTIPLE = 16  # voxels: the coarsest level of the attention's context
MIN_SIZE = 48
MIN_CROP_MM = 128.0
# A GPU's convolutions and interpolations index a map's elements with 32 bits, or are computed in
# other ways that nobody has tried here. The widest map of a run in one piece has twice the first
# level's channels.
MAX_ELEMENTS = 2**31 - 1
WIDEST = 2


@dataclass(frozen=True)
class Peak:
    """The peak memory of a stage, in feature maps of the scan's resolution.

    Attributes:
        stored: maps that are in memory however thin the slabs are.
        slab: maps that come with them where a slab of the autoencoder is the whole map; else that
            part of them which the slab is of the map.
        map_slab: the same of the slabs in which a prompt's maps are computed.
    """

    stored: float
    slab: float = 0.0
    map_slab: float = 0.0

    def maps(self, part: float, map_part: float = 0.0) -> float:
        """How many there are where the slabs are these parts of a map."""
        return self.stored + self.slab * part + self.map_slab * map_part


@dataclass(frozen=True)
class Peaks:
    """The peak memory of the stages of a run.

    Attributes:
        encode: a scan.
        attend: compute a prompt's maps; what is stored then is the encoded scan.
        crop: inpaint a crop, and compare it with what was there.
    """

    encode: Peak
    attend: Peak
    crop: Peak


# From fast to small. Measured by `python Testing/Benchmarks/memory.py`, the larger of the embedded
# model's and MAISI's networks, less IMAGE_PATH; 2^28 elements are 0.5 GB of a map in bfloat16.
PEAKS: dict[Tiling | None, Peaks] = {
    None: Peaks(Peak(7.6), Peak(2.9), Peak(7.2)),
    Tiling(2**28, 0, 0): Peaks(Peak(2.8, 2.4), Peak(2.0, 3.0, 2.2), Peak(4.0, 3.2)),
    Tiling(2**28, 1, 0): Peaks(Peak(2.9, 1.3), Peak(2.0, 3.0, 2.2), Peak(3.4, 4.0)),
    Tiling(2**28, 1, 1): Peaks(Peak(1.8, 3.4), Peak(1.1, 5.5, 3.1), Peak(1.1, 10.0)),
    Tiling(2**27, 2, 1): Peaks(Peak(0.7, 4.5), Peak(0.5, 3.4, 6.2), Peak(1.1, 10.0)),
}
TILINGS = tuple(PEAKS)
IMAGE_PATH = 0.4  # maps more at the peak of encoding, where the attention sees the scan itself
MARGIN = 1.15  # over what was measured
SAMPLE_BYTES = 5  # a voxel of a crop, for each pseudo-healthy sample
# A voxel of the model's grid, in the host's memory: the scan and the maps of the evidence, float32
# (result.py), and one more of each.
EVIDENCE_BYTES = 64


@dataclass(frozen=True)
class SizeLimits:
    """What a model's networks demand of a scan's size, and the memory that a size demands.

    Attributes:
        spacing_mm: of the model's grid.
        network_multiple: what each axis of a scan has to be a multiple of for the networks, voxels.
        network_min_crop: voxels of the smallest crop that is inpainted, where the scan is larger.
        samples: pseudo-healthy ones of a crop.
        channels: of the autoencoder's first level: the width of a map at the scan's resolution.
        mirrors: how often a scan is seen mirrored as well, in one piece.
        window: voxels an axis of the windows that the attention was trained on, where that matters.
    """

    spacing_mm: Triple
    network_multiple: int
    network_min_crop: Size
    samples: int
    channels: int
    mirrors: int = 0
    window: int = MIN_SIZE

    @classmethod
    def of(
        cls, spacing_mm: Triple, min_crop: Size, samples: int, vae: Mapping[str, Any],
        unet: Mapping[str, Any], aova: Mapping[str, Any],
    ) -> SizeLimits:
        """By what the card and the configurations of autoencoder, denoiser and attention state.

        Raises:
            KeyError, TypeError: they are no configurations.
        """
        levels = sum(len(config["num_channels"]) - 1 for config in (vae, unet))
        mirrors = len(aova.get("mirrors", ()))
        # An attention that sees the scan itself, in thin crops too, knows them with the padding of
        # its windows: with less of it, lung nodules were hardly marked.
        window = 4 * aova["tile"] if aova.get("image_channels") else MIN_SIZE
        return cls(spacing_mm, 2**levels, min_crop, samples, int(vae["num_channels"][0]), mirrors,
                   window)

    @property
    def multiple(self) -> int:
        """What each axis of a scan is padded to a multiple of, in voxels."""
        return max(MULTIPLE, self.network_multiple)

    @property
    def min_size(self) -> int:
        """Voxels an axis of a scan has at least."""
        return -(-self.window // self.multiple) * self.multiple

    def size(self, grid: ScanGrid) -> Size:
        """Voxels of a scan on the model's grid."""
        return grid.in_model(self.spacing_mm, self.multiple, self.min_size)

    def min_crop(self, size: Size) -> Size:
        """Voxels of the smallest crop that may be inpainted in a scan of `size` voxels."""
        lengths = zip(self.network_min_crop, self.spacing_mm, size, strict=True)
        x, y, z = (
            min(n, math.ceil(max(own, MIN_CROP_MM / step) / self.multiple) * self.multiple)
            for own, step, n in lengths
        )
        return x, y, z

    def fits_in_one_piece(self, size: Sequence[int]) -> bool:
        """Whether a GPU can index the largest map of a run in one piece."""
        return WIDEST * self._elements(size) <= MAX_ELEMENTS

    def encoding_bytes(self, size: Size, tiling: Tiling | None, itemsize: int) -> tuple[int, int]:
        """Bytes at the peak of encoding a scan of `size` voxels and attending, and bytes kept.

        Args:
            itemsize: bytes of an element of the maps.
        """
        peaks = _peaks(tiling)
        kept = peaks.attend.stored
        image = IMAGE_PATH if self.window > MIN_SIZE else 0.0
        if tiling is None:
            maps = peaks.encode.stored + image + (kept if self.mirrors else 0.0)
        else:
            part, planes = self._slab(size, tiling), tiling.map_slab(size) + 2 * GATE_MARGIN
            map_part = min(1.0, planes / size[0])
            maps = max(peaks.encode.maps(part) + image, peaks.attend.maps(part, map_part))
        map_bytes = MARGIN * self._elements(size) * itemsize
        return round(maps * map_bytes), round(kept * map_bytes)

    def crop_bytes(
        self, size: Size, samples: int, tiling: Tiling | None, itemsize: int
    ) -> int:
        """Bytes at the peak of inpainting a crop of `size` voxels and comparing it."""
        maps = _peaks(tiling).crop.maps(self._slab(size, tiling) if tiling else 1.0)
        map_bytes = self._elements(size) * itemsize
        return round(MARGIN * (maps * map_bytes + samples * SAMPLE_BYTES * math.prod(size)))

    def _elements(self, size: Sequence[int]) -> int:
        """Of a feature map at the scan's resolution."""
        return math.prod(size) * self.channels

    def _slab(self, size: Sequence[int], tiling: Tiling) -> float:
        """The part of a map that a slab of the autoencoder is."""
        elements = self._elements(size)
        return min(1.0, max(tiling.slab_elements / elements, MIN_SLAB / size[0]))


def _peaks(tiling: Tiling | None) -> Peaks:
    """By what is stored; the thickness of the slabs may be another one."""
    if tiling is None:
        return PEAKS[None]
    stored = (tiling.layers_from, tiling.blocks_from)
    return next(peaks for known, peaks in PEAKS.items()
                if known and (known.layers_from, known.blocks_from) == stored)
