"""What a run yields: scores on the model's grid, images and lesions on the input's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from DiffuGTSLib.grid import Canonical, intensity_range, to_input_grid
from DiffuGTSLib.inpainting import Box, Candidates
from DiffuGTSLib.lesions import Lesion, find_lesions
from DiffuGTSLib.prompt import Prompt
from DiffuGTSLib.residual import Fusion


@dataclass
class Evidence:
    """Scores and residuals on the canonical grid, all float32 (X, Y, Z).

    Attributes:
        attention: the AOVA map.
        mask: bool, M: where healthy tissue was painted.
        healthy: the painted tissue, normalised intensity; only read inside `mask`.
        pixel, feature: residuals, 0 outside `mask`.
        residual: both, in units of their noise floors and compressed; 0 outside `mask`.
        uncertainty: spread of the pseudo-healthy samples, normalised intensity.
        score: the refined score in [0, 1]; the attention map is behind it, 0 outside `mask`.
    """

    attention: np.ndarray
    mask: np.ndarray
    healthy: np.ndarray
    pixel: np.ndarray
    feature: np.ndarray
    residual: np.ndarray
    uncertainty: np.ndarray
    score: np.ndarray

    @classmethod
    def nothing(cls, attention: np.ndarray, candidates: Candidates) -> Evidence:
        """Before any crop was painted."""
        blank = [np.zeros(attention.shape, np.float32) for _ in range(6)]
        return cls(attention, candidates.mask, *blank)

    def write(
        self, box: Box, mask: np.ndarray, fusion: Fusion, *, healthy: np.ndarray,
        pixel: np.ndarray, feature: np.ndarray, spread: np.ndarray,
    ) -> None:
        """Fills in one crop; where crops overlap, the first one stays."""
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
class Result:
    """The outcome of one prompt on one scan. Images are made when they are first asked for.

    Attributes:
        prompt: how the text was understood.
        evidence: scores and residuals on the model's grid.
        canonical: the grids.
        image: the scan as it was given.
        threshold: of the refined score.
    """

    prompt: Prompt
    evidence: Evidence
    canonical: Canonical
    image: sitk.Image
    threshold: float

    @property
    def found(self) -> bool:
        """Whether any lesion was found."""
        return bool(self.lesions)

    @property
    def highest_score(self) -> float:
        """The highest refined score; where there was no candidate, the attention's highest."""
        refined = float(self.evidence.score.max())
        return refined if self.evidence.mask.any() else float(self.evidence.attention.max())

    @cached_property
    def probability(self) -> sitk.Image:
        """The refined score, float32 in [0, 1], on the input's grid."""
        return self._on_input(self.evidence.score)

    @cached_property
    def attention(self) -> sitk.Image:
        """The AOVA map, float32 in [0, 1], on the input's grid."""
        return self._on_input(self.evidence.attention)

    @cached_property
    def residual(self) -> sitk.Image:
        """Both residuals in units of their noise floors, log(1 + r), float32, the input's grid."""
        return self._on_input(self.evidence.residual)

    @cached_property
    def uncertainty(self) -> sitk.Image:
        """Spread of the pseudo-healthy samples in the scan's own units, on the input's grid."""
        return self._on_input(self.evidence.uncertainty * self._unit())

    @cached_property
    def mask(self) -> sitk.Image:
        """The lesions, uint8 0 and 1, on the input's grid."""
        if not self.evidence.mask.any():
            blank = sitk.Image(self.image.GetSize(), sitk.sitkUInt8)
            blank.CopyInformation(self.image)
            return blank
        above = sitk.Cast(self.probability > self.threshold, sitk.sitkUInt8)
        return sitk.BinaryFillhole(above)

    @cached_property
    def lesions(self) -> list[Lesion]:
        """The lesions, largest first."""
        return find_lesions(self.mask, self.probability)

    @cached_property
    def pseudo_healthy(self) -> sitk.Image:
        """The scan with healthy tissue painted over the candidates, float32, the input's grid.

        Outside the painted region every voxel is the scan's own.
        """
        scan = sitk.Cast(self.image, sitk.sitkFloat32)
        if not self.evidence.mask.any():
            return scan
        low, _ = self._limits()
        # Fades inside M, so that the region's edge does not show and outside nothing changes.
        fade = np.clip(ndimage.distance_transform_edt(self.evidence.mask) / 2.0, 0, 1)
        weight = self._on_input(fade.astype(np.float32))
        filled = ndimage.distance_transform_edt(
            ~self.evidence.mask, return_distances=False, return_indices=True
        )
        painted = self._on_input(self.evidence.healthy[tuple(filled)] * self._unit() + low)
        voxels, new = sitk.GetArrayFromImage(scan), sitk.GetArrayViewFromImage(painted)
        share = sitk.GetArrayViewFromImage(weight)
        inside = share > 0
        voxels[inside] += share[inside] * (new[inside] - voxels[inside])
        out = sitk.GetImageFromArray(voxels)
        out.CopyInformation(scan)
        return out

    def with_threshold(self, threshold: float) -> Result:
        """The same result at another threshold of the score, 0 to 1; no network runs.

        Raises:
            ValueError: the threshold is not in 0 to 1.
        """
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"the threshold must lie between 0 and 1, got {threshold}")
        return replace(self, threshold=threshold)

    def _limits(self) -> tuple[float, float]:
        return intensity_range(sitk.GetArrayViewFromImage(self.image), self.canonical.modality)

    def _unit(self) -> float:
        """What 1 on the normalised scale is in the scan's own units."""
        low, high = self._limits()
        return high - low

    def _on_input(self, array: np.ndarray) -> sitk.Image:
        return to_input_grid(np.asarray(array, np.float32), self.canonical)
