"""The colours of a map and the values that they stand for."""

from __future__ import annotations

from typing import Any

import qt
import slicer

STOPS = 17
HEIGHT = 14


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
