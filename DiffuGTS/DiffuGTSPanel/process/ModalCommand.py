"""A command that Slicer waits for, behind a dialog with its output and a button to cancel it."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer

from DiffuGTSPanel.process.ChildProcess import ChildProcess, ProcessExit
from DiffuGTSPanel.process.LibraryLauncher import Launch

_MAX_CHARACTERS = 90  # a longer line would make the dialog wider with each one


def run(launch: Launch, title: str, onLine: Callable[[str], None]) -> ProcessExit | None:
    """Runs a command to its end; the event loop runs meanwhile.

    Args:
        launch: of the command.
        title: of the dialog.
        onLine: called with each line that it prints.

    Returns:
        How it ended; None where the user cancelled it.
    """
    dialog = slicer.util.createProgressDialog(
        windowTitle=title, labelText=title, maximum=0, autoClose=False, autoReset=False)
    loop, exits = qt.QEventLoop(), []

    def show(line: str) -> None:
        onLine(line)
        dialog.labelText = line[:_MAX_CHARACTERS]

    def ended(result: ProcessExit) -> None:
        exits.append(result)
        loop.quit()

    child = ChildProcess(launch, onOut=show, onErr=show, onEnded=ended)
    dialog.connect("canceled()", child.killTree)
    child.start()
    if not exits:
        loop.exec_()
    wasCanceled = bool(dialog.wasCanceled)  # before it closes, which cancels as well
    dialog.close()
    dialog.deleteLater()
    return None if wasCanceled else exits[0]
