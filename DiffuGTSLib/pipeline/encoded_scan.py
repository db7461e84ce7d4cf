"""A scan on its way through the networks: on the model's grid, and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from DiffuGTSLib.pipeline.encoding import Encoding
from DiffuGTSLib.pipeline.refinement import RebuiltCrops
from DiffuGTSLib.scan import Canonical, Scan
from DiffuGTSLib.scan.body import lungs_of_a_chest
from DiffuGTSLib.scan.brain import BrainFit, fit_brain
from DiffuGTSLib.scan.canonical import canonical_image

LUNGS_MM = 4.0


@dataclass(frozen=True)
class PreparedScan:
    """A scan that was read and brought to the model's grid; no network has seen it yet."""

    scan: Scan
    canonical: Canonical


@dataclass(frozen=True)
class EncodedScan:
    """A scan that any number of prompts can be run on, without encoding it again.

    Attributes:
        canonical: the scan on the model's grid.
        encoding: what the networks made of it.
        latent: mu(E(I)) x scale, (1, L, X/4, Y/4, Z/4).
        image: the scan as it was given.
        name: for tables; no path.
        class_label: the denoiser's, of modality and sequence.
        sequence: of MR, as `Scan` has it; "" where it is not known.
        skull_stripped: nothing but the brain is left, as far as that is stated.
        notes: what the user should know of how it was encoded; sentences.
        modality_reason: why it is taken for CT or MR, to follow these in a sentence.
        rebuilt: crops that earlier prompts have had decoded.
    """

    canonical: Canonical
    encoding: Encoding
    latent: torch.Tensor
    image: sitk.Image
    name: str
    class_label: int
    sequence: str = ""
    skull_stripped: bool = False
    notes: Sequence[str] = ()
    modality_reason: str = ""
    rebuilt: RebuiltCrops = field(default_factory=RebuiltCrops)

    @property
    def features(self) -> list[torch.Tensor]:
        """Features concatenated with their context, a tensor a level; see `Encoding`."""
        return self.encoding.features

    @property
    def device(self) -> str:
        """Where it lies, and where prompts are run on it."""
        return str(self.latent.device)

    @cached_property
    def brain(self) -> BrainFit | None:
        """A brain laid over the scan, which may be none; found when it is first asked for."""
        return fit_brain(canonical_image(self.canonical.tensor[0, 0].numpy(), self.canonical))

    @cached_property
    def lungs(self) -> np.ndarray | None:
        """The lungs of a whole chest in CT, bool (X, Y, Z); None where it shows no two lungs that
        hold air. Found on a grid of 4 mm when they are first asked for."""
        image = self.canonical.tensor
        size = [max(1, round(n * step / LUNGS_MM)) for n, step in
                zip(image.shape[2:], self.canonical.spacing, strict=True)]
        coarse = F.interpolate(image, size, mode="area")[0, 0].numpy()
        found = lungs_of_a_chest(coarse, LUNGS_MM)
        if found is None:
            return None
        share = torch.from_numpy(found.astype(np.float32))[None, None]
        return F.interpolate(share, image.shape[2:], mode="trilinear")[0, 0].numpy() > 0.5
