"""Lesions to segments: one segment each, in a layer of its own.

So no segment erases another, one can be taken out and put back, and the voxels of each are only
those of its box.
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
from DiffuGTSPanel.data.Run import Colour, Lesion, Part, PromptResult
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.scene.ScanExport import putBeside
from DiffuGTSPanel.scene.VolumeFile import Reader
from DiffuGTSPanel.scene.VolumeGrid import Placement, worldOf

_CANDIDATES_COLOUR = (1.0, 0.65, 0.0)


def colourOf(number: int) -> Colour:
    """The colour of the lesion with that number, counted from 0 over all prompts."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.scan.segmentation_file import COLOURS

    red, green, blue = COLOURS[number % len(COLOURS)]
    return red / 255, green / 255, blue / 255


def readParts(
    path: Path | str, placement: Placement
) -> Generator[None, None, dict[int, Part]]:
    """Reads a labelmap, plane by plane, and returns each label's voxels.

    Raises:
        Failure: the file cannot be read.
    """
    cuts: dict[int, list[_Cut]] = {}
    for number, plane in enumerate(Reader(path).planes()):
        if plane.any():
            for label in np.flatnonzero(np.bincount(plane.ravel()))[1:]:
                cuts.setdefault(int(label), []).append(_cut(plane == label, number))
        yield
    parts = {}
    for label in sorted(cuts):
        parts[label] = _joined(cuts[label], placement)
        yield
    return parts


@dataclass(frozen=True)
class _Cut:
    """The box around what is true in one plane."""

    plane: int
    row: int
    column: int
    inside: np.ndarray


