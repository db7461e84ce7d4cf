"""The base of the panel's sections, and what they share: colours, links, times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

# On a light and on a dark background.
_COLOURS = {"good": ("#1b7a34", "#6fd08c"), "bad": ("#b3261e", "#ff9a8f"),
           "muted": ("#5f6670", "#a4abb6")}


class Section:
    """A section: loads `Resources/UI/<name>.ui` and adds it to a layout.

    Attributes:
        root: the widget.
        ui: its named children.
    """

    def __init__(self, name: str, resourcePath: Callable[[str], str], layout: Any) -> None:
        self.root = slicer.util.loadUI(resourcePath(f"UI/{name}.ui"))
        self.ui = slicer.util.childWidgetVariables(self.root)
        layout.addWidget(self.root)


def setColumns(table: Any, columns: Sequence[tuple[str, str]]) -> None:
    """Sets titles and tool tips; the first column takes the remaining width."""
    table.setHorizontalHeaderLabels([title for title, _tip in columns])
    for column, (_title, tip) in enumerate(columns):
        table.horizontalHeaderItem(column).setToolTip(tip)
    header = table.horizontalHeader()
    header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
    header.setSectionResizeMode(0, qt.QHeaderView.Stretch)


def isDark() -> bool:
    """Whether the application has light text on a dark background."""
    return qt.QApplication.palette().color(qt.QPalette.Window).lightness() < 128


def coloured(text: str, kind: str) -> str:
    """`text`, escaped, as rich text in the colour of "good", "bad" or "muted"."""
    return f'<span style="color:{_COLOURS[kind][isDark()]}">{escape(text)}</span>'


def textColour(kind: str) -> Any:
    """The colour of `coloured` for widgets without rich text; that of plain text for others."""
    if kind not in _COLOURS:
        return qt.QApplication.palette().color(qt.QPalette.Text)
    return qt.QColor(_COLOURS[kind][isDark()])


def link(text: str, target: str = "") -> str:
    """`text`, escaped, as a link to `target`; to the text itself without one."""
    return f'<a href="{escape(target or text)}">{escape(text)}</a>'


def timeLeft(seconds: float) -> str:
    """The remaining time in words, in steps of 5 seconds below a minute, then minutes."""
    if seconds < 2.5:
        return _("a few seconds left")
    if seconds < 57.5:
        return _("about {seconds} s left").format(seconds=5 * max(1, round(seconds / 5)))
    return _("about {minutes} min left").format(minutes=max(1, round(seconds / 60)))


def duration(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return _("{seconds} s").format(seconds=max(1, round(seconds)))
    return _("{minutes} min").format(minutes=round(seconds / 60))
