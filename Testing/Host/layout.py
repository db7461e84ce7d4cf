"""The views without a window: real slice and view nodes with their logic, and nothing drawn."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6.QtCore import Property, QObject, Signal

SLICES = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
COLOURS = {"Red": (0.95, 0.29, 0.2), "Yellow": (0.93, 0.84, 0.3), "Green": (0.43, 0.69, 0.29)}


class View(QObject):
    """What draws; here it counts how often it should."""

    STAND_IN = True

    def __init__(self) -> None:
        super().__init__()
        self._renders = 0

    def forceRender(self) -> None:
        """Counted."""
        self._renders += 1

    scheduleRender = forceRender

    def resetFocalPoint(self) -> None:
        """Nothing to look at."""

    resetCamera = resetFocalPoint


class SliceWidget(QObject):
    """One slice view."""

    STAND_IN = True

    def __init__(self, name: str, logic: Any) -> None:
        super().__init__()
        self._name, self._logic, self._view = name, logic, View()

    def mrmlSliceNode(self) -> Any:
        """Where the slice lies."""
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        """Which volumes it shows."""
        return self._logic.GetSliceCompositeNode()

    def sliceLogic(self) -> Any:
        """The logic of the slice."""
        return self._logic

    def sliceView(self) -> View:
        """What draws."""
        return self._view

    def fitSliceToBackground(self) -> None:
        """Shows the whole background volume."""
        self._logic.FitSliceToBackground()


class ThreeDWidget(QObject):
    """The 3D view."""

    STAND_IN = True

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._node, self._view = node, View()

    def mrmlViewNode(self) -> Any:
        """The view node."""
        return self._node

    def threeDView(self) -> View:
        """What draws."""
        return self._view


class LayoutManager(QObject):
    """Three slices and a 3D view."""

    STAND_IN = True
    SIGNATURES = {"layoutChanged(int)": "layoutChanged"}  # noqa: RUF012
    layoutChanged = Signal(int)

    def __init__(self, scene: Any, app_logic: Any) -> None:
        super().__init__()
        self._scene, self._app_logic = scene, app_logic
        layout = slicer.vtkMRMLLayoutNode()
        layout.SetSingletonTag("vtkMRMLLayoutNode")  # stays when the scene is closed
        layout.AddLayoutDescription(layout.SlicerLayoutFourUpView, "<layout/>")
        layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self._layout_node = scene.AddNode(layout)
        self._slices = {name: SliceWidget(name, self._slice_logic(name)) for name in SLICES}
        logic = slicer.vtkMRMLViewLogic()
        logic.SetMRMLApplicationLogic(app_logic)
        logic.SetMRMLScene(scene)
        app_logic.GetViewLogics().AddItem(logic)
        node = logic.AddViewNode("1")
        node.SetMappedInLayout(True)
        self._three_d = [ThreeDWidget(node)]

    def _slice_logic(self, name: str) -> Any:
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(self._app_logic)
        logic.SetMRMLScene(self._scene)
        node = logic.AddSliceNode(name)
        node.SetLayoutColor(*COLOURS[name])
        self._arrange(name, logic)
        self._app_logic.GetSliceLogics().AddItem(logic)
        return logic

    def _arrange(self, name: str, logic: Any) -> None:
        node = logic.GetSliceNode()
        node.SetMappedInLayout(True)
        node.SetDefaultOrientation(SLICES[name])
        node.SetOrientationToDefault()
        logic.ResizeSliceNode(400, 400)
        logic.SetSliceOffset(0)

    def _reset(self) -> None:
        """The slices as at the start: an oblique volume turns them, and they stay so."""
        for name, widget in self._slices.items():
            self._arrange(name, widget.sliceLogic())

    def sliceViewNames(self) -> tuple[str, ...]:
        """Red, Yellow, Green."""
        return tuple(self._slices)

    def sliceWidget(self, name: str) -> SliceWidget | None:
        """The slice view of that name, or None."""
        return self._slices.get(name)

    def threeDWidget(self, index: int) -> ThreeDWidget | None:
        """The 3D view at that index, or None."""
        return self._three_d[index] if 0 <= index < len(self._three_d) else None

    def mrmlSliceLogics(self) -> Any:
        """The logics of the slices, as vtkCollection."""
        return self._app_logic.GetSliceLogics()

    def resetSliceViews(self) -> None:
        """Shows the whole volumes."""
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """Nothing to look at."""

    def setLayout(self, layout: int) -> None:
        """Chooses an arrangement of views."""
        self._layout_node.SetViewArrangement(layout)
        self.layoutChanged.emit(layout)

    threeDViewCount = Property(int, lambda self: len(self._three_d))
    tableViewCount = Property(int, lambda self: 0)
    plotViewCount = Property(int, lambda self: 0)
    layout = Property(int, lambda self: self._layout_node.GetViewArrangement(), setLayout)


def application_logic(scene: Any) -> Any:
    """The application logic with the scene's default nodes, as the application makes them."""
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    _remote_files(scene)
    return logic


def _remote_files(scene: Any) -> None:
    """The cache for remote files, which reading a scene bundle needs."""
    logic = slicer.vtkMRMLRemoteIOLogic()
    logic.SetMRMLScene(scene)
    logic.GetCacheManager().SetRemoteCacheDirectory(slicer.app.temporaryPath)
    logic.AddDataIOToScene()
    slicer.app._remote_io = logic
