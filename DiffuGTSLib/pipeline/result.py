"""What a run yields: scores on the model's grid, images and lesions on the input's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from DiffuGTSLib.models import Fusion
from DiffuGTSLib.models.card import shifted_threshold
from DiffuGTSLib.pipeline.inpainting import Box, CandidateOptions, Candidates, candidate_region
from DiffuGTSLib.pipeline.lesions import (
    Lesion,
    find_lesions,
    labelled,
    prominent,
    without_holes,
)
from DiffuGTSLib.pipeline.residual import Comparison, at_half_contrast
from DiffuGTSLib.prompt import Prompt
from DiffuGTSLib.scan import Canonical
from DiffuGTSLib.scan.canonical import (
    boxes_to_input_grid,
    normalise,
    parts_on_input_grid,
    to_input_grid,
)

_SAME_AT_EVERY_THRESHOLD = ("attention", "residual", "uncertainty", "pseudo_healthy", "boxes")


@dataclass
class Evidence:
    """Scores and residuals on the canonical grid, all float32 (X, Y, Z).

    Attributes:
        attention: the AOVA map.
        mask: bool, M: where healthy tissue was inpainted.
        healthy: the inpainted tissue, normalised intensity; only read inside `mask`.
        pixel, feature: residuals, 0 outside `mask`.
        residual: both, in units of their noise floors and compressed; 0 outside `mask`.
        uncertainty: spread of the pseudo-healthy samples, normalised intensity.
        score: the refined score in [0, 1]; the attention map is behind it, 0 outside `scored`.
        scored: bool, where there is a score, at lower thresholds; None: in `mask`.
    """

    attention: np.ndarray
    mask: np.ndarray
    healthy: np.ndarray
    pixel: np.ndarray
    feature: np.ndarray
    residual: np.ndarray
    uncertainty: np.ndarray
    score: np.ndarray
    scored: np.ndarray | None = None

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.attention.shape))
        return f"<Evidence on {size} voxels, {int(self.mask.sum())} of them inpainted>"

    @classmethod
    def nothing(cls, attention: np.ndarray, candidates: Candidates) -> Evidence:
        """Before any crop was inpainted."""
        blank = [np.zeros(attention.shape, np.float32) for _ in range(6)]
        return cls(attention, candidates.mask, *blank)

    def write(
        self, box: Box, mask: np.ndarray, fusion: Fusion, comparison: Comparison
    ) -> None:
        """Fills in one crop; where crops overlap, the first one stays.

        Args:
            mask: bool, M inside the crop `box`.
            comparison: the crop's; its tensors may lie on any device.
        """
        healthy, pixel, feature, spread = (
            part.cpu().numpy() for part in (
                comparison.healthy, comparison.pixel, comparison.feature, comparison.spread)
        )
        new = mask & (self.score[box] == 0)
        score = fusion.score(self.attention[box], pixel, feature)
        of_pixel, of_feature = fusion.evidence(pixel, feature)
        evidence = (of_pixel + of_feature) / 2
        for target, values in (
            (self.healthy, healthy), (self.pixel, pixel), (self.feature, feature),
            (self.residual, evidence), (self.uncertainty, spread), (self.score, score),
        ):
            target[box][new] = values[new]


@dataclass(frozen=True)
class CandidateSearch:
    """How the candidates of a run were drawn, so that a lower threshold can draw more of them.

    Attributes:
        threshold: what the attention has to reach in each.
        options: their least size, and others.
        fusion: what makes the score.
    """

    threshold: float
    options: CandidateOptions
    fusion: Fusion

    def at(
        self, threshold: float, evidence: Evidence, spacing: Sequence[float]
    ) -> tuple[Evidence, str]:
        """The evidence at a lower threshold, as a run at that threshold would have it where no
        residual counts; and what the user should know, "" for nothing.

        Args:
            evidence: of the run; it stays as it is.
            spacing: of its grid, in mm.
        """
        beyond = ~evidence.mask
        if threshold >= self.threshold or not (evidence.attention[beyond] >= threshold).any():
            return evidence, ""
        more = candidate_region(evidence.attention, threshold, spacing, self.options)[1] & beyond
        if not more.any():
            return evidence, ""
        if self.fusion.needs_residuals:
            return evidence, (
                f"Places whose attention stays below {self.threshold:.2f} were not compared with "
                "healthy tissue and are not marked. Run again with the lower threshold.")
        score = evidence.score.copy()
        nothing = np.zeros(int(more.sum()), np.float32)
        score[more] = self.fusion.score(evidence.attention[more], nothing, nothing)
        note = "" if not (score[more] > threshold).any() else (
            f"What only a threshold below {self.threshold:.2f} marks was not painted healthy: the "
            "pseudo-healthy scan and the residual do not show it.")
        return replace(evidence, score=score, scored=evidence.mask | more), note


@dataclass(frozen=True)
class Result:
    """The outcome of one prompt on one scan. Images are made when they are first needed.

    Attributes:
        prompt: how the text was understood.
        evidence: scores and residuals on the model's grid.
        canonical: the grids.
        image: the scan as it was given.
        threshold: of the refined score.
        notes: what the user should know of how it was made; sentences.
        model: its name; "" where it is not known.
        prominence: a lesion counts only if its highest score lies above the threshold by so much,
            as logits.
        reliability: how good the model is for such a prompt and scan, a sentence; "" where that
            is not stated.
        modality_reason: why the scan was taken for CT or MR, to follow these in a sentence.
        within: name of the region to which the search was limited; "" for none.
        search: of its candidates; None where that is not known.
        origin: what the run itself gave, where this is that at another threshold.
        half_contrast: lesions end at half of their contrast with the pseudo-healthy scan.
    """

    prompt: Prompt
    evidence: Evidence
    canonical: Canonical
    image: sitk.Image
    threshold: float
    notes: Sequence[str] = ()
    model: str = ""
    prominence: float = 0.0
    reliability: str = ""
    modality_reason: str = ""
    within: str = ""
    search: CandidateSearch | None = None
    origin: Result | None = None
    half_contrast: bool = False

    def __repr__(self) -> str:
        count, total = len(self.lesions), sum(lesion.volume_ml for lesion in self.lesions)
        found = (f"{count} lesion{'s' if count > 1 else ''}, {total:.2f} ml" if count else
                 f"no tumor found, highest score {self.highest_score:.2f}")
        model = f", model {self.model}" if self.model else ""
        return (f"<Result “{self.prompt.title}”: {found}, threshold {self.threshold:.2f}"
                f"{model}>")

    @property
    def modality(self) -> str:
        """"CT" or "MR", as which the scan was segmented."""
        return self.canonical.modality

    @property
    def found(self) -> bool:
        """Whether any lesion was found."""
        return bool(self.lesions)

    @property
    def highest_score(self) -> float:
        """The highest refined score of any voxel; without a candidate, that of the attention's
        highest without residuals.

        Not a lesion's score, which is the mean over its voxels (`Lesion.mean_score`).
        """
        highest, scored = self.evidence.attention.max(), self.evidence.mask.any()
        if scored or self.evidence.scored is not None:
            on_own_grid = sitk.GetArrayViewFromImage(self.probability).max() if (
                self.half_contrast) else 0.0
            return float(max(self.evidence.score.max(), on_own_grid))
        if self.search is None:
            return float(highest)
        nothing = np.zeros(1, np.float32)
        return float(self.search.fusion.score(np.atleast_1d(highest), nothing, nothing)[0])

    @property
    def needed_score(self) -> float:
        """What the highest score of a lesion has to exceed: the threshold, and the prominence."""
        if not self.prominence:
            return self.threshold  # exactly, not by way of its logit
        return shifted_threshold(self.threshold, self.prominence)

    @cached_property
    def boxes(self) -> list[Box]:
        """Boxes of the canonical grid around the parts of M; residuals and what was inpainted are
        0 outside them."""
        return list(ndimage.find_objects(ndimage.label(self.evidence.mask)[0]))

    @cached_property
    def _scored_boxes(self) -> list[Box]:
        if self.evidence.scored is None:
            return self.boxes
        return list(ndimage.find_objects(ndimage.label(self.evidence.scored)[0]))

    @cached_property
    def probability(self) -> sitk.Image:
        """The refined score, float32 in [0, 1], on the input's grid."""
        return self._scored_part(self.evidence.score)

    @cached_property
    def attention(self) -> sitk.Image:
        """The AOVA map, float32 in [0, 1], on the input's grid."""
        return to_input_grid(np.asarray(self.evidence.attention, np.float32), self.canonical)

    @cached_property
    def residual(self) -> sitk.Image:
        """Both residuals in units of their noise floors, log(1 + r), float32, the input's grid."""
        return self._inpainted_part(self.evidence.residual)

    @cached_property
    def uncertainty(self) -> sitk.Image:
        """Spread of the pseudo-healthy samples in the scan's own units, on the input's grid."""
        return self._inpainted_part(self.evidence.uncertainty * self._unit())

    @cached_property
    def mask(self) -> sitk.Image:
        """The lesions, uint8 0 and 1, on the input's grid; without what is too small for one."""
        return self.labels > 0

    @property
    def _counted(self) -> sitk.Image:
        """The refined score without what is not prominent enough, on the input's grid.

        Peaks are judged on the model's grid, as the calibration does: thick slices lower them.
        """
        score = self.evidence.score
        if self.prominence > 0:
            score = prominent(score, self.threshold, self.needed_score)
        return self.probability if score is self.evidence.score else self._scored_part(score)

    @cached_property
    def lesions(self) -> list[Lesion]:
        """The lesions, largest first."""
        return find_lesions(self.mask, self.probability, labels=self.labels)

    @cached_property
    def labels(self) -> sitk.Image:
        """The lesions' numbers, uint16, on the input's grid: 1 is the largest, 0 is none."""
        return labelled(without_holes(self._counted > self.threshold))

    @cached_property
    def pseudo_healthy(self) -> sitk.Image:
        """The scan with healthy tissue inpainted over the candidates, on the input's grid.

        Outside the inpainted region every voxel is the scan's own. Its type, too, where it holds
        whole numbers; else float32.
        """
        own = sitk.GetArrayViewFromImage(self.image)
        whole = own.dtype.kind in "iu"
        scan = sitk.Cast(self.image, self.image.GetPixelID() if whole else sitk.sitkFloat32)
        if not self.evidence.mask.any():
            return scan
        for region, (share, new) in parts_on_input_grid(
            self._fade_and_tissue(), self.boxes, self.canonical
        ):
            # From the scan itself, not from what an overlapping region has left.
            voxels = own[region[::-1]].astype(np.float32)
            inside = share > 0
            voxels[inside] += share[inside] * (new[inside] - voxels[inside])
            if whole:
                ends = np.iinfo(own.dtype)
                voxels = np.rint(voxels).clip(ends.min, ends.max)
            scan[region] = sitk.GetImageFromArray(voxels.astype(own.dtype if whole else np.float32))
        return scan

    def _fade_and_tissue(self) -> tuple[np.ndarray, np.ndarray]:
        """How much of the inpainted tissue shows, 0 to 1, and that tissue, in the scan's own units.

        The share fades inside M, so that the region's edge does not show and outside nothing
        changes. The tissue goes on beyond M's border, for the interpolation: a voxel is enough,
        since where no corner of the interpolation shows, its outcome is not used.
        """
        mask = self.evidence.mask
        fade, tissue = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
        for box in self.boxes:
            # Two voxels around: the share is 1 beyond that depth, and no nearest voxel is farther.
            near, edge = (
                tuple(slice(max(0, s.start - margin), s.stop + margin) for s in box)
                for margin in (2, 1)
            )
            inner, beyond = (
                tuple(slice(a.start - n.start, a.stop - n.start)
                      for a, n in zip(part, near, strict=True))
                for part in (box, edge)
            )
            depth = ndimage.distance_transform_edt(mask[near])
            fade[box] = np.clip(depth[inner] / 2.0, 0, 1)
            nearest = ndimage.distance_transform_edt(
                ~mask[near], return_distances=False, return_indices=True
            )
            healthy = self.evidence.healthy[near][tuple(n[beyond] for n in nearest)]
            tissue[edge] = healthy * self._unit() + self.canonical.limits[0]
        return fade, tissue

    def with_threshold(self, threshold: float) -> Result:
        """The same result at another threshold of the score, 0 to 1; no network runs.

        Below the threshold at which candidates were drawn, more of them are drawn, as far as that
        needs no residuals; the notes say what is missing.

        Raises:
            ValueError: the threshold is not in 0 to 1.
        """
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"the threshold must lie between 0 and 1, got {threshold}")
        run = self.origin or self
        evidence, note = run.evidence, ""
        if run.search is not None:
            evidence, note = run.search.at(threshold, evidence, run.canonical.spacing)
        other = replace(run, threshold=threshold, evidence=evidence, origin=run,
                        notes=[*run.notes, note] if note else run.notes)
        same = [*_SAME_AT_EVERY_THRESHOLD]
        if evidence is run.evidence:
            same.append("probability")
        other.__dict__.update({name: run.__dict__[name] for name in same
                               if name in run.__dict__})  # images are not resampled again
        return other

    def _unit(self) -> float:
        """What 1 on the normalised scale is in the scan's own units."""
        low, high = self.canonical.limits
        return high - low

    def _inpainted_part(self, array: np.ndarray) -> sitk.Image:
        return boxes_to_input_grid(array, self.boxes, self.canonical)

    def _scored_part(self, score: np.ndarray) -> sitk.Image:
        """A score (X, Y, Z) on the input's grid, lesions up to half of their contrast."""
        mask = self.evidence.mask
        if not (self.half_contrast and mask.any()):
            return boxes_to_input_grid(score, self._scored_boxes, self.canonical)
        image = boxes_to_input_grid(np.where(mask, 0, score), self._scored_boxes, self.canonical)
        own, labels = sitk.GetArrayViewFromImage(self.image), ndimage.label(mask)[0]
        # Between M and what lies around it is interpolated: no step may be there.
        scan = self.canonical.tensor[0, 0].numpy()
        healthy = np.where(mask, self.evidence.healthy, scan)
        for number, box in enumerate(self.boxes, 1):
            candidate = np.where(labels == number, score, 0)
            for region, (part, without) in parts_on_input_grid(
                [candidate, healthy], [box], self.canonical
            ):
                voxels = normalise(
                    own[region[::-1]], self.canonical.modality, self.canonical.limits)
                refined = at_half_contrast(part, np.abs(voxels - without))
                there = sitk.GetArrayFromImage(image[region])
                image[region] = sitk.GetImageFromArray(np.maximum(there, refined))
        return image
