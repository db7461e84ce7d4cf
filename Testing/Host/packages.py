"""`slicer.packaging`: checks packages as Slicer does; what should be installed is recorded."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import slicer
from packaging.requirements import Requirement


class Installer:
    """Which packages are installed, and what was requested.

    Attributes:
        missing: packages that the host pretends not to have (their names, lower case).
        installed: requirements that were "installed", in order.
        removed: packages that were "uninstalled", in order.
        failing: an installation ends with this exit code where it is not zero.
        constraints: the text of the constraints file of each installation; "" without one.
    """

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.installed: list[str] = []
        self.removed: list[str] = []
        self.failing = 0
        self.constraints: list[str] = []

    def reset(self) -> None:
        """As at the start."""
        self.__init__()

    def has(self, requirement: Requirement) -> bool:
        """Whether the environment satisfies the requirement."""
        if requirement.marker is not None and not requirement.marker.evaluate():
            return True
        if requirement.name.lower() in self.missing:
            return False
        try:
            return version(requirement.name) in requirement.specifier
        except PackageNotFoundError:
            return False

    def install(self, requirements: list[str]) -> None:
        """Writes down; raises CalledProcessError where it should fail."""
        self.installed += requirements
        if self.failing:
            raise subprocess.CalledProcessError(self.failing, "pip install")
        self.missing -= {Requirement(r).name.lower() for r in requirements}

    def uninstall(self, names: str | list[str]) -> None:
        """Writes down; from now on they are missing."""
        listed = names.split() if isinstance(names, str) else list(names)
        self.removed += listed
        self.missing |= {name.lower() for name in listed}


def _requirements(given: Any) -> list[Requirement]:
    if isinstance(given, str):
        given = given.split() if ";" not in given else [given]
    if isinstance(given, Requirement):
        given = [given]
    return [Requirement(r) if isinstance(r, str) else r for r in given]


def _import_name(requirement: str) -> str:
    return Requirement(requirement).name.lower().replace("-", "_")


def load_requirements(path: str | Path) -> list[Requirement]:
    """The requirements of a file; comments and options of pip are left out."""
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def _make_pip_install(installer: Installer) -> Any:
    def pip_install(
        requirements: str | list[str], constraints: Any = None, no_deps_requirements: Any = None,
        skip_packages: Any = None, blocking: bool = True, show_progress: bool = True,
        requester: str | None = None, parent: Any = None, logCallback: Any = None,
        completedCallback: Any = None,
    ) -> None:
        listed = requirements.split() if isinstance(requirements, str) else list(requirements)
        if "-c" in listed:
            constraints = listed.pop(listed.index("-c") + 1)
            listed.remove("-c")
        installer.constraints.append(
            Path(constraints).read_text(encoding="utf-8") if constraints else "")
        try:
            installer.install(listed)
            code = 0
        except subprocess.CalledProcessError as error:
            if blocking and show_progress:
                slicer.util.errorDisplay("Package installation failed.", detailedText="pip's log")
            if blocking:
                raise
            code = error.returncode
        if not blocking:
            import qt

            if logCallback:
                logCallback(f"Collecting {' '.join(listed)}")
            if completedCallback:
                qt.QTimer.singleShot(0, lambda: completedCallback(code))

    return pip_install


def make_packaging(installer: Installer) -> types.ModuleType:
    """The module `slicer.packaging`."""
    module, pip_install = types.ModuleType("slicer.packaging"), _make_pip_install(installer)

    def pip_check(req: Any) -> bool:
        return all(installer.has(r) for r in _requirements(req))

    def pip_ensure(
        requirements: Any, constraints: Any = None, skip_packages: Any = None,
        prompt_install: bool = True, prompt_restart: bool = True, requester: str | None = None,
        skip_in_testing: bool = True, show_progress: bool = True,
    ) -> None:
        missing = [str(r) for r in _requirements(requirements) if not installer.has(r)]
        if not missing or (skip_in_testing and slicer.app.testingEnabled()):
            return
        title = f"{requester} - Install Python Packages" if requester else "Install Packages"
        question = f"{len(missing)} Python packages need to be installed. Continue?"
        detail = {"detailedText": "\n".join(missing)}
        if prompt_install and not slicer.util.confirmOkCancelDisplay(question, title, **detail):
            raise RuntimeError("User declined package installation")
        pip_install(missing, constraints=constraints)
        loaded = [r for r in missing if _import_name(r) in sys.modules]
        words = "Packages that are in use were updated. Restart the application now?"
        if loaded and prompt_restart and slicer.util.confirmOkCancelDisplay(words, title):
            slicer.app.restart()

    module.pip_uninstall = installer.uninstall
    for function in (load_requirements, pip_check, pip_install, pip_ensure):
        setattr(module, function.__name__, function)
    module.isPipInstallInProgress = lambda: False
    return module


def make_pytorch_utils(installer: Installer) -> types.ModuleType:
    """The module `PyTorchUtils` of the extension PyTorch; it installs nothing either.

    As the real one it imports torch into Slicer's process once that is installed.
    """
    module = types.ModuleType("PyTorchUtils")
    module.__spec__ = ModuleSpec("PyTorchUtils", None)

    class PyTorchUtilsLogic:
        """What other extensions call."""

        def installTorch(
            self, askConfirmation: bool = False, forceComputationBackend: str | None = None,
            torchVersionRequirement: str | None = None,
            torchvisionVersionRequirement: str | None = None,
        ) -> Any:
            """The module torch; None where the user declines."""
            question = "PyTorch will be downloaded and installed. Proceed?"
            if askConfirmation and not slicer.util.confirmOkCancelDisplay(question):
                return None
            installer.install([f"torch{torchVersionRequirement or ''}", "torchvision"])
            return importlib.import_module("torch")

    module.PyTorchUtilsLogic = PyTorchUtilsLogic
    return module
