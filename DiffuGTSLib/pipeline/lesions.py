"""From a mask to lesions: connected components, volume, diameters, position, score.

Diameters are measured between the outer edges of the voxels (through the middle of a voxel's
face, not its corner): a row of n voxels measures n spacings and one voxel measures one, which is
half a voxel more at each end than from centre to centre.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

# A ball of 3.9 mm: smaller spots are below what radiology measures and mostly noise.
MINIMUM_ML = 0.03
_MOST_LABELS = 65535


@dataclass(frozen=True)
class Lesion:
    """One connected part of a mask.

    Attributes:
        number: 1 is the largest; the value in the image that `labelled` returns.
        volume_ml: number of voxels times the voxel's volume.
        longest_diameter_mm: the longest distance inside one axial slice, over all slices (as in
            RECIST and WHO). Axial means the input's own slice plane that is nearest to axial.
        perpendicular_mm: in that slice, the longest chord at right angles to the longest diameter.
        feret_3d_mm: the longest distance in any direction of space.
        centroid_ras_mm: mean position of the voxels, axes to the right, anterior and superior.
        mean_score: mean of the score (0..1) over the lesion's voxels.
        max_score: highest score in the lesion.
        slice_range: first and last voxel index along the axis nearest to superior.
    """

    number: int
    volume_ml: float
    longest_diameter_mm: float
    perpendicular_mm: float
    feret_3d_mm: float
    centroid_ras_mm: tuple[float, float, float]
    mean_score: float
    max_score: float
    slice_range: tuple[int, int]

    def name(self, prompt_title: str) -> str:
        """The lesion's name: "liver tumor 1" for the largest one of the prompt "liver tumor"."""
        return f"{prompt_title} {self.number}"

    def as_dict(self) -> dict[str, Any]:
        """The same fields as plain numbers and lists, ready for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def axial_axis(image: sitk.Image) -> int:
    """The voxel axis (0, 1 or 2 in SimpleITK's order) that is nearest to superior-inferior."""
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return int(np.argmax(np.abs(direction[2])))


def labelled(mask: sitk.Image, minimum_ml: float = MINIMUM_ML) -> sitk.Image:
    """The lesions of `mask` as uint16 labels on the same grid, 1 = largest, 0 = none.

    Args:
        mask: 3D, nonzero is lesion. Voxels that touch at a face, edge or corner belong together.
        minimum_ml: smaller parts are left out.
    """
    labels = sitk.Image(mask.GetSize(), sitk.sitkUInt16)
    labels.CopyInformation(mask)
    box = bounding_box(mask)
    if box is None:
        return labels
    corner, size = box
    crop = sitk.RegionOfInterest(mask, size, corner)
    return sitk.Paste(labels, _components(crop, minimum_ml), size, [0, 0, 0], corner)


def without_holes(mask: sitk.Image) -> sitk.Image:
    """The mask with its holes filled: what a face-to-face path out of the image does not reach.

    Args:
        mask: 3D, 0 and 1. What touches at a face, edge or corner encloses its holes alone, so that
            each such part is filled within its own box.
    """
    box = bounding_box(mask)
    if box is None:
        return mask
    corner, size = box
    crop = sitk.RegionOfInterest(mask, size, corner)
    parts = sitk.GetArrayFromImage(sitk.ConnectedComponent(crop, True))
    filled = sitk.GetArrayFromImage(crop)
    for number, place in enumerate(ndimage.find_objects(parts), 1):
        if min(parts[place].shape) > 2:  # a hole has a wall on both sides
            own = sitk.GetImageFromArray((parts[place] == number).astype(np.uint8))
            filled[place] |= sitk.GetArrayFromImage(sitk.BinaryFillhole(own))
    return sitk.Paste(mask, sitk.GetImageFromArray(filled), size, [0, 0, 0], corner)


def prominent(score: np.ndarray, threshold: float, least: float) -> np.ndarray:
    """The score, with 0 in the connected parts above `threshold` that nowhere exceed `least`.

    Args:
        score: (X, Y, Z), 0..1. Voxels that touch at a face, edge or corner belong together.
    """
    labels, count = ndimage.label(score > threshold, np.ones((3, 3, 3)))
    highest = np.asarray(ndimage.maximum(score, labels, np.arange(count + 1)))
    let_go = highest <= least
    let_go[0] = False
    return np.where(let_go[labels], 0.0, score) if let_go.any() else score


def find_lesions(
    mask: sitk.Image, score: sitk.Image, minimum_ml: float = MINIMUM_ML,
    labels: sitk.Image | None = None,
) -> list[Lesion]:
    """Measures each connected part of `mask`, the largest first.

    Args:
        mask: 3D, nonzero is lesion.
        score: 0..1 on the same grid.
        minimum_ml: smaller parts are left out.
        labels: what `labelled` gives of them, where that is known already.

    Raises:
        ValueError: `score` has another size than `mask`.
    """
    if mask.GetSize() != score.GetSize():
        raise ValueError(f"mask {mask.GetSize()} and score {score.GetSize()} differ in size")
    box = bounding_box(mask)
    if box is None:
        return []
    corner, size = box
    if labels is None:
        labels = _components(sitk.RegionOfInterest(mask, size, corner), minimum_ml)
    else:
        labels = sitk.RegionOfInterest(labels, size, corner)
    scores = sitk.Cast(sitk.RegionOfInterest(score, size, corner), sitk.sitkFloat32)
    scores.CopyInformation(labels)
    statistics = sitk.LabelIntensityStatisticsImageFilter()
    # SimpleITK's Feret diameter compares all pairs of border voxels: minutes on a large lesion.
    statistics.ComputeFeretDiameterOff()
    statistics.ComputePerimeterOff()
    statistics.Execute(labels, scores)
    first = corner[axial_axis(mask)]
    return [_measure(labels, statistics, label, first) for label in statistics.GetLabels()]


def _components(crop: sitk.Image, minimum_ml: float) -> sitk.Image:
    """Connected components of `crop` by size, as uint16; parts under `minimum_ml` are gone."""
    voxel_ml = float(np.prod(crop.GetSpacing())) / 1000
    # The margin keeps a part of exactly the minimum, whatever the rounding.
    smallest = max(1, int(np.ceil(minimum_ml / voxel_ml - 1e-6)))
    components = sitk.ConnectedComponent(crop != 0, True)
    ordered = sitk.RelabelComponent(components, smallest, True)
    return sitk.Cast(sitk.Threshold(ordered, 0, _MOST_LABELS, 0), sitk.sitkUInt16)


def bounding_box(mask: sitk.Image) -> tuple[list[int], list[int]] | None:
    """First index and size (x, y, z) of the box around the nonzero voxels; None without any."""
    array = sitk.GetArrayViewFromImage(mask)
    planes = np.flatnonzero(np.any(array, axis=(1, 2)))
    if planes.size == 0:
        return None
    flat: np.ndarray = np.any(array[planes[0] : planes[-1] + 1], axis=0)
    spans = [np.flatnonzero(flat.any(axis=0)), np.flatnonzero(flat.any(axis=1)), planes]
    return [int(s[0]) for s in spans], [int(s[-1] - s[0] + 1) for s in spans]


def _measure(
    labels: sitk.Image, statistics: sitk.LabelIntensityStatisticsImageFilter, label: int, first: int
) -> Lesion:
    """The numbers of one label; `first` is the crop's offset along the axial axis."""
    box = statistics.GetBoundingBox(label)
    crop = sitk.RegionOfInterest(labels, box[3:], box[:3])
    axis = axial_axis(labels)
    # (x, y, z) order, then the axial axis in front: a stack of slices.
    stack = np.moveaxis(sitk.GetArrayFromImage(crop == label).T.astype(bool), axis, 0)
    spacing = np.array(labels.GetSpacing())
    within = np.delete(spacing, axis)
    longest, perpendicular = _longest_of_slices(stack, within)
    left, posterior, superior = statistics.GetCentroid(label)
    start = first + box[axis]
    return Lesion(
        number=int(label),
        volume_ml=statistics.GetPhysicalSize(label) / 1000,
        longest_diameter_mm=longest,
        perpendicular_mm=perpendicular,
        feret_3d_mm=_longest_distance(_faces(stack, np.array([spacing[axis], *within])))[0],
        centroid_ras_mm=(-left, -posterior, superior),
        mean_score=statistics.GetMean(label),
        max_score=statistics.GetMaximum(label),
        slice_range=(start, start + box[3 + axis] - 1),
    )


def _faces(voxels: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Middles of the outer faces (2D: sides) of a boolean array, in mm: (points, dimensions).

    Only the ends of each row along the last axis are kept: no other voxel can be on the hull.
    """
    occupied = voxels.any(axis=-1)
    rows = np.argwhere(occupied)
    first = voxels[occupied].argmax(axis=-1)
    last = voxels.shape[-1] - 1 - voxels[occupied][:, ::-1].argmax(axis=-1)
    ends = np.vstack([np.column_stack([rows, first]), np.column_stack([rows, last])])
    half = np.eye(voxels.ndim) / 2
    steps = np.vstack([half, -half])
    return ((ends[:, None, :] + steps) * spacing).reshape(-1, voxels.ndim)


def _longest_distance(points: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The longest distance between two of `points`, the unit vector along it, and the hull.

    In 2D the hull's corners come in order around it.
    """
    hull = points[ConvexHull(points).vertices]
    distances = squareform(pdist(hull))
    one, other = np.unravel_index(np.argmax(distances), distances.shape)
    longest = float(distances[one, other])
    return longest, (hull[other] - hull[one]) / longest, hull


def _longest_of_slices(stack: np.ndarray, spacing: np.ndarray) -> tuple[float, float]:
    """The largest of the slices' `_diameters`. No slice is measured that is too small to have it:
    most of a lesion's are."""
    boxes = [ndimage.find_objects(plane.view(np.uint8)) for plane in stack]
    sides = [[s.stop - s.start for s in box[0]] if box else [0, 0] for box in boxes]
    # The box's diagonal; a little more, for the rounding.
    reach = np.hypot(*(np.array(sides) * spacing).T) * (1 + 1e-9)
    best = (0.0, 0.0)
    for index in np.argsort(-reach):
        if reach[index] < best[0]:
            break
        best = max(best, _diameters(stack[index], spacing))
    return best


def _diameters(plane: np.ndarray, spacing: np.ndarray) -> tuple[float, float]:
    """Longest diameter of one slice and the longest chord at right angles to it, in mm."""
    if not plane.any():
        return 0.0, 0.0
    longest, along, hull = _longest_distance(_faces(plane, spacing))
    positions = hull @ along
    heights = hull @ np.array([-along[1], along[0]])
    # From the first end around to the other and back: the hull's two sides. The chord's length
    # is concave and linear between corners, so that its maximum lies at a corner.
    turn = -int(np.argmin(positions))
    positions, heights = np.roll(positions, turn), np.roll(heights, turn)
    end = int(np.argmax(positions))
    back = np.r_[np.arange(len(hull) - 1, end - 1, -1)]
    there = np.interp(positions, positions[: end + 1], heights[: end + 1])
    home_positions = np.r_[positions[0], positions[back]]
    home = np.interp(positions, home_positions, np.r_[heights[0], heights[back]])
    return longest, float(np.abs(there - home).max())
