"""Attribute access on Qt objects as PythonQt has it.

A property is read and written by its name (`w.text`, `w.enabled = False`), a method stays a
method, a signal connects, `w.name` is the object name; anything else raises AttributeError.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore
from shiboken6 import delete

from .signals import Signal, class_name, connect, disconnect

QObject = QtCore.QObject
_read = QObject.__getattribute__
_being_read: set[tuple[int, str]] = set()

# Where SbkObject subclasses carry their own access, that one is the fall-back.
_SPECIAL: dict[str, Callable[[Any], Any]] = {
    "name": lambda self: QObject.objectName(self),
    "connect": lambda self: functools.partial(_connect, self),
    "disconnect": lambda self: functools.partial(disconnect, self),
    "className": lambda self: functools.partial(class_name, self),
    "delete": lambda self: functools.partial(delete, self),
}


def _connect(self: QtCore.QObject, *arguments: Any) -> Any:
    if isinstance(arguments[0], QObject):  # PySide's own call, in QTimer.singleShot
        return QObject.connect(*arguments)
    return connect(self, *arguments)


def is_binding(kind: type) -> bool:
    """Whether a class is Qt's own, or the stand-in for a C++ class of Slicer."""
    return kind.__module__.startswith(("PySide6.", "Shiboken")) or "STAND_IN" in kind.__dict__


@functools.cache
def _defined_in_python(kind: type, name: str) -> bool:
    """Whether a Python subclass (the module's own) defines the name."""
    for base in kind.__mro__:
        if is_binding(base):
            return False
        if name in base.__dict__:
            return True
    return False


@functools.cache
def _own_property(kind: type, name: str) -> bool:
    """Whether a stand-in declares the property in Python, so that Python's access serves it."""
    return any(isinstance(base.__dict__.get(name), QtCore.Property) for base in kind.__mro__)


def _property_index(self: QtCore.QObject, name: str) -> int:
    return int(QObject.metaObject(self).indexOfProperty(name))


def _dynamic(self: QtCore.QObject, name: str) -> bool:
    return name.encode() in [bytes(n.data()) for n in QObject.dynamicPropertyNames(self)]


def _read_property(self: QtCore.QObject, name: str) -> Any:
    # Some getters are virtual (sizeHint): PySide then looks for an override by name.
    _being_read.add((id(self), name))
    try:
        return QObject.property(self, name)
    finally:
        _being_read.discard((id(self), name))


def _get(original: Callable[[Any, str], Any], self: QtCore.QObject, name: str) -> Any:
    kind = type(self)
    if name.startswith("_") or _defined_in_python(kind, name):
        return original(self, name)
    if not is_binding(kind) and name in original(self, "__dict__"):
        return _wrapped(self, original(self, name))
    if name in _SPECIAL:
        return _SPECIAL[name](self)
    if _own_property(kind, name):
        return original(self, name)
    if _property_index(self, name) >= 0 and (id(self), name) not in _being_read:
        return _read_property(self, name)
    try:
        value = original(self, name)
    except AttributeError:
        if _dynamic(self, name):
            return QObject.property(self, name)
        raise AttributeError(f"{class_name(self)} has no attribute '{name}'") from None
    return _wrapped(self, value)


def _wrapped(self: QtCore.QObject, value: Any) -> Any:
    return Signal(self, value) if isinstance(value, QtCore.SignalInstance) else value


def _python_write(self: Any, name: str, value: Any) -> None:
    """What object.__setattr__ does; Python forbids to call it on a patched class."""
    described = next((b.__dict__[name] for b in type(self).__mro__ if name in b.__dict__), None)
    if hasattr(type(described), "__set__"):
        described.__set__(self, value)
    else:
        _read(self, "__dict__")[name] = value


def _set(self: Any, name: str, value: Any) -> None:
    if name == "name":
        QObject.setObjectName(self, value)
    elif (
        name.startswith("__")
        or isinstance(value, (QtCore.SignalInstance, types.BuiltinFunctionType))  # PySide's cache
        or _defined_in_python(type(self), name)
    ):
        _python_write(self, name, value)
    elif _property_index(self, name) >= 0:
        _write_property(self, name, value)
    elif _dynamic(self, name):
        QObject.setProperty(self, name, value)
    elif not is_binding(type(self)) or (name.startswith("_") and hasattr(type(self), "STAND_IN")):
        _python_write(self, name, value)
    else:
        raise AttributeError(
            f"{class_name(self)} has no attribute '{name}', and Slicer lets nobody add one"
        )


def _write_property(self: Any, name: str, value: Any) -> None:
    described = QObject.metaObject(self).property(_property_index(self, name))
    if not described.isWritable():
        raise AttributeError(f"{class_name(self)}.{name} can only be read")
    if not QObject.setProperty(self, name, value):
        raise ValueError(f"{class_name(self)}.{name} cannot be {value!r}")


def patch(kind: type) -> None:
    """Gives a Qt class this access, where it carries its own."""
    if "__getattribute__" in kind.__dict__:
        read = kind.__dict__["__getattribute__"]
        kind.__getattribute__ = lambda self, name: _get(read, self, name)
    if "__setattr__" in kind.__dict__:
        kind.__setattr__ = _set


def raw(instance: QtCore.QObject, name: str) -> Any:
    """The attribute as PySide has it."""
    return _read(instance, name)
