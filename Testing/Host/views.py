"""Pictures of the scene: three slices and a 3D view as Slicer draws them, off-screen.

The views are those of trame-slicer, drawn by VTK in software; they show what the scene's slice
and composite nodes specify, so a test's image is what the user would see.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from PySide6.QtCore import QRect, Qt
from PySide6.QtGui import QColor, QFont, QImage, QPainter
from vtk.util.numpy_support import vtk_to_numpy

from .layout import COLOURS, SLICES

HEADER = 22
GAP = 2


def can_render() -> bool:
    """Whether VTK finds something to draw with; without, it would end the process."""
    if os.environ.get("DISPLAY") or sys.platform != "linux":
        return True
    return any(ctypes.util.find_library(name) for name in ("EGL", "OSMesa"))


def _make_view(name: str, logic: Any, width: int, height: int) -> Any:
    """A view on the scene's own slice or view node, which it leaves as they are."""
    from trame_slicer.views import SliceView, ThreeDView
    from trame_slicer.views.abstract_view import AbstractView
    from trame_slicer.views.render_scheduler import NoScheduleRendering

    class Slice(SliceView):
        def set_scene(self, scene: Any) -> None:
            AbstractView.set_scene(self, scene)
            node = scene.GetNodeByID(f"vtkMRMLSliceNode{self.name}")
            self._logic.SetMRMLScene(scene)
            self._logic.SetSliceNode(node)
            self.set_view_node(node)

        def _reset_node_view_properties(self) -> None:
            """Nothing: the orientation is the scene's."""

    class ThreeD(ThreeDView):
        def set_scene(self, scene: Any) -> None:
            AbstractView.set_scene(self, scene)
            self._logic.SetMRMLScene(scene)
            self.set_view_node(scene.GetNodeByID("vtkMRMLViewNode1"))

    kind = Slice if name in SLICES else ThreeD
    view = kind(slicer.mrmlScene, logic, name, scheduled_render_strategy=NoScheduleRendering())
    view.set_render_blocked(True)
    view.render_window().SetSize(width, height)
    view.interactor().UpdateSize(width, height)
    if name in SLICES:
        view._logic.ResizeSliceNode(width, height)
    return view


@contextmanager
def _views(width: int, height: int) -> Iterator[dict[str, Any]]:
    """Views of the scene by name, not drawing; taken down at the end."""
    logic = slicer.app.applicationLogic()
    collections = (logic.GetSliceLogics(), logic.GetViewLogics())
    before = [collection.GetNumberOfItems() for collection in collections]
    # VTK warns at length that it found no X server and uses EGL.
    warnings = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.GlobalWarningDisplayOff()
    known = _parts()
    made = {name: _make_view(name, logic, width, height) for name in (*SLICES, "1")}
    try:
        yield made
    finally:
        for view in made.values():
            view._displayable_manager_group.SetMRMLDisplayableNode(None)
            view._logic.SetMRMLScene(None)
            view.finalize()
        for node in _parts() - known:
            slicer.mrmlScene.RemoveNode(node)
        for collection, count in zip(collections, before, strict=True):
            _shorten(collection, count)
        vtk.vtkObject.SetGlobalWarningDisplay(warnings)


def _parts() -> set[Any]:
    """The nodes that views and their logics are made of, and others of these classes."""
    kinds = ("SliceDisplay", "LinearTransform", "Model", "Camera")
    return {node for kind in kinds for node in slicer.util.getNodesByClass(f"vtkMRML{kind}Node")}


def _add_legends_again() -> None:
    """The views' colour bars are made when their nodes are added, and the views are younger."""
    for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"):
        shown = legend.GetDisplayableNode()
        if shown is not None and legend.GetVisibility():
            slicer.mrmlScene.RemoveNode(legend)
            made = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(shown)
            made.CopyContent(legend)


