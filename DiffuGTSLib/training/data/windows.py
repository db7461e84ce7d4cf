"""Training windows for the attention: real tumors, synthetic lesions, organs and prompts.

`WindowMaker` makes one of a place in a scan, the same way for every source of scans;
`WindowSampler` chooses the places; `WindowLoader` gives the windows of each step, from worker
processes where there are any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
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
from DiffuGTSLib.training.data.cases import (
    SPACING_MM,
    TrainingCase,
    TrainingVolume,
    cache_key,
    write_cached,
)
from DiffuGTSLib.training.data.organs import organ_masks
from DiffuGTSLib.training.data.scan_table import ORGANS, ScanKind, scan_table
from DiffuGTSLib.training.data.synthetic_lesions import SyntheticLesion, add_lesion
from DiffuGTSLib.training.data.transplants import Transplants
from DiffuGTSLib.training.loop import LoopConfig, step_generator

PHANTOM_SEEDS = range(1000, 1004)  # of each kind; the demonstration's phantom is another
# Of the windows of other CTs, clipped as the scans of a kind were that is published so: a network
# must not take the clipping for a sign of the organ.
CLIPPED_SHARE = 0.15
MULTIPLE = 16  # the context path's coarsest voxel
# Of the windows: around a lesion where it is not in the middle anyway, around an organ that may
# get one.
LESION_SHARE, ORGAN_SHARE = 0.6, 0.2
CROP_SHARE = (0.55, 0.95)  # of an axis of a crop around a lesion: else its middle marks the lesion
LEAST_VOXELS = 10  # of an axis; a thinner crop is taken whole
HEAD_SHARE = 0.4  # of the windows of stripped brains, that get a simulated head around them
HEAD_MARGIN = 9  # voxels of room for it on each side
COMMON_SHARE = 0.75  # of the synthetic lesions that a kind of scans asks for
TRANSPLANTED_SHARE = 0.6  # of the synthetic lesions, where there are real ones to put in
COPIES = ([1, 2, 3], [0.65, 0.2, 0.15])  # of synthetic lesions in a window, and how often
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
        inside: float (X, Y, Z), 1 where the scan is, 0 in the padding.
        others: organs that hold no lesion: prompted for one, nothing is right.
        source: of a window for the validation: see examples.py.
    """

    image: torch.Tensor
    lesion: torch.Tensor
    weight: torch.Tensor
    organs: torch.Tensor
    known: torch.Tensor
    organ: int
    modality: int
    inside: torch.Tensor
    others: tuple[int, ...] = ()
    source: str = ""

    def to(self, device: str) -> Window:
        """The same window on a device."""
        return replace(
            self, image=self.image.to(device), lesion=self.lesion.to(device),
            weight=self.weight.to(device), organs=self.organs.to(device),
            known=self.known.to(device), inside=self.inside.to(device),
        )


@dataclass
class LabelledVolume:
    """A training scan with its labels, as one stack of channels.

    Attributes:
        kind: how windows are drawn from it.
        stack: float32 (4, X, Y, Z): intensity, organ index, lesion, ignore.
        known: (organs,), whether presence and absence of each organ are known.
        modality: index into attention.MODALITIES.
        stripped: nothing but the brain is left of a head.
        sequence: of an MR.
    """

    kind: ScanKind
    stack: torch.Tensor
    known: np.ndarray
    modality: int
    stripped: bool = False
    sequence: str = ""

    def with_margin(self) -> LabelledVolume:
        """With room for a simulated head, where the scan is a stripped brain."""
        if not self.stripped:
            return self
        return replace(self, stack=F.pad(self.stack, (HEAD_MARGIN,) * 6))


def label_volume(volume: TrainingVolume, cache: Path | None = None) -> LabelledVolume:
    """Organ index, tumor and ignored voxels of a scan; the organs are cached in `cache`."""
    cached = _organ_cache(volume.case, cache) if cache is not None else None
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
    return LabelledVolume(kind, torch.from_numpy(stack), np.array(kind.known_organs), modality,
                          volume.case.skull_stripped, volume.case.sequence)


