"""The stand-in host: Qt as PythonQt offers it, the event loop, dialogs and packages."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from Host.boot import Host


def test_properties_read_and_write_by_name(host: Host) -> None:
    import qt

    label = qt.QLabel("a")
    label.text = "b"
    label.enabled = False
    assert (label.text, label.enabled, label.className()) == ("b", False, "QLabel")


def test_a_property_is_no_method(host: Host) -> None:
    import qt

    with pytest.raises(TypeError, match="not callable"):
        qt.QLabel("a").text()


def test_the_name_is_the_object_name(host: Host) -> None:
    import qt

    label = qt.QLabel()
    label.name = "title"
    assert label.objectName == "title"


def test_unknown_attributes_raise(host: Host) -> None:
    import qt

    button = qt.QPushButton()
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = button.colour
    with pytest.raises(AttributeError, match="lets nobody add one"):
        button.colour = "red"
    with pytest.raises(AttributeError, match="only be read"):
        button.width = 3


@pytest.mark.parametrize("kind", ["QMenu", "QProcess", "QFile", "QLibrary"])
def test_classes_with_an_access_of_their_own_follow_too(host: Host, kind: str) -> None:
    import qt

    instance = getattr(qt, kind)()
    instance.name = "x"
    assert instance.objectName == "x"
    with pytest.raises(AttributeError):
        _ = instance.colour


def test_dynamic_properties_are_attributes(host: Host) -> None:
    import qt

    label = qt.QLabel()
    label.setProperty("SlicerParameterName", "volume")
    assert label.SlicerParameterName == "volume"


def test_subclasses_in_python_keep_their_own_attributes(host: Host) -> None:
    import qt

    class Counter(qt.QLabel):
        def __init__(self) -> None:
            super().__init__("count")
            self.count = 0

        def add(self) -> None:
            self.count += 1

    counter = Counter()
    counter.add()
    assert (counter.count, counter.text) == (1, "count")


def test_a_virtual_getter_does_not_call_itself(host: Host) -> None:
    import qt

    class Empty(qt.QWidget):
        pass

    assert Empty().sizeHint.width() == -1


@pytest.mark.parametrize("name", ["Signal", "Slot", "Property", "QSignalBlocker", "QNothing", "os"])
def test_qt_offers_no_more_than_slicers(host: Host, name: str) -> None:
    import qt

    with pytest.raises(AttributeError, match="no '"):
        getattr(qt, name)


def test_enums_compare_with_ints(host: Host) -> None:
    import qt

    assert qt.Qt.Checked == 2
    assert qt.QProcess().state() == qt.QProcess.NotRunning == 0


def test_signals_connect_by_signature_and_by_name(host: Host) -> None:
    import qt

    seen: list[object] = []
    box = qt.QCheckBox()
    box.connect("toggled(bool)", seen.append)
    box.toggled.connect(lambda: seen.append("none"))
    box.checked = True
    assert seen == [True, "none"]


def test_slots_are_disconnected(host: Host) -> None:
    import qt

    seen: list[bool] = []
    box = qt.QCheckBox()
    box.connect("toggled(bool)", seen.append)
    assert box.disconnect("toggled(bool)", seen.append)
    assert not box.disconnect("toggled(bool)", seen.append)
    box.checked = True
    assert seen == []
    with pytest.raises(ValueError, match="not connected"):
        box.toggled.disconnect(seen.append)


def test_bound_methods_are_held(host: Host) -> None:
    import qt

    seen: list[bool] = []

    class Listener:
        def take(self, on: bool) -> None:
            seen.append(on)

    box = qt.QCheckBox()
    box.toggled.connect(Listener().take)
    box.checked = True
    assert seen == [True]


def test_unknown_signals_raise_and_name_the_known_ones(host: Host) -> None:
    import qt

    with pytest.raises(ValueError, match=r"no signal 'clickd\(\)'.*clicked\(bool\)"):
        qt.QPushButton().connect("clickd()", print)
    with pytest.raises(AttributeError):
        qt.QPushButton().clickd.connect(print)
    with pytest.raises(TypeError, match="callable"):
        qt.QPushButton().clicked.connect(None)


def test_a_process_reports_its_end(host: Host) -> None:
    import qt

    ends: list[tuple[int, int]] = []
    process = qt.QProcess()
    process.connect("finished(int,QProcess::ExitStatus)", lambda c, s: ends.append((c, int(s))))
    process.start(sys.executable, ["-c", "print('é'); raise SystemExit(3)"])
    host.until(lambda: ends, seconds=30)
    assert ends == [(3, qt.QProcess.NormalExit)]
    assert process.readAllStandardOutput().data().decode().strip() == "é"


def test_a_process_that_cannot_start_has_no_end(host: Host) -> None:
    import qt

    errors: list[int] = []
    process = qt.QProcess()
    process.connect("finished(int,QProcess::ExitStatus)", lambda: errors.append(-1))
    process.connect("errorOccurred(QProcess::ProcessError)", errors.append)
    process.start("/no/such/program", [])
    host.until(lambda: errors, seconds=10)
    assert errors == [qt.QProcess.FailedToStart]


def test_single_shots_hold_their_slot(host: Host) -> None:
    import qt

    seen: list[int] = []

    class Later:
        def come(self) -> None:
            seen.append(1)

    qt.QTimer.singleShot(1, Later().come)
    host.until(lambda: seen, seconds=5)


def test_until_gives_the_value_and_times_out(host: Host) -> None:
    assert host.until(lambda: 7) == 7
    with pytest.raises(AssertionError, match=r"Not within 0.01 s: rain"):
        host.until(lambda: False, seconds=0.01, what="rain")


def test_until_raises_the_error_of_a_slot(host: Host) -> None:
    import qt

    def fail() -> None:
        raise KeyError("lost")

    qt.QTimer.singleShot(0, fail)
    with pytest.raises(AssertionError, match="lost"):
        host.until(lambda: False, seconds=5)


def test_errors_of_observers_are_seen(host: Host) -> None:
    import slicer

    def fail(_caller: object, _event: str) -> None:
        raise KeyError("unseen")

    tag = slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, fail)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")
    slicer.mrmlScene.RemoveObserver(tag)
    assert "unseen" in host.errors.pop()


def test_messages_are_written_down(host: Host) -> None:
    import slicer

    slicer.util.errorDisplay("It is broken.", detailedText="line 1")
    (dialog,) = host.dialogs
    assert (dialog.text, dialog.detail) == ("It is broken.", "line 1")


@pytest.mark.parametrize(("answer", "agreed"), [("Yes", True), ("No", False)])
def test_questions_are_answered_by_the_test(host: Host, answer: str, agreed: bool) -> None:
    import slicer

    host.dialogs.answer(answer)
    assert slicer.util.confirmYesNoDisplay("Remove it?") is agreed


def test_unanswered_questions_raise(host: Host) -> None:
    import qt
    import slicer

    with pytest.raises(RuntimeError, match=r"Nobody answers.*Remove it"):
        slicer.util.confirmOkCancelDisplay("Remove it?")
    with pytest.raises(RuntimeError, match="Nobody answers"):
        qt.QFileDialog.getSaveFileName(None, "Where", "", "*.csv")


def test_file_dialogs_give_the_path(host: Host, tmp_path: Path) -> None:
    import qt

    host.dialogs.answer(tmp_path / "a.csv")
    assert qt.QFileDialog.getSaveFileName(None, "Where", "", "*.csv") == str(tmp_path / "a.csv")


def test_errors_are_shown_with_their_message(host: Host) -> None:
    import slicer

    with pytest.raises(ValueError, match="2"), slicer.util.tryWithErrorDisplay("Failed."):
        raise ValueError("1 is not 2")
    assert host.dialogs[0].text == "Failed.\n\n1 is not 2"


def test_settings_do_not_outlive_a_test(host: Host) -> None:
    import qt

    qt.QSettings().setValue("a", 1)
    host.clear()
    assert qt.QSettings().value("a") is None


def test_missing_packages_are_requested_and_never_installed(host: Host, tmp_path: Path) -> None:
    import slicer

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# torch\nnumpy>=1\nscipy>=1\n")
    host.packages.missing = {"scipy"}
    host.dialogs.answer("Ok", "Cancel")
    listed = slicer.packaging.load_requirements(requirements)
    slicer.packaging.pip_ensure(listed, requester="Test")
    assert host.packages.installed == ["scipy>=1"]
    assert host.dialogs[0].detail == "scipy>=1"
    assert ("scipy" in sys.modules) == (len(host.dialogs) == 2)  # what is in use asks for a restart
    assert slicer.packaging.pip_check("numpy>=1 scipy")


def test_installations_can_be_declined_and_fail(host: Host) -> None:
    import slicer

    host.packages.missing = {"scipy"}
    host.dialogs.answer("Cancel", "Ok")
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure("scipy")
    host.packages.failing = 1
    with pytest.raises(subprocess.CalledProcessError):
        slicer.packaging.pip_ensure("scipy")
    assert host.dialogs[-1].text == "Package installation failed."
    assert not slicer.packaging.pip_check("scipy")


def test_torch_is_installed_by_its_extension(host: Host) -> None:
    import slicer

    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("PyTorchUtils")
    host.install_extension("PyTorch")
    host.packages.missing = {"torch"}
    host.dialogs.answer("Cancel", "Ok")
    install = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic().installTorch
    assert install(askConfirmation=True) is None
    assert install(askConfirmation=True, torchVersionRequirement=">=2.6") is sys.modules["torch"]
    assert host.packages.installed == ["torch>=2.6", "torchvision"]
    slicer.util.pip_uninstall("torch")
    assert not slicer.packaging.pip_check("torch")


def test_warnings_of_qt_are_recorded(host: Host) -> None:
    import qt

    widget = qt.QWidget()
    widget.setLayout(qt.QVBoxLayout())
    qt.QVBoxLayout(widget)
    assert "already has a layout" in host.warnings.pop()


def test_the_environment_of_the_start_is_given(host: Host) -> None:
    import slicer

    assert slicer.util.startupEnvironment()["PATH"] == os.environ["PATH"]


def test_the_temporary_folder_can_be_another(host: Host, tmp_path: Path) -> None:
    import slicer

    slicer.app.temporaryPath = str(tmp_path / "患者")
    assert Path(slicer.util.tempDirectory()).parent == tmp_path / "患者"
    host.clear()
    assert slicer.app.temporaryPath != str(tmp_path / "患者")


def test_the_application_knows_no_other_names(host: Host) -> None:
    import slicer

    assert slicer.app.majorVersion == 5
    for owner, name in ((slicer, "getNode"), (slicer.app, "torch"), (slicer.modules, "torch")):
        with pytest.raises(AttributeError):
            getattr(owner, name)


def test_pytest_ends_without_a_crash(running_host: Host, tmp_path: Path) -> None:
    testing = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(testing)!r})\n"
        "from Host.boot import boot\n"
        "host = boot(); import slicer, qt\n"
        "box = slicer.qMRMLNodeComboBox(); box.setMRMLScene(slicer.mrmlScene)\n"
        "slicer.mrmlScene.AddNewNodeByClass('vtkMRMLScalarVolumeNode')\n"
        "host.close(); assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
