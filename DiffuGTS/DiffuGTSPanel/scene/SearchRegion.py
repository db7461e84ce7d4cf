"""Segments that limit the search, as voxels of the scan."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid

# Resampled at a time: 4 slices of 512 x 512 take up to 11 ms, a whole scan half a second.
_PIECE_VOXELS = 500_000
_MAX_NAMED = 3


@dataclass(frozen=True)
class SearchRegion:
    """What a run is limited to.

    Attributes:
        array: uint8 (K, J, I), 1 inside; of the part of the scan that is searched.
        name: of the segments, for sentences.
    """

    array: np.ndarray
    name: str


def checkSegmentation(node: Any, segment: Any) -> None:
    """Refuses what is no segmentation, where it is passed.

    Raises:
        TypeError: with what it is instead.
    """
    if node is not None and not isinstance(node, slicer.vtkMRMLSegmentationNode):
        given = node.GetClassName() if isinstance(node, vtk.vtkObject) else type(node).__name__
        raise TypeError(f"within has to be a vtkMRMLSegmentationNode, not a {given}; import a "
                        "labelmap into a segmentation first")
    if not isinstance(segment, str):
        raise TypeError("withinSegment has to be the id or name of one segment, not a "
                        f"{type(segment).__name__}")
    if segment and node is None:
        raise TypeError("withinSegment needs the segmentation that has it: within")


def readRegion(
    volumeNode: Any, segmentationNode: Any, segment: str, grid: VolumeGrid
) -> Generator[None, None, SearchRegion]:
    """Reads the voxels of a scan that lie in a segment, in pieces.

    Args:
        segment: id or name; "" for all of the segmentation's segments.
        grid: of the part of the scan that is searched.

    Raises:
        Failure: there is no such segment, or nothing of it lies in the scan.
    """
    chosen = _chosen(segmentationNode, segment)
    i, j, k = (slice(low, high + 1) for low, high in
               zip(grid.extent[::2], grid.extent[1::2], strict=True))
    inside = np.zeros([s.stop - s.start for s in (k, j, i)], np.uint8)
    segmentation = segmentationNode.GetSegmentation()
    labelmaps = [(segmentationNode.GetBinaryLabelmapInternalRepresentation(each),
                  segmentation.GetSegment(each).GetLabelValue()) for each in chosen]
    toVolume = _transform(segmentationNode, volumeNode)
    for each, (labels, value) in zip(chosen, labelmaps, strict=True):
        if labels is None:  # a surface: its conversion cannot be divided
            voxels = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, each, volumeNode)
            inside |= np.asarray(voxels)[k, j, i] > 0
        elif not labels.IsEmpty():
            yield from _addSegment(inside, labels, value, grid, toVolume)
    if not inside.any():
        raise Failure("region-unusable",
                      _("Nothing of the segment to search in lies in the scan."),
                      _("Choose another one, or the whole scan."))
    return SearchRegion(inside, _nameOf(list(chosen.values())))


def _chosen(segmentationNode: Any, segment: str) -> dict[str, str]:
    """The names of the segments to search in, by id."""
    if not slicer.mrmlScene.IsNodePresent(segmentationNode):
        raise Failure("region-unusable", _("The segmentation to search in was removed."),
                      _("Choose another one, or the whole scan."))
    segmentation = segmentationNode.GetSegmentation()
    names = {segmentation.GetNthSegmentID(n): segmentation.GetNthSegment(n).GetName()
             for n in range(segmentation.GetNumberOfSegments())}
    if segment in names:
        return {segment: names[segment]}
    chosen = {each: name for each, name in names.items() if segment in ("", name)}
    if not chosen:
        raise Failure("region-unusable", _("The segment to search in is not there."),
                      _("Choose another one, or the whole scan."))
    return chosen


def _nameOf(names: Sequence[str]) -> str:
    """For the library's sentences, which are not translated."""
    if len(names) > _MAX_NAMED:
        return f"the {len(names)} segments"
    return ", ".join(f"\u201c{name}\u201d" for name in names)


def _addSegment(
    inside: np.ndarray, labels: Any, value: int, grid: VolumeGrid, toVolume: Any
) -> Generator[None, None, None]:
    """Sets the voxels with a label's value to 1, some slices at a time."""
    matrix = slicer.util.vtkMatrixFromArray(grid.ijkToRas)
    first, last = grid.extent[4:]
    step = max(1, _PIECE_VOXELS // inside[0].size)
    for low in range(first, last + 1, step):
        piece = slicer.vtkOrientedImageData()
        piece.SetGeometryFromImageToWorldMatrix(matrix)
        piece.SetExtent(*grid.extent[:4], low, min(low + step - 1, last))
        piece.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
        found = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            labels, piece, found, False, False, toVolume)
        voxels = vtk_to_numpy(found.GetPointData().GetScalars())
        voxels = voxels.reshape(found.GetDimensions()[::-1])
        target = inside[low - first : low - first + len(voxels)]
        target |= voxels == value
        yield


def _transform(source: Any, target: Any) -> Any:
    """Between the parent transforms of two nodes; None where they are the same."""
    nodes = source.GetParentTransformNode(), target.GetParentTransformNode()
    if nodes[0] is nodes[1]:
        return None
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(*nodes, transform)
    return transform
