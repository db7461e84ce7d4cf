"""`slicer.ScriptedLoadableModule`: the base classes of a module, and the module's C++ side."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import types
import unittest
from typing import Any

import qt
import slicer
from PySide6.QtCore import Property, QObject
from PySide6.QtGui import QIcon

from .mrml_widgets import qMRMLWidget


class qSlicerScriptedLoadableModule(QObject):
    """The module as the application holds it: title, help, icon, and where its file is."""

    STAND_IN = True

    def __init__(self, name: str, path: str) -> None:
        super().__init__()
        self._values: dict[str, Any] = {
            "name": name, "path": path, "title": name, "categories": [], "dependencies": [],
            "contributors": [], "helpText": "", "acknowledgementText": "", "icon": qt.QIcon(),
            "hidden": False, "index": -1, "associatedNodeTypes": [],
            "widgetRepresentationCreationEnabled": True,
        }
        self._instance: Any = None
        self._representation: Any = None

    def _field(name: str, kind: Any) -> Property:
        def write(self: Any, value: Any) -> None:
            self._values[name] = value

        return Property(kind, lambda self: self._values[name], write)

    path, title = _field("path", str), _field("title", str)
    categories, dependencies = _field("categories", list), _field("dependencies", list)
    contributors, helpText = _field("contributors", list), _field("helpText", str)
    acknowledgementText, icon = _field("acknowledgementText", str), _field("icon", QIcon)
    hidden, index = _field("hidden", bool), _field("index", int)
    associatedNodeTypes = _field("associatedNodeTypes", list)
    widgetRepresentationCreationEnabled = _field("widgetRepresentationCreationEnabled", bool)

    def widgetRepresentation(self) -> Any:
        """The panel; made at the first call."""
        if self._representation is None:
            self._representation = qSlicerScriptedLoadableModuleWidget(self._values["name"])
            self._representation.reload()
        return self._representation


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The panel's container in the application; holds the module's Python widget."""

    STAND_IN = True

    def __init__(self, module_name: str) -> None:
        super().__init__()
        self._module_name = module_name
        self._self: Any = None
        self.setLayout(qt.QVBoxLayout())
        self.setMRMLScene(slicer.mrmlScene)

    def self(self) -> Any:
        """The Python widget."""
        return self._self

    def reload(self) -> None:
        """Makes a new Python widget of the class as it is now, and sets it up."""
        kind = getattr(sys.modules[self._module_name], f"{self._module_name}Widget")
        self._self = kind(self)
        setattr(slicer.modules, f"{self._module_name}Widget", self._self)
        self._self.setup()

    def enter(self) -> None:
        """The user opens the panel."""
        if hasattr(self._self, "enter"):
            self._self.enter()

    def exit(self) -> None:
        """The user leaves the panel."""
        if hasattr(self._self, "exit"):
            self._self.exit()


class ScriptedLoadableModule:
    """Base class of the module."""

    def __init__(self, parent: Any) -> None:
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        folder = os.path.dirname(parent.path)
        for extension in (".svg", ".png"):
            icon = os.path.join(folder, "Resources/Icons", self.moduleName + extension)
            if os.path.isfile(icon):
                parent.icon = qt.QIcon(icon)
                break
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        """The path of a file in the module's Resources."""
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        """The sentence that links to the documentation."""
        url = slicer.app.moduleDocumentationUrl(docPage or self.moduleName)
        return f'<p>For more information see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **options: Any) -> None:
        """Runs the module's self-test."""
        case = getattr(sys.modules[type(self).__module__], f"{self.moduleName}Test")()
        case.messageDelay = msec
        case.runTest(**options)


class ScriptedLoadableModuleWidget:
    """Base class of the panel."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        if parent is None:
            self.parent = qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
        slicer.app.moduleManager().connect(
            "moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded
        )

    def resourcePath(self, filename: str) -> str:
        """The path of a file in the module's Resources."""
        folder = os.path.dirname(slicer.util.modulePath(self.moduleName))
        return os.path.join(folder, "Resources", filename)

    def setup(self) -> None:
        """Where a module builds its panel."""

    def cleanup(self) -> None:
        """Called before the panel goes."""

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect(
                "moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded
            )

    def onReload(self) -> None:
        """The developer's button "Reload"."""
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """Base class of the logic."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """The module's parameter node; made where there is none."""
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                node.SetAttribute("ModuleName", self.moduleName)
                return node
        else:
            for node in self.getAllParameterNodes():
                return node
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:
        """All parameter nodes of the module."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        """A new parameter node, not yet in the scene."""
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base class of the self-test."""

    messageDelay = 0

    def delayDisplay(self, message: str, requestedDelay: Any = None, msec: Any = None) -> None:
        """Shows what is tested; the host does not wait."""
        logging.info(message)
        slicer.app.processEvents()

    def runTest(self) -> None:
        """Where a module runs its tests."""
        logging.warning("No test is defined in %s", type(self).__name__)


def load_file(name: str, path: str) -> types.ModuleType:
    """Runs a module's file under its name, as Slicer does at its start."""
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"No Python module at {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
