"""Where the worker runs: on this computer, or on another one over SSH."""

from __future__ import annotations

from dataclasses import dataclass

from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.LibraryLauncher import Launch


@dataclass(frozen=True)
class ComputeTarget:
    """A computer; two are the same where a running worker can go on for both."""

    def launch(self, model: str, device: str) -> Launch:
        """The command whose stdin and stdout speak the worker's protocol."""
        raise NotImplementedError

    @property
    def needsSlicersPackages(self) -> bool:
        """Whether the worker needs the packages of Slicer's own Python."""
        raise NotImplementedError


@dataclass(frozen=True)
class ThisComputer(ComputeTarget):
    """The worker as a child process.

    Attributes:
        python: the executable; "" is Slicer's own.
    """

    python: str = ""

    def launch(self, model: str, device: str) -> Launch:
        """See ComputeTarget."""
        arguments = ["--model", model, "--device", device]
        return LibraryLauncher.launch("worker", arguments, self.python)

    @property
    def needsSlicersPackages(self) -> bool:
        """See ComputeTarget."""
        return LibraryLauncher.isSlicers(self.python)


@dataclass(frozen=True)
class OtherComputer(ComputeTarget):
    """The worker on another computer, behind a bridge that is a child process here.

    Attributes:
        host: `[user@]host[:PROGRAM]`, as DiffuGTSLib/remote/address.py takes it.
    """

    host: str

    def launch(self, model: str, device: str) -> Launch:
        """See ComputeTarget. The bridge needs Python and ssh alone: Slicer's own has both."""
        return LibraryLauncher.launch(
            "remote", [f"--host={self.host}", f"--model={model}", f"--device={device}"])

    @property
    def needsSlicersPackages(self) -> bool:
        """See ComputeTarget."""
        return False


def targetOf(host: str, python: str) -> ComputeTarget:
    """The computer that a run's options state.

    Args:
        host: "" for this computer.
        python: for the worker on this computer.
    """
    return OtherComputer(host) if host else ThisComputer(python)
