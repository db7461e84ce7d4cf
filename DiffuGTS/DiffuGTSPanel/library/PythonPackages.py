"""The Python packages of the worker: which are missing, their installation, other Pythons.

Nothing here imports them: Slicer's own process stays without torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import CommandTask, ProcessExit

REQUESTER = "DiffuGTS"
# With torch for a GPU; for the CPU it is a tenth.
_GIGABYTES_WITH_TORCH = 3
_INCOMPLETE = "half installed"


@dataclass(frozen=True)
class MissingPackage:
    """A package that is missing, too old or incomplete."""

    name: str
    reason: str


@dataclass(frozen=True)
class Device:
    """A device for the worker: its name for the worker, and its title for the user."""

    name: str
    title: str


@dataclass(frozen=True)
class PythonReport:
    """What `DiffuGTSLib.doctor` reports on a Python.

    Attributes:
        healthy: nothing required is missing.
        findings: name, state ("ok", "note", "missing"), found, advice.
        devices: "auto", GPUs, "cpu".
    """

    healthy: bool
    findings: list[dict[str, str]]
    devices: list[Device]


class PythonPackages:
    """Checks and installs the packages of Slicer's own Python; checks other Pythons.

    Args:
        requirements: the file with the requirements, as pip reads it.
    """

    def __init__(self, requirements: Path | None = None) -> None:
        self._file = requirements or LibraryLauncher.requirementsFile()

    def missing(self) -> list[MissingPackage]:
        """What is not installed, too old or incomplete; takes some milliseconds."""
        LibraryLauncher.useLibrary()
        from DiffuGTSLib.doctor import packages, requirements

        importlib.invalidate_caches()
        found = [MissingPackage(each.name, each.found) for each in packages(self._file)
                 if each.state == "missing"]
        wanted = next(((relation, version) for name, relation, version
                       in requirements(self._file) if name == "torch"), None)
        torch = _torchProblem(wanted[1]) if wanted else ""
        return [MissingPackage("torch", torch), *found] if torch else found

    def sentence(self) -> str:
        """What is missing in one sentence; "" when nothing is."""
        missing = self.missing()
        if not missing:
            return ""
        names = ", ".join(each.name if each.reason == "not installed"
                          else f"{each.name} ({each.reason})" for each in missing)
        if any(each.name == "torch" for each in missing):
            return _("Not installed yet: {names} (about {size} GB for a GPU).").format(
                names=names, size=_GIGABYTES_WITH_TORCH)
        return _("Not installed yet: {names}.").format(names=names)

    def install(self) -> None:
        """Installs what is missing into Slicer's Python; asks first and shows progress.

        Call it on the main thread; to retry, call it again.

        Raises:
            Failure: declined, no network, no space or pip failed.
        """
        import slicer.packaging

        try:
            self._installTorch()
            slicer.packaging.pip_ensure(
                slicer.packaging.load_requirements(str(self._file)), requester=REQUESTER)
        except subprocess.CalledProcessError as error:
            raise Failure(
                "packages-not-installed", _("The packages could not be installed (pip exit code "
                "{code}).").format(code=error.returncode),
                _("Check the network, the proxy and the free space, then try again; or choose "
                  "another Python under Advanced.")) from None
        except (RuntimeError, OSError) as error:
            # Slicer raises this when the user declines.
            raise Failure("packages-not-installed", _("The packages were not installed."),
                          str(error)) from None
        if self.missing():
            raise Failure("packages-missing", self.sentence(),
                          _("Restart Slicer and try again."))

    def _installTorch(self) -> None:
        """torch for this machine's GPU, through the PyTorch extension where that is there."""
        torch = next((each for each in self.missing() if each.name == "torch"), None)
        if torch is None:
            return
        if torch.reason == _INCOMPLETE:
            # pip would take what is left of it for an installation.
            slicer.util.pip_uninstall("torch")
        if importlib.util.find_spec("PyTorchUtils") is None:
            return  # pip_ensure installs it from the package index
        import PyTorchUtils

        install = PyTorchUtils.PyTorchUtilsLogic().installTorch
        # The names of the keywords differ between versions of that extension.
        known = inspect.signature(install).parameters
        wanted: dict[str, Any] = {"askConfirmation": True, "confirm": True,
                                  "torchVersionRequirement": _requirement(self._file, "torch")}
        if install(**{key: value for key, value in wanted.items() if key in known}) is None:
            raise RuntimeError(_("torch was not installed."))

    def examine(
        self, python: str, onDone: Callable[[PythonReport], None],
        onError: Callable[[Failure], None],
    ) -> CommandTask:
        """Runs `DiffuGTSLib.doctor` in a Python ("" is Slicer's own) without blocking."""

        def done(result: ProcessExit, lines: list[str]) -> None:
            try:
                document = json.loads(lines[-1])
            except (ValueError, IndexError):
                onError(_unusable(result))
                return
            onDone(PythonReport(document["healthy"], document["findings"],
                               _devices(document["findings"])))

        arguments = ["--json", "--requirements", str(self._file)]
        return CommandTask(LibraryLauncher.launch("doctor", arguments, python), done)


def _torchProblem(version: str) -> str:
    """What is wrong with the installed torch, without importing it; "" for nothing."""
    from DiffuGTSLib.doctor import suits

    spec = importlib.util.find_spec("torch")
    try:
        installed = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        installed = None
    if spec is None and installed is None:
        return "not installed"
    folders = [Path(each) for each in (spec.submodule_search_locations or ())] if spec else []
    # pip unpacks in alphabetical order: the last file, and the extension module.
    complete = any((folder / "version.py").is_file() and list(folder.glob("_C.*"))
                for folder in folders)
    if installed is None or not complete:
        return _INCOMPLETE
    return "" if suits(installed, ">=", version) else f"{installed}; >={version} is needed"


def _requirement(file: Path, name: str) -> str:
    """The version that the file requires, as ">=2.6"."""
    found = re.search(rf"^{name}(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else ""


def _unusable(result: ProcessExit) -> Failure:
    hint = _("Choose a Python 3.11 or newer in which the packages of DiffuGTS are installed.")
    if result.kind == "not-started":
        return Failure("python-unusable", _("That program cannot be started."), hint)
    reason = result.errorLines[-1] if result.errorLines else _("no error message")
    return Failure("python-unusable", _("That Python cannot be used: {reason}").format(
        reason=reason), hint)


def _devices(findings: list[dict[str, str]]) -> list[Device]:
    """The devices to choose from, according to the findings."""
    devices = [Device("auto", _("Automatic"))]
    devices += [Device(each["name"], each["found"]) for each in findings
                if each["name"].startswith("cuda:") and each["state"] == "ok"]
    return [*devices, Device("cpu", _("CPU"))]
