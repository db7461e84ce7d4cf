"""The scan, the prompt with completion, and how it is understood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.widgets import KeptSettings
from DiffuGTSPanel.widgets.Section import Section, coloured, link

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Run import ParsedPrompt
    from DiffuGTSPanel.Logic import DiffuGTSLogic

EXAMPLES_A_ROW = 4
# Margin above the label beside the first row of buttons.
LABEL_MARGIN = 5
MAX_SUGGESTIONS = 4
# Target of a link; no prompt is like this.
_RUN_ANYWAY = "#anyway"


class PromptSection(Section):
    """Reports changes and the wish to run by callbacks; runs nothing itself.

    Args:
        resourcePath: of the module's widget.
        layout: to add the section to.
        logic: of the module.
        onChanged: called after each change of the text.
        onRun: called on Enter, and when the user confirms a text with unknown words.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 onChanged: Callable[[], None], onRun: Callable[[], None]) -> None:
        super().__init__("Prompt", resourcePath, layout)
        self._logic, self._onChanged, self._onRun = logic, onChanged, onRun
        self.model = "embedded"
        self.parsedPrompts: list[ParsedPrompt] = []
        # The text with unknown words that the user has confirmed.
        self._confirmedText = ""
        self.root.setMRMLScene(slicer.mrmlScene)
        self._addCompletion()
        self._addExamples()
        self.ui.promptEdit.textChanged.connect(self._read)
        self.ui.promptEdit.returnPressed.connect(self._enter)
        self.ui.readingLabel.linkActivated.connect(self._follow)
        self._read()

    @property
    def text(self) -> str:
        """The typed text, stripped."""
        return str(self.ui.promptEdit.text).strip()

    @property
    def runnable(self) -> bool:
        """Whether there is a prompt, and each is understood or confirmed."""
        return bool(self.parsedPrompts) and all(
            each.ok or self._confirmedText == self.text for each in self.parsedPrompts)

    def setText(self, text: str) -> None:
        """Shows a text; the same one leaves the cursor where it is."""
        if text != self.ui.promptEdit.text:
            self.ui.promptEdit.setText(text)

    def setModel(self, name: str) -> None:
        """Sets the model that the prompt is for."""
        if name != self.model:
            self.model = name
            self._read()

    def setEditable(self, editable: bool) -> None:
        """Locks scan and prompt during a run."""
        for widget in (self.ui.volumeSelector, self.ui.promptEdit, self.ui.examplesContainer,
                       self.ui.recentButton):
            widget.enabled = editable

    def replaceWith(self, suggestion: str) -> None:
        """Replaces the first prompt that was not understood by a suggestion."""
        texts = [each.text for each in self.parsedPrompts]
        wrong = next((i for i, each in enumerate(self.parsedPrompts) if not each.ok), -1)
        texts[wrong:wrong + 1 or None] = [suggestion]
        self.setText("; ".join(texts))
        self.ui.promptEdit.setFocus()

    def _addCompletion(self) -> None:
        self._completions = qt.QStringListModel(self.ui.promptEdit)
        self._completer = qt.QCompleter(self._completions, self.ui.promptEdit)
        # The list is already filtered, with synonyms and spelling errors in mind.
        self._completer.setCompletionMode(qt.QCompleter.UnfilteredPopupCompletion)
        self._completer.setMaxVisibleItems(10)
        self.ui.promptEdit.setCompleter(self._completer)
        self.ui.promptEdit.textEdited.connect(self._complete)
        self.ui.recentButton.clicked.connect(self._showRecent)

    def _addExamples(self) -> None:
        layout = self.ui.examplesContainer.layout()
        self.ui.examplesLabel.setContentsMargins(0, LABEL_MARGIN, 0, 0)
        for number, example in enumerate(self._logic.examples()):
            button = qt.QToolButton()
            # The anatomy alone: "Liver" for "liver tumor".
            button.text = example.rpartition(" ")[0].capitalize()
            button.toolTip = example
            button.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
            button.clicked.connect(self._setter(example))
            row, column = divmod(number, EXAMPLES_A_ROW)
            layout.addWidget(button, row, column)
            layout.setColumnStretch(column, 1)

    def _setter(self, example: str) -> Callable[..., None]:
        def use(*_arguments: object) -> None:
            self.setText(example)
            self.ui.promptEdit.setFocus()
        return use

    def completions(self, text: str) -> list[str]:
        """Whole texts that may be meant: earlier prompts first, then the vocabulary's."""
        before, _semicolon, typed = text.rpartition(";")
        start = f"{before.strip()}; " if before.strip() else ""
        wanted = typed.strip().casefold()
        recent = [prompt for prompt in KeptSettings.lastPrompts() if wanted in prompt.casefold()]
        known = self._logic.suggestions(typed) if wanted else []
        return [start + each for each in dict.fromkeys([*recent[:3], *known])]

    def _complete(self, text: str) -> None:
        self._completions.setStringList(self.completions(text))

    def _showRecent(self, *_arguments: object) -> None:
        self._completions.setStringList(KeptSettings.lastPrompts() or self._logic.examples())
        self.ui.promptEdit.setFocus()
        self._completer.complete()

    def _read(self, *_arguments: object) -> None:
        text = self.ui.promptEdit.text
        if "\n" in text or "\u2028" in text:
            # Pasted lines: one prompt each.
            lines = [line.strip(" ;") for line in text.replace("\u2028", "\n").splitlines()]
            self.ui.promptEdit.setText("; ".join(line for line in lines if line))
            return
        self.parsedPrompts = self._logic.understand(text, self.model)
        self._confirmedText = ""
        self._showReading()
        self._onChanged()

    def _showReading(self) -> None:
        if not self.parsedPrompts:
            hint = _("Type a finding and an anatomy; Enter runs.")
            self.ui.readingLabel.text = coloured(hint, "muted")
            return
        rows = "".join(self._row(each) for each in self.parsedPrompts)
        refused = [each for each in self.parsedPrompts if not each.ok]
        if refused and all(each.hasUnknownWords for each in refused):
            rows += f"<tr><td></td><td>{link(_('Run anyway'), _RUN_ANYWAY)}</td></tr>"
        self.ui.readingLabel.text = f'<table cellspacing="0" cellpadding="1">{rows}</table>'

    def _row(self, prompt: ParsedPrompt) -> str:
        if prompt.ok:
            mark, lines = coloured("\u2713", "good"), [_unbroken(prompt.sentence)]
        else:
            mark, lines = coloured("\u2717", "bad"), self._explanation(prompt)
        return f"<tr><td>{mark}&nbsp;</td><td>{'<br>'.join(lines)}</td></tr>"

    def _explanation(self, prompt: ParsedPrompt) -> list[str]:
        quoted = f"\u201c{prompt.text}\u201d: " if len(self.parsedPrompts) > 1 else ""
        lines = [escape(quoted + prompt.sentence)]
        if prompt.suggestions:
            lines.append(_("Closest matches:") + " " + _list(prompt.suggestions[:MAX_SUGGESTIONS]))
        elif prompt.hint:
            lines.append(escape(prompt.hint))
        return lines

    def _follow(self, target: str) -> None:
        if target == _RUN_ANYWAY:
            self._confirmedText = self.text
            self._onRun()
        else:
            self.replaceWith(target)

    def _enter(self) -> None:
        self._completer.popup().hide()
        self._onRun()


def _unbroken(sentence: str) -> str:
    """Keeps each middle dot on the line of the text before it."""
    return escape(sentence).replace(" \u00b7", "&nbsp;\u00b7")


def _list(texts: Sequence[str]) -> str:
    return "&nbsp;\u00b7 ".join(link(text) for text in texts)
