"""Training windows for the attention: real tumors, synthetic lesions, organs and prompts.

`WindowSampler` draws them; `WindowLoader` gives the windows of each step, from worker processes
where there are any.
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
from DiffuGTSLib.training.data.cases import SPACING_MM, TrainingCase, TrainingVolume, write_cached
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
# The organ of the prompt, where the kind of scan decides it.
PROMPTED_ORGAN = {
    "sarcoma_ct": "soft_tissue", "sarcoma_mr": "soft_tissue", "breast": "breast", "slab": "liver",
    "phantom_lung": "lung", "phantom_liver": "liver", "phantom_brain": "brain",
}
PHANTOMS = {"phantom_lung": "chest", "phantom_liver": "liver", "phantom_brain": "brain"}
PHANTOM_SEEDS = range(1000, 1004)  # of each kind; the demonstration's phantom is another
# How often synthetic lesions are added in which organ, by kind of scan.
SYNTHETIC_RATES = {
    "chest": {"lung": 1.0},
    "abdomen": {"liver": 3.0, "kidney": 2.0, "pancreas": 1.5, "colon": 1.5, "soft_tissue": 1.0,
                "spleen": 0.5, "stomach": 0.5, "urinary_bladder": 0.3, "lung": 0.3},
    "brain": {"brain": 1.0},
}
MULTIPLE = 16  # the context path's coarsest voxel
# Below three coarsest voxels an axis, bfloat16 gradients of convolutions overflow on CPUs.
SMALLEST = 48
UNKNOWN = 255
_PURPOSE = 0xFEED  # makes the windows' random generator independent of the loss function's


@dataclass(frozen=True)
class Window:
    """One training example.

    Attributes:
        image: (1, 1, X, Y, Z).
        lesion: float (X, Y, Z), the target.
        weight: float (X, Y, Z), 0 where the target is unknown (padding, halo, unverified outlines).
        organs: uint8 (X, Y, Z), index into ORGANS plus 1; 0 elsewhere.
        known: (len(ORGANS),), whether presence and absence of the organ are known here.
        organ: index into ORGANS of the prompt's organ.
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
class LabelledVolume:
    """A training scan with its labels, as one stack of channels.

    Attributes:
        kind: a row of SHARES, or the folder of a public data set.
        stack: float32 (4, X, Y, Z): intensity, organ index, lesion, ignore.
        known: (organs,), whether presence and absence of each organ are known.
        modality: index into attention.MODALITIES.
    """

    kind: str
    stack: torch.Tensor
    known: np.ndarray
    modality: int


def kind_of(case: TrainingCase) -> str:
    """Which row of SHARES the scan belongs to."""
    if case.group == "sarcoma":
        return "sarcoma_ct" if case.modality == "CT" else "sarcoma_mr"
    return "slab" if case.name == "liver_slab" else case.group


def label_volume(volume: TrainingVolume, cache: Path | None = None) -> LabelledVolume:
    """Organ index, tumor and ignored voxels of a scan; the organs are cached in `cache`."""
    cached = cache / f"{volume.case.name}_organs.npy" if cache else None
    if cached is not None and cached.exists():
        index = np.load(cached)
    else:
        index = np.zeros(volume.image.shape, np.uint8)
        for name, mask in organ_masks(volume).items():
            index[mask] = ORGANS.index(name) + 1
        if cached is not None:
            write_cached(cached, lambda stream: np.save(stream, index))
    kind = kind_of(volume.case)
    lesion = volume.masks.get("tumor", np.zeros(volume.image.shape, bool))
    # Lesions of multiple sclerosis are no tumors, and unverified outlines no ground truth: ignored.
    ignored = [volume.masks[n] for n in ("lesion", "roi_unverified") if n in volume.masks]
    ignore = np.logical_or.reduce(ignored) if ignored else np.zeros_like(lesion)
    if kind.startswith("sarcoma"):
        index[lesion] = ORGANS.index("soft_tissue") + 1
    if kind == "breast":
        index[:] = ORGANS.index("breast") + 1
    stack = np.stack([volume.image.astype(np.float32), index, lesion, ignore]).astype(np.float32)
    modality = 0 if volume.case.modality == "CT" else 1
    return LabelledVolume(kind, torch.from_numpy(stack), known_in(kind), modality)


