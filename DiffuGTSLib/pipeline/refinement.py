"""Candidates against healthy tissue, crop by crop: inpaint each crop, then compare it with what was
inpainted (METHOD.md 3 and 4). What differs is evidence, from which the score is refined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from DiffuGTSLib.models import Package
from DiffuGTSLib.networks import Conditioning
from DiffuGTSLib.networks.device import precision
from DiffuGTSLib.pipeline.inpainting import Box, Candidates, inpaint, latent_mask
from DiffuGTSLib.pipeline.memory_plan import Plan, Planner, carry_out
from DiffuGTSLib.pipeline.residual import Comparison, compare
from DiffuGTSLib.progress import Progress


@dataclass(frozen=True)
class CropComparison:
    """Inpainting and comparing the crops of one prompt's candidates.

    Attributes:
        package: the model.
        planner: of the model's runs.
        latent: of the scan, scaled, (1, L, X/4, Y/4, Z/4).
        candidates: where to inpaint.
        conditioning: what the denoiser is given beside the latent.
        samples: pseudo-healthy samples a crop.
        seed: of the inpainting.
        steps: gets each denoising step.
        on_note: called with a sentence where memory runs out.
    """

    package: Package
    planner: Planner
    latent: torch.Tensor
    candidates: Candidates
    conditioning: Conditioning
    samples: int
    seed: int
    steps: Progress
    on_note: Callable[[str], None]

    def compare_each(self) -> Iterator[tuple[Box, Comparison]]:
        """Each candidate's crop and what differs in it, one crop after the other.

        Raises:
            TooLarge, OutOfMemory: a crop does not fit.
            Cancelled: through `steps`.
        """
        for number, box in enumerate(self.candidates.boxes):
            x, y, z = (s.stop - s.start for s in box)
            plans = self.planner.crop((x, y, z), self.samples, str(self.latent.device))
            yield box, carry_out(plans, partial(self._compared, number), "A region was inpainted",
                                 self.on_note)

    def _compared(self, number: int, plan: Plan) -> Comparison:
        """A crop beside its pseudo-healthy samples."""
        self.package.place(plan.device)
        boxes, scale = self.candidates.boxes, self.package.card.scale_factor
        latent = self.latent[(..., *_coarser(boxes[number], self.package.autoencoder.downscale))]
        latent = latent.to(plan.device)
        healthy = [self._inpainted(latent, number, sample) for sample in range(self.samples)]
        self.steps.step("residual", number, len(boxes))
        with torch.inference_mode(), precision(plan.device):
            return compare(
                self.package.autoencoder, latent / scale, [z / scale for z in healthy],
                plan.tiling,
            )

    def _inpainted(self, latent: torch.Tensor, number: int, sample: int) -> torch.Tensor:
        """One pseudo-healthy latent of a crop, scaled."""
        package = self.package
        # A generator a crop and sample: no crop's outcome depends on the others.
        generator = torch.Generator().manual_seed(self.seed * 7919 + number * 101 + sample)
        mask = torch.from_numpy(
            np.ascontiguousarray(self.candidates.mask[self.candidates.boxes[number]])
        )
        schedule = package.schedule(package.card.steps, latent[0, 0].numel())
        done = (number * self.samples + sample) * package.card.steps
        total = len(self.candidates.boxes) * self.samples * package.card.steps
        with torch.inference_mode(), precision(latent.device.type):
            return inpaint(
                package.denoiser, schedule, latent,
                latent_mask(mask, package.autoencoder.downscale).to(latent), self.conditioning,
                generator, self.steps, done, total, package.card.resamplings,
            )


def _coarser(box: Box, factor: int) -> Box:
    """A crop's box on the latent's grid."""
    x, y, z = (slice(s.start // factor, s.stop // factor) for s in box)
    return x, y, z
