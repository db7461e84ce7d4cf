"""Candidates against healthy tissue, crop by crop: inpaint each crop, then compare it with what was
inpainted (METHOD.md 3 and 4). What differs is evidence, from which the score is refined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import ndimage

from DiffuGTSLib.models import Package
from DiffuGTSLib.networks import Conditioning
from DiffuGTSLib.networks.device import precision
from DiffuGTSLib.pipeline.inpainting import Box, Candidates, inpaint, latent_mask
from DiffuGTSLib.pipeline.memory_plan import Plan, Planner, carry_out
from DiffuGTSLib.pipeline.residual import Comparison, Rebuilt, compare
from DiffuGTSLib.progress import Progress

MAX_KEPT = 16  # crops: twice as many as a prompt has at most
# Of an autoencoder without normalisation, in latent voxels: so far beyond what was inpainted is
# decoded and encoded, so that residuals inside are those of the whole crop to a hundredth (and the
# samples' spread to a twentieth); and the grid on which it ends, so that prompts with nearly the
# same candidates share it.
_REACH, _GRID = 2, 2


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
        """Each crop, or the part of it that was compared, and what differs there, one by one.

        What an earlier crop has compared already is not compared again.

        Raises:
            TooLarge, OutOfMemory: a crop does not fit.
            Cancelled: through `steps`.
        """
        pending = self.candidates.mask.copy()
        for number, box in enumerate(self.candidates.boxes):
            extents = ndimage.find_objects(pending[box].view(np.uint8))
            pending[box] = False
            if not extents:
                continue
            part = self._part(box, extents[0])
            x, y, z = (s.stop - s.start for s in box)
            device = str(self.latent.device)
            if not self.planner.crop_fits((x, y, z), self.samples, device):
                self.rebuilt.clear()
            plans = self.planner.crop((x, y, z), self.samples, device)
            yield part, carry_out(plans, partial(self._compared, number, part),
                                  "A region was inpainted", self.on_note)

    def _part(self, box: Box, extent: Box) -> Box:
        """The part of a crop to compare: around `extent`, which is counted from the crop's start.

        All of it where the autoencoder normalises, and so sees each voxel in the light of all.
        """
        if self.package.autoencoder.config.norm_num_groups is not None:
            return box
        factor = self.package.autoencoder.downscale
        reach, grid = _REACH * factor, _GRID * factor
        x, y, z = (
            slice(max(whole.start, (whole.start + inner.start - reach) // grid * grid),
                  min(whole.stop, -((-whole.start - inner.stop - reach) // grid) * grid))
            for whole, inner in zip(box, extent, strict=True)
        )
        return x, y, z

    def _compared(self, number: int, part: Box, plan: Plan) -> Comparison:
        """A part of a crop beside its pseudo-healthy samples."""
        self.package.place(plan.device)
        boxes, scale = self.candidates.boxes, self.package.card.scale_factor
        latent = self.latent[(..., *_coarser(boxes[number], self.package.autoencoder.downscale))]
        latent = latent.to(plan.device)
        healthy = [self._inpainted(latent, number, sample) for sample in range(self.samples)]
        inner = _coarser(_within(part, boxes[number]), self.package.autoencoder.downscale)
        self.steps.step("residual", number, len(boxes))
        with torch.inference_mode(), precision(plan.device):
            return compare(
                self.package.autoencoder,
                self._rebuilt(latent[(..., *inner)] / scale, part, plan),
                [z[(..., *inner)] / scale for z in healthy], plan.tiling,
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


def _within(part: Box, box: Box) -> Box:
    """A part's box counted from the start of the crop that it lies in."""
    x, y, z = (slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, box, strict=True))
    return x, y, z


def _coarser(box: Box, factor: int) -> Box:
    """A crop's box on the latent's grid."""
    x, y, z = (slice(s.start // factor, s.stop // factor) for s in box)
    return x, y, z
