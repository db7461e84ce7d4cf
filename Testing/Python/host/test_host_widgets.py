"""The stand-in host's widgets: .ui files, ctk, and the list of nodes that follows the scene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from Host.boot import Host

UI = """<ui version="4.0"><class>Panel</class>
<widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout" name="rows">
<item><widget class="qMRMLNodeComboBox" name="selector">
 <property name="nodeTypes"><stringlist>
  <string>vtkMRMLScalarVolumeNode</string></stringlist></property>
 <property name="noneEnabled"><bool>true</bool></property>
 <property name="SlicerParameterName" stdset="0"><string>volume</string></property>
</widget></item>
<item><widget class="ctkCollapsibleButton" name="more">
 <property name="text"><string>More</string></property>
 <property name="collapsed"><bool>true</bool></property>
 <layout class="QVBoxLayout" name="inner">
  <item><widget class="QCheckBox" name="check"/></item>
  <item><widget class="QLabel" name="words"/></item></layout>
</widget></item></layout></widget>
<connections>
<connection><sender>Panel</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>
<connection><sender>check</sender><signal>toggled(bool)</signal>
 <receiver>words</receiver><slot>setEnabled(bool)</slot></connection>
</connections></ui>"""


def load(folder: Path, text: str = UI) -> Any:
    """The widget of a .ui file, and its named children."""
    import slicer

    (folder / "Panel.ui").write_text(text, encoding="utf-8")
    widget = slicer.util.loadUI(str(folder / "Panel.ui"))
    return widget, slicer.util.childWidgetVariables(widget)


def combo(host: Host, **options: Any) -> Any:
    """A list of volume nodes over the scene."""
    import slicer

    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    for name, value in options.items():
        setattr(box, name, value)
    box.setMRMLScene(slicer.mrmlScene)
    return box


def add(name: str, kind: str = "vtkMRMLScalarVolumeNode") -> Any:
    """A new node in the scene."""
    import slicer

    return slicer.mrmlScene.AddNewNodeByClass(kind, name)


def test_a_ui_file_gives_its_named_children(host: Host, tmp_path: Path) -> None:
    _, ui = load(tmp_path)
    assert (ui.more.text, ui.more.collapsed) == ("More", True)
    assert ui.selector.property("SlicerParameterName") == "volume"


def test_the_scene_reaches_the_widgets_inside(host: Host, tmp_path: Path) -> None:
    import slicer

    widget, ui = load(tmp_path)
    widget.setMRMLScene(slicer.mrmlScene)
    assert ui.selector.mrmlScene() is slicer.mrmlScene


def test_connections_of_the_file_are_made(host: Host, tmp_path: Path) -> None:
    _, ui = load(tmp_path)
    ui.check.checked = True
    ui.check.checked = False
    assert not ui.words.enabled


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"QCheckBox"', '"ctkFancyBox"', "no widget class 'ctkFancyBox'"),
        ('"collapsed"', '"folded"', "ctkCollapsibleButton 'more' has no 'folded'"),
        ("<receiver>words", "<receiver>nobody", "no object 'nobody'"),
        ("toggled(bool)", "toggled(int)", "no signal 'toggled"),
    ],
)
def test_what_slicer_would_not_know_is_refused(
    host: Host, tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        load(tmp_path, UI.replace(old, new))


def test_a_closed_section_hides_what_is_in_it(host: Host, tmp_path: Path) -> None:
    widget, ui = load(tmp_path)
    widget.show()
    host.process()
    assert (ui.check.visible, ui.more.height < 40) == (False, True)
    ui.more.collapsed = False
    host.process()
    assert (ui.check.visible, ui.more.checked) == (True, True)


def test_what_is_shown_in_a_closed_section_waits(host: Host, tmp_path: Path) -> None:
    widget, ui = load(tmp_path)
    widget.show()
    ui.more.collapsed = False
    ui.words.visible = False
    ui.more.collapsed = True
    ui.words.visible = True
    host.process()
    assert not ui.words.visible
    ui.more.collapsed = False
    assert ui.words.visible


def test_a_slider_keeps_to_its_range_and_reports_once(host: Host) -> None:
    import ctk

    seen: list[float] = []
    slider = ctk.ctkSliderWidget()
    slider.minimum, slider.maximum, slider.decimals = 0, 1, 2
    slider.connect("valueChanged(double)", seen.append)
    slider.value = 0.5
    slider.value = 0.5
    slider.value = 7
    assert (seen, slider.value) == ([0.5, 1.0], 1.0)


def test_a_path_line_asks_for_a_file(host: Host, tmp_path: Path) -> None:
    import ctk

    line = ctk.ctkPathLineEdit()
    host.dialogs.answer(tmp_path)
    line.browse()
    assert line.currentPath == str(tmp_path)


def test_an_emptied_path_line_reports_only_that_its_input_is_not_valid(host: Host) -> None:
    import ctk

    seen: list[Any] = []
    line = ctk.ctkPathLineEdit()
    line.connect("currentPathChanged(QString)", seen.append)
    line.connect("validInputChanged(bool)", seen.append)
    line.currentPath = "a"
    line.currentPath = "ab"
    line.currentPath = ""
    assert seen == ["a", True, "ab", False]


def test_a_slider_rounds_to_its_decimals(host: Host) -> None:
    import ctk

    slider = ctk.ctkSliderWidget()
    slider.maximum = 1
    slider.value = 0.4567
    assert (slider.decimals, slider.value) == (2, 0.46)


def test_ctk_offers_no_other_widgets(host: Host) -> None:
    import ctk

    with pytest.raises(AttributeError, match="ctkFlowLayout"):
        _ = ctk.ctkFlowLayout


def test_the_list_follows_the_scene(host: Host) -> None:
    import slicer

    box = combo(host)
    first, second = add("a"), add("b")
    add("text", "vtkMRMLTextNode")
    assert (box.nodeCount(), box.currentNode()) == (2, first)
    slicer.mrmlScene.RemoveNode(first)
    assert box.currentNode() is second
    slicer.mrmlScene.Clear(0)
    assert (box.nodeCount(), box.currentNode()) == (0, None)


def test_none_stays_chosen_where_it_is_offered(host: Host) -> None:
    box = combo(host, noneEnabled=True)
    add("a")
    assert box.currentNode() is None


def test_a_choice_is_reported_once(host: Host) -> None:
    box = combo(host, noneEnabled=True)
    node, seen = add("a"), []
    box.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    box.currentNodeIDChanged.connect(seen.append)
    box.setCurrentNode(node)
    box.setCurrentNode(node)
    assert seen == [node, node.GetID()]


def test_derived_classes_are_left_out_where_requested(host: Host) -> None:
    add("labels", "vtkMRMLLabelMapVolumeNode")
    assert combo(host, showChildNodeTypes=True).nodeCount() == 1
    assert combo(host, showChildNodeTypes=False).nodeCount() == 0


def test_hidden_nodes_and_attributes_are_minded(host: Host) -> None:
    hidden, marked = add("a"), add("b")
    hidden.SetHideFromEditors(True)
    marked.SetAttribute("DiffuGTS", "1")
    box = combo(host)
    assert (box.nodeCount(), combo(host, showHidden=True).nodeCount()) == (1, 2)
    box.addAttribute("vtkMRMLScalarVolumeNode", "DiffuGTS", "2")
    assert box.nodeCount() == 0


def test_renamed_nodes_are_shown_by_their_new_name(host: Host) -> None:
    import slicer

    early = add("b")
    box = combo(host)
    node = add("a")
    node.SetName("Läsion")
    early.SetName("früh")
    (inner,) = [w for w in box.children() if w.className() == "QComboBox"]
    assert [inner.itemText(0), inner.itemText(1)] == ["früh", "Läsion"]
    assert slicer.util.getNode("Läsion") is node


def test_nodes_are_created_only_where_allowed(host: Host) -> None:
    box = combo(host, selectNodeUponCreation=True, baseName="Scan")
    assert box.addNode().GetName() == "Scan"
    box.addEnabled = False
    with pytest.raises(RuntimeError, match="addEnabled"):
        box.addNode()


def test_a_list_that_is_gone_does_not_follow(host: Host) -> None:
    box = combo(host)
    box.deleteLater()
    host.process()
    add("a")
    assert host.errors == []