def _organ_cache(case: TrainingCase, cache: Path) -> Path:
    """The cache file of a scan's organs."""
    kind = case.kind
    key = cache_key(case.files, case.modality, case.skull_stripped, kind.organs,
                    kind.prompted_organ, kind.crop, kind.remainder, scan_table().organ_masks,
                    ORGANS)
    return cache / f"{case.name}_{key}_organs.npy"


def phantom_volumes() -> list[LabelledVolume]:
    """Digital phantoms on the canonical grid; every fourth has no tumor."""
    volumes = []
    for kind in scan_table().kinds.values():
        if not kind.phantom:
            continue
        modality: Modality = "MR" if kind.phantom == "brain" else "CT"
        for number, seed in enumerate(PHANTOM_SEEDS):
            phantom = make_phantom(kind.phantom, seed, tumor=number % 4 != 3)  # type: ignore[arg-type]
            canonical = to_canonical(phantom.image, modality, SPACING_MM)
            tumor, organ = (mask_on_grid(m, canonical.geometry)
                            for m in (phantom.mask, phantom.organ))
            index = organ * (ORGANS.index(kind.prompted_organ) + 1)
            stack = np.stack([canonical.tensor[0, 0].numpy(), index, tumor, np.zeros_like(tumor)])
            volumes.append(LabelledVolume(
                kind, torch.from_numpy(stack.astype(np.float32)), np.array(kind.known_organs),
                int(modality == "MR")))
    return volumes


