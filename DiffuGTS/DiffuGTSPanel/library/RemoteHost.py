"""Other computers that can be chosen, and what is on one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.library.PythonPackages import Device, devicesFrom
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.ChildProcess import CommandTask, ProcessExit


@dataclass(frozen=True)
class HostReport:
    """What a test has found on another computer.

    Attributes:
        host: as it was given.
        version: of DiffuGTS there.
        problems: what is missing there, and the command to type.
        hardware: processor or GPUs with free memory, in words.
        models: names of those that can segment.
        devices: to choose from.
    """

    host: str
    version: str
    problems: list[str]
    hardware: list[str]
    models: list[str]
    devices: list[Device]

    @property
    def sentence(self) -> str:
        """All of it in words; problems alone where there are some."""
        if self.problems:
            return " ".join(self.problems)
        return _("DiffuGTS {version}; {hardware}; models: {models}.").format(
            version=self.version, hardware=", ".join(self.hardware),
            models=", ".join(self.models) or _("none"))


def configuredHosts() -> list[str]:
    """The names in the user's SSH configuration."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.remote.address import configured_hosts

    return configured_hosts()


def test(
    host: str, onDone: Callable[[HostReport], None], onError: Callable[[Failure], None]
) -> CommandTask:
    """Looks at another computer, without blocking."""

    def done(_result: ProcessExit, lines: list[str]) -> None:
        try:
            document = json.loads(lines[-1])
        except (ValueError, IndexError):
            onError(Failure("no-connection", _("The connection could not be tested."),
                            _("See the log.")))
            return
        if "error" in document:
            error = document["error"]
            onError(Failure(error["code"], error["message"], error["hint"]))
        else:
            onDone(_report(document))

    return CommandTask(LibraryLauncher.launch("remote.check", [host]), done)


def _report(document: dict[str, Any]) -> HostReport:
    findings = document["findings"]
    problems = [_("{name} is missing there ({found}): {advice}").format(**each)
                for each in findings if each["state"] == "missing"]
    return HostReport(
        document["host"], document["version"], problems,
        [each["found"] for each in findings if each["name"] in document["devices"]],
        [each["name"] for each in document["models"] if each["ready"]], devicesFrom(findings))
