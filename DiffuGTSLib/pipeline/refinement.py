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
from DiffuGTSLib.pipeline.residual import Comparison, Rebuilt, compare
from DiffuGTSLib.progress import Progress

MAX_KEPT = 16  # crops: twice as many as a prompt has at most


class RebuiltCrops:
    """A scan's crops as the autoencoder gives them back, kept from prompt to prompt.

    Prompts on one scan often have their candidates in the same crops: two fifths of a comparison
    are then done already. Only crops in one piece are kept, on the scan's own device.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], Rebuilt] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, box: Box) -> Rebuilt | None:
        """The crop of that box, where it is kept."""
        return self._kept.get(_key(box))

    def keep(self, box: Box, rebuilt: Rebuilt) -> None:
        """Keeps a crop; the one that was kept first goes when they are too many."""
        self._kept[_key(box)] = rebuilt
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def clear(self) -> None:
        """Gives all memory back."""
        self._kept.clear()


def _key(box: Box) -> tuple[int, ...]:
    return tuple(end for s in box for end in (s.start, s.stop))


@dataclass(frozen=True)
class CropComparison:
    """Inpainting and comparing the crops of one prompt's candidates.

    Attributes:
        package: the model.
        planner: of the model's runs.
        latent: of the scan, scaled, (1, L, X/4, Y/4, Z/4).
        rebuilt: of the scan, from earlier prompts and for later ones.
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
    rebuilt: RebuiltCrops
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
            device = str(self.latent.device)
            if not self.planner.crop_fits((x, y, z), self.samples, device):
                self.rebuilt.clear()
            plans = self.planner.crop((x, y, z), self.samples, device)
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
                self.package.autoencoder, self._rebuilt(latent / scale, boxes[number], plan),
                [z / scale for z in healthy], plan.tiling,
            )

    def _rebuilt(self, latent: torch.Tensor, box: Box, plan: Plan) -> Rebuilt:
        """The crop of an unscaled latent, with nothing inpainted; kept, where memory suffices."""
        if plan.tiling is not None or plan.device != str(self.latent.device):
            self.rebuilt.clear()
            return Rebuilt(self.package.autoencoder, latent, plan.tiling)
        rebuilt = self.rebuilt.get(box)
        if rebuilt is None:
            rebuilt = Rebuilt(self.package.autoencoder, latent)
            self.rebuilt.keep(box, rebuilt)
        return rebuilt

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
