"""The brain in an MR of a whole head, found by registration to a template of the brain.

Affine, by Mattes' mutual information, which does not mind which sequence the scan is of: from the
top of the head, first turned, shifted and scaled as a whole, then along each axis as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.files import resource
from DiffuGTSLib.scan.canonical import canonical_geometry, resample

TEMPLATE = "Templates/brain_t1.nii.gz"
GRID_MM = (3.0, 3.0, 3.0)
BINS, SAMPLED, STEPS = 40, 0.5, 150
SEED = 1  # ITK shifts each sample a little; by default by the time of day
REACH_MM = 12.0  # around the template's brain: the skull, dark in the template, counts
BRAIN_HEIGHT_MM, HEAD_HEIGHT_MM = 63.0, 70.0  # from the top of each to where they are matched
# Of brains that were registered well (whole heads and stripped ones, all sequences, thick slices):
# 0.85 to 1.31 and 960 to 2190 ml.
GROWTH, VOLUME_ML = (0.75, 1.35), (800.0, 2200.0)
# Of the brain, inside the scan: in less than a head, anything that fits is taken for one.
LEAST_SHOWN = 0.7
# Of a whole head 0.34 times the brain or more lies farther than NEAR_MM from it; of a stripped
# brain nothing.
NEAR_MM, LEAST_AROUND, BRIGHT = 8.0, 0.15, 0.1


@dataclass(frozen=True)
class BrainFit:
    """The template's brain, laid over a scan.

    Attributes:
        mask: uint8, 1 in the brain; on the scan's grid.
        growth: how much larger the scan's brain is than the template's along three axes at right
            angles, from the least.
        shown: the share of the brain that lies inside the scan.
        around: bright tissue farther than 8 mm from the brain, in volumes of the brain: skull,
            scalp and neck.
    """

    mask: sitk.Image
    growth: tuple[float, float, float]
    shown: float
    around: float

    @property
    def volume_ml(self) -> float:
        """Of the whole brain, shown or not, in ml."""
        return float(np.prod(self.growth)) * template().volume_ml

    @property
    def is_whole_head(self) -> bool:
        """Whether size and shape are a brain's, and there is a head around it.

        No proof: many limbs pass, since a brain can be laid over anything of that size. Who has a
        gate of the brain has to ask that as well.
        """
        low, high = GROWTH
        least, most = VOLUME_ML
        return (low <= self.growth[0] and self.growth[-1] <= high
                and least <= self.volume_ml <= most and self.is_inside_a_body)

    @property
    def is_inside_a_body(self) -> bool:
        """Whether most of it lies inside the scan, with tissue around."""
        return self.shown >= LEAST_SHOWN and self.around >= LEAST_AROUND


@dataclass(frozen=True)
class Template:
    """A stripped brain on T1, and where it is."""

    image: sitk.Image
    brain: sitk.Image

    @property
    def volume_ml(self) -> float:
        """Of the brain, in ml."""
        voxel = float(np.prod(self.brain.GetSpacing())) / 1000
        return int(np.count_nonzero(sitk.GetArrayViewFromImage(self.brain))) * voxel


@cache
def template() -> Template:
    """The template that comes with the program; whose brain it is, NOTICE.txt says.

    Raises:
        UnreadableImage: the program is not whole.
    """
    path = resource(TEMPLATE)
    try:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError:
        raise UnreadableImage(f"The template of a brain, {path.name}, cannot be read.",
                              "Install the program again.") from None
    return Template(image, stripped_brain(image))


def stripped_brain(image: sitk.Image) -> sitk.Image:
    """The brain of a skull-stripped scan: voxels that are not 0, closed, holes filled; uint8."""
    voxels = sitk.GetArrayFromImage(image)
    inside = ndimage.binary_closing(np.abs(voxels) > 0, iterations=3)
    mask = sitk.GetImageFromArray(ndimage.binary_fill_holes(inside).astype(np.uint8))
    mask.CopyInformation(image)
    return mask


def fit_brain(image: sitk.Image) -> BrainFit | None:
    """Lays the template's brain over an MR of a head, on any grid.

    Returns:
        What was found, be it a brain or not (`BrainFit.is_whole_head`); None where the two cannot
        be brought to overlap, or the scan shows nothing.

    Raises:
        UnreadableImage: the template; the program is not whole.
    """
    moving = template()
    fixed = resample(sitk.Cast(image, sitk.sitkFloat32), canonical_geometry(image, GRID_MM))
    whole, affine = _start(fixed, moving), sitk.AffineTransform(3)
    if whole is None:
        return None
    try:
        _register(fixed, moving, whole, [4, 2], [2, 1])
        affine.SetCenter(whole.GetCenter())
        affine.SetMatrix(whole.GetMatrix())
        affine.SetTranslation(whole.GetTranslation())
        _register(fixed, moving, affine, [2, 1], [1, 0])
    except RuntimeError:  # ITK: too few samples of the scan lie in the template
        return None
    matrix = np.array(affine.GetMatrix()).reshape(3, 3)  # from the scan to the template
    growth = 1 / np.linalg.svd(matrix, compute_uv=False)
    if not np.isfinite(growth).all():
        return None
    share = sitk.Cast(moving.brain, sitk.sitkFloat32)
    coarse = sitk.Resample(share, fixed, affine, sitk.sitkLinear) > 0.5
    inside = sitk.GetArrayFromImage(coarse) > 0
    voxel_ml = float(np.prod(GRID_MM)) / 1000
    shown = np.count_nonzero(inside) * voxel_ml / (float(np.prod(growth)) * moving.volume_ml)
    return BrainFit(
        sitk.Resample(share, image, affine, sitk.sitkLinear) > 0.5,
        (float(growth[0]), float(growth[1]), float(growth[2])), min(float(shown), 1.0),
        _tissue_around(sitk.GetArrayFromImage(fixed), inside),
    )


def grown(mask: sitk.Image, margin_mm: float) -> sitk.Image:
    """What lies in a mask or at most `margin_mm` away from it: uint8, on the mask's grid."""
    return sitk.SignedMaurerDistanceMap(
        mask, insideIsPositive=False, squaredDistance=False, useImageSpacing=True) <= margin_mm


