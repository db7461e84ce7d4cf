"""Lesions as segments, each in a layer of its own.

That way no segment erases another, each can be removed and restored, and only the voxels of its
bounding box are stored.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import Colour, Lesion, LesionMask, PromptResult
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.scene.ScanExport import putBeside
from DiffuGTSPanel.scene.VolumeFile import Reader
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid, worldOf

_CANDIDATES_COLOUR = (1.0, 0.65, 0.0)


def colourOf(number: int) -> Colour:
    """The colour of a lesion; `number` counts from 0 over all prompts."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.scan.segmentation_file import COLOURS

    red, green, blue = COLOURS[number % len(COLOURS)]
    return red / 255, green / 255, blue / 255


def readLesionMasks(
    path: Path | str, grid: VolumeGrid
) -> Generator[None, None, dict[int, LesionMask]]:
    """Reads a labelmap plane by plane and returns the mask of each label.

    Raises:
        Failure: the file cannot be read.
    """
    boxes: dict[int, list[_PlaneBox]] = {}
    for number, plane in enumerate(Reader(path).planes()):
        if plane.any():
            for label in np.flatnonzero(np.bincount(plane.ravel()))[1:]:
                boxes.setdefault(int(label), []).append(_boxAround(plane == label, number))
        yield
    masks = {}
    for label in sorted(boxes):
        masks[label] = _merged(boxes[label], grid)
        yield
    return masks


@dataclass(frozen=True)
class _PlaneBox:
    """The bounding box of a lesion in one plane."""

    plane: int
    row: int
    column: int
    inside: np.ndarray


