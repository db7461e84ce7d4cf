"""Finds DiffuGTSLib and starts a Python with it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import slicer

MODULE_FOLDER = Path(__file__).resolve().parents[2]
# Another Python would load Slicer's libraries through these.
SLICERS_VARIABLES = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH")
# One line without double quotes, so that every system's launcher passes it on unchanged.
_START = (
    "import sys; sys.version_info < (3, 11) and "
    "sys.exit('Python 3.11 or newer is needed; this is ' + sys.version.split()[0]); "
    "sys.path = [folder for folder in (sys.argv[1], *sys.path) if folder]; "
    "sys.argv[:2] = ['diffugts']; from DiffuGTSLib.{module} import main; sys.exit(main())"
)


@dataclass(frozen=True)
class Launch:
    """How a child process is started: program, arguments and its whole environment."""

    program: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


def libraryFolder() -> Path | None:
    """The folder that holds DiffuGTSLib: the installed module's, or the checkout's.

    None where neither has it; then it has to be installed in the Python that is used.
    """
    for folder in (MODULE_FOLDER, MODULE_FOLDER.parent):
        if (folder / "DiffuGTSLib" / "__init__.py").is_file():
            return folder
    return None


def useLibrary() -> None:
    """Makes the library importable in this process; imports nothing.

    The library beside this module goes first, as in the worker: a DiffuGTSLib that pip installed
    may have another version.
    """
    folder = libraryFolder()
    if folder is not None and "DiffuGTSLib" not in sys.modules:
        sys.path[:] = [str(folder), *(each for each in sys.path if each != str(folder))]


def requirementsFile() -> Path:
    """The file with the worker's requirements, as pip reads it."""
    return MODULE_FOLDER / "Resources" / "requirements.txt"


def slicersPython() -> str:
    """The executable of Slicer's own Python."""
    return shutil.which("PythonSlicer") or sys.executable


def isSlicers(python: str) -> bool:
    """Whether `python` is Slicer's own; so is ""."""
    if not python:
        return True
    try:
        return Path(python).samefile(slicersPython())
    except OSError:
        return False


def launch(module: str, arguments: Sequence[str], python: str = "") -> Launch:
    """The command with which `python` runs the `main` of a module of the library.

    The library beside this module goes first on the path, so that panel and worker have the same
    version in every Python.

    Args:
        module: of DiffuGTSLib, with a `main` that reads sys.argv.
        arguments: for it.
        python: the executable; "" is Slicer's own.
    """
    own = isSlicers(python)
    environment = dict(os.environ) if own else slicer.util.startupEnvironment()
    if not own:
        for name in SLICERS_VARIABLES:
            environment.pop(name, None)
    environment["PYTHONUTF8"] = "1"
    code = _START.format(module=module)
    program = slicersPython() if own else python
    return Launch(program, ("-c", code, str(libraryFolder() or ""), *arguments), environment)
