"""The memory plan: how a scan is run on what is free, made before it begins; and what is done when
memory runs out all the same.

The needs are not tables. They are counted on the networks themselves: the code that will run is
run on tensors without content (live_bytes.py), in the scan's own size.
"""

from __future__ import annotations

import copy
import gc
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, TypeVar

import psutil
import torch

from DiffuGTSLib.errors import OutOfMemory, TooLarge, is_out_of_memory
from DiffuGTSLib.networks.attention import AnomalyAttention, Texts
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Conditioning, Denoiser
from DiffuGTSLib.networks.device import computes_in, storage_dtype
from DiffuGTSLib.networks.slabs import SLABS_ALIKE
from DiffuGTSLib.networks.tiled_autoencoder import Tiling
from DiffuGTSLib.pipeline import encoding, residual
from DiffuGTSLib.pipeline.memory_count import LiveBytes
from DiffuGTSLib.pipeline.scan_size import MAPS_AT_MOST

T = TypeVar("T")
Size = tuple[int, int, int]
# From fast to small; the whole at once first. 2^28 elements are 0.5 GB of a map in bfloat16.
TILINGS: tuple[Tiling | None, ...] = (
    None, Tiling(2**28, 0, 0), Tiling(2**28, 1, 0), Tiling(2**28, 1, 1), Tiling(2**27, 2, 1),
)
REFERENCE: Size = (64, 64, 64)
# A GPU's convolutions and interpolations count a map's elements in 32 bits, or go other ways that
# nobody has tried here. The widest map of a run in one piece has twice the channels of the first.
ELEMENTS_AT_MOST = 2**31 - 1
WIDEST = 2
# Of what is free, for the libraries' own buffers, which nobody tells beforehand.
USABLE = 0.9
RESERVED_GB = {"cuda": 0.5, "cpu": 0.25}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """One way to run something.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        tiling: None for the whole at once.
        need: bytes at the peak, at most.
        reason: why it is not on the device that was asked for; a sentence, else "".
    """

    device: str
    tiling: Tiling | None
    need: int
    reason: str = ""

    @property
    def how(self) -> str:
        """In words, for a note."""
        cut = "in one piece" if self.tiling is None else "in slabs"
        return f"on {_place(self.device)} {cut}"


@dataclass(frozen=True)
class Networks:
    """The networks of a model package, or their likeness without content."""

    autoencoder: Autoencoder
    denoiser: Denoiser
    attention: AnomalyAttention

    def place(self, device: str) -> None:
        """Moves the networks to a device, in the type that they are stored in there."""
        for network in (self.autoencoder, self.denoiser, self.attention):
            # Not ModelMixin's own `to`: it warns of layers that other models keep in float32.
            torch.nn.Module.to(network, device, storage_dtype(device))

    @property
    def weights(self) -> int:
        """How many there are."""
        every = (self.autoencoder, self.denoiser, self.attention)
        return sum(p.numel() for network in every for p in network.parameters())

    def without_content(self, dtype: torch.dtype) -> Networks:
        """The same networks on the device "meta", in `dtype`."""
        return Networks(*(
            _without_content(network, dtype)
            for network in (self.autoencoder, self.denoiser, self.attention)
        ))


