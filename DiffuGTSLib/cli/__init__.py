"""The command `diffugts`."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

CANCELLED = 130


def main() -> None:
    """Runs the command on sys.argv; its packages are imported only here."""
    open_streams()
    try:
        from DiffuGTSLib.cli.app import main as run

        run()
    except KeyboardInterrupt:
        # While packages are imported, or the interpreter ends: no command catches it there.
        print("The run was cancelled.", file=sys.stderr)
        sys.exit(CANCELLED)


def open_streams() -> None:
    """Leads stdin, stdout and stderr nowhere where whoever started this process closed them.

    Else the next file that is opened takes their numbers, and messages are written into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