@dataclass(frozen=True)
class WindowMaker:
    """Makes training windows.

    Attributes:
        organs: what `Window.organ` is an index of.
        edge: voxels of a window's edge, a multiple of MULTIPLE; smaller ones are padded.
        lesion_organs: where synthetic lesions may be added.
        prompt_organs: what prompts may name.
        voxel_mm: edge of the voxels.
        clipped_hu: ends at which some of the CTs were published; others are clipped there at times.
        transplants: real lesions that may be put into other scans.
    """

    organs: tuple[str, ...] = ORGANS
    edge: int = 64
    lesion_organs: Collection[str] = ORGANS
    prompt_organs: Collection[str] = ORGANS
    voxel_mm: float = 2.0
    clipped_hu: tuple[float, float] | None = None
    transplants: Transplants | None = None

    def size(self, shape: Sequence[int], kind: ScanKind, generator: np.random.Generator
             ) -> list[int]:
        """Voxels of a window of a scan of `shape`; smaller than a crop around a lesion."""
        sizes = []
        for n in shape:
            size = min(self.edge, n)
            if kind.crop and n > LEAST_VOXELS / CROP_SHARE[0]:
                size = min(size, max(LEAST_VOXELS, int(n * generator.uniform(*CROP_SHARE))))
            sizes.append(size)
        return sizes

    def window(
        self, volume: LabelledVolume, size: Sequence[int], focus: np.ndarray | None,
        generator: np.random.Generator,
    ) -> Window:
        """A deformed window of `size` voxels that holds the voxel `focus`, or lies anywhere.

        Most windows of scans without a lesion get synthetic ones.
        """
        kind = volume.kind
        stack = augment.deformed_window(
            volume.stack.float(), size, focus, generator, mirror_x=kind.mirror).numpy()
        image, index = stack[0], np.rint(stack[1]).astype(np.uint8)
        lesion, ignore = stack[2] > 0.5, stack[3] > 0.5
        organ = kind.prompted_organ
        if chosen := self._lesion_organ(kind, index, bool(lesion.any()), generator):
            image, more, halo = self._with_lesions(image, index, chosen, volume, generator)
            if chosen == organ:
                ignore, lesion = (ignore | halo) & ~(lesion | more), lesion | more
            else:  # what is outlined belongs to another prompt
                ignore, lesion = (ignore | halo | lesion) & ~more, more
            organ = chosen
        image = self._augmented(image, index, volume, generator)
        known = [i for i in np.flatnonzero(volume.known) if self.organs[i] in self.prompt_organs]
        common = [i for i in known if self.organs[i] in prompted_organs()] or known
        empty = [i for i, name in enumerate(self.organs) if name in self.prompt_organs
                 and (volume.known[i] or name in kind.without)]
        own = self.organs.index(organ) if organ in self.prompt_organs else -1
        if own < 0:  # no lesion of a class that may be prompted for
            own = int(generator.choice(common))
            lesion, ignore = np.zeros_like(lesion), ignore | lesion
        return as_window(image, lesion, ignore, index, volume.known, volume.modality, own,
                         self._others(empty, own, generator), self.edge, generator)

    def _others(
        self, empty: Sequence[int], own: int, generator: np.random.Generator
    ) -> tuple[int, ...]:
        """Two of the organs that are prompted for most, and one of the rest, that hold nothing."""
        left = [i for i in generator.permutation(empty).tolist() if i != own]
        common = [i for i in left if self.organs[i] in prompted_organs()][:2]
        return (*common, *[i for i in left if i not in common][:1])

    def _augmented(
        self, image: np.ndarray, index: np.ndarray, volume: LabelledVolume,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """Other contrasts, heads, clipping; then blur, thick slices, noise."""
        kind = volume.kind
        if volume.modality == 0:
            if self.clipped_hu and not kind.clipped_hu and generator.random() < CLIPPED_SHARE:
                image = augment.clip_as_published(image, self.clipped_hu)
            return augment.degrade(image, generator, floor=0.0)
        brain = index == self.organs.index("brain") + 1
        darkest = -0.3
        if volume.stripped and brain.sum() > 500 and generator.random() < HEAD_SHARE:
            image, darkest = augment.simulated_head(image, brain, generator), -0.7
        elif kind.stripped_share and not volume.stripped and (
                generator.random() < kind.stripped_share):
            image = np.where(brain, image, 0.0)
        image = augment.random_gain(image, generator, darkest)
        return augment.degrade(
            augment.random_bias_and_curve(image, generator), generator, floor=None)

    def _lesion_organ(
        self, kind: ScanKind, index: np.ndarray, real: bool, generator: np.random.Generator
    ) -> str:
        """The organ that gets synthetic lesions; "" for none."""
        if not kind.synthetic or (real and len(kind.synthetic) == 1):
            return ""
        if generator.random() >= min(1.0, sum(kind.synthetic.values())) * COMMON_SHARE:
            return ""
        rates = {
            organ: rate for organ, rate in kind.synthetic.items() if organ in self.lesion_organs
            and np.count_nonzero(index == self.organs.index(organ) + 1) > 200
        }
        if not rates:
            return ""
        weights = np.array(list(rates.values()))
        return list(rates)[generator.choice(len(rates), p=weights / weights.sum())]

    def _with_lesions(
        self, image: np.ndarray, index: np.ndarray, organ: str, volume: LabelledVolume,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The image with up to three lesions in an organ, their mask and their halo."""
        lesion, halo = np.zeros(image.shape, bool), np.zeros(image.shape, bool)
        inside = index == self.organs.index(organ) + 1
        for _ in range(int(generator.choice(COPIES[0], p=COPIES[1]))):
            added = self._added(image, inside, organ, volume, generator)
            if added is not None:
                image = added.image
                lesion, halo = lesion | added.mask, halo | added.halo
        return image, lesion, halo & ~lesion

    def _added(
        self, image: np.ndarray, inside: np.ndarray, organ: str, volume: LabelledVolume,
        generator: np.random.Generator,
    ) -> SyntheticLesion | None:
        """The image with one lesion more: another scan's, or a synthetic one."""
        if self.transplants is not None and generator.random() < TRANSPLANTED_SHARE:
            put = self.transplants.put(
                image, inside, organ, volume.modality, volume.sequence, generator)
            if put is not None:
                return put
        modality: Modality = "MR" if volume.modality else "CT"
        return add_lesion(image, inside, organ, modality, generator, self.voxel_mm)


@lru_cache(maxsize=1)
def prompted_organs() -> frozenset[str]:
    """The organs of which there are outlined tumors: what is prompted for most."""
    return frozenset(kind.prompted_organ for kind in scan_table().kinds.values()
                     if kind.prompt and not kind.phantom)


class WindowSampler:
    """Draws windows: kinds of scans by their shares, scans of a kind with equal probability.

    Args:
        largest: voxels of a window's edge; taken to the next multiple of MULTIPLE.
        lesion_organs, prompt_organs, voxel_mm: see WindowMaker; each volume knows at least one of
            the organs that may be prompted for.
    """

    def __init__(
        self, volumes: Sequence[LabelledVolume], largest: int = 64,
        lesion_organs: Collection[str] = ORGANS, prompt_organs: Collection[str] = ORGANS,
        voxel_mm: float = 2.0, organs: Sequence[str] = ORGANS,
    ) -> None:
        table = scan_table().kinds
        self.volumes = {k: [v.with_margin() for v in volumes if v.kind.name == k] for k in table}
        self.kinds = [table[k] for k in table if self.volumes[k]]
        shares = np.array([kind.share for kind in self.kinds])
        self.shares = shares / shares.sum()
        clipped = [kind.clipped_hu for kind in self.kinds if kind.clipped_hu is not None]
        self.maker = WindowMaker(
            tuple(organs), full_edge(largest), lesion_organs, prompt_organs, voxel_mm,
            clipped[0] if clipped else None, Transplants(volumes))

    def draw(self, generator: np.random.Generator) -> Window:
        """A window of one of the volumes."""
        kind = self.kinds[generator.choice(len(self.kinds), p=self.shares)]
        volumes = self.volumes[kind.name]
        volume = volumes[generator.integers(len(volumes))]
        size = self.maker.size(volume.stack.shape[1:], kind, generator)
        return self.maker.window(volume, size, self._focus(volume, generator), generator)

    def _focus(self, volume: LabelledVolume, generator: np.random.Generator) -> np.ndarray | None:
        """A voxel of a lesion, of an organ that may get one, or none."""
        kind, choice = volume.kind, generator.random()
        if choice < LESION_SHARE and not kind.crop and bool(volume.stack[2].any()):
            return _voxel_of(volume.stack[2] > 0.5, generator)
        if choice < LESION_SHARE + ORGAN_SHARE and kind.synthetic:
            organ = ORGANS.index(str(generator.choice(list(kind.synthetic)))) + 1
            return _voxel_of(volume.stack[1] == organ, generator)
        return None


def _voxel_of(mask: torch.Tensor, generator: np.random.Generator) -> np.ndarray | None:
    """One of a mask's voxels, looked for in every second plane; None where there is none."""
    voxels = torch.nonzero(mask[::2, ::2, ::2])
    if not len(voxels):
        return None
    return 2 * voxels[int(generator.integers(len(voxels)))].numpy()


def full_edge(largest: int) -> int:
    """The next multiple of MULTIPLE."""
    return -(-largest // MULTIPLE) * MULTIPLE


def as_window(
    image: np.ndarray, lesion: np.ndarray, ignore: np.ndarray, index: np.ndarray,
    known: np.ndarray, modality: int, organ: int, others: tuple[int, ...], edge: int,
    generator: np.random.Generator,
) -> Window:
    """A cube of `edge` voxels from arrays (X, Y, Z), which lie anywhere in it; the padding is 0 and
    has weight 0.

    Args:
        known: (organs,), whether presence and absence of each organ are known.
        modality: index into attention.MODALITIES.
        organ: index of the prompt's organ.
        others: of organs that hold no lesion.
    """
    starts = [int(generator.integers(edge - n + 1)) for n in image.shape]
    where = tuple(slice(a, a + n) for a, n in zip(starts, image.shape, strict=True))

    def tensor(array: np.ndarray) -> torch.Tensor:
        cube = torch.zeros((edge,) * 3)
        cube[where] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        return cube

    return Window(
        image=tensor(image)[None, None], lesion=tensor(lesion), weight=tensor(~ignore),
        organs=tensor(index).to(torch.uint8), known=torch.from_numpy(known), organ=organ,
        modality=modality, inside=tensor(np.ones(image.shape)), others=others,
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