class Needs:
    """How many bytes the parts of a run need, by the networks' own code.

    Args:
        networks: those that will run.
        device: where they will; what they are stored in there decides the maps' width. A CPU may
            compute in half of that, and then needs less.
        dtype: what they are stored in, where it is not the device's own.
    """

    def __init__(
        self, networks: Networks, device: str, dtype: torch.dtype | None = None
    ) -> None:
        self._real = networks
        self._dtype = dtype or storage_dtype(device)
        self._on_gpu = device.startswith("cuda")
        self._unfolds = device == "cpu" and computes_in(device) == torch.float32
        self.encoding = lru_cache(maxsize=32)(self._encoding)
        self.crop = lru_cache(maxsize=32)(self._crop)

    @cached_property
    def _networks(self) -> Networks:
        return self._real.without_content(self._dtype)

    def at_most(self, size: Size) -> int:
        """Bytes that nothing done to `size` voxels at once exceeds; where they are there, no
        further count is needed."""
        return MAPS_AT_MOST * self._map(size)

    def at_least(self, size: Size, tiling: Tiling | None) -> int:
        """Bytes that are needed in any case: the maps that are stored."""
        if tiling is None:
            return 4 * self._map(size)
        return self._map(size, tiling.layers_from) + self._map(size, tiling.blocks_from)

    def in_one_piece(self, size: Size) -> bool:
        """Whether `size` voxels may be run at once, wherever there is the memory."""
        elements = WIDEST * self._map(size) // self._dtype.itemsize
        return not self._on_gpu or elements <= ELEMENTS_AT_MOST

    def _map(self, size: Size, level: int = 0) -> int:
        """Bytes of a feature map of a level, 0 at the scan's resolution, 1 at half..."""
        width = self._real.autoencoder.config.num_channels[level]
        return math.prod(size) // 8**level * width * self._dtype.itemsize

    def _encoding(self, size: Size, tiling: Tiling | None) -> tuple[int, int]:
        """Bytes at the peak of encoding a scan of `size` voxels and asking it, and bytes kept."""
        if tiling is not None:
            return self._encode(size, tiling)
        # Where nothing is cut, all maps grow with the voxels.
        peak, kept = self._encode(REFERENCE, None)
        return _grown(peak, size), _grown(kept, size)

    def _crop(self, size: Size, samples: int, tiling: Tiling | None) -> int:
        """Bytes at the peak of painting a crop of `size` voxels and comparing it."""
        if tiling is not None:
            return max(_grown(self._painting, size), self._compare(size, samples, tiling))
        return _grown(max(self._painting, self._compare(REFERENCE, samples, None)), size)

    def _encode(self, size: Size, tiling: Tiling | None) -> tuple[int, int]:
        nets = self._networks
        row = torch.zeros(1, nets.attention.config.text_dim, dtype=nets.attention.dtype)
        with torch.inference_mode(), torch.device("meta"), LiveBytes(unfolds=self._unfolds) as live:
            which = torch.zeros(1, dtype=torch.long)
            x = torch.zeros(1, 1, *size)
            made = encoding.encode(nets.autoencoder, nets.attention, x, which, tiling)
            kept = live.now
            texts = Texts(*(row.to("meta") for _ in range(3)))
            for part in islice(encoding.maps(nets.attention, made, texts), SLABS_ALIKE):
                part.probability()
        return live.peak + 4 * math.prod(size), kept  # and the map itself, float32

    @cached_property
    def _painting(self) -> int:
        """Bytes at the peak of painting a crop of the reference's size."""
        nets = self._networks
        latent = _latent(nets, REFERENCE)
        channels = nets.denoiser.config.in_channels
        with torch.inference_mode(), torch.device("meta"), LiveBytes(unfolds=self._unfolds) as live:
            z, mask = latent.clone(), latent[:, :1].clone()
            noise, known = z.clone(), z.clone()
            shown = torch.cat([z, mask], 1)[:, :channels]
            Conditioning().predict(nets.denoiser, shown.to(nets.denoiser.dtype), torch.zeros(1))
            del noise, known
        return live.peak

    def _compare(self, size: Size, samples: int, tiling: Tiling | None) -> int:
        nets = self._networks
        with torch.inference_mode(), torch.device("meta"), LiveBytes(unfolds=self._unfolds) as live:
            z = _latent(nets, size)
            residual.compare(nets.autoencoder, z, [z.clone() for _ in range(samples)], tiling)
        return live.peak


def _grown(count: int, size: Size) -> int:
    """A count of the reference's size, for another one."""
    return round(count * math.prod(size) / math.prod(REFERENCE))


def _without_content(network: torch.nn.Module, dtype: torch.dtype) -> Any:
    # A deep copy that finds a tensor without content in the place of each of the network's.
    instead: dict[int, Any] = {}
    for parameter in network.parameters():
        empty = parameter.detach().to("meta", dtype)
        instead[id(parameter)] = torch.nn.Parameter(empty, requires_grad=False)
    for buffer in network.buffers():
        instead[id(buffer)] = buffer.to("meta", dtype if buffer.is_floating_point() else None)
    return copy.deepcopy(network, instead)


