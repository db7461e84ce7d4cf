"""The Python packages of the worker: which are missing, their installation, other Pythons.

Nothing here imports them: Slicer's own process stays without torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.library import PackageInstall
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import CommandTask, ProcessExit

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

    def problem(self) -> Failure | None:
        """Why the worker cannot run in Slicer's own Python; None where it can.

        Its code is "packages-missing" where `install` may help, else "torch-unavailable".
        """
        missing = self.missing()
        if not missing:
            return None
        unavailable = PackageInstall.torchUnavailable()
        if unavailable is not None and any(each.name == "torch" for each in missing):
            return unavailable
        return Failure("packages-missing", self.sentence(),
                       _("Install them with the button at the top of the panel."))

    def install(self, onLine: Callable[[str], None] = lambda _line: None) -> None:
        """Installs what is missing into Slicer's Python; asks first and shows progress.

        Call it on the main thread; to retry, call it again.

        Args:
            onLine: called with the lines that pip prints where torch is installed.

        Raises:
            Failure: declined, not possible, no network, no space or pip failed.
        """
        problem = self.problem()
        if problem is None:
            return
        if problem.code != "packages-missing":
            raise problem
        if slicer.app.testingEnabled():
            raise Failure("packages-missing", problem.message,
                          _("Slicer runs in its testing mode, in which it installs nothing."))
        self._confirm(problem.message)
        missing = self.missing()
        with PackageInstall.constraintsFile([each.name for each in missing]) as constraints:
            torch = next((each for each in missing if each.name == "torch"), None)
            if torch is not None:
                if torch.reason == _INCOMPLETE:
                    # pip would take what is left of it for an installation.
                    slicer.util.pip_uninstall("torch")
                PackageInstall.installTorch(
                    f"torch{_requirement(self._file, 'torch')}", constraints, onLine)
            still = [each.name for each in self.missing()]
            if still:
                PackageInstall.installRest(self._file, still, constraints)
        if self.missing():
            raise Failure("packages-missing", self.sentence(),
                          _("Restart Slicer and try again."))

    def _confirm(self, sentence: str) -> None:
        question = _("{sentence}\n\nInstall into Slicer's Python? What Slicer itself uses is not "
                     "changed.").format(sentence=sentence)
        title = _("DiffuGTS - Install Python Packages")
        if not slicer.util.confirmOkCancelDisplay(question, title):
            raise Failure("packages-not-installed", _("The packages were not installed."),
                          _("The installation was declined."))

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
                               devicesFrom(document["findings"])))

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


def devicesFrom(findings: list[dict[str, str]]) -> list[Device]:
    """The devices to choose from, according to the findings."""
    devices = [Device("auto", _("Automatic"))]
    devices += [Device(each["name"], each["found"]) for each in findings
                if each["name"].startswith("cuda:") and each["state"] == "ok"]
    return [*devices, Device("cpu", _("CPU"))]
