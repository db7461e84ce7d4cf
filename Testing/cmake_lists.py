"""The lists of files in the CMakeLists.txt files: what they are, what they should be.

`python Testing/cmake_lists.py` writes them anew, after a file was added, renamed or removed.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path, PurePosixPath

REPOSITORY = Path(__file__).resolve().parents[1]
# Pictures of the README, and nothing that runs.
NOT_PACKAGED = ("Screenshots/",)
CODE_FREE = ("CMakeLists.txt",)
# By file and variable: the folder that the entries are relative to.
LISTS = {
    ("DiffuGTS/CMakeLists.txt", "MODULE_PYTHON_SCRIPTS"): "DiffuGTS",
    ("DiffuGTS/CMakeLists.txt", "MODULE_PYTHON_RESOURCES"): "DiffuGTS",
    ("DiffuGTSLib/CMakeLists.txt", "LIBRARY_SCRIPTS"): "DiffuGTSLib",
    ("DiffuGTSLib/CMakeLists.txt", "LIBRARY_RESOURCES"): "Resources",
}


def files(folder: str) -> list[str]:
    """Files that git holds or would hold, relative to the folder.

    Raises:
        OSError, subprocess.CalledProcessError: no git, or no checkout.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder],
        cwd=REPOSITORY, capture_output=True, text=True, check=True)
    names = sorted({name for name in listed.stdout.split("\0") if name})
    there = [name for name in names if (REPOSITORY / name).is_file()]
    return [str(PurePosixPath(name).relative_to(folder)) for name in there]


def wanted(file: str, variable: str) -> list[str]:
    """What a list should hold."""
    folder = LISTS[file, variable]
    names = [name for name in files(folder) if PurePosixPath(name).name not in CODE_FREE]
    names = [name for name in names if not name.startswith(NOT_PACKAGED)]
    if variable.endswith("SCRIPTS"):
        return [name for name in names if name.endswith(".py")]
    return [name for name in names if not name.endswith(".py")]


def listed(file: str, variable: str) -> list[str]:
    """What a list holds."""
    found = _pattern(variable).search(_text(file))
    return found[2].split() if found else []


def write() -> None:
    """Writes all lists as they should be."""
    for file, variable in LISTS:
        entries = "".join(f"  {name}\n" for name in wanted(file, variable))
        text = _pattern(variable).sub(rf"\g<1>\n{entries}\g<3>", _text(file))
        (REPOSITORY / file).write_text(text, encoding="utf-8", newline="\n")


def _text(file: str) -> str:
    return (REPOSITORY / file).read_text(encoding="utf-8")


def _pattern(variable: str) -> re.Pattern[str]:
    return re.compile(rf"(set\({variable})\n(.*?)(\))", re.DOTALL)


if __name__ == "__main__":
    write()
