"""The grids of a volume: its own, that of a region, and that of the file for the model.

The file is in world coordinates: linear parent transforms are applied to the grid, not to the
voxels, so the model sees the true orientation of a scan that was rotated in Slicer. Results come
back voxel by voxel under the same transform, so nothing is resampled. With a nonlinear transform
the file has the scan as acquired. A sheared grid (gantry tilt) is orthogonalised, keeping slice
planes and voxel volumes.
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
# Cosine of the angle between two axes from which a grid counts as sheared: 0.06 degrees.
_MAX_COSINE = 1e-3
_MIN_SINE = 0.5


@dataclass(frozen=True)
class VolumeGrid:
    """The grid of a volume, or of a region of it.

    Attributes:
        ijkToRas: 4x4, indices of the whole volume to its own mm, without parent transform.
        extent: first and last index of the exported region along i, j, k.
        fileToRas: 4x4, indices of the region to the mm of the file, world RAS.
        note: a sentence where the file's grid differs in shape from the volume's.
    """

    ijkToRas: np.ndarray
    extent: Extent
    fileToRas: np.ndarray
    note: str = ""

    @property
    def regionToRas(self) -> np.ndarray:
        """4x4, indices of the region to the volume's own mm."""
        return self.ijkToRas @ _shift(self.extent)

    def toVolume(self, position: Position) -> Position:
        """A position from the file's mm to the volume's own, without parent transform."""
        index = np.linalg.solve(self.fileToRas, [*position, 1.0])
        x, y, z = (self.regionToRas @ index)[:3]
        return float(x), float(y), float(z)


def gridOf(volumeNode: Any, imageData: Any, roiNode: Any = None) -> VolumeGrid:
    """The grids of a volume and of its file for the model.

    Args:
        volumeNode: gives the grid and the parent transform.
        imageData: its voxels.
        roiNode: a Markups ROI; the region is the smallest one with all voxels that it touches.

    Raises:
        Failure: no usable grid, or the ROI is outside the volume.
    """
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    ijkToRas = slicer.util.arrayFromVTKMatrix(matrix)
    i, j, k = imageData.GetDimensions()
    extent = (0, i - 1, 0, j - 1, 0, k - 1)
    if roiNode is not None:
        extent = _touched(roiNode, volumeNode, ijkToRas, extent)
    transform = volumeNode.GetParentTransformNode()
    toWorld, note = ijkToRas @ _shift(extent), ""
    if transform is not None and transform.IsTransformToWorldLinear():
        transform.GetMatrixTransformToWorld(matrix)
        toWorld = slicer.util.arrayFromVTKMatrix(matrix) @ toWorld
    elif transform is not None:
        note = "The volume's transform is nonlinear; the scan was read without it."
    size = np.array(extent[1::2]) - extent[::2]
    fileToRas, sheared = orthogonalised(toWorld, size)
    if sheared:
        note = "The volume's axes are not orthogonal; the scan was read with orthogonal axes."
    return VolumeGrid(ijkToRas, extent, fileToRas, note)


def orthogonalised(matrix: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, bool]:
    """The grid with orthogonal axes, and whether the given one is sheared.

    Axis i keeps its direction, j its plane with i; the volume of a voxel and the centre of the grid
    stay the same.

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
    if upright.min() < _MIN_SINE:
        raise _degenerate()
    result = matrix.copy()
    result[:3, :3] = rotation * signs * np.abs(np.diag(upper))
    result[:3, 3] += (axes - result[:3, :3]) @ (np.asarray(size) / 2)
    units = axes / lengths
    cosines = np.abs(units.T @ units - np.eye(3))
    return result, bool(cosines.max() > _MAX_COSINE)


def worldOf(volumeNode: Any, position: Position) -> Position:
    """A position from a volume's own mm to world RAS, through its parent transform."""
    x, y, z = _between(volumeNode.GetParentTransformNode(), None).TransformPoint(position)
    return x, y, z


def _touched(roiNode: Any, volumeNode: Any, ijkToRas: np.ndarray, whole: Extent) -> Extent:
    """The part of `whole` with all voxels that the ROI touches."""
    half = np.array(roiNode.GetSize()) / 2
    toWorld = roiNode.GetObjectToWorldMatrix()
    toOwn = _between(None, volumeNode.GetParentTransformNode())
    corners = []
    for signs in product((-1, 1), repeat=3):
        world = toWorld.MultiplyPoint((*(half * signs), 1.0))[:3]
        corners.append(np.linalg.solve(ijkToRas, [*toOwn.TransformPoint(world), 1.0])[:3])
    # A voxel reaches half a voxel around its index; the margin keeps a corner on a border from
    # adding one.
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
    return Failure("unreadable-image", "The volume's axes are degenerate: two nearly coincide.",
                   "Check its spacing and directions in the module Volumes.")
