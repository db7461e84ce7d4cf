"""Training windows from public data sets: real tumors, and synthetic lesions in their organs."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from DiffuGTSLib.datasets import LabelledCase
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.prompt.vocabulary import vocabulary
from DiffuGTSLib.scan import to_canonical
from DiffuGTSLib.scan.brain import stripped_brain
from DiffuGTSLib.scan.canonical import Modality, mask_on_grid
from DiffuGTSLib.training.data.cases import cache_key, write_cached
from DiffuGTSLib.training.data.scan_table import ScanKind
from DiffuGTSLib.training.data.windows import (
    HEAD_MARGIN,
    LESION_SHARE,
    ORGAN_SHARE,
    LabelledVolume,
    Sampler,
    Window,
    WindowMaker,
    full_edge,
)

TUMOR, ORGAN = 1, 2  # bits of the stored labels
SYNTHETIC_SHARE = 0.5  # of the windows without a lesion, where the organ is outlined


@dataclass(frozen=True)
class CachedCase:
    """A case on the model's grid, cached on disk.

    Attributes:
        organ: of the case's prompt; an id of anatomies.json.
        outlined: whether the case has an organ mask.
        stripped: nothing but the brain is left of a head.
        notes: what the user should know of how the scan was read; sentences.
        files: image (float16) and labels (uint8, bits TUMOR and ORGAN), each (X, Y, Z), .npy.
    """

    name: str
    patient: str
    organ: str
    modality: Modality
    outlined: bool
    stripped: bool
    files: tuple[Path, Path] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> np.ndarray:
        """Normalised, (X, Y, Z), memory-mapped."""
        return np.load(self.files[0], mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        """Bits, (X, Y, Z), memory-mapped."""
        return np.load(self.files[1], mmap_mode="r")

    @cached_property
    def voxels(self) -> dict[int, np.ndarray]:
        """Up to 4000 voxels (N, 3) of the tumor and of the organ."""
        labels, found = np.asarray(self.labels), {}
        for bit in (TUMOR, ORGAN):
            flat = np.flatnonzero(labels & bit)
            flat = flat[:: max(1, flat.size // 4000)]
            found[bit] = np.stack(np.unravel_index(flat, labels.shape), -1)
        return found


def case_key(case: LabelledCase, *more: object) -> str:
    """The `cache_key` of a case: of its files, and of how they are read."""
    paths = [p for p in (case.image, case.mask, case.organ_mask) if p is not None]
    return cache_key(paths, case.mask is None, case.tumor_labels, case.organ_labels, case.channel,
                     case.modality, case.skull_stripped, *more)


def cached_case(
    case: LabelledCase, cache: Path, spacing: tuple[float, float, float]
) -> CachedCase:
    """The case on the grid of `spacing` (mm), resampled once and kept in `cache`.

    Raises:
        DiffuGTSError: the case cannot be read.
    """
    key = case_key(case, spacing)
    image, labels, about = (cache / f"{key}_{name}" for name in
                            ("image.npy", "labels.npy", "about.json"))
    if not about.exists():
        _write(case, spacing, image, labels, about)
    facts = json.loads(about.read_text(encoding="utf-8"))
    return CachedCase(case.name, case.patient, understand(case.prompt).anatomy, facts["modality"],
                      facts["outlined"], bool(case.skull_stripped), (image, labels),
                      tuple(facts.get("notes", ())))


def _write(
    case: LabelledCase, spacing: tuple[float, float, float], image: Path, labels: Path, about: Path
) -> None:
    """Resamples a case and writes its three files; `about` comes last and completes the entry."""
    volumes = case.read()
    canonical = to_canonical(volumes.image, volumes.modality, spacing)
    organ = volumes.organ
    if organ is None and case.skull_stripped:  # nothing but the brain is left
        organ = stripped_brain(sitk.Cast(volumes.image, sitk.sitkFloat32))
    tumor = mask_on_grid(volumes.tumor, canonical.geometry)
    bits = tumor * np.uint8(TUMOR)
    if organ is not None:
        bits |= (mask_on_grid(organ, canonical.geometry) | tumor) * np.uint8(ORGAN)
    facts = json.dumps({"modality": volumes.modality, "outlined": organ is not None,
                        "notes": [*volumes.scan.notes]})
    intensities = canonical.tensor[0, 0].numpy().astype(np.float16)
    write_cached(image, lambda stream: np.save(stream, intensities))
    write_cached(labels, lambda stream: np.save(stream, bits.astype(np.uint8)))
    write_cached(about, lambda stream: stream.write(facts.encode("ascii")))


def known_organs(case: CachedCase, organs: Sequence[str]) -> np.ndarray:
    """(len(organs),): whether presence and absence of each organ are known in a case.

    Known are the case's own organ where it is outlined, and organs of the trunk in a scan of the
    head (absent), and the other way round.
    """
    region = {organ: vocabulary().anatomies[organ].region for organ in organs}
    trunk = {"thorax", "abdomen", "pelvis"}
    far = trunk if region[case.organ] == "head" else {"head"} if region[case.organ] in trunk else ()
    return np.array([
        case.outlined if organ == case.organ else region[organ] in far for organ in organs
    ])


class CaseSampler:
    """Draws windows from cached cases, all with equal probability.

    Args:
        organs: what `Window.organ` is an index of; contains every case's organ.
        largest: voxels of a window's edge.
        lesion_organs, prompt_organs, voxel_mm: see WindowMaker.
    """

    def __init__(
        self, cases: Sequence[CachedCase], organs: Sequence[str], largest: int = 64,
        lesion_organs: Collection[str] = (), prompt_organs: Collection[str] = (),
        voxel_mm: float = 2.0,
    ) -> None:
        self.cases = cases
        prompted = {*prompt_organs, *(case.organ for case in cases)}
        self.maker = WindowMaker(
            tuple(organs), full_edge(largest), lesion_organs, prompted, voxel_mm)

    def draw(self, generator: np.random.Generator) -> Window:
        """A window of one of the cases."""
        case = self.cases[int(generator.integers(len(self.cases)))]
        kind = _kind_of(case)
        size = self.maker.size(case.image.shape, kind, generator)
        volume, focus = self._around(case, kind, size, generator)
        return self.maker.window(volume, size, focus, generator)

    def _around(
        self, case: CachedCase, kind: ScanKind, size: Sequence[int],
        generator: np.random.Generator,
    ) -> tuple[LabelledVolume, np.ndarray]:
        """A crop around a random focus, as large as a window of `size` can need; and the focus in
        voxels of the crop."""
        image, labels = case.image, case.labels
        choice = generator.random()
        voxels = case.voxels[TUMOR if choice < LESION_SHARE else ORGAN]
        if len(voxels) and choice < LESION_SHARE + ORGAN_SHARE:
            focus = voxels[int(generator.integers(len(voxels)))]
        else:
            focus = np.array([int(generator.integers(n)) for n in image.shape])
        # Large enough for the window at any offset, rotation, scale and deformation.
        low = [max(0, int(f) - s - 8) for f, s in zip(focus, size, strict=True)]
        crop = tuple(slice(a, int(f) + s + 8) for a, f, s in zip(low, focus, size, strict=True))
        bits = labels[crop]
        organ = (bits > 0) * float(self.maker.organs.index(case.organ) + 1)
        stack = np.stack([image[crop].astype(np.float32), organ, bits & TUMOR, bits * 0])
        volume = LabelledVolume(
            kind, torch.from_numpy(stack.astype(np.float32)),
            known_organs(case, self.maker.organs), int(case.modality == "MR"), case.stripped)
        moved = focus - np.array(low) + (HEAD_MARGIN if case.stripped else 0)
        return volume.with_margin(), moved


@lru_cache(maxsize=1024)
def _kind_of(case: CachedCase) -> ScanKind:
    """How windows of a case are drawn: synthetic lesions where its organ is outlined."""
    anatomy = vocabulary().anatomies[case.organ]
    return ScanKind(
        name=case.name, share=1.0, prompt=f"{anatomy.name} tumor",
        mirror=anatomy.region in ("head", "thorax"),
        synthetic={case.organ: SYNTHETIC_SHARE} if case.outlined else {},
    )


class MixedSampler:
    """Draws from several samplers, by their shares."""

    def __init__(self, samplers: Sequence[tuple[Sampler, float]]) -> None:
        self.samplers = [sampler for sampler, _ in samplers]
        shares = np.array([share for _, share in samplers])
        self.shares = shares / shares.sum()

    def draw(self, generator: np.random.Generator) -> Window:
        """A window of one of the samplers."""
        return self.samplers[generator.choice(len(self.samplers), p=self.shares)].draw(generator)
