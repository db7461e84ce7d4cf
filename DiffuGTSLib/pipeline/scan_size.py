"""Whether a scan can be run at all, asked before weights are loaded and voxels are read.

How large a run is follows from the scan's grid, which its header states, and from the sizes of
the networks, which the configurations of the model package state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from DiffuGTSLib.scan.header import ScanGrid, Size, Triple

if TYPE_CHECKING:
    from DiffuGTSLib.pipeline.memory_plan import Plan, Planner

MULTIPLE = 16  # voxels: the coarsest level of the attention's context
SMALLEST = 48
LEAST_CROP_MM = 128.0
# Feature maps at the scan's resolution; the known models need 7 to 8 where nothing is cut.
MAPS_AT_MOST = 16


@dataclass(frozen=True)
class Room:
    """The sizes of a model's runs, and the plans for them.

    Attributes:
        spacing_mm: of the model's grid.
        own_multiple: what each axis of a scan has to be a multiple of for the networks, in voxels.
        own_crop: voxels of the smallest crop that is painted, where the scan is larger.
        samples: pseudo-healthy ones of a crop.
    """

    spacing_mm: Triple
    own_multiple: int
    own_crop: Size
    samples: int

    @property
    def multiple(self) -> int:
        """What each axis of a scan is padded to a multiple of, in voxels."""
        return max(MULTIPLE, self.own_multiple)

    @property
    def smallest(self) -> int:
        """Voxels an axis of a scan has at least."""
        return -(-SMALLEST // self.multiple) * self.multiple

    def size(self, grid: ScanGrid) -> Size:
        """Voxels of a scan on the model's grid."""
        return grid.in_model(self.spacing_mm, self.multiple, self.smallest)

    def plans(self, planner: Planner, size: Size) -> Iterator[Plan]:
        """How a scan of `size` voxels of the model's grid can be encoded, with room for the
        smallest crop that may be painted.

        Raises:
            TooLarge: no plan fits.
        """
        x, y, z = (min(n, least) for n, least in zip(size, self._least_crop(), strict=True))
        return planner.encoding(size, (x, y, z), self.samples)

    def check(self, planner: Planner, grid: ScanGrid) -> None:
        """Raises TooLarge, with the figures, where no plan fits a scan on that grid."""
        next(self.plans(planner, self.size(grid)))

    def _least_crop(self) -> list[int]:
        lengths = zip(self.own_crop, self.spacing_mm, strict=True)
        wanted = (max(least, LEAST_CROP_MM / step) for least, step in lengths)
        return [math.ceil(n / self.multiple) * self.multiple for n in wanted]
