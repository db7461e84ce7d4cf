"""The stand-in host's parameterNodeWrapper: values in the scene, and widgets that follow them."""

from __future__ import annotations

import enum
import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pytest

if TYPE_CHECKING:
    from Host.boot import Host


MAYBE_INT = Optional[int]  # noqa: UP045  (Slicer does not know int | None)


class Colour(enum.Enum):
    RED = 1
    GREEN = 2

    def label(self) -> str:
        return self.name.title()


def wrapper(**fields: Any) -> Any:
    """A class with these annotations (a pair: annotation, default), and an instance of it."""
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    hints = {n: f[0] if isinstance(f, tuple) else f for n, f in fields.items()}
    values = {n: f[1] for n, f in fields.items() if isinstance(f, tuple)}
    kind = parameterNodeWrapper(type("Values", (), {"__annotations__": hints, **values}))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    return kind(node)


def named(widget: Any, parameter: str) -> Any:
    """The widget, alone in what stands for a panel."""
    import qt

    widget.setProperty("SlicerParameterName", parameter)
    panel = qt.QWidget()
    widget.setParent(panel)
    return panel


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (bool, True), (int, -3), (float, 0.1), (str, "Läsion; 2"), (Colour, Colour.GREEN),
        (pathlib.Path, pathlib.Path("a b/c")), (MAYBE_INT, 3), (MAYBE_INT, None),
    ],
)
def test_values_come_back_as_written(host: Host, kind: Any, value: Any) -> None:
    values = wrapper(x=kind)
    values.x = value
    assert type(values)(values.parameterNode).x == value


def test_nodes_come_back_until_they_are_removed(host: Host) -> None:
    import slicer

    values = wrapper(volume=slicer.vtkMRMLScalarVolumeNode)
    assert values.volume is None
    values.volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert values.volume.GetID() == "vtkMRMLScalarVolumeNode1"
    slicer.mrmlScene.RemoveNode(values.volume)
    assert values.volume is None


def test_defaults_do_not_overwrite(host: Host) -> None:
    values = wrapper(x=(int, 4), colour=Colour)
    assert (values.x, values.colour, values.default("x").value) == (4, Colour.RED, 4)
    values.x = 5
    assert type(values)(values.parameterNode).x == 5


def test_enums_are_stored_by_name(host: Host) -> None:
    values = wrapper(colour=Colour)
    values.colour = Colour.GREEN
    assert values.parameterNode.GetParameter("colour") == "GREEN"


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [(int, "3", TypeError), (int, 0.5, TypeError), (str, None, ValueError),
     (Colour, "RED", TypeError), (bool, 1, TypeError)],
)
def test_wrong_types_are_refused(host: Host, kind: Any, value: Any, error: Any) -> None:
    values = wrapper(x=kind)
    with pytest.raises(error):
        values.x = value


def test_ranges_and_choices_are_kept(host: Host) -> None:
    from slicer.parameterNodeWrapper import Choice, Maximum, Minimum, WithinRange

    values = wrapper(
        a=(Annotated[float, WithinRange(0, 1)], 0.5), b=(Annotated[int, Minimum(1)], 1),
        c=(Annotated[int, Maximum(1)], 0), d=(Annotated[str, Choice(["x", "y"])], "x"),
    )
    for name, wrong in (("a", 1.5), ("b", 0), ("c", 2), ("d", "z")):
        with pytest.raises(ValueError, match=str(wrong)):
            setattr(values, name, wrong)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(int | None, "Optional"), (list[int], "serializer"), (object, "serializer")],
)
def test_types_that_slicer_would_refuse_are_refused(host: Host, kind: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        wrapper(x=kind)


def test_unknown_parameters_raise(host: Host) -> None:
    values = wrapper(x=int)
    with pytest.raises(AttributeError, match="no parameter 'y'"):
        values.y = 1
    with pytest.raises(ValueError, match="No parameter 'y'"):
        values.getValue("y")


def test_observers_see_changes_once_a_block(host: Host) -> None:
    import slicer
    import vtk

    values, seen = wrapper(x=int, y=int), []
    tag = values.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: seen.append(values.x))
    with slicer.util.NodeModify(values):
        values.x = 1
        values.y = 2
    values.RemoveObserver(tag)
    values.x = 3
    assert seen == [1]


def test_widgets_and_values_follow_each_other(host: Host) -> None:
    import qt

    values, line = wrapper(prompt=(str, "liver")), qt.QLineEdit()
    panel = named(line, "prompt")
    tag = values.connectGui(panel)
    assert line.text == "liver"
    line.text = "lung"
    assert values.prompt == "lung"
    values.prompt = "brain"
    assert line.text == "brain"
    values.disconnectGui(tag)
    line.text = "colon"
    assert values.prompt == "brain"


def test_combo_boxes_list_labels_and_give_members(host: Host) -> None:
    import qt

    values, box = wrapper(colour=Colour), qt.QComboBox()
    panel = named(box, "colour")
    values.connectGui(panel)
    box.currentText = "Green"
    assert values.colour is Colour.GREEN


def test_node_lists_take_the_type_of_their_parameter(host: Host) -> None:
    import slicer

    values, box = wrapper(volume=slicer.vtkMRMLScalarVolumeNode), slicer.qMRMLNodeComboBox()
    panel = named(box, "volume")
    box.setMRMLScene(slicer.mrmlScene)
    values.connectGui(panel)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert values.volume is node
    assert box.nodeTypes == ["vtkMRMLScalarVolumeNode"]


def test_sliders_need_a_range(host: Host) -> None:
    import ctk
    from slicer.parameterNodeWrapper import WithinRange

    free, bound = wrapper(x=float), wrapper(x=(Annotated[float, WithinRange(0, 2)], 1.0))
    slider = ctk.ctkSliderWidget()
    panel = named(slider, "x")
    with pytest.raises(RuntimeError, match="needs both ends"):
        free.connectGui(panel)
    bound.connectGui(panel)
    slider.value = 9
    assert bound.x == 2.0


def test_widgets_without_a_connector_are_refused(host: Host) -> None:
    import qt

    class OwnLine(qt.QLineEdit):
        pass

    for widget in (qt.QPlainTextEdit(), OwnLine(), qt.QSpinBox()):
        panel = named(widget, "x")
        with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
            wrapper(x=str).connectGui(panel)