def _shorten(collection: Any, count: int) -> None:
    while collection.GetNumberOfItems() > count:
        collection.RemoveItem(collection.GetNumberOfItems() - 1)


def _grab(view: Any) -> np.ndarray:
    """The drawn view, (H, W, 3) uint8, first row at the top."""
    view.render_window().Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(view.render_window())
    grabber.SetInputBufferTypeToRGB()
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    width, height, _ = image.GetDimensions()
    flat = vtk_to_numpy(image.GetPointData().GetScalars())
    return np.ascontiguousarray(flat.reshape(height, width, 3)[::-1])


def _fit(views: dict[str, Any], position: Any, zoom: float) -> None:
    """Whole volumes in the slices, the slices at the position (RAS, mm), the 3D view on all."""
    for name in SLICES:
        views[name]._logic.FitSliceToBackground()
        views[name].zoom(1 - 1 / zoom)
    if position is not None:
        node = slicer.vtkMRMLSliceNode
        mode = node.CenteredJumpSlice if zoom > 1 else node.OffsetJumpSlice
        node.JumpAllSlices(slicer.mrmlScene, *position, mode)
    views["1"].set_background_gradient_color([193, 195, 232], [116, 120, 190])  # as in Slicer
    views["1"].set_box_visible(False)
    views["1"].fit_view_to_content()


def _caption(view: Any, name: str) -> str:
    if name not in SLICES:
        return "3D"
    axis = ("Sagittal", "Coronal", "Axial").index(SLICES[name])
    offset = view.get_view_node().GetSliceToRAS().GetElement(axis, 3)
    side = ("LR", "PA", "IS")[axis][offset >= 0]
    return f"{SLICES[name]}   {side} {abs(offset):.1f} mm"


def render(
    *, size: tuple[int, int] = (560, 440), position: Any = None, zoom: float = 1.0
) -> QImage:
    """The four views of the scene in one picture; the scene's slices are fitted to its volumes.

    Args:
        size: width and height of one view, in pixels.
        position: where the slices cut (world RAS, mm); None leaves them in the middle.
        zoom: magnification of the slices, around the position; 1 shows the whole volume.

    Raises:
        RuntimeError: nothing to draw with on this machine.
    """
    if not can_render():
        raise RuntimeError("VTK needs libEGL (Mesa) or libOSMesa to draw without a screen")
    width, height = size
    picture = QImage(2 * width + GAP, 2 * (height + HEADER) + GAP, QImage.Format.Format_RGB888)
    picture.fill(QColor(40, 40, 40))
    painter = QPainter(picture)
    with _views(width, height) as views:
        _add_legends_again()
        _fit(views, position, zoom)
        for index, name in enumerate(("Red", "1", "Green", "Yellow")):
            left = (index % 2) * (width + GAP)
            top = (index // 2) * (height + HEADER + GAP)
            _draw(painter, views[name], name, QRect(left, top, width, height + HEADER))
    painter.end()
    return picture


def _draw(painter: QPainter, view: Any, name: str, area: QRect) -> None:
    colour = QColor.fromRgbF(*COLOURS.get(name, (0.45, 0.55, 0.75)))
    header = QRect(area.left(), area.top(), area.width(), HEADER)
    painter.fillRect(header, colour)
    painter.setPen(QColor("black"))
    font = QFont(painter.font())
    font.setPixelSize(13)
    painter.setFont(font)
    painter.drawText(header.adjusted(8, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter,
                     _caption(view, name))
    pixels = _grab(view)
    height, width, _ = pixels.shape
    image = QImage(pixels.data, width, height, 3 * width, QImage.Format.Format_RGB888)
    painter.drawImage(area.left(), area.top() + HEADER, image)


def save(path: Path | str, **options: Any) -> None:
    """Writes the picture of `render` as PNG; raises OSError where it cannot."""
    if not render(**options).save(str(path), "PNG"):
        raise OSError(f"The picture could not be written to {path}")
