"""Missing packages, their installation, other Pythons; nothing is really installed."""

from __future__ import annotations

import importlib.machinery
import sys
import types

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


def test_install_asks_first_and_a_refusal_is_a_failure(host, packages):
    from DiffuGTSPanel.data.Failure import Failure

    host.packages.missing = {"no-such-package"}
    host.dialogs.answer("Cancel")
    with pytest.raises(Failure, match="were not installed"):
        packages("no-such-package>=1").install()
    assert host.packages.installed == []
    assert len(host.dialogs) == 1


def test_a_failed_install_can_be_tried_again(host, packages):
    from DiffuGTSPanel.data.Failure import Failure

    host.packages.missing = {"numpy"}
    host.packages.failing = 1
    host.dialogs.answer("Ok")
    with pytest.raises(Failure, match="pip exit code") as caught:
        packages("numpy>=1").install()
    assert "network" in caught.value.hint
    host.packages.failing = 0
    host.dialogs.answer("Ok")
    packages("numpy>=1").install()
    assert any("numpy" in str(each) for each in host.packages.installed)


def test_packages_still_missing_after_an_install_are_reported(host, packages):
    from DiffuGTSPanel.data.Failure import Failure

    host.packages.missing = {"no-such-package"}
    host.dialogs.answer("Ok")
    with pytest.raises(Failure, match="Not installed yet: no-such-package"):
        packages("no-such-package>=1").install()


@pytest.mark.parametrize("keywords", ["askConfirmation=False, torchVersionRequirement=None",
                                      "confirm=True", "backend=None"])
def test_torch_comes_through_the_pytorch_extension_whatever_its_keywords(
    packages, monkeypatch, keywords
):
    scope = {"calls": []}
    exec(f"def installTorch(self, {keywords}):\n    calls.append(locals())\n    return 1", scope)
    module = types.ModuleType("PyTorchUtils")
    module.__spec__ = importlib.machinery.ModuleSpec("PyTorchUtils", None)
    module.PyTorchUtilsLogic = type("Logic", (), {"installTorch": scope["installTorch"]})
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    wanting = packages("torch>=99")
    wanting._installTorch()
    given = scope["calls"][0]
    assert given.get("torchVersionRequirement", ">=99") == ">=99"
    assert given.get("askConfirmation", True) is True


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
