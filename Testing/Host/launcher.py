"""`PythonSlicer`: the launcher through which Slicer starts its own Python.

As the real one it waits for Python as its child, ends with code 1 whatever signal ended that, and
does not pass on a signal that it gets itself. pip's commands are written down, never run.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_SCRIPT = """#!/bin/sh
if [ "$1" = -m ] && {{ [ "$2" = pip ] || [ "$2" = light_the_torch ]; }}; then
  for argument in "$@"; do printf '%s\\n' "$argument"; done >> {log}
  echo >> {log}
  echo "Collecting packages"
  [ -f {failing} ] || exit 0
  cat {failing} >&2
  exit 1
fi
{python} "$@"
code=$?
[ "$code" -gt 128 ] && exit 1
exit "$code"
"""


class Launcher:
    """The launcher's file, and what pip was requested to do through it.

    Args:
        folder: to write it into; goes on the PATH.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log, self._failing = folder / "pip.log", folder / "pip.failing"
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "PythonSlicer"
        program.write_text(_SCRIPT.format(
            log=shlex.quote(str(self._log)), failing=shlex.quote(str(self._failing)),
            python=shlex.quote(sys.executable)))
        program.chmod(0o755)

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of each command of pip, in order."""
        text = self._log.read_text(encoding="utf-8") if self._log.is_file() else ""
        return [block.split("\n") for block in text.strip().split("\n\n") if block]

    def fail(self, message: str) -> None:
        """From now on pip fails with this text on stderr; "" lets it succeed again."""
        if message:
            self._failing.write_text(message + "\n")
        else:
            self._failing.unlink(missing_ok=True)

    def reset(self) -> None:
        """As at the start."""
        self.fail("")
        self._log.unlink(missing_ok=True)
