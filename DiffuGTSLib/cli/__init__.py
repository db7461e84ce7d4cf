"""The command `diffugts`."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["main"]

CANCELLED = 130


def main() -> None:
    """Runs the command on sys.argv; its packages are imported only here."""
    open_streams()
    sys.unraisablehook = interrupt_again
    try:
        from DiffuGTSLib.cli.app import main as run

        run()
    except KeyboardInterrupt:
        # While packages are imported, or the interpreter ends: no command catches it there.
        print("The run was cancelled.", file=sys.stderr)
        sys.exit(CANCELLED)


def interrupt_again(ignored: UnraisableHookArgs) -> None:
    """Delivers a Ctrl+C again that came inside compiled code which ignores exceptions.

    Else it would show a traceback, and the run would go on. Not at once: it would come inside this
    function, where it is ignored as well.
    """
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return
    with suppress(RuntimeError):  # the interpreter ends anyway
        threading.Timer(0.05, _interrupt).start()


def _interrupt() -> None:
    """Ctrl+C for the main thread, from another one."""
    if hasattr(signal, "pthread_kill"):  # ends a wait of the main thread as well
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


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
