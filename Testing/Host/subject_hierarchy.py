"""Items of the subject hierarchy: the application makes one for each data node of the scene."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

WITH_ITEM = (
    "vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLModelNode",
    "vtkMRMLMarkupsNode", "vtkMRMLTransformNode", "vtkMRMLTableNode", "vtkMRMLTextNode",
    "vtkMRMLSequenceNode", "vtkMRMLSequenceBrowserNode",
)


def follow(scene: Any) -> None:
    """Makes an item when such a node is added; slicer-core lacks the plugin that does."""

    def hierarchy() -> Any:
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(_scene: Any, _event: str, node: Any) -> None:
        shown = not node.GetHideFromEditors() and any(node.IsA(kind) for kind in WITH_ITEM)
        if shown and not scene.IsImporting() and not hierarchy().GetItemByDataNode(node):
            hierarchy().CreateItem(hierarchy().GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removing(_scene: Any, _event: str, node: Any) -> None:
        if scene.IsClosing() or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        item = hierarchy().GetItemByDataNode(node)
        if item:
            hierarchy().RemoveItem(item, False, False)

    hierarchy()
    scene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, lambda _scene, _event: hierarchy())
    scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, added)
    scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, removing)
