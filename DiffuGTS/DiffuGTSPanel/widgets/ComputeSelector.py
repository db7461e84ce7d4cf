"""The computer that the networks run on: this one, or another one over SSH, with a test."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from DiffuGTSPanel.library import RemoteHost
from DiffuGTSPanel.widgets import KeptSettings
from DiffuGTSPanel.widgets.Section import coloured

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.library.RemoteHost import HostReport


class ComputeSelector:
    """An editable list of computers, the button Test and what that found.

    Args:
        ui: named children of the section Advanced.
        onChanged: called after another computer was chosen.
        onReport: called with what a test found.
    """

    def __init__(
        self, ui: Any, onChanged: Callable[[], None], onReport: Callable[[HostReport], None]
    ) -> None:
        self._ui, self._onChanged, self._onReport = ui, onChanged, onReport
        self._task: Any = None
        self._thisComputer = _("This computer")
        self._fill(KeptSettings.host())
        self._before = self.host
        ui.computeSelector.editTextChanged.connect(self._edited)
        ui.testHostButton.clicked.connect(self.test)
        self._show("")

    @property
    def host(self) -> str:
        """As typed or chosen; "" for this computer."""
        text = str(self._ui.computeSelector.currentText).strip()
        return "" if text == self._thisComputer else text

    def refresh(self) -> None:
        """Lists the computers of the SSH configuration anew."""
        self._fill(self.host)

    def close(self) -> None:
        """Stops a running test."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def test(self, *_arguments: object) -> None:
        """Looks at the computer, in a process of its own."""
        self.close()
        if not self.host:
            return
        self._ui.testHostButton.enabled = False
        self._show(coloured(_("Connecting to {host}...").format(host=self.host), "muted"))
        self._task = RemoteHost.test(self.host, self._tested, self._failed)

    def _fill(self, chosen: str) -> None:
        selector = self._ui.computeSelector
        wasBlocked = selector.blockSignals(True)
        selector.clear()
        selector.addItem(self._thisComputer)
        names = dict.fromkeys([*KeptSettings.lastHosts(), *RemoteHost.configuredHosts()])
        for name in names:
            selector.addItem(name)
        position = max(0, selector.findText(chosen)) if chosen else 0
        selector.setCurrentIndex(position)
        if chosen and not position:
            selector.setEditText(chosen)
        selector.blockSignals(wasBlocked)

    def _edited(self, *_arguments: object) -> None:
        if self.host == self._before:
            return
        self._before = self.host
        KeptSettings.setHost(self.host)
        self.close()
        self._show("")
        self._onChanged()

    def _tested(self, report: HostReport) -> None:
        KeptSettings.rememberHost(self.host)
        self._show(coloured(report.sentence, "bad" if report.problems else "good"))
        self._onReport(report)

    def _failed(self, failure: Failure) -> None:
        self._show(f"{coloured(failure.message, 'bad')} {escape(failure.hint)}")

    def _show(self, richText: str) -> None:
        if not richText and self.host:
            richText = coloured(_("Over SSH, with your own keys; Test says what is there."),
                                "muted")
        self._ui.computeInfoLabel.text = richText
        self._ui.computeInfoLabel.visible = bool(richText)
        self._ui.testHostButton.enabled = bool(self.host)
