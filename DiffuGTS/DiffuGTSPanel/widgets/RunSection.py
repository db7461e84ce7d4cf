"""Run and Cancel, how far a run is, what went wrong, and the log."""

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

# Begins the targets of links that answer which MR sequence it is; no prompt can begin so.
SEQUENCE = "#sequence "


class RunSection(Section):
    """One button that runs and cancels.

    Args:
        resourcePath: of the module's widget.
        layout: where to be.
        log: what the background process says.
        onRun, onCancel: called by the button.
        onSuggestion: called with what was clicked in a message: a suggested prompt, or `SEQUENCE`
            and the name of a `SequenceChoice`.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, log: Log, *,
                 onRun: Callable[[], None], onCancel: Callable[[], None],
                 onSuggestion: Callable[[str], None]) -> None:
        super().__init__("Run", resourcePath, layout)
        self._log, self._onRun, self._onCancel = log, onRun, onCancel
        self._running = False
        self._ending = ""  # how the last run ended
        self.ui.progressBar.visible = False
        self.ui.logText.visible = False
        self.ui.messageLabel.visible = False
        self.ui.runButton.clicked.connect(self._press)
        self.ui.logButton.toggled.connect(self._unfoldLog)
        self.ui.messageLabel.linkActivated.connect(onSuggestion)
        log.onLine = self._addLine

    def setReady(self, ready: bool, why: str = "") -> None:
        """Whether the button may start a run, and what is missing for one."""
        if not self._running:
            self.ui.runButton.enabled = ready
            self.ui.runButton.toolTip = why
            self._say(self._ending if ready else coloured(why, "muted"))

    def start(self) -> None:
        """A run has begun: the button cancels from now on."""
        self._running, self._ending = True, ""
        self.clearMessage()
        self._setButton(_("Cancel"), _("Stops the run; nothing of it is kept."), True)
        self.ui.progressBar.visible = True
        self.ui.progressPlace.visible = True
        self.ui.progressBar.setRange(0, 0)
        self.ui.progressLabel.text = _("Starting")

    def cancelling(self) -> None:
        """The run has been asked to stop."""
        self._setButton(_("Cancelling..."), "", False)
        self.ui.progressLabel.text = _("Cancelling")

    def show(self, progress: Progress, prompts: int) -> None:
        """How far the run of `prompts` prompts is."""
        if not self._running or not self.ui.runButton.enabled:
            return
        # Without an end in sight (the process starts) the bar only moves.
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
        """The run has ended; `sentence` says how."""
        self._running = False
        self._setButton(_("Run"), "", True)
        self.ui.progressBar.visible = False
        self.ui.progressBar.setRange(0, 1000)
        self._ending = sentence
        self._say(sentence)

    def showFailure(self, failure: Failure) -> None:
        """What went wrong, what to do, and prompts that are understood."""
        lines = [f"<b>{coloured(failure.message, 'bad')}</b>"]
        if failure.hint:
            lines.append(escape(failure.hint))
        if failure.suggestions:
            lines.append(_offered(failure))
        self.ui.messageLabel.text = "<br>".join(lines)
        self.ui.messageLabel.visible = True

    def showNote(self, sentence: str) -> None:
        """Something worth knowing that is no failure."""
        self.ui.messageLabel.text = escape(sentence)
        self.ui.messageLabel.visible = True

    def clearMessage(self) -> None:
        """Takes the last message away."""
        self.ui.messageLabel.visible = False
        self.ui.messageLabel.text = ""

    def _say(self, richText: str) -> None:
        self.ui.progressLabel.text = richText
        self.ui.progressPlace.visible = bool(richText)

    def _setButton(self, text: str, toolTip: str, enabled: bool) -> None:
        self.ui.runButton.text = text
        self.ui.runButton.toolTip = toolTip
        self.ui.runButton.enabled = enabled

    def _press(self, *_arguments: object) -> None:
        if self._running:
            self._onCancel()
        else:
            self._onRun()

    def _unfoldLog(self, unfolded: bool) -> None:
        self.ui.logButton.setArrowType(qt.Qt.DownArrow if unfolded else qt.Qt.RightArrow)
        self.ui.logText.visible = unfolded
        if unfolded:
            self.ui.logText.setPlainText("\n".join(self._log.lines))
            self.ui.logText.moveCursor(qt.QTextCursor.End)

    def _addLine(self, line: str) -> None:
        # A folded log costs nothing; it is filled when it is unfolded.
        if self.ui.logButton.checked:
            self.ui.logText.appendPlainText(line)


def _offered(failure: Failure) -> str:
    """What can be clicked: prompts that are understood, or an answer to which sequence it is."""
    if failure.code == "sequence-unknown":
        known = [SequenceChoice[name.upper()] for name in failure.suggestions
                 if name.upper() in SequenceChoice.__members__]
        title = _("It is:")
        links = [link(each.label(), f"{SEQUENCE}{each.name}") for each in known]
    else:
        title, links = _("Nearest:"), [link(text) for text in failure.suggestions]
    return title + " " + "&nbsp;\u00b7 ".join(links)
