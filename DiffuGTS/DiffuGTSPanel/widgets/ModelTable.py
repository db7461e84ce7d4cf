"""The models with their state: choose, download, verify, remove."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.widgets.Section import coloured

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.data.Run import ModelEntry
    from DiffuGTSPanel.Logic import DiffuGTSLogic

ACTIONS = ("download", "verify", "remove")


class ModelTable:
    """The model rows of the section Advanced.

    Args:
        ui: widgets of the section.
        logic: of the module.
    """

    def __init__(self, ui: Any, logic: DiffuGTSLogic) -> None:
        self._ui, self._logic = ui, logic
        self._entries: list[ModelEntry] = []
        self._task: Any = None
        self.onChanged: Any = None
        self._buttons = {"download": ui.modelDownloadButton, "verify": ui.modelVerifyButton,
                         "remove": ui.modelRemoveButton}
        ui.modelSelector.currentIndexChanged.connect(self._select)
        ui.modelDownloadButton.clicked.connect(self._download)
        ui.modelVerifyButton.clicked.connect(self._verify)
        ui.modelRemoveButton.clicked.connect(self._remove)
        self.refresh()

    @property
    def current(self) -> ModelEntry | None:
        """The chosen model."""
        index = int(self._ui.modelSelector.currentIndex)
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def choose(self, name: str) -> None:
        """Selects the model of that name, if it is in the list."""
        names = [entry.name for entry in self._entries]
        if name in names and (self.current is None or self.current.name != name):
            self._ui.modelSelector.setCurrentIndex(names.index(name))

    def refresh(self) -> None:
        """Reads the catalogue again; the selection stays."""
        chosen = self.current.name if self.current else "embedded"
        selector = self._ui.modelSelector
        wasBlocked = selector.blockSignals(True)
        self._entries = list(self._logic.models())
        selector.clear()
        for entry in self._entries:
            selector.addItem(entry.title)
        names = [entry.name for entry in self._entries]
        selector.setCurrentIndex(names.index(chosen) if chosen in names else 0)
        selector.blockSignals(wasBlocked)
        self._show()

    def close(self) -> None:
        """Stops a download."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _select(self, *_arguments: object) -> None:
        self._show()
        if self.onChanged and self.current:
            self.onChanged(self.current.name)

    def _show(self) -> None:
        entry = self.current
        for action, button in self._buttons.items():
            button.visible = entry is not None and action in entry.actions
        self._ui.modelButtonsContainer.visible = entry is not None and bool(entry.actions)
        if entry is None:
            self._ui.modelInfoLabel.text = ""
            return
        size = _("{size:.0f} MB").format(size=entry.sizeMb) if entry.sizeMb else ""
        facts = [_(" and ").join(entry.modalities), size, entry.licence]
        text = coloured(" \u00b7 ".join(fact for fact in facts if fact), "muted")
        if not entry.ready:
            text += "<br>" + coloured(entry.message, "bad")
        self._ui.modelInfoLabel.text = text

    def _download(self, *_arguments: object) -> None:
        entry = self.current
        if entry is None:
            return
        if self._task is not None:
            self.close()
            self._finish(_("The download was stopped; the next one continues from there."))
            return
        size = _("about {size:.0f} MB").format(size=entry.sizeMb) if entry.sizeMb else ""
        question = _("{title} ({size}) is under this licence:\n\n{licence}\n{url}\n\n"
                     "Do you accept it?").format(title=entry.title, size=size,
                                                 licence=entry.licence, url=entry.licenceUrl)
        if slicer.util.confirmYesNoDisplay(question, windowTitle=_("Download a model")):
            self._start("download", entry.name)

    def _verify(self, *_arguments: object) -> None:
        if self.current:
            self._start("verify", self.current.name)

    def _remove(self, *_arguments: object) -> None:
        entry = self.current
        question = _("Delete the files of {title}?").format(title=entry.title if entry else "")
        if entry and slicer.util.confirmYesNoDisplay(question, windowTitle=_("Remove a model")):
            self._start("remove", entry.name)

    def _start(self, action: str, name: str) -> None:
        self._ui.modelSelector.enabled = False
        for other, button in self._buttons.items():
            button.enabled = other == action == "download"
        self._ui.modelDownloadButton.text = _("Stop") if action == "download" else _("Download...")
        self._showLine(_("Working..."))
        self._task = self._logic.modelAction(action, name, self._finish, self._fail, self._showLine)

    def _showLine(self, line: str) -> None:
        self._ui.modelInfoLabel.text = escape(line)

    def _finish(self, message: str) -> None:
        self._end()
        self._showLine(message)

    def _fail(self, failure: Failure) -> None:
        self._end()
        self._ui.modelInfoLabel.text = (
            f"{coloured(failure.message, 'bad')} {escape(failure.hint)}")

    def _end(self) -> None:
        self._task = None
        self._ui.modelSelector.enabled = True
        self._ui.modelDownloadButton.text = _("Download...")
        for button in self._buttons.values():
            button.enabled = True
        self.refresh()
