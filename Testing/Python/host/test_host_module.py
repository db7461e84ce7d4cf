"""The stand-in host's modules: loading, panel, parameter node, reload, end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from Host.boot import Host

SOURCE = '''
import slicer
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin

VERSION = 1


class Example(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title, parent.categories = "An example", ["Testing"]
        slicer.app.connect("startupCompleted()", self.started)
        self.calls = []

    def started(self):
        self.calls.append("started")


class ExampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.calls = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic, self.version = ExampleLogic(), VERSION
        self.calls.append("setup")
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.closed)

    def closed(self, caller, event):
        self.calls.append("closed")

    def enter(self):
        self.calls.append("enter")

    def exit(self):
        self.calls.append("exit")

    def cleanup(self):
        self.removeObservers()
        self.calls.append("cleanup")


class ExampleLogic(ScriptedLoadableModuleLogic):
    pass


class ExampleTest(ScriptedLoadableModuleTest):
    def runTest(self):
        self.assertEqual(VERSION, 1)
        self.delayDisplay("passed")
'''


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module's file; its folder leaves the path afterwards."""
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "Example.py").write_text(SOURCE)
    yield tmp_path / "Example.py"
    sys.modules.pop("Example", None)


def load(host: Host, file: Path) -> Any:
    """The panel of the module."""
    host.load_module("Example", file)
    return host.widget("Example")


def test_a_module_describes_itself(host: Host, file: Path) -> None:
    import qt
    import slicer

    (file.parent / "Resources" / "Icons").mkdir(parents=True)
    qt.QPixmap(8, 8).save(str(file.parent / "Resources" / "Icons" / "Example.png"))
    module = host.load_module("Example", file)
    assert (module.title, module.categories) == ("An example", ["Testing"])
    assert slicer.util.modulePath("Example") == str(file)
    assert slicer.modules.ExampleInstance.calls == ["started"]
    assert not module.icon.isNull()
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        module.colour = "red"


def test_the_panel_is_made_when_it_is_opened(host: Host, file: Path) -> None:
    import slicer

    host.load_module("Example", file)
    assert not hasattr(slicer.modules, "ExampleWidget")
    widget = host.widget("Example")
    assert widget is slicer.modules.ExampleWidget is slicer.util.getModuleWidget("Example")
    assert slicer.util.getModuleLogic("Example") is widget.logic
    assert widget.calls == ["setup", "enter"]


def test_leaving_and_closing_are_reported(host: Host, file: Path) -> None:
    import slicer

    widget = load(host, file)
    slicer.util.selectModule("")
    slicer.mrmlScene.Clear(0)
    host.unload_module("Example")
    slicer.mrmlScene.Clear(0)
    assert widget.calls == ["setup", "enter", "exit", "closed", "cleanup"]
    assert not hasattr(slicer.modules, "example")


def test_reloading_takes_the_new_source(host: Host, file: Path) -> None:
    import slicer

    old = load(host, file)
    file.write_text(SOURCE.replace("VERSION = 1", "VERSION = 2"))
    old.onReload()
    new = slicer.util.getModuleWidget("Example")
    assert (old.version, new.version, old.calls[-1]) == (1, 2, "cleanup")
    slicer.mrmlScene.Clear(0)
    assert new.calls == ["setup", "closed"]


def test_the_parameter_node_is_one_and_outlives_closing(host: Host, file: Path) -> None:
    import slicer

    logic = load(host, file).logic
    node = logic.getParameterNode()
    assert logic.getParameterNode() is node
    slicer.mrmlScene.Clear(0)
    assert logic.getParameterNode().GetAttribute("ModuleName") == "Example"
    assert logic.getAllParameterNodes() == [logic.getParameterNode()]


def test_self_tests_run(host: Host, file: Path) -> None:
    import slicer

    host.load_module("Example", file)
    slicer.selfTests["Example"]()


def test_a_module_is_loaded_once(host: Host, file: Path) -> None:
    host.load_module("Example", file)
    with pytest.raises(RuntimeError, match="loaded already"):
        host.load_module("Example", file)


def test_sample_data_needs_proper_checksums(host: Host) -> None:
    import SampleData
    import slicer

    fields = {"uris": "https://x/a.nrrd", "fileNames": "a.nrrd", "nodeNames": "a"}
    register = SampleData.SampleDataLogic.registerCustomSampleDataSource
    register(category="C", sampleName="a", checksums="SHA256:" + "0" * 64, **fields)
    assert [s.sampleName for s in slicer.modules.sampleDataSources["C"]] == ["a"]
    with pytest.raises(ValueError, match="no checksum"):
        register(category="C", sampleName="b", checksums="SHA256:1", **fields)
