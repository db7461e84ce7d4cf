"""Missing packages in one line, with one button that installs them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.widgets import KeptSettings
from DiffuGTSPanel.widgets.Section import Section, coloured

if TYPE_CHECKING:
    from DiffuGTSPanel.Logic import DiffuGTSLogic


class SetupSection(Section):
    """Shown only while Slicer's own Python is to run the worker and lacks packages.

    Args:
        resourcePath: of the module's widget.
        layout: to add the section to.
        logic: of the module.
        onReady: called after a successful installation.

    Attributes:
        complete: nothing is known to be missing.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 onReady: Callable[[], None]) -> None:
        super().__init__("Setup", resourcePath, layout)
        self._logic, self._onReady = logic, onReady
        self.complete = True
        self.ui.setupButton.clicked.connect(self._install)
        self.root.visible = False

    def refresh(self) -> None:
        """Checks again; imports nothing."""
        # Another Python is checked by a process of its own, another computer by its own program.
        elsewhere = bool(self._logic.python or KeptSettings.host())
        problem = None if elsewhere else self._logic.packages.problem()
        if problem is None:
            self._show("", _("Install..."))
        elif problem.code == "packages-missing":
            self._show(escape(problem.message), _("Install..."))
        else:
            self._showFailure(problem, "")

    def _show(self, richText: str, button: str) -> None:
        self.ui.setupLabel.text = richText
        self.ui.setupButton.text = button
        self.ui.setupButton.visible = bool(button)
        self.complete = not richText
        self.root.visible = not self.complete

    def _showFailure(self, failure: Failure, button: str) -> None:
        self._show(f"{coloured(failure.message, 'bad')}<br>{escape(failure.hint)}", button)

    def _install(self, *_arguments: object) -> None:
        self.ui.setupButton.enabled = False
        try:
            self._logic.packages.install(self._logic.log.add)
        except Failure as failure:
            self._showFailure(failure, _("Try again"))
        else:
            self.refresh()
            if self.complete:
                self._onReady()
        finally:
            self.ui.setupButton.enabled = True
