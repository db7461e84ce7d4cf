"""Missing packages, their installation, other Pythons; nothing is really installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

import pytest
from support.slicer_side import slicer_side

__all__ = ["slicer_side"]

pytestmark = pytest.mark.usefixtures("slicer_side")
SECONDS = 200.0


@pytest.fixture
def packages(tmp_path):
    """Packages that need a file of our own."""
    from DiffuGTSPanel.library.PythonPackages import PythonPackages

    def make(*lines):
        file = tmp_path / "requirements.txt"
        file.write_text("# a comment\n" + "\n".join(lines) + "\n")
        return PythonPackages(file)

    return make


@pytest.fixture
def half_torch(tmp_path, monkeypatch):
    """A torch that pip did not finish: its folder is there, its compiled part is not."""
    folder = tmp_path / "site"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(folder))
    # Other tests of this session may have imported the real one.
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_nothing_missing_is_an_empty_sentence(packages):
    assert packages("numpy>=1.0", "torch>=2.0").sentence() == ""


def test_missing_packages_are_reported_in_one_sentence(packages):
    wanting = packages("numpy>=99", "no-such-package>=1", "torch>=2")
    assert {each.name: each.reason for each in wanting.missing()} == {
        "numpy": f"{__import__('numpy').__version__}; >=99 is needed",
        "no-such-package": "not installed"}
    assert wanting.sentence().startswith("Not installed yet: numpy (")
    assert wanting.sentence().endswith(", no-such-package.")


def test_a_half_installed_torch_is_recognised_without_importing_it(packages, half_torch):
    assert packages("torch>=2").sentence().startswith("Not installed yet: torch (half installed)")
    assert "torch" not in sys.modules


def test_too_old_a_torch_is_missing(packages):
    assert "is needed" in packages("torch>=99").missing()[0].reason


def test_the_projects_own_requirements_are_all_here():
    from DiffuGTSPanel.library.PythonPackages import PythonPackages

    assert PythonPackages().missing() == []


def test_install_asks_once_and_a_refusal_is_a_failure(host, packages):
    from DiffuGTSPanel.data.Failure import Failure

    host.packages.missing = {"no-such-package"}
    host.dialogs.answer("Cancel")
    with pytest.raises(Failure, match="were not installed"):
        packages("no-such-package>=1").install()
    assert host.packages.installed == []
    assert len(host.dialogs) == 1
    assert "no-such-package" in host.dialogs[0].text


def test_a_failed_install_can_be_tried_again(host, packages):
    from DiffuGTSPanel.data.Failure import Failure

    host.packages.failing = 1
    host.dialogs.answer("Ok")
    with pytest.raises(Failure, match="pip exit code") as caught:
        packages("no-such-package>=1").install()
    assert "network" in caught.value.hint
    host.packages.failing = 0
    host.dialogs.answer("Ok")
    with pytest.raises(Failure, match="Not installed yet: no-such-package") as caught:
        packages("no-such-package>=1").install()  # the stand-in installs nothing
    assert "Restart" in caught.value.hint
    assert host.packages.installed == ["no-such-package>=1"] * 2


def test_a_package_in_use_that_was_too_old_asks_for_a_restart(host, packages):
    import psutil

    from DiffuGTSPanel.data.Failure import Failure

    assert psutil.__name__ in sys.modules
    host.dialogs.answer("Ok", "Ok")
    with pytest.raises(Failure, match="psutil") as caught:
        packages("psutil>=99").install()
    assert host.restarts == 1
    assert "Restart Slicer" in caught.value.hint


def test_nothing_is_asked_where_nothing_is_missing(host, packages):
    packages("numpy>=1").install()
    assert len(host.dialogs) == 0


def install_in_vain(host, packages, *lines):
    """Installs what the stand-in only writes down, so that it is still missing."""
    from DiffuGTSPanel.data.Failure import Failure

    host.dialogs.answer("Ok")
    with pytest.raises(Failure) as caught:
        packages(*lines).install()
    return caught.value


def test_all_that_is_installed_keeps_its_version_but_what_is_too_old(host, packages):
    install_in_vain(host, packages, "no-such-package>=1", "packaging>=999")
    (constraints,) = host.packages.constraints
    lines = constraints.lower().splitlines()
    assert f"numpy=={importlib.metadata.version('numpy')}" in lines
    assert f"simpleitk=={importlib.metadata.version('SimpleITK')}" in lines
    assert not [line for line in lines if line.startswith(("packaging==", "no-such"))]


def test_pip_understands_the_constraints(host):
    from packaging.requirements import Requirement

    from DiffuGTSPanel.library.PackageInstall import constraintsFile

    with constraintsFile([]) as path:
        lines = path.read_text(encoding="utf-8").splitlines()
    assert len({Requirement(line).name for line in lines}) == len(lines) > 20
    assert not path.exists()


def test_windows_gets_no_torch_whose_paths_are_too_long(host, monkeypatch):
    from DiffuGTSPanel.library.PackageInstall import constraintsFile

    with constraintsFile(["torch"]) as path:
        assert "torch!=2.13.*" not in path.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "platform", "win32")
    with constraintsFile(["torch"]) as path:
        assert "torch!=2.13.*" in path.read_text(encoding="utf-8").splitlines()


def test_torch_is_installed_for_this_gpu_by_child_processes_and_never_imported(host, packages):
    before = "torch" in sys.modules
    host.install_extension("PyTorch")
    install_in_vain(host, packages, "torch>=99", "numpy>=1")
    commands = [command[:4] for command in host.launcher.commands]
    assert commands == [["-m", "pip", "install", "light-the-torch>=0.8"],
                        ["-m", "light_the_torch", "install", "torch>=99"]]
    assert all(command[4] == "-c" for command in host.launcher.commands)
    assert "torchvision" not in host.packages.installed
    assert ("torch" in sys.modules) == before
    # Where another test has loaded torch, Slicer asks for a restart.
    assert len(host.dialogs) == 1 + before


def test_without_that_installer_torch_comes_with_the_others(host, packages):
    host.install_extension("PyTorch")
    host.launcher.fail("ERROR: no matching distribution")
    install_in_vain(host, packages, "torch>=99")
    assert [command[1] for command in host.launcher.commands] == ["pip"]
    assert host.packages.installed == ["torch>=99"]


def test_a_cancelled_command_is_ended_with_its_children(host):
    import qt

    from DiffuGTSPanel.process import ModalCommand
    from DiffuGTSPanel.process.LibraryLauncher import Launch

    lines = []

    def seen(line):
        lines.append(line)
        dialog = next(each for each in qt.QApplication.topLevelWidgets()
                      if isinstance(each, qt.QProgressDialog))
        qt.QTimer.singleShot(0, dialog.findChildren(qt.QPushButton)[0].click)

    launch = Launch(sys.executable, ("-c", "print('begun', flush=True); import time; "
                                     "time.sleep(600)"), dict(os.environ))
    assert ModalCommand.run(launch, "Title", seen) is None
    assert lines == ["begun"]


def test_a_command_reports_how_it_ended(host):
    from DiffuGTSPanel.process import ModalCommand
    from DiffuGTSPanel.process.LibraryLauncher import Launch

    lines = []
    launch = Launch(sys.executable, ("-c", "raise SystemExit('no')"), dict(os.environ))
    result = ModalCommand.run(launch, "Title", lines.append)
    assert (result.kind, result.code, lines) == ("ended", 1, ["no"])
    assert ModalCommand.run(Launch("/no/such", (), {}), "", lines.append).kind == "not-started"


def test_slicer_5_10_installs_by_its_own_pip(host, packages, monkeypatch):
    import slicer

    calls = []
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.delattr(slicer, "packaging")
    monkeypatch.setattr(slicer.util, "pip_install", lambda requirements: calls.append(requirements))
    install_in_vain(host, packages, "no-such-package>=1", "numpy>=1")
    ((requirement, option, _file),) = calls
    assert (requirement, option) == ("no-such-package>=1", "-c")


@pytest.fixture
def intel_mac(monkeypatch):
    """A Mac for which there is no torch 2.6."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def test_a_mac_without_torch_is_reported_before_pip_runs(host, packages, intel_mac):
    from DiffuGTSPanel.data.Failure import Failure

    with pytest.raises(Failure, match="not available") as caught:
        packages("torch>=99").install()
    assert caught.value.code == "torch-unavailable"
    assert "Advanced > Python" in caught.value.hint
    assert (len(host.dialogs), host.launcher.commands, host.packages.installed) == (0, [], [])
    assert packages("no-such-package>=1").problem().code == "packages-missing"


def test_nothing_is_installed_in_slicers_testing_mode(host, packages, monkeypatch):
    import slicer

    from DiffuGTSPanel.data.Failure import Failure

    monkeypatch.setattr(type(slicer.app), "testingEnabled", lambda self: True)
    with pytest.raises(Failure) as caught:
        packages("no-such-package>=1").install()
    assert "testing mode" in caught.value.hint
    assert host.packages.installed == []


def test_a_program_that_is_no_python_is_refused(host, packages):
    failed = []
    for program in ("/no/such/python", "/bin/false"):
        packages("numpy").examine(program, failed.append, failed.append)
    host.until(lambda: len(failed) == 2, SECONDS)
    assert {each.code for each in failed} == {"python-unusable"}
    assert all("3.11" in each.hint for each in failed)


def test_a_cancelled_check_calls_nothing_back(host, packages):
    calls = []
    task = packages("numpy").examine(sys.executable, calls.append, calls.append)
    task.cancel()
    host.until(lambda: not task.running, SECONDS)
    assert calls == []
