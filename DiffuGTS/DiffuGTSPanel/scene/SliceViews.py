"""The slice and 3D views: scan, overlay with colour legend, position, surfaces."""

from __future__ import annotations

from typing import Any

import slicer

from DiffuGTSPanel.data.Run import Position, inScene
from DiffuGTSPanel.scene.EvidenceVolumes import appearanceOf

_FOREGROUND_BEFORE = "DiffuGTS.ForegroundBefore"
# From this maximum on the legend shows whole numbers.
_WHOLE_NUMBERS_FROM = 100.0


def showOverlay(
    volumeNode: Any, overlayNode: Any, opacity: float, *, pseudoHealthyNode: Any = None,
    blend: float = 0.0,
) -> None:
    """Shows evidence, or the pseudo-healthy scan, over the scan in all slice views.

    Args:
        volumeNode: the scan.
        overlayNode: evidence, shown with its colour legend; None for none.
        opacity: of the overlay, 0 to 1.
        pseudoHealthyNode: the pseudo-healthy scan; None for none.
        blend: its opacity over the scan, 0 to 1. A slice view has two layers: with an overlay the
            background is the scan, or from 0.5 on the pseudo-healthy scan.
    """
    # The user may have deleted them.
    overlayNode, pseudoHealthyNode = inScene(overlayNode), inScene(pseudoHealthyNode)
    background, foreground, foregroundOpacity = volumeNode, overlayNode, opacity
    if overlayNode is not None and pseudoHealthyNode is not None and blend >= 0.5:
        background = pseudoHealthyNode
    if overlayNode is None and pseudoHealthyNode is not None and blend > 0:
        foreground, foregroundOpacity = pseudoHealthyNode, blend
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(background.GetID())
        if foreground is not None:
            _storeForeground(composite)
            composite.SetForegroundVolumeID(foreground.GetID())
            composite.SetForegroundOpacity(foregroundOpacity)
        else:
            _restoreForeground(composite)
    _showLegend(overlayNode)


def clear(volumeNode: Any) -> None:
    """Shows the scan with the foreground that it had before, if any."""
    showOverlay(volumeNode, None, 0.0)


def jumpTo(position: Position) -> None:
    """Centres all slice views on a position in world RAS, mm."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(
        slicer.mrmlScene, *position, slicer.vtkMRMLSliceNode.CenteredJumpSlice)


def show3D(segmentationNode: Any, shown: bool) -> None:
    """Shows or hides the segments in the 3D views; surfaces are created when first shown."""
    if shown:
        segmentationNode.CreateClosedSurfaceRepresentation()
    segmentationNode.GetDisplayNode().SetVisibility3D(shown)


def _storeForeground(composite: Any) -> None:
    """Stores the foreground, perhaps a PET, before the first overlay replaces it."""
    if composite.GetAttribute(_FOREGROUND_BEFORE) is None:
        before = composite.GetForegroundVolumeID() or ""
        composite.SetAttribute(_FOREGROUND_BEFORE, f"{composite.GetForegroundOpacity()} {before}")


def _restoreForeground(composite: Any) -> None:
    before = composite.GetAttribute(_FOREGROUND_BEFORE)
    if before is not None:
        opacity, _space, volumeId = before.partition(" ")
        composite.SetForegroundVolumeID(volumeId or None)
        composite.SetForegroundOpacity(float(opacity))
        composite.SetAttribute(_FOREGROUND_BEFORE, None)


def _showLegend(shown: Any) -> None:
    """Shows Slicer's colour legend of `shown` and hides those of other evidence."""
    logic = slicer.vtkSlicerColorLogic
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node is not shown and node.GetAttribute("DiffuGTS.Evidence"):
            legend = logic.GetColorLegendDisplayNode(node)
            if legend is not None:
                legend.SetVisibility(False)
    if shown is not None:
        legend = logic.AddDefaultColorLegendDisplayNode(shown)
        if legend is not None:  # None where the module Colors is not loaded
            legend.SetTitleText(appearanceOf(shown.GetAttribute("DiffuGTS.Evidence")).title)
            legend.SetSize(0.12, 0.40)
            legend.SetPosition(0.98, 0.05)
            legend.SetNumberOfLabels(3)
            # VTK sizes title and labels by the longest label, so all labels have the same width.
            highest = shown.GetDisplayNode().GetWindowLevelMax()
            legend.SetLabelFormat("%5.0f" if highest >= _WHOLE_NUMBERS_FROM else "%5.3g")
            legend.SetVisibility(True)
