"""A part of the panel: its own .ui file, placed into the panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

# On a light and on a dark ground.
_SHADES = {"good": ("#1b7a34", "#6fd08c"), "bad": ("#b3261e", "#ff9a8f"),
           "muted": ("#5f6670", "#a4abb6")}


class Section:
    """Loads `Resources/UI/<name>.ui` and adds it to a layout.

    Attributes:
        root: the widget.
        ui: its named children.
    """

    def __init__(self, name: str, resourcePath: Callable[[str], str], layout: Any) -> None:
        self.root = slicer.util.loadUI(resourcePath(f"UI/{name}.ui"))
        self.ui = slicer.util.childWidgetVariables(self.root)
        layout.addWidget(self.root)


def setColumns(table: Any, columns: Sequence[tuple[str, str]]) -> None:
    """Titles and tool tips; the first column takes the space that the others leave."""
    table.setHorizontalHeaderLabels([title for title, _tip in columns])
    for column, (_title, tip) in enumerate(columns):
        table.horizontalHeaderItem(column).setToolTip(tip)
    header = table.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)


def isDark() -> bool:
    """Whether the application has light text on a dark ground."""
    return qt.QApplication.palette().color(qt.QPalette.Window).lightness() < 128


def coloured(text: str, kind: str) -> str:
    """`text`, escaped, as rich text in the colour of "good", "bad" or "muted"."""
    return f'<span style="color:{_SHADES[kind][isDark()]}">{escape(text)}</span>'


def shade(kind: str) -> Any:
    """The colour of such texts, for widgets without rich text; else that of plain text."""
    if kind not in _SHADES:
        return qt.QApplication.palette().color(qt.QPalette.Text)
    return qt.QColor(_SHADES[kind][isDark()])


def link(text: str, target: str = "") -> str:
    """`text`, escaped, as a link that gives `target` (the text itself without one)."""
    return f'<a href="{escape(target or text)}">{escape(text)}</a>'


def timeLeft(seconds: float) -> str:
    """In steps that do not flicker: 5 seconds below a minute, then minutes."""
    if seconds < 2.5:
        return _("a few seconds left")
    if seconds < 57.5:
        return _("about {seconds} s left").format(seconds=5 * max(1, round(seconds / 5)))
    return _("about {minutes} min left").format(minutes=max(1, round(seconds / 60)))


def duration(seconds: float) -> str:
    """How long something took."""
    if seconds < 90:
        return _("{seconds} s").format(seconds=max(1, round(seconds)))
    return _("{minutes} min").format(minutes=round(seconds / 60))
