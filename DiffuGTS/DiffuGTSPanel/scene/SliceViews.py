"""What the slice views show: scan, overlay, pseudo-healthy twin, colour bar, position.

The colours of a map and the values that they stand for.
"""

from __future__ import annotations

from typing import Any

import qt
import slicer

from DiffuGTSPanel.data.Run import Position, inScene
from DiffuGTSPanel.scene.EvidenceVolumes import look

_BEFORE = "DiffuGTS.ForegroundBefore"
_WHOLE_NUMBERS_FROM = 100.0
STOPS = 17
HEIGHT = 14


def showOverlay(
    volumeNode: Any, overlayNode: Any, opacity: float, *, twinNode: Any = None, twin: float = 0.0,
    legend: bool = True,
) -> None:
    """Lays evidence, or the pseudo-healthy scan, over the scan in all slice views.

    Args:
        volumeNode: the scan.
        overlayNode: evidence; None for none.
        opacity: of the overlay, 0 to 1.
        twinNode: the pseudo-healthy scan; None for none.
        twin: how much of it is blended over the scan, 0 to 1. With an overlay it is either scan or
            twin that lies beneath: the twin from 0.5 on.
        legend: show the overlay's colour bar.
    """
    # Somebody may have deleted them.
    overlayNode, twinNode = inScene(overlayNode), inScene(twinNode)
    below, above, share = volumeNode, overlayNode, opacity
    if overlayNode is not None and twinNode is not None and twin >= 0.5:
        below = twinNode
    if overlayNode is None and twinNode is not None and twin > 0:
        above, share = twinNode, twin
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        composite.SetBackgroundVolumeID(below.GetID())
        if above is not None:
            _remember(composite)
            composite.SetForegroundVolumeID(above.GetID())
            composite.SetForegroundOpacity(share)
        else:
            _restore(composite)
    _showLegend(overlayNode if legend else None)


def clear(volumeNode: Any) -> None:
    """Shows the scan alone, or with what lay over it before."""
    showOverlay(volumeNode, None, 0.0)


def jumpTo(position: Position) -> None:
    """Moves all slice views to a place in world RAS, mm, centred where it is out of sight."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(
        slicer.mrmlScene, *position, slicer.vtkMRMLSliceNode.CenteredJumpSlice)


def show3D(segmentationNode: Any, shown: bool) -> None:
    """Shows the segments in the 3D views, or not; their surfaces are made when first shown."""
    if shown:
        segmentationNode.CreateClosedSurfaceRepresentation()
    segmentationNode.GetDisplayNode().SetVisibility3D(shown)


def _remember(composite: Any) -> None:
    """Keeps what lies over the scan, a PET perhaps, before the first overlay."""
    if composite.GetAttribute(_BEFORE) is None:
        before = composite.GetForegroundVolumeID() or ""
        composite.SetAttribute(_BEFORE, f"{composite.GetForegroundOpacity()} {before}")


def _restore(composite: Any) -> None:
    before = composite.GetAttribute(_BEFORE)
    if before is not None:
        opacity, _space, volumeId = before.partition(" ")
        composite.SetForegroundVolumeID(volumeId or None)
        composite.SetForegroundOpacity(float(opacity))
        composite.SetAttribute(_BEFORE, None)


def _showLegend(shown: Any) -> None:
    """The colour bar of `shown`, and of no other evidence."""
    logic = slicer.vtkSlicerColorLogic
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if node is not shown and node.GetAttribute("DiffuGTS.Evidence"):
            legend = logic.GetColorLegendDisplayNode(node)
            if legend is not None:
                legend.SetVisibility(False)
    if shown is not None:
        legend = logic.AddDefaultColorLegendDisplayNode(shown)
        if legend is not None:  # where the module Colors is not loaded
            legend.SetTitleText(look(shown.GetAttribute("DiffuGTS.Evidence")).title)
            legend.SetSize(0.12, 0.40)
            legend.SetPosition(0.98, 0.05)
            legend.SetNumberOfLabels(3)
            # VTK makes title and labels as large as the longest label allows: all have one width.
            highest = shown.GetDisplayNode().GetWindowLevelMax()
            legend.SetLabelFormat("%5.0f" if highest >= _WHOLE_NUMBERS_FROM else "%5.3g")
            legend.SetVisibility(True)


class ColourBar:
    """A strip of colour between the lowest and the highest value shown.

    Args:
        layout: horizontal, where the bar is put.
    """

    def __init__(self, layout: Any) -> None:
        self._low, self._strip, self._high = qt.QLabel(), qt.QLabel(), qt.QLabel()
        self._strip.setFixedHeight(HEIGHT)
        self._strip.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        for widget in (self._low, self._strip, self._high):
            layout.addWidget(widget)
        self.clear()

    def clear(self) -> None:
        """No map."""
        self._setVisible(False)

    def show(self, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> None:
        """The colours and the window of a volume's display."""
        display = volumeNode.GetDisplayNode()
        colours = display.GetColorNode() if display else None
        if colours is None:
            self.clear()
            return
        low = display.GetWindowLevelMin()
        high = display.GetWindowLevelMax()
        self._strip.styleSheet = f"background: {gradient(colours.GetScalarsToColors())};"
        self._low.text, self._high.text = short(low), short(high)
        self._setVisible(True)

    def _setVisible(self, visible: bool) -> None:
        for widget in (self._low, self._strip, self._high):
            widget.visible = visible


def gradient(colours: Any) -> str:
    """A colour table as a gradient of Qt's style sheets, from left to right."""
    low, high = colours.GetRange()
    stops = []
    rgb = [0.0, 0.0, 0.0]
    for step in range(STOPS):
        part = step / (STOPS - 1)
        colours.GetColor(low + part * (high - low), rgb)
        stops.append(f"stop:{part:.4f} rgb({','.join(str(round(255 * c)) for c in rgb)})")
    return f"qlineargradient(x1:0, y1:0, x2:1, y2:0, {', '.join(stops)})"


def short(value: float) -> str:
    """A value in few letters, as at the colour bar of the views: 0.25, 1.85, 553, 1200."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
