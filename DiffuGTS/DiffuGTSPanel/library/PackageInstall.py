"""Installs packages into Slicer's own Python by child processes; Slicer's own stay as they are.

Nothing here imports what is installed: the worker is another process, and torch in Slicer's own
would slow it down, and keep pip from replacing it on Windows.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.process import LibraryLauncher, ModalCommand
from DiffuGTSPanel.process.LibraryLauncher import Launch

REQUESTER = "DiffuGTS"
# It chooses the build of torch for the driver of this computer; the PyTorch extension uses it too.
_TORCH_INSTALLER = "light-the-torch>=0.8"
# Some of its paths are too long for Windows, below the folder of Slicer.
_TORCH_NOT_FOR_WINDOWS = "torch!=2.13.*"
_Log = Callable[[str], None]


def torchUnavailable() -> Failure | None:
    """Why this Python cannot have torch 2.6 or newer; None where it can."""
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return Failure(
            "torch-unavailable",
            _("PyTorch 2.6 or newer is not available for Slicer's Python on this Mac (Intel, or "
              "Slicer under Rosetta)."),
            _("Choose another Python that has it, under Advanced > Python."))
    return None


@contextlib.contextmanager
def constraintsFile(changing: Collection[str]) -> Iterator[Path]:
    """A constraints file that keeps all installed packages at their versions.

    Args:
        changing: names of the packages that may be replaced, because they are too old.
    """
    free = {_canonical(name) for name in changing}
    lines: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # A half installed package may have neither.
        metadata = distribution.metadata
        name, version = (metadata["Name"], metadata["Version"]) if metadata else (None, None)
        if name and version and _canonical(name) not in free:
            # The first one on the path is the one that is imported.
            lines.setdefault(_canonical(name), f"{name}=={version}")
    listed = sorted(lines.values())
    if sys.platform == "win32" and "torch" not in lines:
        listed.append(_TORCH_NOT_FOR_WINDOWS)
    handle, path = tempfile.mkstemp(suffix=".txt", prefix="diffugts-constraints-", text=True)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write("\n".join(listed) + "\n")
        yield Path(path)
    finally:
        Path(path).unlink(missing_ok=True)


def installTorch(requirement: str, constraints: Path, onLine: _Log) -> None:
    """Installs the torch that fits this computer's GPU, where the PyTorch extension is installed.

    Its own `installTorch` is not called: it imports torch into Slicer's process, shows no progress
    and takes no constraints. What this cannot install is left to `installRest`.

    Args:
        requirement: as "torch>=2.6".
        constraints: for pip.
        onLine: called with each line of pip.

    Raises:
        Failure: the user cancelled.
    """
    if sys.platform == "darwin" or importlib.util.find_spec("PyTorchUtils") is None:
        return
    for module, what in (("pip", _TORCH_INSTALLER), ("light_the_torch", requirement)):
        arguments = ("-m", module, "install", what, "-c", str(constraints))
        launch = Launch(LibraryLauncher.slicersPython(), arguments, dict(os.environ))
        result = ModalCommand.run(launch, _("Installing PyTorch"), onLine)
        if result is None:
            raise Failure("packages-not-installed", _("The packages were not installed."),
                          _("The installation was cancelled."))
        if result.kind != "ended" or result.code != 0:
            return


def installRest(requirements: Path, missing: Collection[str], constraints: Path) -> None:
    """Installs what the file requires and is still missing.

    Raises:
        Failure: no network, no space, or pip failed.
    """
    try:
        try:
            from slicer import packaging
        except ImportError:  # Slicer 5.10: no progress, but the same pip
            lines = requirements.read_text(encoding="utf-8").splitlines()
            wanted = [line.strip() for line in lines if _name(line) in missing]
            with slicer.util.WaitCursor():
                slicer.util.pip_install([*wanted, "-c", str(constraints)])
        else:
            packaging.pip_ensure(
                packaging.load_requirements(str(requirements)), requester=REQUESTER,
                constraints=str(constraints), prompt_install=False)
    except subprocess.CalledProcessError as error:
        raise Failure(
            "packages-not-installed", _("The packages could not be installed (pip exit code "
            "{code}).").format(code=error.returncode),
            _("Check the network, the proxy and the free space, then try again; or choose "
              "another Python under Advanced.")) from None
    except (RuntimeError, OSError, ValueError) as error:
        raise Failure("packages-not-installed", _("The packages were not installed."),
                      str(error)) from None


def _name(requirement: str) -> str:
    """The package's name in a line of a requirements file; "" in a comment."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
    return found[0] if found else ""


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