def _start(fixed: sitk.Image, moving: Template) -> sitk.Similarity3DTransform | None:
    """The scan's upper head on the template's upper brain; None where the scan shows nothing.

    Not its centre of mass: how much neck a scan shows would count.
    """
    voxels = sitk.GetArrayFromImage(fixed)
    bright = voxels > voxels.mean()
    if not bright.any():
        return None
    level = 0.15 * np.percentile(voxels[bright], 90)
    tissue = ndimage.binary_opening(ndimage.gaussian_filter(voxels, 1) > level, iterations=2)
    parts, count = ndimage.label(tissue)
    if not count:
        return None
    sizes = ndimage.sum_labels(tissue, parts, range(1, count + 1))
    head = np.argwhere(parts == 1 + int(np.argmax(sizes)))[:, ::-1]  # x, y, z
    top = np.percentile(head[:, 2], 99.9)
    center = head[head[:, 2] > top - 110.0 / GRID_MM[2]].mean(axis=0)
    center[2] = top - HEAD_HEIGHT_MM / GRID_MM[2]
    brain = np.argwhere(sitk.GetArrayViewFromImage(moving.brain))[:, ::-1]
    middle = brain.mean(axis=0)
    middle[2] = brain[:, 2].max() - BRAIN_HEIGHT_MM / moving.brain.GetSpacing()[2]
    here = np.array(fixed.TransformContinuousIndexToPhysicalPoint(center.tolist()))
    there = np.array(moving.brain.TransformContinuousIndexToPhysicalPoint(middle.tolist()))
    start = sitk.Similarity3DTransform()
    start.SetCenter(here.tolist())
    start.SetTranslation((there - here).tolist())
    return start


def _register(
    fixed: sitk.Image, moving: Template, transform: sitk.Transform, shrink: list[int],
    smoothing: list[int],
) -> None:
    """Changes a transform, from the scan to the template, until their mutual information is
    highest.

    Raises:
        RuntimeError: ITK's, where the two do not overlap.
    """
    reach = [round(REACH_MM / spacing) for spacing in moving.brain.GetSpacing()]
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(BINS)
    registration.SetMetricSamplingStrategy(registration.REGULAR)
    registration.SetMetricSamplingPercentage(SAMPLED, SEED)
    registration.SetMetricMovingMask(sitk.BinaryDilate(moving.brain, reach))
    registration.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, STEPS)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel(shrink)
    registration.SetSmoothingSigmasPerLevel(smoothing)
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetInitialTransform(transform, inPlace=True)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:  # with more than one, sums differ from run to run, and so would the mask
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        registration.Execute(fixed, moving.image)
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _tissue_around(voxels: np.ndarray, inside: np.ndarray) -> float:
    """Bright voxels farther than NEAR_MM from the brain, for each voxel of it; 0 without one."""
    if not inside.any():
        return 0.0
    far = ndimage.distance_transform_edt(~inside, sampling=GRID_MM) > NEAR_MM
    bright = voxels > BRIGHT * np.median(voxels[inside])
    return float(np.count_nonzero(bright & far) / np.count_nonzero(inside))
