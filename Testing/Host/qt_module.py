"""The module `qt`: QtCore, QtGui, QtWidgets, QtNetwork and QtUiTools as one."""

from __future__ import annotations

import importlib
import types
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from .qt_access import patch
from .signals import make_slot

PARTS = ("QtCore", "QtGui", "QtWidgets", "QtNetwork", "QtUiTools", "QtSvg", "QtXml")
# PythonQt has them not, or they crash there.
REFUSED = {"QSignalBlocker", "QtMsgType"}


class QtModule(types.ModuleType):
    """Looks a name up in Qt's modules on first access; other names raise."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("Q") and name not in REFUSED:
            for part in PARTS:
                found = getattr(importlib.import_module(f"PySide6.{part}"), name, None)
                if found is not None:
                    setattr(self, name, found)
                    return found
        raise AttributeError(f"Slicer's qt has no '{name}'")


def _single_shot(milliseconds: int, target: Any) -> None:
    QtCore.QTimer.__dict__["_single_shot"].__func__(milliseconds, make_slot(target))


def patch_qt() -> None:
    """Makes PySide's objects behave like PythonQt's, once a process."""
    if "_single_shot" in QtCore.QTimer.__dict__:
        return
    for part in PARTS:
        module = importlib.import_module(f"PySide6.{part}")
        for name in dir(module):  # not vars(): PySide creates its classes on access
            kind = getattr(module, name)
            if isinstance(kind, type) and issubclass(kind, QtCore.QObject):
                patch(kind)
    single_shot = QtCore.QTimer.singleShot
    QtCore.QTimer._single_shot = staticmethod(single_shot)
    QtCore.QTimer.singleShot = staticmethod(_single_shot)


def make_qt() -> QtModule:
    """The module `qt`, with Qt patched."""
    patch_qt()
    module = QtModule("qt")
    module.QAction = QtGui.QAction
    module.QApplication = QtWidgets.QApplication
    return module