def _latent(networks: Networks, size: Size) -> torch.Tensor:
    factor = networks.autoencoder.downscale
    channels = networks.autoencoder.config.latent_channels
    return torch.zeros(1, channels, *(n // factor for n in size), device="meta")


def free_bytes(device: str) -> int:
    """What a run may take: all that is free, less what the libraries need for themselves."""
    kind = device.split(":")[0]
    if kind == "cuda":
        try:
            free = torch.cuda.mem_get_info(device)[0]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return 0  # not even CUDA's own context fits beside what others hold
        # What torch holds for itself and does not use.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = psutil.virtual_memory().available
    return max(0, round((free - RESERVED_GB[kind] * 1e9) * USABLE))


class Planner:
    """Makes the memory plans of a model's runs.

    Args:
        networks: of the model.
        device: where it is to run; the CPU comes after a GPU.
        weights: how many are still to be loaded.
    """

    def __init__(self, networks: Networks, device: str, weights: int = 0) -> None:
        self._networks = networks
        self._weights = weights
        self._devices = tuple(dict.fromkeys((device, "cpu")))
        self._known: dict[str, Needs] = {}

    def encoding(self, size: Size, crop: Size, samples: int) -> Iterator[Plan]:
        """Plans to encode a scan of `size` voxels, with room for the smallest crop after it.

        Raises:
            TooLarge: none fits; the message names what is needed and what is there.
        """
        def needs(device: str, tiling: Tiling | None) -> int:
            known = self._needs(device)
            peak, kept = known.encoding(size, tiling)
            if peak > self._free(device):
                return peak  # refused by that alone
            after = min(known.crop(crop, samples, cut) for cut in (None, TILINGS[-1]))
            return max(peak, kept + after)

        return self._fitting("The scan", size, self._devices, needs)

    def crop(self, size: Size, samples: int, device: str) -> Iterator[Plan]:
        """Plans to paint a crop of `size` voxels of a scan that lies on `device`, and compare it.

        Raises:
            TooLarge: as `encoding`.
        """
        devices = self._devices if device != "cpu" else ("cpu",)
        return self._fitting(
            "The region around a candidate", size, devices,
            lambda place, tiling: self._needs(place).crop(size, samples, tiling),
        )

    def _needs(self, device: str) -> Needs:
        if device not in self._known:
            self._known[device] = Needs(self._networks, device)
        return self._known[device]

    def _free(self, device: str) -> int:
        return max(0, free_bytes(device) - self._weights * storage_dtype(device).itemsize)

    def _fitting(
        self, what: str, size: Size, devices: Sequence[str],
        needs: Callable[[str, Tiling | None], int],
    ) -> Iterator[Plan]:
        """The plans that fit into what is free when their turn comes."""
        figures: list[str] = []
        found = False
        for device in devices:
            # Where a plan was tried before, `carry_out` knows better why this one has its turn.
            reason = "" if found or not figures else f"{what} needs at least {figures[0]}."
            known, lowest = self._needs(device), math.inf
            tilings = TILINGS if known.in_one_piece(size) else TILINGS[1:]
            if tilings[0] is None and known.at_most(size) <= self._free(device):
                found, tilings = True, TILINGS[1:]
                yield Plan(device, None, known.at_most(size), reason)
            for tiling in tilings:
                # The leanest way is counted in any case: its need is what a refusal names.
                if tiling is not TILINGS[-1] and (
                    known.at_least(size, tiling) > self._free(device)
                ):
                    continue
                need = needs(device, tiling)
                lowest = min(lowest, need)
                if need <= self._free(device):
                    found = True
                    yield Plan(device, tiling, need, reason)
            figures.append(f"{lowest / 1e9:.1f} GB on {_place(device)}, where "
                           f"{self._free(device) / 1e9:.1f} GB can be used")
        if not found:
            raise TooLarge(
                f"{what} needs at least {', or '.join(figures)}.",
                "Crop the scan to the region in question, close other programs, "
                "or use a machine with more memory.",
            )


def carry_out(
    plans: Iterator[Plan], run: Callable[[Plan], T], what: str, say: Callable[[str], None]
) -> T:
    """Runs the first plan, and the next ones where memory runs out all the same.

    Args:
        what: is run, for the notes: "The scan was encoded".
        say: told a sentence or two where it is not the plan that was hoped for.

    Raises:
        TooLarge: there is no plan.
        OutOfMemory: memory ran out in each of them.
    """
    failed: Plan | None = None
    for plan in plans:
        reason = plan.reason if failed is None else f"Memory ran out {failed.how}."
        if reason:
            _log.warning("%s %s %s instead.", reason, what, plan.how)
            say(f"{reason} {what} {plan.how} instead.")
        try:
            return run(plan)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        failed = plan
        release(plan.device)
    assert failed is not None  # else the plans would have refused
    raise OutOfMemory(
        f"Memory ran out {failed.how}, and there is no smaller way.",
        "Close other programs, crop the scan to the region in question, "
        "or use a machine with more memory.",
    )


def release(device: str) -> None:
    """Gives back what a run that failed has left."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _place(device: str) -> str:
    return "the CPU" if device == "cpu" else "the GPU"
