"""Where a volume's voxels lie: its own grid, a region of it, and the grid that the model sees.

The model sees the scan as it lies in the world: linear parent transforms are applied to the grid
(not to the voxels), so that a scan that was turned in Slicer is read in its true orientation. The
results come back voxel by voxel and are put under the same transform, so that nothing is resampled.
A transform that warps has no single grid: the model then sees the scan as it was acquired. A
sheared grid (gantry tilt) is shown to the model straightened, keeping slice planes and volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import slicer
import vtk

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import Position

Extent = tuple[int, int, int, int, int, int]
# cos of the angle between two axes, from which on they are called sheared: 0.06 degrees.
_SHEAR = 1e-3
_SMALLEST_SINE = 0.5


@dataclass(frozen=True)
class Placement:
    """The grid of a volume, or of a region of it.

    Attributes:
        ijkToRas: 4x4, indices of the whole volume to its own mm, without parent transform.
        extent: first and last index along i, j, k that are used.
        fileToRas: 4x4, indices of the used region to the mm that the model sees.
        note: in words, where the model's grid is not simply the volume's.
    """

    ijkToRas: np.ndarray
    extent: Extent
    fileToRas: np.ndarray
    note: str = ""

    @property
    def regionToRas(self) -> np.ndarray:
        """4x4, indices of the used region to the volume's own mm."""
        return self.ijkToRas @ _shift(self.extent)

    def own(self, position: Position) -> Position:
        """From the model's mm to the volume's own, without parent transform."""
        index = np.linalg.solve(self.fileToRas, [*position, 1.0])
        x, y, z = (self.regionToRas @ index)[:3]
        return float(x), float(y), float(z)


def place(volumeNode: Any, imageData: Any, roiNode: Any = None) -> Placement:
    """How a volume is shown to the model.

    Args:
        volumeNode: gives the grid and the parent transform.
        imageData: its voxels.
        roiNode: a Markups ROI; the smallest region that holds all voxels it touches is used.

    Raises:
        Failure: no usable grid, or the region lies beside the volume.
    """
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    ijkToRas = slicer.util.arrayFromVTKMatrix(matrix)
    i, j, k = imageData.GetDimensions()
    extent = (0, i - 1, 0, j - 1, 0, k - 1)
    if roiNode is not None:
        extent = _touched(roiNode, volumeNode, ijkToRas, extent)
    transform = volumeNode.GetParentTransformNode()
    seen, note = ijkToRas @ _shift(extent), ""
    if transform is not None and transform.IsTransformToWorldLinear():
        transform.GetMatrixTransformToWorld(matrix)
        seen = slicer.util.arrayFromVTKMatrix(matrix) @ seen
    elif transform is not None:
        note = "The volume's transform warps it; the scan was read as it lies without it."
    size = np.array(extent[1::2]) - extent[::2]
    straight, sheared = straightened(seen, size)
    if sheared:
        note = "The volume's axes are not at right angles; the scan was read straightened."
    return Placement(ijkToRas, extent, straight, note)


def straightened(matrix: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, bool]:
    """The nearest grid with axes at right angles, and whether that is another one.

    Axis i keeps its direction, j its plane with i; voxels keep their volume, and the middle of the
    grid its place.

    Args:
        matrix: 4x4, indices to mm.
        size: last index along i, j, k.

    Raises:
        Failure: the grid is degenerate, or sheared by more than 60 degrees.
    """
    axes = matrix[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(matrix).all() and lengths.min() > 0):
        raise _degenerate()
    rotation, upper = np.linalg.qr(axes)
    signs = np.sign(np.diag(upper))
    upright = np.abs(np.diag(upper)) / lengths
    if upright.min() < _SMALLEST_SINE:
        raise _degenerate()
    straight = matrix.copy()
    straight[:3, :3] = rotation * signs * np.abs(np.diag(upper))
    straight[:3, 3] += (axes - straight[:3, :3]) @ (np.asarray(size) / 2)
    units = axes / lengths
    cosines = np.abs(units.T @ units - np.eye(3))
    return straight, bool(cosines.max() > _SHEAR)


def worldOf(volumeNode: Any, position: Position) -> Position:
    """From a volume's own mm to the world's, through its parent transform."""
    x, y, z = _between(volumeNode.GetParentTransformNode(), None).TransformPoint(position)
    return x, y, z


def _touched(roiNode: Any, volumeNode: Any, ijkToRas: np.ndarray, whole: Extent) -> Extent:
    """The part of `whole` that holds all voxels which the region touches."""
    half = np.array(roiNode.GetSize()) / 2
    toWorld = roiNode.GetObjectToWorldMatrix()
    toOwn = _between(None, volumeNode.GetParentTransformNode())
    corners = []
    for signs in product((-1, 1), repeat=3):
        world = toWorld.MultiplyPoint((*(half * signs), 1.0))[:3]
        corners.append(np.linalg.solve(ijkToRas, [*toOwn.TransformPoint(world), 1.0])[:3])
    # Half a voxel belongs to each index; the margin keeps a corner on a border from adding one.
    first = np.floor(np.min(corners, axis=0) + 0.5 + 1e-6).astype(int)
    last = np.ceil(np.max(corners, axis=0) - 0.5 - 1e-6).astype(int)
    first = np.maximum(first, whole[::2])
    last = np.minimum(last, whole[1::2])
    if (first > last).any():
        raise Failure("roi-outside", "The region of interest lies outside the volume.",
                      "Move it onto the volume, or choose none.")
    i, j, k = ((int(low), int(high)) for low, high in zip(first, last, strict=True))
    return (*i, *j, *k)


def _between(source: Any, target: Any) -> Any:
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, transform)
    return transform


def _shift(extent: Extent) -> np.ndarray:
    shift = np.eye(4)
    shift[:3, 3] = extent[::2]
    return shift


def _degenerate() -> Failure:
    return Failure("unreadable-image", "The volume's axes cannot be right: they nearly coincide.",
                   "Check its spacing and directions in the module Volumes.")
