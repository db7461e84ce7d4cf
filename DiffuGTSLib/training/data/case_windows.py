"""Training windows from public data sets: real tumors, and synthetic lesions in their organs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from DiffuGTSLib.datasets import LabelledCase
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.prompt.vocabulary import vocabulary
from DiffuGTSLib.scan import to_canonical
from DiffuGTSLib.scan.canonical import Modality, mask_on_grid
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.cases import write_cached
from DiffuGTSLib.training.data.organs import stripped_brain
from DiffuGTSLib.training.data.synthetic_lesions import add_lesion
from DiffuGTSLib.training.data.windows import Sampler, Window, as_window

TUMOR, ORGAN = 1, 2  # bits of the stored labels
# Share of the windows that are drawn around a tumor, and around the organ, where there is one.
TUMOR_SHARE, ORGAN_SHARE = 0.6, 0.25
SYNTHETIC_SHARE = 0.3  # of the windows, where synthetic lesions may be added
OTHER_ORGAN_SHARE = 0.15  # of the windows are prompted for another organ, known to be absent


@dataclass(frozen=True)
class CachedCase:
    """A case on the model's grid, cached on disk.

    Attributes:
        organ: of the case's prompt; an id of anatomies.json.
        outlined: whether the case has an organ mask.
        files: image (float16) and labels (uint8, bits TUMOR and ORGAN), each (X, Y, Z), .npy.
    """

    name: str
    patient: str
    organ: str
    modality: Modality
    outlined: bool
    files: tuple[Path, Path] = field(repr=False)

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


def cached_case(
    case: LabelledCase, cache: Path, spacing: tuple[float, float, float]
) -> CachedCase:
    """The case on the grid of `spacing` (mm), resampled once and kept in `cache`.

    Raises:
        DiffuGTSError: the case cannot be read.
    """
    paths = [p for p in (case.image, case.mask, case.organ_mask) if p is not None]
    states = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.exists()]
    reading = (case.tumor_labels, case.organ_labels, case.channel, case.modality,
               case.skull_stripped)
    key = hashlib.sha256(repr((states, reading, spacing)).encode()).hexdigest()[:16]
    image, labels, about = (cache / f"{key}_{name}" for name in
                            ("image.npy", "labels.npy", "about.json"))
    if not about.exists():
        _write(case, spacing, image, labels, about)
    facts = json.loads(about.read_text(encoding="utf-8"))
    return CachedCase(case.name, case.patient, understand(case.prompt).anatomy, facts["modality"],
                      facts["outlined"], (image, labels))


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
    facts = json.dumps({"modality": volumes.modality, "outlined": organ is not None})
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
        largest: voxels an axis of a window, at most.
        lesion_organs: where synthetic lesions may be added.
        prompt_organs: what prompts may name beside the case's own organ.
        voxel_mm: edge of the cases' voxels.
    """

    def __init__(
        self, cases: Sequence[CachedCase], organs: Sequence[str], largest: int = 96,
        lesion_organs: Collection[str] = (), prompt_organs: Collection[str] = (),
        voxel_mm: float = 2.0,
    ) -> None:
        self.cases, self.organs, self.largest = cases, organs, largest
        self.lesion_organs, self.prompt_organs = lesion_organs, prompt_organs
        self.voxel_mm = voxel_mm

    def draw(self, generator: np.random.Generator) -> Window:
        """A deformed window of a case."""
        case = self.cases[int(generator.integers(len(self.cases)))]
        own = self.organs.index(case.organ)
        known = known_organs(case, self.organs)
        region = vocabulary().anatomies[case.organ].region
        stack = augment.deformed_window(
            *self._around(case, generator), generator, mirror_x=region in ("head", "thorax")
        ).numpy()
        image, lesion = stack[0], stack[1] > 0.5
        inside = (stack[2] > 0.5) | lesion
        index = np.where(inside, own + 1, 0).astype(np.uint8)
        halo = np.zeros_like(lesion)
        if case.modality == "MR":
            image = augment.random_contrast(image, generator)
        if case.organ in self.lesion_organs and generator.random() < SYNTHETIC_SHARE:
            synthetic = add_lesion(image, inside & ~lesion, case.organ, case.modality, generator,
                                   self.voxel_mm)
            if synthetic is not None:
                lesion = lesion | synthetic.mask
                image, halo = synthetic.image, synthetic.halo & ~lesion
        image = augment.degrade(image, generator, floor=0.0 if case.modality == "CT" else None)
        prompted, others = own, [i for i, organ in enumerate(self.organs)
                                 if known[i] and i != own and organ in self.prompt_organs]
        if others and generator.random() < OTHER_ORGAN_SHARE:
            prompted = int(generator.choice(others))
        return as_window(image, lesion, halo, index, known, int(case.modality == "MR"), prompted)

    def _around(
        self, case: CachedCase, generator: np.random.Generator
    ) -> tuple[torch.Tensor, list[int], np.ndarray]:
        """A crop around a random focus: intensity, tumor, organ (3, X, Y, Z); the window's size;
        and the focus in voxels of the crop."""
        image, labels = case.image, case.labels
        size = [max(12, int(generator.integers(min(48, n, self.largest), min(n, self.largest) + 1))
                    // 8 * 8) for n in image.shape]
        choice = generator.random()
        voxels = case.voxels[TUMOR if choice < TUMOR_SHARE else ORGAN]
        if len(voxels) and choice < TUMOR_SHARE + ORGAN_SHARE:
            focus = voxels[int(generator.integers(len(voxels)))]
        else:
            focus = np.array([int(generator.integers(n)) for n in image.shape])
        # Large enough for the window at any offset, rotation, scale and deformation.
        low = [max(0, int(f) - s - 8) for f, s in zip(focus, size, strict=True)]
        crop = tuple(slice(a, int(f) + s + 8) for a, f, s in zip(low, focus, size, strict=True))
        bits = labels[crop]
        stack = np.stack([image[crop].astype(np.float32), bits & TUMOR, (bits & ORGAN) // ORGAN])
        return torch.from_numpy(stack.astype(np.float32)), size, focus - np.array(low)


class MixedSampler:
    """Draws from several samplers, by their shares."""

    def __init__(self, samplers: Sequence[tuple[Sampler, float]]) -> None:
        self.samplers = [sampler for sampler, _ in samplers]
        shares = np.array([share for _, share in samplers])
        self.shares = shares / shares.sum()

    def draw(self, generator: np.random.Generator) -> Window:
        """A window of one of the samplers."""
        return self.samplers[generator.choice(len(self.samplers), p=self.shares)].draw(generator)
