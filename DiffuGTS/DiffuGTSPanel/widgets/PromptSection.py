"""The scan, the prompt with its completion, and how it was understood."""

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
    from DiffuGTSPanel.data.Run import Understanding
    from DiffuGTSPanel.Logic import DiffuGTSLogic

EXAMPLES_A_ROW = 4
# Room above a label that stands beside the first of several rows of buttons.
LABEL_DROP = 5
SUGGESTED = 4
# A target of its own, which no prompt can be.
_ANYWAY = "#anyway"


class PromptSection(Section):
    """Tells the panel by `onChanged` and `onRun`; runs nothing itself.

    Args:
        resourcePath: of the module's widget.
        layout: where to be.
        logic: what understands texts.
        onChanged: called after each change of the text.
        onRun: called when Enter is pressed, or a text is to be run although it is unknown.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 onChanged: Callable[[], None], onRun: Callable[[], None]) -> None:
        super().__init__("Prompt", resourcePath, layout)
        self._logic, self._onChanged, self._onRun = logic, onChanged, onRun
        self.model = "embedded"
        self.understandings: list[Understanding] = []
        # Texts that are to be run although the vocabulary does not know them.
        self._insisted = ""
        self.root.setMRMLScene(slicer.mrmlScene)
        self._addCompletion()
        self._addExamples()
        self.ui.promptEdit.textChanged.connect(self._read)
        self.ui.promptEdit.returnPressed.connect(self._enter)
        self.ui.readingLabel.linkActivated.connect(self._follow)
        self._read()

    @property
    def text(self) -> str:
        """What is typed, without space around it."""
        return str(self.ui.promptEdit.text).strip()

    @property
    def runnable(self) -> bool:
        """Whether there is a prompt and all of it may be run."""
        return bool(self.understandings) and all(
            each.ok or self._insisted == self.text for each in self.understandings)

    def setText(self, text: str) -> None:
        """Shows another text; the same one leaves the cursor where it is."""
        if text != self.ui.promptEdit.text:
            self.ui.promptEdit.setText(text)

    def setModel(self, name: str) -> None:
        """The model that the prompt is read for."""
        if name != self.model:
            self.model = name
            self._read()

    def setEditable(self, editable: bool) -> None:
        """Scan and prompt belong to the run while one is at work."""
        for widget in (self.ui.volumeSelector, self.ui.promptEdit, self.ui.examplesPlace,
                       self.ui.recentButton):
            widget.enabled = editable

    def replaceWith(self, suggestion: str) -> None:
        """Puts a suggestion in the place of the first prompt that was not understood."""
        texts = [each.text for each in self.understandings]
        wrong = next((i for i, each in enumerate(self.understandings) if not each.ok), -1)
        texts[wrong:wrong + 1 or None] = [suggestion]
        self.setText("; ".join(texts))
        self.ui.promptEdit.setFocus()

    def _addCompletion(self) -> None:
        self._completions = qt.QStringListModel(self.ui.promptEdit)
        self._completer = qt.QCompleter(self._completions, self.ui.promptEdit)
        # The list is made for what is typed, synonyms and typing errors included.
        self._completer.setCompletionMode(qt.QCompleter.UnfilteredPopupCompletion)
        self._completer.setMaxVisibleItems(10)
        self.ui.promptEdit.setCompleter(self._completer)
        self.ui.promptEdit.textEdited.connect(self._complete)
        self.ui.recentButton.clicked.connect(self._showRecent)

    def _addExamples(self) -> None:
        layout = self.ui.examplesPlace.layout()
        self.ui.examplesLabel.setContentsMargins(0, LABEL_DROP, 0, 0)
        for number, example in enumerate(self._logic.examples()):
            button = qt.QToolButton()
            # The place alone: "Liver" for "liver tumor", "Soft tissue" for its sarcoma.
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
            # Pasted lines: a prompt a line.
            lines = [line.strip(" ;") for line in text.replace("\u2028", "\n").splitlines()]
            self.ui.promptEdit.setText("; ".join(line for line in lines if line))
            return
        self.understandings = self._logic.understand(text, self.model)
        self._insisted = ""
        self._showReading()
        self._onChanged()

    def _showReading(self) -> None:
        if not self.understandings:
            hint = _("Name a finding and a place; Enter runs.")
            self.ui.readingLabel.text = coloured(hint, "muted")
            return
        rows = "".join(self._row(each) for each in self.understandings)
        refused = [each for each in self.understandings if not each.ok]
        if refused and all(each.beyond for each in refused):
            rows += f"<tr><td></td><td>{link(_('Run it all the same'), _ANYWAY)}</td></tr>"
        self.ui.readingLabel.text = f'<table cellspacing="0" cellpadding="1">{rows}</table>'

    def _row(self, understanding: Understanding) -> str:
        if understanding.ok:
            mark, lines = coloured("\u2713", "good"), [_unbroken(understanding.sentence)]
        else:
            mark, lines = coloured("\u2717", "bad"), self._refusal(understanding)
        return f"<tr><td>{mark}&nbsp;</td><td>{'<br>'.join(lines)}</td></tr>"

    def _refusal(self, understanding: Understanding) -> list[str]:
        quoted = f"\u201c{understanding.text}\u201d: " if len(self.understandings) > 1 else ""
        lines = [escape(quoted + understanding.sentence)]
        if understanding.suggestions:
            lines.append(_("Nearest:") + " " + _list(understanding.suggestions[:SUGGESTED]))
        elif understanding.hint:
            lines.append(escape(understanding.hint))
        return lines

    def _follow(self, target: str) -> None:
        if target == _ANYWAY:
            self._insisted = self.text
            self._onRun()
        else:
            self.replaceWith(target)

    def _enter(self) -> None:
        self._completer.popup().hide()
        self._onRun()


def _unbroken(sentence: str) -> str:
    """A line may break after a dot in the middle, not before it."""
    return escape(sentence).replace(" \u00b7", "&nbsp;\u00b7")


def _list(texts: Sequence[str]) -> str:
    return "&nbsp;\u00b7 ".join(link(text) for text in texts)
