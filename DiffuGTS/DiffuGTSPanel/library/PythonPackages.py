"""The Python packages that the worker needs: what is missing, how to get it, other Pythons.

Nothing here imports one of them: Slicer's own process stays without torch.
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
from DiffuGTSPanel.process.ChildProcess import Ending, Task

REQUESTER = "DiffuGTS"
# With torch for a GPU; the CPU's takes a tenth.
_GIGABYTES_WITH_TORCH = 3


@dataclass(frozen=True)
class Missing:
    """A package that is needed and not there as it should be."""

    name: str
    reason: str


@dataclass(frozen=True)
class Device:
    """A device that the worker can use: its name for the worker, and in words."""

    name: str
    title: str


@dataclass(frozen=True)
class Examination:
    """What the doctor found in a Python.

    Attributes:
        healthy: nothing that is needed is missing.
        findings: name, state ("ok", "note", "missing"), found, advice.
        devices: "auto", GPUs, "cpu".
    """

    healthy: bool
    findings: list[dict[str, str]]
    devices: list[Device]


class Packages:
    """Of Slicer's own Python, and of others on request.

    Args:
        requirements: a file as pip reads it.
    """

    def __init__(self, requirements: Path | None = None) -> None:
        self._file = requirements or LibraryLauncher.requirementsFile()

    def missing(self) -> list[Missing]:
        """What is not there, too old, or half installed; some milliseconds."""
        LibraryLauncher.useLibrary()
        from DiffuGTSLib.doctor import packages, requirements

        importlib.invalidate_caches()
        found = [Missing(each.name, each.found) for each in packages(self._file)
                 if each.state == "missing"]
        wanted = next(((relation, version) for name, relation, version
                       in requirements(self._file) if name == "torch"), None)
        torch = _torchIs(wanted[1]) if wanted else ""
        return [Missing("torch", torch), *found] if torch else found

    def sentence(self) -> str:
        """What is missing in one sentence; "" when all is there."""
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

        To be called on the main thread; calling it again is the retry.

        Raises:
            Failure: declined, no network, no space, pip failed; what was there before still is.
        """
        import slicer.packaging

        try:
            self._installTorch()
            slicer.packaging.pip_ensure(
                slicer.packaging.load_requirements(str(self._file)), requester=REQUESTER)
        except subprocess.CalledProcessError as error:
            raise Failure(
                "packages-not-installed", _("The packages could not be installed (pip ended with "
                "{code}).").format(code=error.returncode),
                _("Check the network, the proxy and the free space, then try again; or choose "
                  "another Python under Advanced.")) from None
        except (RuntimeError, OSError) as error:
            # Slicer raises this when the person declines.
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
        if torch.reason.startswith("half"):
            # Its traces would make pip believe that it is there.
            slicer.util.pip_uninstall("torch")
        if importlib.util.find_spec("PyTorchUtils") is None:
            return  # pip_ensure takes it from the package index
        import PyTorchUtils

        install = PyTorchUtils.PyTorchUtilsLogic().installTorch
        # The keywords' names differ between versions of that extension.
        known = inspect.signature(install).parameters
        wanted: dict[str, Any] = {"askConfirmation": True, "confirm": True,
                                  "torchVersionRequirement": _requirement(self._file, "torch")}
        if install(**{key: value for key, value in wanted.items() if key in known}) is None:
            raise RuntimeError(_("torch was not installed."))

    def examine(
        self, python: str, onDone: Callable[[Examination], None],
        onError: Callable[[Failure], None],
    ) -> Task:
        """Runs the doctor in a Python ("" is Slicer's own) without blocking."""

        def done(ending: Ending, lines: list[str]) -> None:
            try:
                document = json.loads(lines[-1])
            except (ValueError, IndexError):
                onError(_unusable(ending))
                return
            onDone(Examination(document["healthy"], document["findings"],
                               _devices(document["findings"])))

        arguments = ["--json", "--requirements", str(self._file)]
        return Task(LibraryLauncher.launch("doctor", arguments, python), done)


def _torchIs(version: str) -> str:
    """What is wrong with torch, without importing it; "" when nothing seems to be."""
    from DiffuGTSLib.doctor import suits

    spec = importlib.util.find_spec("torch")
    try:
        there = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        there = None
    if spec is None and there is None:
        return "not installed"
    folders = [Path(each) for each in (spec.submodule_search_locations or ())] if spec else []
    # The last that pip unpacks, in order of the alphabet, and what nothing works without.
    whole = any((folder / "version.py").is_file() and list(folder.glob("_C.*"))
                for folder in folders)
    if there is None or not whole:
        return "half installed"
    return "" if suits(there, ">=", version) else f"{there}; >={version} is needed"


def _requirement(file: Path, name: str) -> str:
    """The version that the file asks for, as ">=2.6"."""
    found = re.search(rf"^{name}(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else ""


def _unusable(ending: Ending) -> Failure:
    hint = _("Choose a Python of version 3.11 or newer in which DiffuGTS' packages are installed.")
    if ending.kind == "not-started":
        return Failure("python-unusable", _("That program cannot be started."), hint)
    said = ending.words[-1] if ending.words else _("it said nothing")
    return Failure("python-unusable", _("That Python cannot be used: {reason}").format(
        reason=said), hint)


def _devices(findings: list[dict[str, str]]) -> list[Device]:
    """What can be chosen, from the doctor's findings."""
    devices = [Device("auto", _("Automatic"))]
    devices += [Device(each["name"], each["found"]) for each in findings
                if each["name"].startswith("cuda:") and each["state"] == "ok"]
    return [*devices, Device("cpu", _("CPU"))]
