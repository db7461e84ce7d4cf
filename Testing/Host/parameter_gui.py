"""Which widget can show which parameter, and how; by the widget's exact class, as in Slicer.

QPlainTextEdit has no connector, a float slider needs a range, a push button is made checkable.
"""

from __future__ import annotations

import enum
import pathlib
from collections.abc import Callable
from typing import Any

from PySide6 import QtWidgets
from shiboken6 import isValid

from .ctk_widgets import ctkDirectoryButton, ctkPathLineEdit, ctkSliderWidget
from .mrml_widgets import qMRMLNodeComboBox


class Connector:
    """One widget for one parameter."""

    def __init__(self, widget: Any, changed: str, read: Any, write: Any) -> None:
        self._widget, self._changed = widget, changed
        self._read, self._write = read, write
        self._callback: Callable[[], None] | None = None

    def read(self) -> Any:
        """The widget's value."""
        return self._read(self._widget)

    def write(self, value: Any) -> None:
        """Shows the value in the widget."""
        if isValid(self._widget):
            self._write(self._widget, value)

    def listen(self, callback: Callable[[], None]) -> None:
        """Calls back when the user changes the widget."""
        self._callback = callback
        getattr(self._widget, self._changed).connect(self._on_changed)

    def deafen(self) -> None:
        """No more calls back."""
        self._callback = None
        if isValid(self._widget):
            getattr(self._widget, self._changed).disconnect(self._on_changed)

    def _on_changed(self) -> None:
        if self._callback:
            self._callback()


def _by_property(widget: Any, name: str, changed: str, convert: Any) -> Connector:
    def write(shown: Any, value: Any) -> None:
        setattr(shown, name, value)

    return Connector(widget, changed, lambda shown: convert(getattr(shown, name)), write)


def _find(parameter: Any, kind: str) -> Any:
    return next((a for a in parameter.annotations if type(a).__name__ == kind), None)


def _number(widget: Any, parameter: Any) -> Connector:
    bounds = _find(parameter, "WithinRange")
    low = bounds.minimum if bounds else getattr(_find(parameter, "Minimum"), "minimum", None)
    high = bounds.maximum if bounds else getattr(_find(parameter, "Maximum"), "maximum", None)
    if isinstance(widget, (QtWidgets.QSlider, ctkSliderWidget)) and None in (low, high):
        raise RuntimeError(f"{parameter.name}: a slider needs both ends (WithinRange)")
    for name in ("Decimals", "SingleStep"):
        if (given := _find(parameter, name)) is not None:
            setattr(widget, name[0].lower() + name[1:], given.value)
    far = float("inf") if parameter.kind is float else 2**31 - 1
    widget.minimum = parameter.kind(low) if low is not None else -far
    widget.maximum = parameter.kind(high) if high is not None else far
    return _by_property(widget, "value", "valueChanged", parameter.kind)


def _checkable(widget: Any, parameter: Any) -> Connector:
    widget.checkable = True
    return _by_property(widget, "checked", "toggled", bool)


def _choices(widget: Any, parameter: Any) -> Connector:
    if issubclass(parameter.kind, enum.Enum):
        label = getattr(parameter.kind, "label", lambda member: member.name)
        values = list(parameter.kind)
        labels = [label(member) for member in values]
    else:
        choice = _find(parameter, "Choice")
        if choice is None:
            raise RuntimeError(f"{parameter.name}: a combo box needs a Choice")
        values, labels = list(choice.choices), [str(value) for value in choice.choices]
    widget.clear()
    for text in labels:
        widget.addItem(text)

    def write(shown: Any, value: Any) -> None:
        shown.currentIndex = values.index(value)

    return Connector(
        widget, "currentIndexChanged", lambda shown: values[shown.currentIndex], write
    )


def _node(widget: Any, parameter: Any) -> Connector:
    widget.nodeTypes = [parameter.kind.__name__]
    return Connector(
        widget, "currentNodeChanged", lambda shown: shown.currentNode(),
        lambda shown, node: shown.setCurrentNode(node),
    )


def _path(name: str, changed: str) -> Callable[[Any, Any], Connector]:
    def make(widget: Any, parameter: Any) -> Connector:
        return Connector(
            widget, changed, lambda shown: parameter.kind(getattr(shown, name)),
            lambda shown, path: setattr(shown, name, str(path)),
        )

    return make


def _plain(name: str, changed: str, convert: type) -> Callable[[Any, Any], Connector]:
    return lambda widget, parameter: _by_property(widget, name, changed, convert)


_TABLE: list[tuple[tuple[type, ...], tuple[type, ...], Callable[[Any, Any], Connector]]] = [
    ((QtWidgets.QCheckBox,), (bool,), _plain("checked", "stateChanged", bool)),
    ((QtWidgets.QPushButton,), (bool,), _checkable),
    ((QtWidgets.QSlider, QtWidgets.QSpinBox), (int,), _number),
    ((QtWidgets.QDoubleSpinBox, ctkSliderWidget), (float,), _number),
    ((QtWidgets.QComboBox,), (bool, int, float, str, enum.Enum), _choices),
    ((QtWidgets.QLineEdit,), (str,), _plain("text", "textChanged", str)),
    ((QtWidgets.QTextEdit,), (str,), _plain("plainText", "textChanged", str)),
    ((ctkPathLineEdit,), (pathlib.PurePath,), _path("currentPath", "currentPathChanged")),
    ((ctkDirectoryButton,), (pathlib.PurePath,), _path("directory", "directoryChanged")),
]


def connector_for(widget: Any, parameter: Any) -> Connector:
    """The connector; raises RuntimeError where this widget cannot show this parameter."""
    if type(widget) is qMRMLNodeComboBox and parameter.kind.__name__.startswith("vtkMRML"):
        return _node(widget, parameter)
    for widgets, kinds, make in _TABLE:
        exact = parameter.kind in kinds
        derived = any(k in (enum.Enum, pathlib.PurePath) and issubclass(parameter.kind, k)
                      for k in kinds)
        if type(widget) in widgets and (exact or derived) and not parameter.optional:
            return make(widget, parameter)
    raise RuntimeError(
        f"Unable to create GUI connector from '{parameter.kind}' to '{type(widget).__name__}'"
    )
