"""`slicer.app.coreIOManager()`: reads and writes nodes through their storage nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from PySide6.QtCore import QObject

VOLUME_ENDS = (".nrrd", ".nhdr", ".nii.gz", ".nii", ".mha", ".mhd")

# File type: (node class, storage class, the endings it reads).
TYPES = {
    "SegmentationFile": (
        "vtkMRMLSegmentationNode", "vtkMRMLSegmentationStorageNode", (".seg.nrrd", ".seg.nhdr"),
    ),
    "VolumeFile": (
        "vtkMRMLScalarVolumeNode", "vtkMRMLVolumeArchetypeStorageNode",
        (*VOLUME_ENDS, ".dcm"),
    ),
    "MarkupsFile": ("vtkMRMLMarkupsROINode", "vtkMRMLMarkupsROIJsonStorageNode", (".mrk.json",)),
    "TransformFile": ("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode", (".h5", ".tfm")),
    "TableFile": ("vtkMRMLTableNode", "vtkMRMLTableStorageNode", (".csv", ".tsv")),
    "SequenceFile": (
        "vtkMRMLSequenceNode", "vtkMRMLVolumeSequenceStorageNode", (".seq.nrrd", ".seq.nhdr"),
    ),
    "SceneFile": ("", "", (".mrb", ".mrml")),
}


class CoreIOManager(QObject):
    """The part of Slicer's file manager that slicer.util needs."""

    STAND_IN = True

    def __init__(self, scene: Any) -> None:
        super().__init__()
        self._scene = scene

    def fileType(self, path: Any) -> str:
        """The type of a file by its ending, the longest first; raises for unknown ones."""
        fits = [(len(end), kind) for kind, (_, _, ends) in TYPES.items() for end in ends
                if str(path).lower().endswith(end)]
        if not fits:
            raise ValueError(f"The host reads no file like '{Path(path).name}'")
        return max(fits)[1]

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        """Reads a file into the scene; False where it cannot be read."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            return self._load_scene(path)
        node_class, storage_class, ends = TYPES[kind]
        if kind == "VolumeFile" and properties.get("labelmap"):
            node_class = "vtkMRMLLabelMapVolumeNode"
        end = next((e for e in ends if path.lower().endswith(e)), Path(path).suffix)
        name = properties.get("name") or Path(path).name[: -len(end) or None]
        storage = self._scene.AddNewNodeByClass(storage_class)
        storage.SetFileName(path)
        if kind == "VolumeFile":
            storage.SetSingleFile(bool(properties.get("singleFile", False)))
        node = self._scene.AddNewNodeByClass(node_class, self._scene.GenerateUniqueName(name))
        if not Path(path).exists() or storage.ReadData(node) != 1:
            self._scene.RemoveNode(node)
            self._scene.RemoveNode(storage)
            return False
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        if kind == "VolumeFile" and properties.get("show", True):
            selection = slicer.app.applicationLogic().GetSelectionNode()
            selection.SetActiveVolumeID(node.GetID())
            slicer.app.applicationLogic().PropagateVolumeSelection()
        loaded.AddItem(node)
        return True

    def _load_scene(self, path: str) -> bool:
        if path.endswith(".mrb"):
            folder = slicer.util.tempDirectory("__mrb__")
            return bool(self._scene.ReadFromMRB(path, folder))
        self._scene.SetURL(path)
        return bool(self._scene.Import())

    def fileWriterFileType(self, node: Any) -> str:
        """The type of file that a node is written to."""
        for kind, (node_class, _, _) in TYPES.items():
            if node_class and node.IsA(node_class):
                return kind
        raise ValueError(f"The host writes no {node.GetClassName()}")

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any) -> bool:
        """Writes a node by its own storage node, or the scene."""
        path = str(properties["fileName"])
        if kind == "SceneFile":
            if path.endswith(".mrb"):
                return bool(self._scene.WriteToMRB(path))
            return bool(self._scene.Commit(path))
        node = self._scene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(path)
        return bool(node.GetStorageNode().WriteData(node) == 1)

    def fileWriterExtensions(self, node: Any) -> list[str]:
        """The formats a node can be written in, like "NRRD (.nrrd)"."""
        storage = node.CreateDefaultStorageNode()
        storage.UnRegister(None)
        types = storage.GetSupportedWriteFileTypes()
        known = [types.GetValue(i) for i in range(types.GetNumberOfValues())]
        # slicer-core leaves the list of the volumes' storage node empty.
        return known or [f"{end} ({end})" for end in VOLUME_ENDS]

    def extractKnownExtension(self, path: Any, node: Any) -> str:
        """The longest ending of the path that the node can be written with."""
        ends = [
            slicer.vtkDataFileFormatHelper.GetFileExtensionFromFormatString(form)
            for form in self.fileWriterExtensions(node)
        ]
        return max((e for e in ends if str(path).lower().endswith(e)), key=len, default="")

    def exportNodes(
        self, node_ids: list[str], paths: list[Any], properties: dict[str, Any], harden: bool,
        messages: Any,
    ) -> bool:
        """Writes nodes by storage nodes of their own, so that the scene's do not change."""
        if harden:
            raise NotImplementedError("The host does not export in world coordinates")
        done = True
        for node_id, path in zip(node_ids, paths, strict=True):
            node = self._scene.GetNodeByID(node_id)
            storage = node.CreateDefaultStorageNode()
            storage.UnRegister(None)
            storage.SetFileName(str(path))
            storage.SetScene(self._scene)
            done = done and storage.WriteData(node) == 1
        return done
