"""The evidence as scalar volumes on the scan's own grid, with colours and window."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from DiffuGTSPanel.data.Run import Colour
from DiffuGTSPanel.scene.ScanExport import putBeside
from DiffuGTSPanel.scene.VolumeFile import Reader
from DiffuGTSPanel.scene.VolumeGrid import Placement

_SIZE = 256
# Enough for the window of a map, in a millisecond.
_SAMPLE_VOXELS = 100_000
_BRIGHTEST_PERCENT = 99
_COLOURS_ATTRIBUTE = "DiffuGTS.Colours"
# Dark to light, so that they read as more on a grey scan, also by colour-blind eyes.
_HOT = ((0.1, 0.0, 0.25), (0.55, 0.05, 0.45), (0.95, 0.35, 0.15), (1.0, 0.95, 0.55))
_COLD = ((0.0, 0.05, 0.3), (0.0, 0.35, 0.6), (0.15, 0.75, 0.55), (0.95, 0.95, 0.35))
_VIOLET = ((0.1, 0.0, 0.3), (0.4, 0.2, 0.7), (0.8, 0.5, 0.9), (1.0, 0.9, 1.0))


@dataclass(frozen=True)
class Look:
    """How a kind of evidence is shown.

    Attributes:
        title: of the node and its colour bar.
        anchors: colours from low to high; none are the scan's own grey.
        top: the value shown brightest; None takes it from the voxels.
        hidden: share of the top below which nothing is drawn over the scan.
    """

    title: str
    anchors: tuple[Colour, ...] = ()
    top: float | None = None
    hidden: float = 0.1


def look(kind: str) -> Look:
    """How a kind of `Run.EVIDENCE` is shown."""
    return {
        "attention": Look(_("attention"), _HOT, 1.0, 0.15),
        "probability": Look(_("score"), _HOT, 1.0, 0.15),
        "residual": Look(_("residual"), _COLD),
        "uncertainty": Look(_("uncertainty"), _VIOLET),
        "pseudo_healthy": Look(_("pseudo-healthy scan")),
    }[kind]


@dataclass(frozen=True)
class Map:
    """A map as it was read: (K, J, I) float32, and the value to show brightest."""

    voxels: np.ndarray
    top: float


def readMap(path: Path | str) -> Generator[None, None, Map]:
    """Reads a map, plane by plane, and returns it.

    Raises:
        Failure: the file cannot be read.
    """
    reader, sample = Reader(path), []
    voxels = np.empty(reader.shape, np.float32)
    step = max(1, round((voxels.size / _SAMPLE_VOXELS) ** (1 / 3)))
    for number, plane in enumerate(reader.planes()):
        voxels[number] = plane
        if number % step == 0:
            sample.append(voxels[number, ::step, ::step].ravel())
        yield
    top = _brightest(np.concatenate(sample))
    yield
    return Map(voxels, top)


def _brightest(sample: np.ndarray) -> float:
    """What is shown brightest of a map: a few hot voxels must not darken the rest."""
    shown = sample[sample > 0]
    return float(np.percentile(shown, _BRIGHTEST_PERCENT)) if shown.size else 0.0


def addVolume(
    kind: str, read: Map, volumeNode: Any, placement: Placement, group: str
) -> Any:
    """A scalar volume node for one kind of evidence, under the volume's transform and study.

    Args:
        kind: of `Run.EVIDENCE`.
        read: its voxels become the node's own memory.
        volumeNode: the scan.
        placement: the grid of the used region.
        group: name of the folder in the subject hierarchy, and first part of the node's name.
    """
    looks = look(kind)
    name = f"{group} {looks.title}"
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetAttribute("DiffuGTS.Evidence", kind)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(placement.regionToRas))
    # Before there are voxels: or Slicer looks for a window of its own in all of them.
    display = _displayOf(kind, read.top, volumeNode)
    image = vtk.vtkImageData()
    image.SetDimensions(read.voxels.shape[::-1])
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(read.voxels.ravel(), deep=False))
    node.SetAndObserveImageData(image)
    node.SetAndObserveDisplayNodeID(display.GetID())
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    putBeside(node, volumeNode, group)
    return node


def _displayOf(kind: str, brightest: float, volumeNode: Any) -> Any:
    looks = look(kind)
    display = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetAutoWindowLevel(False)
    if not looks.anchors:
        scans = volumeNode.GetDisplayNode()
        if scans is not None:
            display.SetWindowLevel(scans.GetWindow(), scans.GetLevel())
            display.SetAndObserveColorNodeID(scans.GetColorNodeID())
        return display
    top = looks.top or max(brightest, 1e-3)
    display.SetWindowLevelMinMax(0.0, top)
    display.SetThreshold(looks.hidden * top, top * 1e3)
    display.ApplyThresholdOn()
    display.SetAndObserveColorNodeID(_colourTable(kind).GetID())
    return display


def _colourTable(kind: str) -> Any:
    """The table of a kind of evidence; one a scene."""
    for node in slicer.util.getNodesByClass("vtkMRMLColorTableNode"):
        if node.GetAttribute(_COLOURS_ATTRIBUTE) == kind:
            return node
    looks = look(kind)
    table = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLColorTableNode", f"DiffuGTS {looks.title}")
    table.SetTypeToUser()
    table.SetAttribute(_COLOURS_ATTRIBUTE, kind)
    table.SetHideFromEditors(True)
    table.SetNumberOfColors(_SIZE)
    anchors = np.array(looks.anchors)
    at = np.linspace(0, 1, len(anchors))
    for number, share in enumerate(np.linspace(0, 1, _SIZE)):
        colour = [float(np.interp(share, at, channel)) for channel in anchors.T]
        table.SetColor(number, f"{share:.2f}", *colour, 1.0)
    return table
