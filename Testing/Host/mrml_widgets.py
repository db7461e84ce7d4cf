"""Slicer's widgets over the MRML scene, as modules use them."""

from __future__ import annotations

import weakref
from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget
from shiboken6 import isValid

SCENE_CHANGED = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}


def observe(observer: Any, subject: Any, event: Any, method: str) -> None:
    """Calls observer.method(node or None) at the event, as long as the observer lives."""
    held = weakref.ref(observer)
    tags: list[int] = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def callback(caller: Any, _event: str, data: Any = None) -> None:
        alive = held()
        if alive is None or not isValid(alive):
            caller.RemoveObserver(tags[0])
        else:
            getattr(alive, method)(data)

    tags.append(subject.AddObserver(event, callback))


class qMRMLWidget(QWidget):
    """A widget that knows the scene."""

    STAND_IN = True
    SIGNATURES = SCENE_CHANGED
    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def mrmlScene(self) -> Any:
        """The scene, or None."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        """Tells the scene to the widget, and by mrmlSceneChanged to those inside."""
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(qMRMLWidget):
    """A list of the scene's nodes of some classes."""

    STAND_IN = True
    SIGNATURES = SCENE_CHANGED | {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_currentNodeIsThere",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
    }
    currentNodeChanged = Signal(object)
    _currentNodeIsThere = Signal(bool)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = QComboBox()
        self._ids: list[str] = []
        self._current = ""
        self._attributes: list[tuple[str, str, Any]] = []
        self._options: dict[str, Any] = {
            "nodeTypes": [], "noneEnabled": False, "noneDisplay": "None", "addEnabled": True,
            "removeEnabled": True, "editEnabled": False, "renameEnabled": False,
            "showHidden": False, "showChildNodeTypes": True, "baseName": "",
            "selectNodeUponCreation": False, "hideChildNodeTypes": [],
        }
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.currentIndexChanged.connect(self._on_chosen)
        self._box.activated.connect(lambda index: self.nodeActivated.emit(self.currentNode()))

    def setMRMLScene(self, scene: Any) -> None:
        """Lists the scene's nodes and follows them."""
        if scene is self._scene:
            return
        if scene is not None:
            observe(self, scene, slicer.vtkMRMLScene.NodeAddedEvent, "_on_added")
            observe(self, scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, "_on_removing")
            observe(self, scene, slicer.vtkMRMLScene.NodeRemovedEvent, "_refresh")
            for event in ("EndCloseEvent", "EndImportEvent", "EndBatchProcessEvent"):
                observe(self, scene, getattr(slicer.vtkMRMLScene, event), "_refresh")
        super().setMRMLScene(scene)
        for node in self._nodes():
            observe(self, node, vtk.vtkCommand.ModifiedEvent, "_refresh")
        self._refresh()

    def _fits(self, node: Any) -> bool:
        options = self._options
        if node.GetHideFromEditors() and not options["showHidden"]:
            return False
        match = node.IsA if options["showChildNodeTypes"] else node.GetClassName().__eq__
        if not any(match(kind) for kind in options["nodeTypes"]):
            return False
        wanted = [(n, v) for kind, n, v in self._attributes if node.IsA(kind)]
        return all(
            node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name))
            for name, value in wanted
        )

    def _nodes(self) -> list[Any]:
        scene = self._scene
        nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())] if scene else []
        return [node for node in nodes if self._fits(node)]

    def _on_added(self, node: Any) -> None:
        if self._fits(node):
            observe(self, node, vtk.vtkCommand.ModifiedEvent, "_refresh")
            self._refresh()
            self.nodeAdded.emit(node)

    def _on_removing(self, node: Any) -> None:
        if node is not None and node.GetID() in self._ids:
            self.nodeAboutToBeRemoved.emit(node)

    def _refresh(self, _data: Any = None) -> None:
        if self._scene is not None and self._scene.IsBatchProcessing():
            return
        names = [(node.GetID(), node.GetName()) for node in self._nodes()]
        if self._options["noneEnabled"]:
            names.insert(0, ("", self._options["noneDisplay"]))
        self._ids = [node_id for node_id, _ in names]
        self._box.blockSignals(True)
        self._box.clear()
        for node_id, name in names:
            self._box.addItem(name, node_id)
        # As QComboBox: a first row that appears is chosen.
        index = self._ids.index(self._current) if self._current in self._ids else 0
        self._box.setCurrentIndex(index if self._ids else -1)
        self._box.blockSignals(False)
        self._on_chosen(self._box.currentIndex)

    def _on_chosen(self, index: int) -> None:
        chosen = self._ids[index] if 0 <= index < len(self._ids) else ""
        if chosen != self._current:
            self._current = chosen
            self.currentNodeChanged.emit(self.currentNode())
            self._currentNodeIsThere.emit(bool(chosen))
            self.currentNodeIDChanged.emit(chosen)

    def currentNode(self) -> Any:
        """The chosen node, or None."""
        return self._scene.GetNodeByID(self._current) if self._scene and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        """Chooses the node; one that is not in the list chooses none."""
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id: str) -> None:
        """Chooses the node by its ID."""
        node_id = node_id or ""
        self._box.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)
        self._on_chosen(self._box.currentIndex)

    def setCurrentNodeIndex(self, index: int) -> None:
        """Selects the node by its index."""
        self.setCurrentNode(self.nodeFromIndex(index))

    def nodeFromIndex(self, index: int) -> Any:
        """The node at that index, or None."""
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def nodeCount(self) -> int:
        """How many nodes are listed, none aside."""
        return len(self._nodes())

    def addAttribute(self, kind: str, name: str, value: Any = None) -> None:
        """Lists only nodes of that class that have the attribute (with that value)."""
        self._attributes.append((kind, name, value))
        self._refresh()

    def removeAttribute(self, kind: str, name: str) -> None:
        """Undoes addAttribute."""
        self._attributes = [a for a in self._attributes if a[:2] != (kind, name)]
        self._refresh()

    def addNode(self, kind: str = "") -> Any:
        """Makes a node as the entry "Create new" does."""
        if not self._options["addEnabled"]:
            raise RuntimeError(f"{self.name}: addEnabled is off, nobody can create a node here")
        kind = kind or self._options["nodeTypes"][0]
        base = self._options["baseName"] or kind.replace("vtkMRML", "").replace("Node", "")
        node = self._scene.AddNewNodeByClass(kind, self._scene.GenerateUniqueName(base))
        self.nodeAddedByUser.emit(node)
        if self._options["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        return node

    def _option(name: str, kind: Any) -> tuple[Property, Any]:
        def write(self: Any, value: Any) -> None:
            self._options[name] = list(value) if kind == "QStringList" else value
            self._refresh()

        return Property(kind, lambda self: self._options[name], write), write

    nodeTypes, setNodeTypes = _option("nodeTypes", "QStringList")
    hideChildNodeTypes, setHideChildNodeTypes = _option("hideChildNodeTypes", "QStringList")
    noneEnabled, setNoneEnabled = _option("noneEnabled", bool)
    noneDisplay, setNoneDisplay = _option("noneDisplay", str)
    addEnabled, setAddEnabled = _option("addEnabled", bool)
    removeEnabled, setRemoveEnabled = _option("removeEnabled", bool)
    editEnabled, setEditEnabled = _option("editEnabled", bool)
    renameEnabled, setRenameEnabled = _option("renameEnabled", bool)
    showHidden, setShowHidden = _option("showHidden", bool)
    showChildNodeTypes, setShowChildNodeTypes = _option("showChildNodeTypes", bool)
    baseName, setBaseName = _option("baseName", str)
    selectNodeUponCreation, setSelectNodeUponCreation = _option("selectNodeUponCreation", bool)
    currentNodeID = Property(str, lambda self: self._current, setCurrentNodeID)


class qMRMLSegmentsTableView(qMRMLWidget):
    """The list of a segmentation's segments; here only what is chosen in it."""

    STAND_IN = True
    SIGNATURES = SCENE_CHANGED
    segmentationNodeChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._chosen: list[str] = []

    def segmentationNode(self) -> Any:
        """The node whose segments are listed."""
        return self._node

    def setSegmentationNode(self, node: Any) -> None:
        """Lists the segments of the node."""
        self._node, self._chosen = node, []

    def selectedSegmentIDs(self) -> list[str]:
        """The chosen segments."""
        return list(self._chosen)

    def setSelectedSegmentIDs(self, ids: list[str]) -> None:
        """Chooses segments; unknown IDs raise."""
        known = list(self._node.GetSegmentation().GetSegmentIDs()) if self._node else []
        if unknown := [i for i in ids if i not in known]:
            raise ValueError(f"The segmentation has no segment {unknown}")
        self._chosen = list(ids)


WIDGETS = (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentsTableView)
