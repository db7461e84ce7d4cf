"""Windows from the cases of public data sets: real tumors, and lesions grown in their organs."""

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

from DiffuGTSLib.datasets.case import LabelledCase
from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.prompt.vocabulary import vocabulary
from DiffuGTSLib.scan.canonical import Modality, mask_on_grid, to_canonical
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.cases import store
from DiffuGTSLib.training.data.organs import stripped_brain
from DiffuGTSLib.training.data.synthetic_lesions import add_lesion
from DiffuGTSLib.training.data.windows import Sampler, Source, Window, as_window

TUMOR, ORGAN = 1, 2  # bits of the stored labels
# How often a window is drawn around a tumor, and around the organ, where there is one.
AT_TUMOR, AT_ORGAN = 0.6, 0.25
GROWN_SHARE = 0.3  # of the windows, where lesions may be grown
OTHER_ASKED = 0.15  # as often a training prompt asks for an organ that is known to be elsewhere


@dataclass(frozen=True)
class StoredCase:
    """A case on the model's grid, on disk.

    Attributes:
        organ: id of anatomies.json, of the organ that the case's prompt names.
        outlined: whether the organ's outline is known.
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
        """Normalised, (X, Y, Z), read from disk where it is touched."""
        return np.load(self.files[0], mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        """Bits, (X, Y, Z), read from disk where they are touched."""
        return np.load(self.files[1], mmap_mode="r")

    @cached_property
    def places(self) -> dict[int, np.ndarray]:
        """Up to 4000 voxels (N, 3) of the tumor and of the organ."""
        labels, found = np.asarray(self.labels), {}
        for bit in (TUMOR, ORGAN):
            flat = np.flatnonzero(labels & bit)
            flat = flat[:: max(1, flat.size // 4000)]
            found[bit] = np.stack(np.unravel_index(flat, labels.shape), -1)
        return found


def stored(
    case: LabelledCase, cache: Path, spacing: tuple[float, float, float]
) -> StoredCase:
    """The case, resampled to `spacing` (mm) once and kept in `cache`.

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
    return StoredCase(case.name, case.patient, understand(case.prompt).anatomy, facts["modality"],
                      facts["outlined"], (image, labels))


def _write(
    case: LabelledCase, spacing: tuple[float, float, float], image: Path, labels: Path, about: Path
) -> None:
    """Resamples a case and writes its three files; the last one says that the others are there."""
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
    store(image, lambda stream: np.save(stream, canonical.tensor[0, 0].numpy().astype(np.float16)))
    store(labels, lambda stream: np.save(stream, bits.astype(np.uint8)))
    store(about, lambda stream: stream.write(facts.encode("ascii")))


def known_organs(case: StoredCase, organs: Sequence[str]) -> np.ndarray:
    """(len(organs),): of which organs presence and absence are known in a case.

    Its own where it is outlined; and a scan of the head holds no organ of the trunk, nor the
    other way round.
    """
    region = {organ: vocabulary().anatomies[organ].region for organ in organs}
    trunk = {"thorax", "abdomen", "pelvis"}
    far = trunk if region[case.organ] == "head" else {"head"} if region[case.organ] in trunk else ()
    return np.array([
        case.outlined if organ == case.organ else region[organ] in far for organ in organs
    ])


class CaseSampler:
    """Draws windows from stored cases, all alike.

    Args:
        organs: what windows' `organ` counts; holds every case's organ.
        ask: the organs that a prompt may ask for beside the case's own.
        grow: the organs in which lesions may be grown.
        voxel_mm: edge of the cases' voxels.
    """

    def __init__(
        self, cases: Sequence[StoredCase], organs: Sequence[str], largest: int = 96,
        ask: Collection[str] = (), grow: Collection[str] = (), voxel_mm: float = 2.0,
    ) -> None:
        self.cases, self.organs, self.largest = cases, organs, largest
        self.ask, self.grow, self.voxel_mm = ask, grow, voxel_mm

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
        if case.organ in self.grow and generator.random() < GROWN_SHARE:
            grown = add_lesion(image, inside & ~lesion, case.organ, case.modality, generator,
                               self.voxel_mm)
            if grown is not None:
                image, halo = grown.image, grown.halo & ~(lesion | grown.mask)
                lesion = lesion | grown.mask
        image = augment.degrade(image, generator, floor=0.0 if case.modality == "CT" else None)
        asked, others = own, [i for i, organ in enumerate(self.organs)
                              if known[i] and i != own and organ in self.ask]
        if others and generator.random() < OTHER_ASKED:
            asked = int(generator.choice(others))
        source = Source(case.organ, torch.empty(0), known, int(case.modality == "MR"))
        return as_window(image, lesion, halo, index, source, asked)

    def _around(
        self, case: StoredCase, generator: np.random.Generator
    ) -> tuple[torch.Tensor, list[int], np.ndarray]:
        """A crop around a drawn place: intensity, tumor, organ (3, X, Y, Z); the window's size;
        and the place in the crop."""
        image, labels = case.image, case.labels
        size = [max(12, int(generator.integers(min(48, n, self.largest), min(n, self.largest) + 1))
                    // 8 * 8) for n in image.shape]
        choice = generator.random()
        places = case.places[TUMOR if choice < AT_TUMOR else ORGAN]
        if len(places) and choice < AT_TUMOR + AT_ORGAN:
            focus = places[int(generator.integers(len(places)))]
        else:
            focus = np.array([int(generator.integers(n)) for n in image.shape])
        # Wide enough for the window anywhere around its focus, turned, stretched and bent.
        low = [max(0, int(f) - s - 8) for f, s in zip(focus, size, strict=True)]
        crop = tuple(slice(a, int(f) + s + 8) for a, f, s in zip(low, focus, size, strict=True))
        bits = labels[crop]
        stack = np.stack([image[crop].astype(np.float32), bits & TUMOR, (bits & ORGAN) // ORGAN])
        return torch.from_numpy(stack.astype(np.float32)), size, focus - np.array(low)


class Mixed:
    """Draws from several samplers, each by its share."""

    def __init__(self, samplers: Sequence[tuple[Sampler, float]]) -> None:
        self.samplers = [sampler for sampler, _ in samplers]
        shares = np.array([share for _, share in samplers])
        self.shares = shares / shares.sum()

    def draw(self, generator: np.random.Generator) -> Window:
        """A window of one of the samplers."""
        return self.samplers[generator.choice(len(self.samplers), p=self.shares)].draw(generator)