def _boxAround(inside: np.ndarray, plane: int) -> _PlaneBox:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = inside[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return _PlaneBox(plane, int(rows[0]), int(columns[0]), box.copy())


def _merged(boxes: list[_PlaneBox], grid: VolumeGrid) -> LesionMask:
    """The boxes of all planes as one mask."""
    row, column = min(box.row for box in boxes), min(box.column for box in boxes)
    height = max(box.row + box.inside.shape[0] for box in boxes) - row
    width = max(box.column + box.inside.shape[1] for box in boxes) - column
    first = boxes[0].plane
    array = np.zeros((boxes[-1].plane - first + 1, height, width), np.uint8)
    for box in boxes:
        j, i = box.row - row, box.column - column
        array[box.plane - first, j:j + box.inside.shape[0], i:i + box.inside.shape[1]] = box.inside
    i, j, k = grid.extent[::2]
    return LesionMask(array, (i + column, j + row, k + first))


def newSegmentation(volumeNode: Any, name: str) -> Any:
    """An empty segmentation on the volume's grid, under its transform and in its study."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    putBeside(node, volumeNode)
    return node


def checkTarget(node: Any) -> None:
    """Checks that labelmaps can be added to a segmentation.

    Raises:
        Failure: it was removed, or consists of surfaces.
    """
    if not slicer.mrmlScene.IsNodePresent(node):
        raise Failure("volume-gone", _("The chosen segmentation is no longer in the scene."),
                      _("Choose another one, or none."))
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and (
            segmentation.GetSourceRepresentationName() != _labelmapName()):
        raise Failure("segmentation-of-surfaces",
                      _("The chosen segmentation consists of surfaces, not of labelmaps."),
                      _("Choose another one, or none to create a new one."))


def addLesions(
    node: Any, volumeNode: Any, grid: VolumeGrid, result: PromptResult,
    masks: dict[int, LesionMask], described: list[Any], coloursUsed: int,
) -> Piecewise:
    """Adds a segment per lesion, in place of the result's earlier ones; a piece per segment.

    Args:
        node: the segmentation; its other segments are left as they are.
        volumeNode: the scan.
        grid: of the scan, as it was when the run began.
        result: gets the lesions and the masks.
        masks: by number.
        described: the lesions as in the worker's event.
        coloursUsed: by earlier prompts.

    Raises:
        Failure: the segmentation cannot take them; nothing has changed then.
    """
    ijkToNode = _ijkToNode(node, volumeNode, grid)
    yield from removeLesions(node, result)
    result.masks = masks
    for entry in described:
        colour = colourOf(coloursUsed + len(result.lesions))
        wanted = f"{result.title} {entry['number']}"
        segmentId = node.GetSegmentation().GenerateUniqueSegmentID(
            re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "lesion")
        name = _freeName(node, wanted)
        image = _image(masks[entry["number"]], ijkToNode)
        _addSegment(node, image, segmentId, name, colour, result.terminology)
        result.lesions.append(_lesion(entry, segmentId, name, colour, result.index,
                                      worldOf(volumeNode, grid.toVolume(entry["centroid_ras_mm"]))))
        # Views that show the segmentation redraw for each.
        yield


def _addSegment(
    node: Any, image: Any, segmentId: str, name: str, colour: Colour, terminology: str
) -> None:
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetColor(*colour)
    segment.SetTerminology(terminology)
    segment.AddRepresentation(_labelmapName(), image)
    node.GetSegmentation().AddSegment(segment, segmentId)


def removeLesions(node: Any, result: PromptResult) -> Piecewise:
    """Removes the segments of a result; a piece per segment."""
    segmentation = node.GetSegmentation()
    for lesion in result.lesions:
        if segmentation.GetSegment(lesion.segmentId) is not None:
            segmentation.RemoveSegment(lesion.segmentId)
        yield
    result.lesions = []


class DroppedSegments:
    """Segments that were removed and can be restored, with any edits in them."""

    def __init__(self) -> None:
        self._segments: dict[str, Any] = {}

    def remove(self, node: Any, lesion: Lesion) -> None:
        """Removes a lesion's segment."""
        segmentation = node.GetSegmentation()
        segment = segmentation.GetSegment(lesion.segmentId)
        if segment is None:
            return
        # Slicer may have merged layers since; the voxels would stay in the shared one.
        segmentation.SeparateSegmentLabelmap(lesion.segmentId)
        self._segments[lesion.segmentId] = segment
        segmentation.RemoveSegment(lesion.segmentId)

    def restore(self, node: Any, lesion: Lesion, lesions: list[Lesion]) -> None:
        """Restores it, before the lesions that follow it."""
        segment = self._segments.pop(lesion.segmentId, None)
        segmentation = node.GetSegmentation()
        if segment is None or segmentation.GetSegment(lesion.segmentId) is not None:
            return
        following = [each.segmentId for each in lesions if each.number > lesion.number]
        present = (each for each in following if segmentation.GetSegment(each) is not None)
        segmentation.AddSegment(segment, lesion.segmentId, next(present, ""))


def stillDropped(before: PromptResult, after: dict[int, LesionMask]) -> set[int]:
    """Numbers of the new lesions that overlap most with a dropped one."""
    gone = {lesion.number for lesion in before.lesions if not lesion.kept}
    numbers = set()
    for number, mask in after.items() if gone else ():
        shared = {old: mask.overlap(each) for old, each in before.masks.items()}
        closest = max(shared, key=lambda old: shared[old], default=None)
        if closest in gone and shared[closest]:
            numbers.add(number)
    return numbers


def edited(node: Any, result: PromptResult, stamp: int) -> bool:
    """Whether a segment of the result was changed, renamed or removed since `stamp`."""
    segmentation = node.GetSegmentation()
    for lesion in result.lesions:
        segment = segmentation.GetSegment(lesion.segmentId)
        if lesion.kept and (segment is None or segment.GetName() != lesion.name):
            return True
        if segment is not None and segment.GetRepresentation(_labelmapName()).GetMTime() > stamp:
            return True
    return False


def newStamp() -> int:
    """VTK's modification time now, later than all earlier changes."""
    stamp = vtk.vtkTimeStamp()
    stamp.Modified()
    return int(stamp.GetMTime())


def showCandidates(
    volumeNode: Any, grid: VolumeGrid, masks: dict[int, LesionMask], name: str
) -> Any:
    """The outlined candidates of a preview: a segmentation node that is not saved."""
    node = newSegmentation(volumeNode, name)
    node.SetSaveWithScene(False)
    for mask in masks.values():
        _addSegment(node, _image(mask, grid.ijkToRas), "candidates", _("candidates"),
                    _CANDIDATES_COLOUR, "")
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility3D(False)
    return node


def _labelmapName() -> str:
    return str(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())


def _image(mask: LesionMask, ijkToRas: np.ndarray) -> Any:
    """A lesion's mask as image data on the volume's grid, of the size of its bounding box."""
    k, j, i = mask.array.shape
    image = slicer.vtkOrientedImageData()
    x, y, z = mask.start
    image.SetExtent(x, x + i - 1, y, y + j - 1, z, z + k - 1)
    scalars = numpy_support.numpy_to_vtk(mask.array.ravel(), True, vtk.VTK_UNSIGNED_CHAR)
    image.GetPointData().SetScalars(scalars)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    return image


def _ijkToNode(node: Any, volumeNode: Any, grid: VolumeGrid) -> np.ndarray:
    """4x4, the volume's indices to the mm of a segmentation that may have another transform."""
    target, source = node.GetParentTransformNode(), volumeNode.GetParentTransformNode()
    # The segmentation of a frame that is not shown is in its sequence, without transforms.
    if target is source or node.GetScene() is not slicer.mrmlScene:
        return grid.ijkToRas
    matrix = vtk.vtkMatrix4x4()
    if not all(each is None or each.IsTransformToWorldLinear() for each in (target, source)):
        raise Failure("segmentation-elsewhere",
                      _("The chosen segmentation has another, nonlinear transform."),
                      _("Choose another one, or none to create a new one."))
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(source, target, matrix)
    return slicer.util.arrayFromVTKMatrix(matrix) @ grid.ijkToRas


def _freeName(node: Any, wanted: str) -> str:
    """`wanted`, with a number appended where another segment has that name."""
    segmentation = node.GetSegmentation()
    name, count = wanted, 1
    while segmentation.GetSegmentIdBySegmentName(name):
        count += 1
        name = f"{wanted} ({count})"
    return name


def _lesion(
    entry: dict[str, Any], segmentId: str, name: str, colour: Colour, index: int,
    position: tuple[float, float, float],
) -> Lesion:
    first, last = entry["slice_range"]
    return Lesion(
        entry["number"], name, segmentId, entry["volume_ml"], entry["longest_diameter_mm"],
        entry["perpendicular_mm"], entry["mean_score"], entry["max_score"], (first, last),
        position, True, colour, index,
    )


def withKept(result: PromptResult, lesion: Lesion, kept: bool) -> Lesion:
    """Marks a lesion of the result as kept or dropped and returns it."""
    changed = replace(lesion, kept=kept)
    index = next(i for i, each in enumerate(result.lesions) if each.number == lesion.number)
    result.lesions[index] = changed
    return changed
