"""Evidence maps as scalar volumes on the scan's own grid, with colours and window."""

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
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid

_COLOUR_COUNT = 256
# Enough for a percentile, and read in a millisecond.
_SAMPLE_VOXELS = 100_000
_TOP_PERCENTILE = 99
_COLOURS_ATTRIBUTE = "DiffuGTS.Colours"
# From dark to light, so that higher values stand out on a grey scan, also to colour-blind users.
_HOT = ((0.1, 0.0, 0.25), (0.55, 0.05, 0.45), (0.95, 0.35, 0.15), (1.0, 0.95, 0.55))
_COLD = ((0.0, 0.05, 0.3), (0.0, 0.35, 0.6), (0.15, 0.75, 0.55), (0.95, 0.95, 0.35))
_VIOLET = ((0.1, 0.0, 0.3), (0.4, 0.2, 0.7), (0.8, 0.5, 0.9), (1.0, 0.9, 1.0))


@dataclass(frozen=True)
class Appearance:
    """The display settings of a kind of evidence.

    Attributes:
        title: of the node and its colour legend.
        anchors: colours from low to high; none uses the scan's own colours.
        top: upper end of the window; None takes a percentile of the voxels.
        hidden: fraction of `top` below which the overlay is transparent.
    """

    title: str
    anchors: tuple[Colour, ...] = ()
    top: float | None = None
    hidden: float = 0.1


def appearanceOf(kind: str) -> Appearance:
    """The display settings of a kind of `Run.EVIDENCE`."""
    return {
        "attention": Appearance(_("attention"), _HOT, 1.0, 0.15),
        "probability": Appearance(_("score"), _HOT, 1.0, 0.15),
        "residual": Appearance(_("residual"), _COLD),
        "uncertainty": Appearance(_("uncertainty"), _VIOLET),
        "pseudo_healthy": Appearance(_("pseudo-healthy scan")),
    }[kind]


@dataclass(frozen=True)
class EvidenceMap:
    """A map as read from its file: (K, J, I) float32, and the upper end of its window."""

    voxels: np.ndarray
    top: float


def readMap(path: Path | str) -> Generator[None, None, EvidenceMap]:
    """Reads a map plane by plane and returns it.

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
    top = _windowTop(np.concatenate(sample))
    yield
    return EvidenceMap(voxels, top)


def _windowTop(sample: np.ndarray) -> float:
    """The upper end of the window: a few high voxels must not darken the rest."""
    shown = sample[sample > 0]
    return float(np.percentile(shown, _TOP_PERCENTILE)) if shown.size else 0.0


def addVolume(
    kind: str, read: EvidenceMap, volumeNode: Any, grid: VolumeGrid, group: str
) -> Any:
    """A scalar volume node for one kind of evidence, under the volume's transform and study.

    Args:
        kind: of `Run.EVIDENCE`.
        read: the node takes over the memory of its voxels.
        volumeNode: the scan.
        grid: of the exported region.
        group: folder in the subject hierarchy, and first part of the node's name.
    """
    appearance = appearanceOf(kind)
    name = f"{group} {appearance.title}"
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.SetAttribute("DiffuGTS.Evidence", kind)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(grid.regionToRas))
    # Before the voxels are set, or Slicer computes a window of its own from all of them.
    display = _displayOf(kind, read.top, volumeNode)
    image = vtk.vtkImageData()
    image.SetDimensions(read.voxels.shape[::-1])
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(read.voxels.ravel(), deep=False))
    node.SetAndObserveImageData(image)
    node.SetAndObserveDisplayNodeID(display.GetID())
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    putBeside(node, volumeNode, group)
    return node


def _displayOf(kind: str, windowTop: float, volumeNode: Any) -> Any:
    appearance = appearanceOf(kind)
    display = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetAutoWindowLevel(False)
    if not appearance.anchors:
        scanDisplay = volumeNode.GetDisplayNode()
        if scanDisplay is not None:
            display.SetWindowLevel(scanDisplay.GetWindow(), scanDisplay.GetLevel())
            display.SetAndObserveColorNodeID(scanDisplay.GetColorNodeID())
        return display
    top = appearance.top or max(windowTop, 1e-3)
    display.SetWindowLevelMinMax(0.0, top)
    display.SetThreshold(appearance.hidden * top, top * 1e3)
    display.ApplyThresholdOn()
    display.SetAndObserveColorNodeID(_colourTable(kind).GetID())
    return display


def _colourTable(kind: str) -> Any:
    """The colour table of a kind of evidence; one per scene."""
    for node in slicer.util.getNodesByClass("vtkMRMLColorTableNode"):
        if node.GetAttribute(_COLOURS_ATTRIBUTE) == kind:
            return node
    appearance = appearanceOf(kind)
    table = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLColorTableNode", f"DiffuGTS {appearance.title}")
    table.SetTypeToUser()
    table.SetAttribute(_COLOURS_ATTRIBUTE, kind)
    table.SetHideFromEditors(True)
    table.SetNumberOfColors(_COLOUR_COUNT)
    anchors = np.array(appearance.anchors)
    positions = np.linspace(0, 1, len(anchors))
    for number, fraction in enumerate(np.linspace(0, 1, _COLOUR_COUNT)):
        colour = [float(np.interp(fraction, positions, channel)) for channel in anchors.T]
        table.SetColor(number, f"{fraction:.2f}", *colour, 1.0)
    return table
