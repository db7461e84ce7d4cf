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

from DiffuGTSLib.scan import to_canonical
from DiffuGTSLib.scan.canonical import Modality, mask_on_grid
from DiffuGTSLib.scan.phantom import make_phantom
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.cases import SPACING_MM, TrainingVolume, write_cached
from DiffuGTSLib.training.data.organs import organ_masks
from DiffuGTSLib.training.data.scan_table import ORGANS, ScanKind, scan_table
from DiffuGTSLib.training.data.synthetic_lesions import add_lesion
from DiffuGTSLib.training.loop import LoopConfig, step_generator

PHANTOM_SEEDS = range(1000, 1004)  # of each kind; the demonstration's phantom is another
# Of the windows of other CTs, clipped as the scans of a kind were that is published so: a network
# must not take the clipping for a sign of the organ.
CLIPPED_SHARE = 0.15
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
        kind: how windows are drawn from it.
        stack: float32 (4, X, Y, Z): intensity, organ index, lesion, ignore.
        known: (organs,), whether presence and absence of each organ are known.
        modality: index into attention.MODALITIES.
    """

    kind: ScanKind
    stack: torch.Tensor
    known: np.ndarray
    modality: int


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
    kind, table = volume.case.kind, scan_table()
    lesion = volume.masks.get(volume.case.lesion_mask, np.zeros(volume.image.shape, bool))
    # Lesions of multiple sclerosis are no tumors, and unverified outlines no ground truth: ignored.
    ignored = [volume.masks[n] for n in table.ignored_masks if n in volume.masks]
    ignore = np.logical_or.reduce(ignored) if ignored else np.zeros_like(lesion)
    if kind.prompted_organ:
        index[lesion] = ORGANS.index(kind.prompted_organ) + 1
    stack = np.stack([volume.image.astype(np.float32), index, lesion, ignore]).astype(np.float32)
    modality = 0 if volume.case.modality == "CT" else 1
    return LabelledVolume(kind, torch.from_numpy(stack), np.array(kind.known_organs), modality)


def phantom_volumes() -> list[LabelledVolume]:
    """Digital phantoms on the canonical grid; every fourth has no tumor."""
    volumes = []
    for kind in scan_table().kinds.values():
        if not kind.phantom:
            continue
        modality: Modality = "MR" if kind.phantom == "brain" else "CT"
        for number, seed in enumerate(PHANTOM_SEEDS):
            phantom = make_phantom(kind.phantom, seed, number % 4 != 3)  # type: ignore[arg-type]
            canonical = to_canonical(phantom.image, modality, SPACING_MM)
            tumor, organ = (mask_on_grid(m, canonical.geometry)
                            for m in (phantom.mask, phantom.organ))
            index = organ * (ORGANS.index(kind.prompted_organ) + 1)
            stack = np.stack([canonical.tensor[0, 0].numpy(), index, tumor, np.zeros_like(tumor)])
            volumes.append(LabelledVolume(
                kind, torch.from_numpy(stack.astype(np.float32)), np.array(kind.known_organs),
                int(modality == "MR")))
    return volumes


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
        table = scan_table().kinds
        self.volumes = {k: [v for v in volumes if v.kind.name == k] for k in table}
        self.kinds = [table[k] for k in table if self.volumes[k]]
        shares = np.array([kind.share for kind in self.kinds])
        self.shares = shares / shares.sum()
        self.clipped = [kind.clipped_hu for kind in self.kinds if kind.clipped_hu is not None]
        self.largest = largest

    def draw(self, generator: np.random.Generator) -> Window:
        """A deformed window; three of four without a real lesion get a synthetic one."""
        kind = self.kinds[generator.choice(len(self.kinds), p=self.shares)]
        volumes = self.volumes[kind.name]
        volume = volumes[generator.integers(len(volumes))]
        stack = augment.deformed_window(
            volume.stack, self._size(volume, generator), self._focus(volume, generator), generator,
            mirror_x=kind.mirror,
        ).numpy()
        image, index = stack[0], np.rint(stack[1]).astype(np.uint8)
        lesion, ignore = stack[2] > 0.5, stack[3] > 0.5
        modality = "CT" if volume.modality == 0 else "MR"
        organ = kind.prompted_organ
        if kind.stripped_share and generator.random() < kind.stripped_share:
            image = np.where(index == ORGANS.index("brain") + 1, image, 0.0)
        if modality == "MR":
            image = augment.random_contrast(image, generator)
        elif self.clipped and kind.clipped_hu is None and generator.random() < CLIPPED_SHARE:
            image = augment.clip_as_published(image, self.clipped[0])
        if self._adds_lesions(kind, generator):
            organ, image, more, halo = self._add_lesions(kind, image, index, modality, generator)
            lesion, ignore = lesion | more, (ignore | halo) & ~more
        image = augment.degrade(image, generator, floor=0.0 if modality == "CT" else None)
        prompted = ORGANS.index(organ)
        if organ not in self.prompt_organs or generator.random() < 0.15:
            known = [i for i in np.flatnonzero(volume.known) if ORGANS[i] in self.prompt_organs]
            prompted = int(generator.choice(known))
        return as_window(image, lesion, ignore, index, volume.known, volume.modality, prompted)

    @staticmethod
    def _adds_lesions(kind: ScanKind, generator: np.random.Generator) -> bool:
        if not kind.synthetic or not kind.prompt:
            return bool(kind.synthetic)
        return bool(generator.random() < sum(kind.synthetic.values()))

    def _size(self, volume: LabelledVolume, generator: np.random.Generator) -> list[int]:
        """Smaller than the scan: else the centre of a crop around a tumor marks the tumor."""
        sizes = []
        for n in volume.stack.shape[1:]:
            bound = min(self.largest, n)
            least = min(bound, self.largest * 2 // 3)
            size = int(generator.integers(least, bound + 1))
            if volume.kind.crop:
                size = min(size, int(n * generator.uniform(0.55, 0.95)))
            sizes.append(max(12, size // 8 * 8))
        return sizes

    def _focus(self, volume: LabelledVolume, generator: np.random.Generator) -> np.ndarray | None:
        """A voxel of a labelled organ, for half of the windows of some kinds; a voxel of a lesion,
        for half of the windows of scans that are no crops around one."""
        kind = volume.kind
        if kind.prompt and not kind.crop and not kind.phantom and bool(volume.stack[2].any()):
            return self._voxel_of(volume.stack[2] > 0.5, generator)
        if not kind.around_organs or generator.random() < 0.5:
            return None
        present = np.unique(volume.stack[1][::4, ::4, ::4].numpy()).astype(int)
        possible = [ORGANS.index(o) + 1 for o in kind.synthetic]
        present = np.intersect1d(present, possible)
        if present.size == 0:
            return None
        voxels = torch.nonzero(volume.stack[1] == int(generator.choice(present)))
        return voxels[int(generator.integers(len(voxels)))].numpy()

    @staticmethod
    def _voxel_of(mask: torch.Tensor, generator: np.random.Generator) -> np.ndarray | None:
        if generator.random() < 0.5:
            return None
        voxels = torch.nonzero(mask)
        return voxels[int(generator.integers(len(voxels)))].numpy()

    def _add_lesions(
        self, kind: ScanKind, image: np.ndarray, index: np.ndarray, modality: str,
        generator: np.random.Generator,
    ) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
        """Adds none (one in four), one, or up to three lesions to one of the window's organs.

        Returns:
            The organ, the image, the lesion mask and the halo.
        """
        lesion, halo = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
        rates = {
            o: r for o, r in kind.synthetic.items()
            if o in self.lesion_organs and (index == ORGANS.index(o) + 1).sum() > 200
        }
        if not rates:
            return next(iter(kind.synthetic)), image, lesion, halo
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
    known: np.ndarray, modality: int, organ: int,
) -> Window:
    """A window from arrays (X, Y, Z), padded to multiples of MULTIPLE with weight 0.

    Args:
        known: (organs,), whether presence and absence of each organ are known.
        modality: index into attention.MODALITIES.
        organ: index of the prompt's organ.
    """
    pads = [max(int(-n % MULTIPLE), SMALLEST - n) for n in image.shape]
    order = (0, pads[2], 0, pads[1], 0, pads[0])

    def tensor(array: np.ndarray) -> torch.Tensor:
        return F.pad(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)), order)

    return Window(
        image=tensor(image)[None, None], lesion=tensor(lesion), weight=tensor(~ignore),
        organs=tensor(index).to(torch.uint8), known=torch.from_numpy(known), organ=organ,
        modality=modality,
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