def phantom_volumes() -> list[LabelledVolume]:
    """Digital phantoms on the canonical grid; every fourth has no tumor."""
    volumes = []
    for kind, name in PHANTOMS.items():
        modality: Modality = "MR" if name == "brain" else "CT"
        for number, seed in enumerate(PHANTOM_SEEDS):
            phantom = make_phantom(name, seed, tumor=number % 4 != 3)  # type: ignore[arg-type]
            canonical = to_canonical(phantom.image, modality, SPACING_MM)
            tumor, organ = (mask_on_grid(m, canonical.geometry)
                            for m in (phantom.mask, phantom.organ))
            index = organ * (ORGANS.index(PROMPTED_ORGAN[kind]) + 1)
            stack = np.stack([canonical.tensor[0, 0].numpy(), index, tumor, np.zeros_like(tumor)])
            known = np.array([o == PROMPTED_ORGAN[kind] for o in ORGANS])
            volumes.append(LabelledVolume(kind, torch.from_numpy(stack.astype(np.float32)), known,
                                  int(modality == "MR")))
    return volumes


def known_in(kind: str) -> np.ndarray:
    """(len(ORGANS),): whether presence and absence of each organ are known in a kind of scan."""
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
    """Draws windows: kinds of scans by their shares, scans of a kind with equal probability.

    Args:
        largest: voxels an axis of a window, at most.
        lesion_organs: where synthetic lesions may be added.
        prompt_organs: what prompts may name; each volume knows at least one of them.
        voxel_mm: edge of the voxels.
    """

    def __init__(
        self, volumes: Sequence[LabelledVolume], largest: int = 96,
        lesion_organs: Collection[str] = ORGANS, prompt_organs: Collection[str] = ORGANS,
        voxel_mm: float = 2.0,
    ) -> None:
        self.lesion_organs, self.prompt_organs = lesion_organs, prompt_organs
        self.voxel_mm = voxel_mm
        self.kinds = {k: [v for v in volumes if v.kind == k] for k in SHARES}
        self.names = [k for k in SHARES if self.kinds[k]]
        shares = np.array([SHARES[k] for k in self.names])
        self.shares = shares / shares.sum()
        self.largest = largest

    def draw(self, generator: np.random.Generator) -> Window:
        """A deformed window; three of four without a real lesion get a synthetic one."""
        kind = self.names[generator.choice(len(self.names), p=self.shares)]
        volume = self.kinds[kind][generator.integers(len(self.kinds[kind]))]
        stack = augment.deformed_window(
            volume.stack, self._size(volume, generator), self._focus(volume, generator), generator,
            mirror_x=kind not in ("abdomen", "slab"),
        ).numpy()
        image, index = stack[0], np.rint(stack[1]).astype(np.uint8)
        lesion, ignore = stack[2] > 0.5, stack[3] > 0.5
        modality = "CT" if volume.modality == 0 else "MR"
        organ = PROMPTED_ORGAN.get(kind)
        if kind == "brain" and generator.random() < 0.25:
            image = np.where(index == ORGANS.index("brain") + 1, image, 0.0)
        if modality == "MR":
            image = augment.random_contrast(image, generator)
        if organ is None:
            organ, image, lesion, halo = self._add_lesions(kind, image, index, modality, generator)
            ignore |= halo
        image = augment.degrade(image, generator, floor=0.0 if modality == "CT" else None)
        prompted = ORGANS.index(organ)
        if organ not in self.prompt_organs or generator.random() < 0.15:
            known = [i for i in np.flatnonzero(volume.known) if ORGANS[i] in self.prompt_organs]
            prompted = int(generator.choice(known))
        return as_window(image, lesion, ignore, index, volume, prompted)

    def _size(self, volume: LabelledVolume, generator: np.random.Generator) -> list[int]:
        """Smaller than the scan: else the centre of a crop around a tumor marks the tumor."""
        sizes = []
        for n in volume.stack.shape[1:]:
            bound = min(self.largest, n)
            least = min(bound, self.largest * 2 // 3)
            size = int(generator.integers(least, bound + 1))
            if volume.kind.startswith("sarcoma"):
                size = min(size, int(n * generator.uniform(0.55, 0.95)))
            sizes.append(max(12, size // 8 * 8))
        return sizes

    def _focus(self, volume: LabelledVolume, generator: np.random.Generator) -> np.ndarray | None:
        """A voxel of a labelled organ, for half of the abdominal and chest windows."""
        if volume.kind not in ("abdomen", "chest") or generator.random() < 0.5:
            return None
        present = np.unique(volume.stack[1][::4, ::4, ::4].numpy()).astype(int)
        possible = [ORGANS.index(o) + 1 for o in SYNTHETIC_RATES[volume.kind]]
        present = np.intersect1d(present, possible)
        if present.size == 0:
            return None
        voxels = torch.nonzero(volume.stack[1] == int(generator.choice(present)))
        return voxels[int(generator.integers(len(voxels)))].numpy()

    def _add_lesions(
        self, kind: str, image: np.ndarray, index: np.ndarray, modality: str,
        generator: np.random.Generator,
    ) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        """Adds none (one in four), one, or up to three lesions to one of the window's organs.

        Returns:
            The organ, the image, the lesion mask and the halo.
        """
        lesion, halo = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
        rates = {
            o: r for o, r in SYNTHETIC_RATES[kind].items()
            if o in self.lesion_organs and (index == ORGANS.index(o) + 1).sum() > 200
        }
        if not rates:
            return next(iter(SYNTHETIC_RATES[kind])), image, lesion, halo
        weights = np.array(list(rates.values()))
        organ = list(rates)[generator.choice(len(rates), p=weights / weights.sum())]
        inside = index == ORGANS.index(organ) + 1
        count = int(generator.choice([0, 1, 2, 3], p=[0.25, 0.5, 0.15, 0.1]))
        for _ in range(count):
            synthetic = add_lesion(
                image, inside, organ, modality, generator, self.voxel_mm  # type: ignore[arg-type]
            )
            if synthetic is not None:
                image = synthetic.image
                lesion, halo = lesion | synthetic.mask, halo | synthetic.halo
        return organ, image, lesion, halo & ~lesion


def as_window(
    image: np.ndarray, lesion: np.ndarray, ignore: np.ndarray, index: np.ndarray,
    volume: LabelledVolume, organ: int,
) -> Window:
    """A window from arrays (X, Y, Z), padded to multiples of MULTIPLE with weight 0.

    Args:
        volume: for the organs that are known, and the modality.
        organ: index of the prompt's organ.
    """
    pads = [max(int(-n % MULTIPLE), SMALLEST - n) for n in image.shape]
    order = (0, pads[2], 0, pads[1], 0, pads[0])

    def tensor(array: np.ndarray) -> torch.Tensor:
        return F.pad(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)), order)

    return Window(
        image=tensor(image)[None, None], lesion=tensor(lesion), weight=tensor(~ignore),
        organs=tensor(index).to(torch.uint8), known=torch.from_numpy(volume.known), organ=organ,
        modality=volume.modality,
    )


class Sampler(Protocol):
    """Anything that draws windows."""

    def draw(self, generator: np.random.Generator) -> Window:
        """A window; the same generator state gives the same window."""
        ...


class _StepDataset(Dataset[list[Window]]):
    """The windows of the steps from `first` on, one item a step."""

    def __init__(self, loader: WindowLoader, config: LoopConfig, first: int) -> None:
        self.loader, self.first, self.count = loader, first, config.steps - first
        self.seed, self.rank = config.seed, config.ranks.rank

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> list[Window]:
        return self.loader.draw(self.seed, self.first + index, self.rank)


class WindowLoader:
    """Data loader: the same windows for the same seed, step and rank, for any number of workers.

    Args:
        count: windows a step.
        workers: processes that draw windows ahead of time; 0 draws them when they are needed.
    """

    def __init__(self, sampler: Sampler, count: int = 1, workers: int = 0) -> None:
        self.sampler, self.count, self.workers = sampler, count, workers
        self._batches: Iterator[list[Window]] | None = None
        self._next = 0

    def windows(self, step: int, config: LoopConfig) -> list[Window]:
        """The windows of a step, for this process; call it for one step after the other."""
        if self.workers == 0:
            return self.draw(config.seed, step, config.ranks.rank)
        if self._batches is None or step != self._next:
            loader = DataLoader(_StepDataset(self, config, step), batch_size=None,
                                num_workers=self.workers)
            self._batches = iter(loader)
        self._next = step + 1
        return next(self._batches)

    def draw(self, seed: int, step: int, rank: int) -> list[Window]:
        """The windows of a step, drawn in this process."""
        generator = step_generator(seed, step, rank, _PURPOSE)
        return [self.sampler.draw(generator) for _ in range(self.count)]