def _cut(inside: np.ndarray, plane: int) -> _Cut:
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = inside[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    return _Cut(plane, int(rows[0]), int(columns[0]), box.copy())


def _joined(cuts: list[_Cut], placement: Placement) -> Part:
    """The boxes of all planes in one."""
    row, column = min(cut.row for cut in cuts), min(cut.column for cut in cuts)
    height = max(cut.row + cut.inside.shape[0] for cut in cuts) - row
    width = max(cut.column + cut.inside.shape[1] for cut in cuts) - column
    first = cuts[0].plane
    array = np.zeros((cuts[-1].plane - first + 1, height, width), np.uint8)
    for cut in cuts:
        j, i = cut.row - row, cut.column - column
        array[cut.plane - first, j:j + cut.inside.shape[0], i:i + cut.inside.shape[1]] = cut.inside
    i, j, k = placement.extent[::2]
    return Part(array, (i + column, j + row, k + first))


def newSegmentation(volumeNode: Any, name: str) -> Any:
    """An empty segmentation on the volume's grid, under its transform and its study."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    putBeside(node, volumeNode)
    return node


def checkTarget(node: Any) -> None:
    """Refuses a segmentation to which no labelmap can be added.

    Raises:
        Failure: it is gone, or made of surfaces.
    """
    if not slicer.mrmlScene.IsNodePresent(node):
        raise Failure("volume-gone", _("The chosen segmentation is no longer in the scene."),
                      _("Choose another one, or none."))
    segmentation = node.GetSegmentation()
    if segmentation.GetNumberOfSegments() and (
            segmentation.GetSourceRepresentationName() != _labelmapName()):
        raise Failure("segmentation-of-surfaces",
                      _("The chosen segmentation is made of surfaces, not of voxels."),
                      _("Choose another one, or none: a new one is made then."))


def addLesions(
    node: Any, volumeNode: Any, placement: Placement, result: PromptResult, described: list[Any],
    coloursUsed: int,
) -> Piecewise:
    """Adds a segment a lesion, and fills `result.lesions`; a piece a segment.

    Args:
        node: the segmentation; its other segments are left as they are.
        volumeNode: the scan.
        placement: its grid, as it was when the run began.
        result: with its parts.
        described: the lesions as the worker tells them.
        coloursUsed: by the prompts before.
    """
    result.lesions = []
    grid = _gridFor(node, volumeNode, placement)
    for entry in described:
        colour = colourOf(coloursUsed + len(result.lesions))
        wanted = f"{result.title} {entry['number']}"
        segmentId = node.GetSegmentation().GenerateUniqueSegmentID(
            re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "lesion")
        name = _freeName(node, wanted)
        image = _image(result.parts[entry["number"]], grid)
        _addSegment(node, image, segmentId, name, colour, result.terminology)
        result.lesions.append(_lesion(entry, segmentId, name, colour, result.index,
                                      worldOf(volumeNode, placement.own(entry["centroid_ras_mm"]))))
        # Views that show the segmentation draw themselves anew for each.
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
    """Takes the segments of a result out of the segmentation again; a piece a segment."""
    segmentation = node.GetSegmentation()
    for lesion in result.lesions:
        if segmentation.GetSegment(lesion.segmentId) is not None:
            segmentation.RemoveSegment(lesion.segmentId)
        yield
    result.lesions = []


class Dropped:
    """Segments that were taken out and may come back, with whatever was drawn in them."""

    def __init__(self) -> None:
        self._segments: dict[str, Any] = {}

    def take(self, node: Any, lesion: Lesion) -> None:
        """Takes a lesion's segment out."""
        segmentation = node.GetSegmentation()
        segment = segmentation.GetSegment(lesion.segmentId)
        if segment is None:
            return
        # Segments may have been brought together in one layer since; its voxels would stay there.
        segmentation.SeparateSegmentLabelmap(lesion.segmentId)
        self._segments[lesion.segmentId] = segment
        segmentation.RemoveSegment(lesion.segmentId)

    def putBack(self, node: Any, lesion: Lesion, lesions: list[Lesion]) -> None:
        """Puts it back, before the lesions that follow it."""
        segment = self._segments.pop(lesion.segmentId, None)
        segmentation = node.GetSegmentation()
        if segment is None or segmentation.GetSegment(lesion.segmentId) is not None:
            return
        following = [each.segmentId for each in lesions if each.number > lesion.number]
        there = (each for each in following if segmentation.GetSegment(each) is not None)
        segmentation.AddSegment(segment, lesion.segmentId, next(there, ""))


def stillDropped(before: PromptResult, after: dict[int, Part]) -> set[int]:
    """Numbers of the new lesions that grew out of, or shrank from, dropped ones."""
    gone = {lesion.number for lesion in before.lesions if not lesion.kept}
    numbers = set()
    for number, part in after.items() if gone else ():
        shared = {old: part.overlap(each) for old, each in before.parts.items()}
        most = max(shared, key=lambda old: shared[old], default=None)
        if most in gone and shared[most]:
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
    """A moment in VTK's own time, later than everything so far."""
    stamp = vtk.vtkTimeStamp()
    stamp.Modified()
    return int(stamp.GetMTime())


def showCandidates(
    volumeNode: Any, placement: Placement, parts: dict[int, Part], name: str
) -> Any:
    """The preview's candidates as an outline: a segmentation node that is not saved."""
    node = newSegmentation(volumeNode, name)
    node.SetSaveWithScene(False)
    for part in parts.values():
        _addSegment(node, _image(part, placement.ijkToRas), "candidates", _("candidates"),
                    _CANDIDATES_COLOUR, "")
    display = node.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility3D(False)
    return node


def _labelmapName() -> str:
    return str(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())


def _image(part: Part, ijkToRas: np.ndarray) -> Any:
    """A lesion's voxels as image data on the volume's grid, of the size of their box."""
    k, j, i = part.array.shape
    image = slicer.vtkOrientedImageData()
    x, y, z = part.start
    image.SetExtent(x, x + i - 1, y, y + j - 1, z, z + k - 1)
    scalars = numpy_support.numpy_to_vtk(part.array.ravel(), True, vtk.VTK_UNSIGNED_CHAR)
    image.GetPointData().SetScalars(scalars)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    return image


def _gridFor(node: Any, volumeNode: Any, placement: Placement) -> np.ndarray:
    """The volume's grid in the mm of a segmentation that may lie under another transform."""
    there, here = node.GetParentTransformNode(), volumeNode.GetParentTransformNode()
    # A frame that is not shown lies in its sequence, without transforms.
    if there is here or node.GetScene() is not slicer.mrmlScene:
        return placement.ijkToRas
    matrix = vtk.vtkMatrix4x4()
    if not all(each is None or each.IsTransformToWorldLinear() for each in (there, here)):
        raise Failure("segmentation-elsewhere",
                      _("The chosen segmentation lies under another, warping transform."),
                      _("Choose another one, or none: a new one is made then."))
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(here, there, matrix)
    return slicer.util.arrayFromVTKMatrix(matrix) @ placement.ijkToRas


def _freeName(node: Any, wanted: str) -> str:
    """`wanted`, with a number behind it where another segment has that name."""
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
    place = next(i for i, each in enumerate(result.lesions) if each.number == lesion.number)
    result.lesions[place] = changed
    return changed
