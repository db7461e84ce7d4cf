"""Training windows for the attention: real tumors, synthetic lesions, organs and their prompts.

The windows of each training step, drawn ahead by worker processes where there are any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from DiffuGTSLib.scan.canonical import Modality, mask_on_grid, to_canonical
from DiffuGTSLib.scan.phantom import make_phantom
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.cases import SPACING_MM, Case, Sample, store
from DiffuGTSLib.training.data.organs import organ_masks
from DiffuGTSLib.training.data.synthetic_lesions import add_lesion
from DiffuGTSLib.training.loop import LoopConfig, step_generator

# The anatomies that the gate learns, in the order of its prompts.
ORGANS = (
    "lung", "brain", "soft_tissue", "liver", "kidney", "pancreas", "colon", "spleen", "stomach",
    "small_bowel", "urinary_bladder", "gallbladder", "adrenal_gland", "bone", "breast",
)
# How often each kind of scan is drawn.
SHARES = {
    "sarcoma_ct": 0.15, "sarcoma_mr": 0.18, "chest": 0.26, "abdomen": 0.05, "slab": 0.01,
    "brain": 0.29, "breast": 0.01,
    "phantom_lung": 0.03, "phantom_liver": 0.01, "phantom_brain": 0.01,
}
# The organ that is asked for, where the kind of scan decides it.
ASKED = {
    "sarcoma_ct": "soft_tissue", "sarcoma_mr": "soft_tissue", "breast": "breast", "slab": "liver",
    "phantom_lung": "lung", "phantom_liver": "liver", "phantom_brain": "brain",
}
PHANTOMS = {"phantom_lung": "chest", "phantom_liver": "liver", "phantom_brain": "brain"}
PHANTOM_SEEDS = range(1000, 1004)  # of each kind; the demonstration's phantom is another
# Organs in which lesions are grown, and how often, by kind of scan.
GROWN_IN = {
    "chest": {"lung": 1.0},
    "abdomen": {"liver": 3.0, "kidney": 2.0, "pancreas": 1.5, "colon": 1.5, "soft_tissue": 1.0,
                "spleen": 0.5, "stomach": 0.5, "urinary_bladder": 0.3, "lung": 0.3},
    "brain": {"brain": 1.0},
}
MULTIPLE = 16  # the context path's coarsest voxel
# Below three coarsest voxels an axis, bfloat16 gradients of convolutions overflow on CPUs.
SMALLEST = 48
UNKNOWN = 255
_PURPOSE = 0xFEED  # keeps the windows' generator apart from the one that the loss is given


@dataclass(frozen=True)
class Window:
    """One training example.

    Attributes:
        image: (1, 1, X, Y, Z).
        lesion: float (X, Y, Z), what has to be found.
        weight: float (X, Y, Z), 0 where nobody knows (padding, halo, unverified outlines).
        organs: uint8 (X, Y, Z), index into ORGANS plus 1; 0 elsewhere.
        known: (len(ORGANS),), whether presence and absence of the organ are known here.
        organ: index into ORGANS of what the prompt asks for.
        modality: index into attention.MODALITIES.
    """

    image: torch.Tensor
    lesion: torch.Tensor
    weight: torch.Tensor
    organs: torch.Tensor
    known: torch.Tensor
    organ: int
    modality: int

    def to(self, device: str) -> Window:
        """The same window on a device."""
        return replace(
            self, image=self.image.to(device), lesion=self.lesion.to(device),
            weight=self.weight.to(device), organs=self.organs.to(device),
            known=self.known.to(device),
        )


@dataclass
class Source:
    """A training scan with everything that is known of it, as one stack of channels.

    `stack` is float32 (4, X, Y, Z): intensity, organ index, lesion, ignore.
    """

    kind: str
    stack: torch.Tensor
    known: np.ndarray
    modality: int


def kind_of(case: Case) -> str:
    """Which row of SHARES the scan belongs to."""
    if case.group == "sarcoma":
        return "sarcoma_ct" if case.modality == "CT" else "sarcoma_mr"
    return "slab" if case.name == "liver_slab" else case.group


def make_source(sample: Sample, cache: Path | None = None) -> Source:
    """Organ index, tumor and ignored voxels of a scan; organs through a cache folder."""
    stored = cache / f"{sample.case.name}_organs.npy" if cache else None
    if stored is not None and stored.exists():
        index = np.load(stored)
    else:
        index = np.zeros(sample.image.shape, np.uint8)
        for name, mask in organ_masks(sample).items():
            index[mask] = ORGANS.index(name) + 1
        if stored is not None:
            store(stored, lambda stream: np.save(stream, index))
    kind = kind_of(sample.case)
    lesion = sample.masks.get("tumor", np.zeros(sample.image.shape, bool))
    # Multiple sclerosis is no tumor, and an unverified outline no truth: neither for nor against.
    ignored = [sample.masks[n] for n in ("lesion", "roi_unverified") if n in sample.masks]
    ignore = np.logical_or.reduce(ignored) if ignored else np.zeros_like(lesion)
    if kind.startswith("sarcoma"):
        index[lesion] = ORGANS.index("soft_tissue") + 1
    if kind == "breast":
        index[:] = ORGANS.index("breast") + 1
    stack = np.stack([sample.image.astype(np.float32), index, lesion, ignore]).astype(np.float32)
    modality = 0 if sample.case.modality == "CT" else 1
    return Source(kind, torch.from_numpy(stack), known_in(kind), modality)


def phantom_sources() -> list[Source]:
    """Digital phantoms with their tumors, every fourth without, on the canonical grid."""
    sources = []
    for kind, name in PHANTOMS.items():
        modality: Modality = "MR" if name == "brain" else "CT"
        for number, seed in enumerate(PHANTOM_SEEDS):
            phantom = make_phantom(name, seed, tumor=number % 4 != 3)  # type: ignore[arg-type]
            canonical = to_canonical(phantom.image, modality, SPACING_MM)
            tumor, organ = (mask_on_grid(m, canonical.geometry)
                            for m in (phantom.mask, phantom.organ))
            index = organ * (ORGANS.index(ASKED[kind]) + 1)
            stack = np.stack([canonical.tensor[0, 0].numpy(), index, tumor, np.zeros_like(tumor)])
            known = np.array([o == ASKED[kind] for o in ORGANS])
            sources.append(Source(kind, torch.from_numpy(stack.astype(np.float32)), known,
                                  int(modality == "MR")))
    return sources


def known_in(kind: str) -> np.ndarray:
    """Of which organs presence and absence are known in a kind of scan."""
    if kind == "chest":
        known = {"lung", "brain"}
    elif kind == "slab":
        known = {"brain", "urinary_bladder"}
    elif kind == "abdomen":
        known = set(ORGANS) - {"breast"}
    elif kind.startswith("sarcoma"):
        known = set(ORGANS) - {"bone", "breast"}
    else:
        known = set(ORGANS)
    return np.array([o in known for o in ORGANS])


class WindowSampler:
    """Draws windows, kinds by their shares, scans of a kind alike.

    Args:
        grow: the organs in which lesions may be grown.
        ask: the organs that a prompt may ask for; each source knows one of them at least.
        voxel_mm: edge of the sources' voxels.
    """

    def __init__(
        self, sources: Sequence[Source], largest: int = 96, grow: Collection[str] = ORGANS,
        ask: Collection[str] = ORGANS, voxel_mm: float = 2.0,
    ) -> None:
        self.grow, self.ask, self.voxel_mm = grow, ask, voxel_mm
        self.kinds = {k: [s for s in sources if s.kind == k] for k in SHARES}
        self.names = [k for k in SHARES if self.kinds[k]]
        shares = np.array([SHARES[k] for k in self.names])
        self.shares = shares / shares.sum()
        self.largest = largest

    def draw(self, generator: np.random.Generator) -> Window:
        """A deformed window, with a lesion grown in it where the scan has none (three of four)."""
        kind = self.names[generator.choice(len(self.names), p=self.shares)]
        source = self.kinds[kind][generator.integers(len(self.kinds[kind]))]
        stack = augment.deformed_window(
            source.stack, self._size(source, generator), self._focus(source, generator), generator,
            mirror_x=kind not in ("abdomen", "slab"),
        ).numpy()
        image, index = stack[0], np.rint(stack[1]).astype(np.uint8)
        lesion, ignore = stack[2] > 0.5, stack[3] > 0.5
        modality = "CT" if source.modality == 0 else "MR"
        organ = ASKED.get(kind)
        if kind == "brain" and generator.random() < 0.25:
            image = np.where(index == ORGANS.index("brain") + 1, image, 0.0)
        if modality == "MR":
            image = augment.random_contrast(image, generator)
        if organ is None:
            organ, image, lesion, halo = self._grow(kind, image, index, modality, generator)
            ignore |= halo
        image = augment.degrade(image, generator, floor=0.0 if modality == "CT" else None)
        asked = ORGANS.index(organ)
        if organ not in self.ask or generator.random() < 0.15:
            known = [i for i in np.flatnonzero(source.known) if ORGANS[i] in self.ask]
            asked = int(generator.choice(known))
        return as_window(image, lesion, ignore, index, source, asked)

    def _size(self, source: Source, generator: np.random.Generator) -> list[int]:
        """Strictly inside the scan, so that no window shows where the crop's centre was."""
        sizes = []
        for n in source.stack.shape[1:]:
            bound = min(self.largest, n)
            least = min(bound, self.largest * 2 // 3)
            size = int(generator.integers(least, bound + 1))
            if source.kind.startswith("sarcoma"):
                size = min(size, int(n * generator.uniform(0.55, 0.95)))
            sizes.append(max(12, size // 8 * 8))
        return sizes

    def _focus(self, source: Source, generator: np.random.Generator) -> np.ndarray | None:
        """Half the abdominal and chest windows are drawn around a labelled organ."""
        if source.kind not in ("abdomen", "chest") or generator.random() < 0.5:
            return None
        present = np.unique(source.stack[1][::4, ::4, ::4].numpy()).astype(int)
        wanted = [ORGANS.index(o) + 1 for o in GROWN_IN[source.kind]]
        present = np.intersect1d(present, wanted)
        if present.size == 0:
            return None
        places = torch.nonzero(source.stack[1] == int(generator.choice(present)))
        return places[int(generator.integers(len(places)))].numpy()

    def _grow(
        self, kind: str, image: np.ndarray, index: np.ndarray, modality: str,
        generator: np.random.Generator,
    ) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        """Lesions in one of the window's organs: none (one in four), one, or up to three."""
        lesion, halo = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
        rates = {
            o: r for o, r in GROWN_IN[kind].items()
            if o in self.grow and (index == ORGANS.index(o) + 1).sum() > 200
        }
        if not rates:
            return next(iter(GROWN_IN[kind])), image, lesion, halo
        weights = np.array(list(rates.values()))
        organ = list(rates)[generator.choice(len(rates), p=weights / weights.sum())]
        inside = index == ORGANS.index(organ) + 1
        count = int(generator.choice([0, 1, 2, 3], p=[0.25, 0.5, 0.15, 0.1]))
        for _ in range(count):
            grown = add_lesion(
                image, inside, organ, modality, generator, self.voxel_mm  # type: ignore[arg-type]
            )
            if grown is not None:
                image, lesion, halo = grown.image, lesion | grown.mask, halo | grown.halo
        return organ, image, lesion, halo & ~lesion


def as_window(
    image: np.ndarray, lesion: np.ndarray, ignore: np.ndarray, index: np.ndarray, source: Source,
    asked: int,
) -> Window:
    """The arrays (X, Y, Z) of a window, padded to what the networks divide; padding counts not."""
    pads = [max(int(-n % MULTIPLE), SMALLEST - n) for n in image.shape]
    order = (0, pads[2], 0, pads[1], 0, pads[0])

    def tensor(array: np.ndarray) -> torch.Tensor:
        return F.pad(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)), order)

    return Window(
        image=tensor(image)[None, None], lesion=tensor(lesion), weight=tensor(~ignore),
        organs=tensor(index).to(torch.uint8), known=torch.from_numpy(source.known), organ=asked,
        modality=source.modality,
    )


class Sampler(Protocol):
    """What draws windows."""

    def draw(self, generator: np.random.Generator) -> Window:
        """A window; the same generator, the same window."""
        ...


class _Steps(Dataset[list[Window]]):
    """The windows of the steps from `first` on, one item a step."""

    def __init__(self, feed: Feed, config: LoopConfig, first: int) -> None:
        self.feed, self.first, self.count = feed, first, config.steps - first
        self.seed, self.rank = config.seed, config.ranks.rank

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> list[Window]:
        return self.feed.draw(self.seed, self.first + index, self.rank)


class Feed:
    """The same windows for the same seed, step and rank, whatever the number of workers.

    Args:
        count: windows a step.
        workers: processes that draw ahead while the networks run; 0 draws when asked.
    """

    def __init__(self, sampler: Sampler, count: int = 1, workers: int = 0) -> None:
        self.sampler, self.count, self.workers = sampler, count, workers
        self._ahead: Iterator[list[Window]] | None = None
        self._next = 0

    def windows(self, step: int, config: LoopConfig) -> list[Window]:
        """The windows of a step, for this process; steps are asked for one after the other."""
        if self.workers == 0:
            return self.draw(config.seed, step, config.ranks.rank)
        if self._ahead is None or step != self._next:
            loader = DataLoader(_Steps(self, config, step), batch_size=None,
                                num_workers=self.workers)
            self._ahead = iter(loader)
        self._next = step + 1
        return next(self._ahead)

    def draw(self, seed: int, step: int, rank: int) -> list[Window]:
        """The windows of a step, drawn here and now."""
        generator = step_generator(seed, step, rank, _PURPOSE)
        return [self.sampler.draw(generator) for _ in range(self.count)]
