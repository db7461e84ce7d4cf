"""`qt.QUiLoader` that knows the stand-ins and refuses what Slicer would not know.

A widget class or a property that nobody has raises (Qt would take a plain widget and a dynamic
property, in silence). The connections of the .ui are made in Python, since the stand-ins' slots
take MRML objects.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import ctk_widgets, mrml_widgets
from .signals import connect

STAND_INS = {kind.__name__: kind for kind in (*ctk_widgets.WIDGETS, *mrml_widgets.WIDGETS)}
BY_THE_LOADER = {"buddy", "sizeHint"}
LAYOUT_MARGINS = {
    "leftMargin", "topMargin", "rightMargin", "bottomMargin", "margin", "horizontalSpacing",
    "verticalSpacing",
}
DYNAMIC = {"SlicerParameterName", "SlicerPackParameterName"}


class UiError(RuntimeError):
    """A .ui file names what Slicer's loader does not know."""


class QUiLoader(QtUiTools.QUiLoader):
    """Loads .ui files with Slicer's widgets."""

    STAND_IN = True

    def __init__(self, parent: QtCore.QObject | None = None) -> None:
        super().__init__(parent)
        for kind in STAND_INS.values():
            self.registerCustomWidget(kind)

    def load(self, device: QtCore.QIODevice, parent: Any = None) -> QtWidgets.QWidget:
        """The widget of the file; raises UiError."""
        root = ET.parse(io.BytesIO(bytes(device.readAll().data()))).getroot()
        _check_classes(root)
        wiring = root.find("connections")
        connections = list(wiring) if wiring is not None else []
        if wiring is not None:
            wiring.clear()
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if widget is None:
            raise UiError(f"Qt cannot load the file: {self.errorString()}")
        _check_properties(root, widget)
        for connection in connections:
            _connect(widget, {part.tag: part.text or "" for part in connection})
        return widget


def _check_classes(root: ET.Element) -> None:
    for element in root.iter("widget"):
        name = element.get("class", "")
        if name not in STAND_INS and not hasattr(QtWidgets, name):
            raise UiError(f"The host has no widget class '{name}' ({element.get('name')})")


def _find(widget: QtWidgets.QWidget, name: str) -> Any:
    if QtCore.QObject.objectName(widget) == name:
        return widget
    found = widget.findChild(QtCore.QObject, name)
    if found is None:
        raise UiError(f"The file has no object '{name}'")
    return found


def _check_properties(root: ET.Element, widget: QtWidgets.QWidget) -> None:
    for element in [*root.iter("widget"), *root.iter("layout")]:
        if not element.get("name"):
            continue
        known = QtCore.QObject.metaObject(_find(widget, element.get("name", "")))
        for written in element.findall("property"):
            name = written.get("name", "")
            allowed = BY_THE_LOADER | (LAYOUT_MARGINS if element.tag == "layout" else DYNAMIC)
            if known.indexOfProperty(name) < 0 and name not in allowed:
                raise UiError(f"{known.className()} '{element.get('name')}' has no '{name}'")


def _connect(widget: QtWidgets.QWidget, names: dict[str, str]) -> None:
    sender, receiver = _find(widget, names["sender"]), _find(widget, names["receiver"])
    name, _, arguments = names["slot"].partition("(")
    slot, count = getattr(receiver, name), len([a for a in arguments.strip(")").split(",") if a])
    connect(sender, names["signal"], lambda *values: slot(*values[:count]))
