"""Run and Cancel, the progress of a run, errors and the log."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from DiffuGTSPanel.widgets.KeptSettings import SequenceChoice
from DiffuGTSPanel.widgets.Section import Section, coloured, link, timeLeft

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.data.Run import Progress
    from DiffuGTSPanel.process.ChildProcess import Log

# Prefix of links that choose an MR sequence; no prompt starts like this.
SEQUENCE = "#sequence "


class RunSection(Section):
    """One button that runs and cancels, with progress, message and log.

    Args:
        resourcePath: of the module's widget.
        layout: to add the section to.
        log: output of the background process.
        onRun, onCancel: called by the button.
        onSuggestion: called with the link that was clicked in a message: a suggested prompt, or
            `SEQUENCE` and the name of a `SequenceChoice`.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, log: Log, *,
                 onRun: Callable[[], None], onCancel: Callable[[], None],
                 onSuggestion: Callable[[str], None]) -> None:
        super().__init__("Run", resourcePath, layout)
        self._log, self._onRun, self._onCancel = log, onRun, onCancel
        self._running = False
        self._outcome = ""  # of the last run
        self._passing = False  # of the message that is shown
        self.ui.progressBar.visible = False
        self.ui.logText.visible = False
        self.ui.messageLabel.visible = False
        self.ui.runButton.clicked.connect(self._press)
        self.ui.logButton.toggled.connect(self._toggleLog)
        self.ui.messageLabel.linkActivated.connect(onSuggestion)
        log.onLine = self._addLine

    def setReady(self, ready: bool, why: str = "") -> None:
        """Enables the button, or shows why a run cannot start."""
        if not self._running:
            self.ui.runButton.enabled = ready
            self.ui.runButton.toolTip = why
            self._setStatus(self._outcome if ready else coloured(why, "muted"))

    def start(self) -> None:
        """A run has started: the button cancels it."""
        self._running, self._outcome = True, ""
        self.clearMessage()
        self._setButton(_("Cancel"), _("Stops the run and discards its results."), True)
        self.ui.progressBar.visible = True
        self.ui.progressContainer.visible = True
        self.ui.progressBar.setRange(0, 0)
        self.ui.progressLabel.text = _("Starting")

    def cancelling(self) -> None:
        """The run is being cancelled."""
        self._setButton(_("Cancelling..."), "", False)
        self.ui.progressLabel.text = _("Cancelling")

    def show(self, progress: Progress, prompts: int) -> None:
        """Shows the progress of a run of `prompts` prompts."""
        if not self._running or not self.ui.runButton.enabled:
            return
        # While the process starts the bar is indeterminate.
        known = progress.fraction > 0
        self.ui.progressBar.setRange(0, 1000 if known else 0)
        self.ui.progressBar.setValue(round(1000 * progress.fraction))
        parts = [progress.text]
        if prompts > 1 and known:
            parts[0] = f"{progress.prompt}: {progress.text}"
        if known:
            parts.append(_("{percent} %").format(percent=int(100 * progress.fraction)))
        if progress.secondsLeft is not None:
            parts.append(timeLeft(progress.secondsLeft))
        self.ui.progressLabel.text = " \u00b7 ".join(parts)

    def stop(self, sentence: str) -> None:
        """The run has ended; `sentence` is its outcome."""
        self._running = False
        self._setButton(_("Run"), "", True)
        self.ui.progressBar.visible = False
        self.ui.progressBar.setRange(0, 1000)
        self._outcome = sentence
        self._setStatus(sentence)

    def showFailure(self, failure: Failure, *, passing: bool = False) -> None:
        """Shows what went wrong, what to do, and suggestions to click.

        Args:
            passing: it no longer matters when what failed has succeeded; see `clearPassing`.
        """
        lines = [f"<b>{coloured(failure.message, 'bad')}</b>"]
        if failure.hint:
            lines.append(escape(failure.hint))
        if failure.suggestions:
            lines.append(_suggestionLinks(failure))
        self.ui.messageLabel.text = "<br>".join(lines)
        self.ui.messageLabel.visible = True
        self._passing = passing

    def showNote(self, sentence: str) -> None:
        """Shows a note that is not a failure."""
        self.ui.messageLabel.text = escape(sentence)
        self.ui.messageLabel.visible = True
        self._passing = False

    def clearMessage(self) -> None:
        """Hides the last message."""
        self.ui.messageLabel.visible = False
        self.ui.messageLabel.text = ""
        self._passing = False

    def clearPassing(self) -> None:
        """Hides the last message where what failed has succeeded by now."""
        if self._passing:
            self.clearMessage()

    def _setStatus(self, richText: str) -> None:
        self.ui.progressLabel.text = richText
        self.ui.progressContainer.visible = bool(richText)

    def _setButton(self, text: str, toolTip: str, enabled: bool) -> None:
        self.ui.runButton.text = text
        self.ui.runButton.toolTip = toolTip
        self.ui.runButton.enabled = enabled

    def _press(self, *_arguments: object) -> None:
        if self._running:
            self._onCancel()
        else:
            self._onRun()

    def _toggleLog(self, opened: bool) -> None:
        self.ui.logButton.setArrowType(qt.Qt.DownArrow if opened else qt.Qt.RightArrow)
        self.ui.logText.visible = opened
        if opened:
            self.ui.logText.setPlainText("\n".join(self._log.lines))
            self.ui.logText.moveCursor(qt.QTextCursor.End)

    def _addLine(self, line: str) -> None:
        # A closed log costs nothing; it is filled when opened.
        if self.ui.logButton.checked:
            self.ui.logText.appendPlainText(line)


def _suggestionLinks(failure: Failure) -> str:
    """The suggestions as links: prompts, or MR sequences to choose from."""
    if failure.code == "sequence-unknown":
        known = [SequenceChoice[name.upper()] for name in failure.suggestions
                 if name.upper() in SequenceChoice.__members__]
        title = _("MR sequence:")
        links = [link(each.label(), f"{SEQUENCE}{each.name}") for each in known]
    else:
        title, links = _("Closest matches:"), [link(text) for text in failure.suggestions]
    return title + " " + "&nbsp;\u00b7 ".join(links)
