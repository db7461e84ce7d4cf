"""The memory plan: how a scan is run in the free memory, made before it begins; and the fall-backs
where memory runs out all the same.

Torch is imported only where there is a GPU whose memory counts: a scan that is too large is refused
before (early_check.py).
"""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psutil

from DiffuGTSLib.errors import OutOfMemory, TooLarge, is_out_of_memory
from DiffuGTSLib.networks.tiling import Tiling
from DiffuGTSLib.pipeline.scan_size import EVIDENCE_BYTES, TILINGS, SizeLimits
from DiffuGTSLib.scan.header import ScanGrid, Size

T = TypeVar("T")
# Of the free memory, for the libraries' own buffers, whose size is not known beforehand.
USABLE = 0.9
RESERVED_GB = {"cuda": 0.5, "cpu": 0.25}
FLOAT_BYTES = 4
HINT = ("Crop the scan to the region in question, close other programs, "
        "or use a machine with more memory.")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """One way to run something.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        tiling: None for one piece.
        need: bytes at the peak, at most.
        reason: why it is not on the requested device; a sentence, else "".
    """

    device: str
    tiling: Tiling | None
    need: int
    reason: str = ""

    @property
    def how(self) -> str:
        """In words, for a note."""
        pieces = "in one piece" if self.tiling is None else "in slabs"
        return f"on {_title(self.device)} {pieces}"


def free_bytes(device: str) -> int:
    """What a run may use: all free memory, less what the libraries need for themselves."""
    kind = device.split(":")[0]
    if kind == "cuda":
        import torch

        try:
            free = torch.cuda.mem_get_info(device)[0]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return 0  # not even CUDA's own context fits beside what other programs use
        # What torch has reserved and does not use.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = psutil.virtual_memory().available
    return max(0, round((free - RESERVED_GB[kind] * 1e9) * USABLE))


def element_bytes(device: str) -> int:
    """Bytes of an element of the feature maps. A CPU may compute in half of that, and then needs
    less."""
    if not device.startswith("cuda"):
        return FLOAT_BYTES
    from DiffuGTSLib.networks.device import storage_dtype

    return int(storage_dtype(device).itemsize)


class Planner:
    """Makes the memory plans of a model's runs.

    Args:
        limits: of the model.
        device: where it is to run; the CPU comes after a GPU.
        weights: how many are still to be loaded.
    """

    def __init__(self, limits: SizeLimits, device: str, weights: int = 0) -> None:
        self.limits = limits
        self._weights = weights
        self._devices = tuple(dict.fromkeys((device, "cpu")))

    def check(self, grid: ScanGrid) -> None:
        """Raises TooLarge, with the figures, where no plan fits a scan on that grid."""
        next(self.encoding(self.limits.size(grid)))

    def check_host(self, size: Size) -> None:
        """Raises TooLarge where a scan of `size` voxels of the model's grid and its evidence do
        not fit into the host's memory, wherever the networks run."""
        evidence = EVIDENCE_BYTES * math.prod(size)
        if evidence > self._free("cpu"):
            raise TooLarge(f"The scan needs at least {self._figures(evidence, 'cpu')}.", HINT)

    def encoding(self, size: Size) -> Iterator[Plan]:
        """Plans to encode a scan of `size` voxels of the model's grid, so that the smallest crop
        fits after it.

        Raises:
            TooLarge: none fits; the message names what is needed and what can be used.
        """
        self.check_host(size)
        return self._fitting("The scan", size, self._devices,
                             lambda device, tiling: self._scan_bytes(size, tiling, device)[0])

    def leaves_room(self, size: Size, device: str) -> bool:
        """Whether what the plan of a scan of `size` voxels counts on beside the encoded scan is
        free, once it was encoded in one piece: then more may be kept of it."""
        need, kept = self._scan_bytes(size, None, device)
        return need - kept <= self._free(device)

    def _scan_bytes(self, size: Size, tiling: Tiling | None, device: str) -> tuple[int, int]:
        """Bytes at the peak of a run on a scan with the smallest crop, and of the encoded scan."""
        limits, crop, itemsize = self.limits, self.limits.min_crop(size), element_bytes(device)
        peak, kept = limits.encoding_bytes(size, tiling, itemsize)
        after = min(limits.crop_bytes(crop, limits.samples, way, itemsize)
                    for way in (None, TILINGS[-1]))
        evidence = EVIDENCE_BYTES * math.prod(size) if device == "cpu" else 0
        return max(peak, kept + after + evidence), kept

    def crop(self, size: Size, samples: int, device: str) -> Iterator[Plan]:
        """Plans to inpaint a crop of `size` voxels of a scan that is on `device`, and compare it.

        Raises:
            TooLarge: as `encoding`.
        """
        return self._fitting(
            "The region around a candidate", size,
            self._devices if device != "cpu" else ("cpu",),
            lambda device, tiling: self.limits.crop_bytes(
                size, samples, tiling, element_bytes(device)),
        )

    def crop_fits(self, size: Size, samples: int, device: str) -> bool:
        """Whether such a crop is free to run in one piece."""
        need = self.limits.crop_bytes(size, samples, None, element_bytes(device))
        return need <= self._free(device)

    def _fitting(
        self, what: str, size: Size, devices: Sequence[str],
        need_of: Callable[[str, Tiling | None], int],
    ) -> Iterator[Plan]:
        """The plans that fit into what is free when their turn comes."""
        figures: list[str] = []
        found = False
        for device in devices:
            # Where a plan was tried before, `carry_out` knows better why this one has its turn.
            reason = "" if found or not figures else f"{what} needs at least {figures[0]}."
            in_one_piece = device == "cpu" or self.limits.fits_in_one_piece(size)
            tilings = TILINGS if in_one_piece else TILINGS[1:]
            for tiling in tilings:
                need = need_of(device, tiling)
                if need <= self._free(device):
                    found = True
                    yield Plan(device, tiling, need, reason)
            figures.append(self._figures(min(need_of(device, t) for t in tilings), device))
        if not found:
            raise TooLarge(f"{what} needs at least {', or '.join(figures)}.", HINT)

    def _free(self, device: str) -> int:
        return max(0, free_bytes(device) - self._weights * element_bytes(device))

    def _figures(self, need: int, device: str) -> str:
        return (f"{need / 1e9:.1f} GB on {_title(device)}, where "
                f"{self._free(device) / 1e9:.1f} GB can be used")


def carry_out(
    plans: Iterator[Plan], run: Callable[[Plan], T], what: str, notify: Callable[[str], None]
) -> T:
    """Runs the first plan, and the next ones where memory runs out all the same.

    Args:
        what: is run, for the notes: "The scan was encoded".
        notify: called with a sentence or two where it is not the preferred plan.

    Raises:
        TooLarge: there is no plan.
        OutOfMemory: memory ran out in each of them.
    """
    failed: Plan | None = None
    for plan in plans:
        reason = plan.reason if failed is None else f"Memory ran out {failed.how}."
        if reason:
            _log.warning("%s %s %s instead.", reason, what, plan.how)
            notify(f"{reason} {what} {plan.how} instead.")
        try:
            return run(plan)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        failed = plan
        release(plan.device)
    assert failed is not None  # else the plans would have refused
    raise OutOfMemory(f"Memory ran out {failed.how}, and there is no smaller way.",
                      HINT)


def release(device: str) -> None:
    """Gives back what a run that failed has left."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _title(device: str) -> str:
    return "the CPU" if device == "cpu" else "the GPU"
