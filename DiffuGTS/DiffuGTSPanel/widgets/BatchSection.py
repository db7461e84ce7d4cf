"""Many scans at once: inputs, prompt and output folder, progress and results."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import ctk
import qt
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.widgets.BatchTables import BatchCaseTable, BatchInputList
from DiffuGTSPanel.widgets.Section import Section, coloured, duration, timeLeft

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Batch import BatchCase, BatchProgress, BatchRun
    from DiffuGTSPanel.Logic import DiffuGTSLogic


class BatchSection(Section):
    """Runs one batch at a time, while the rest of the panel stays usable.

    Args:
        resourcePath: of the module's widget.
        layout: to add the section to.
        logic: of the module.
        options: returns the options of the other sections: model, device, modality, seed.

    Attributes:
        run: the running batch; None without one.
        last: the latest batch.
        inputs: list of the scans.
        table: of the cases.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 options: Callable[[], dict[str, Any]]) -> None:
        super().__init__("Batch", resourcePath, layout)
        self._logic, self._options = logic, options
        self.run: BatchRun | None = None
        self.last: BatchRun | None = None
        self.inputs = BatchInputList(self.ui, self.root, self._changed)
        self.table = BatchCaseTable(resourcePath, self.root.layout(), onOpen=self.open,
                                onReport=self._openReport)
        self.ui.introLabel.text = coloured(self.ui.introLabel.text, "muted")
        self.ui.outputEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.ui.batchPromptEdit.textChanged.connect(self._changed)
        self.ui.outputEdit.currentPathChanged.connect(self._changed)
        self.ui.outputEdit.validInputChanged.connect(self._changed)  # it was emptied
        self.ui.batchRunButton.clicked.connect(self._press)
        self._endProgress("")
        self._showMessage("")
        self._changed()

    def prefill(self, prompt: str) -> None:
        """Fills an empty prompt line with the panel's prompt, when the section is opened."""
        self.inputs.refresh()
        if not self.ui.batchPromptEdit.text:
            self.ui.batchPromptEdit.setText(prompt)

    def start(self) -> None:
        """Starts the batch, if it can start."""
        if self.run is not None or self._missing():
            return
        self.table.clear()
        self._showMessage("")
        ui = self.ui
        self.run = self.last = self._logic.segmentBatch(
            self.inputs.items, ui.batchPromptEdit.text, ui.outputEdit.currentPath.strip(),
            onProgress=self._onProgress, onCase=self._onCase, onFinished=self._onFinished,
            onError=self._onError, onCancelled=self._onCancelled,
            resume=bool(ui.resumeCheckBox.checked), maps=bool(ui.mapsCheckBox.checked),
            dicomSeg=bool(ui.dicomSegCheckBox.checked), **self._options())
        self._setEditable(False)
        ui.batchRunButton.text = _("Cancel")
        ui.batchRunButton.toolTip = _("Stops the batch; finished scans are kept.")
        ui.batchProgressContainer.visible = True
        ui.batchProgressBar.visible = True
        ui.batchProgressBar.setRange(0, 0)
        ui.batchProgressLabel.text = _("Starting")

    def cancel(self) -> None:
        """Cancels the batch."""
        if self.run is not None:
            self.ui.batchRunButton.text = _("Cancelling...")
            self.ui.batchRunButton.enabled = False
            self._logic.cancel(self.run)

    def open(self, case: BatchCase) -> None:
        """Loads scan and result of a case."""
        self._showMessage("")
        try:
            self._logic.loadCase(case)
        except Failure as failure:
            self._showFailure(failure)

    # Callbacks of the batch

    def _onProgress(self, run: BatchRun, progress: BatchProgress) -> None:
        if run is not self.run or not self.ui.batchRunButton.enabled:
            return
        # While scans are searched and the model is loaded the bar is indeterminate.
        known = progress.total > 0
        self.ui.batchProgressBar.setRange(0, 1000 if known else 0)
        self.ui.batchProgressBar.setValue(round(1000 * progress.fraction))
        parts = []
        if known:
            ended = progress.done + progress.failed
            parts.append(_("{ended} of {total} scans").format(ended=ended, total=progress.total))
            parts.append(_("{percent} %").format(percent=int(100 * progress.fraction)))
        if progress.secondsLeft is not None:
            parts.append(timeLeft(progress.secondsLeft))
        current = f"{progress.case}: {progress.text}" if progress.case else progress.text
        lines = [" \u00b7 ".join(parts), coloured(current, "muted")]
        self.ui.batchProgressLabel.text = "<br>".join(line for line in lines if line)

    def _onCase(self, run: BatchRun, case: BatchCase) -> None:
        if run is self.last:
            self.table.show(case)

    def _onFinished(self, run: BatchRun) -> None:
        time = duration(run.seconds)
        self._stop(_("{counts}; {time}.").format(counts=run.sentence, time=time))
        failed = _("Some scans failed; select a row to see why.") if run.count("failed") else ""
        self._showMessage("<br>".join(escape(line) for line in (failed, run.leftOut) if line))

    def _onCancelled(self, run: BatchRun) -> None:
        self._stop(_("Cancelled. Finished scans stay in the folder."))

    def _onError(self, run: BatchRun, failure: Failure) -> None:
        self._stop("")
        self._showFailure(failure)

    # Display

    def _missing(self) -> str:
        """Why a batch cannot start, in words; empty when it can."""
        if not self.inputs.items:
            return _("Add scans first.")
        readings = self._logic.understand(self.ui.batchPromptEdit.text)
        if not readings and not self._hasTable():
            return _("Type what to look for.")
        if any(not each.ok and not each.hasUnknownWords for each in readings):
            return _("The text is not understood.")
        if not self.ui.outputEdit.currentPath.strip():
            return _("Choose a folder for the results.")
        return ""

    def _hasTable(self) -> bool:
        """Whether a table is among the inputs, which may have prompts of its own."""
        suffixes = {each.suffix.lower() for each in self.inputs.items if hasattr(each, "suffix")}
        return bool(suffixes & {".csv", ".tsv", ".json"})

    def _changed(self, *_arguments: object) -> None:
        self._showReading()
        if self.run is None:
            missing = self._missing()
            self.ui.batchRunButton.enabled = not missing
            self.ui.batchRunButton.toolTip = missing
            self._setStatus(coloured(missing, "muted") if missing else escape(self._outcome))

    def _showReading(self) -> None:
        rows = []
        for each in self._logic.understand(self.ui.batchPromptEdit.text, self._options()["model"]):
            mark = coloured("\u2713", "good") if each.ok else coloured("\u2717", "bad")
            rows.append(f"{mark} {escape(each.sentence)}")
        self.ui.batchReadingLabel.text = "<br>".join(rows)
        self.ui.batchReadingLabel.visible = bool(rows)

    def _setEditable(self, editable: bool) -> None:
        for widget in (self.ui.inputList, self.ui.inputButtonsContainer, self.ui.batchPromptEdit,
                       self.ui.outputEdit, self.ui.alsoContainer, self.ui.resumeCheckBox):
            widget.enabled = editable

    def _press(self, *_arguments: object) -> None:
        if self.run is None:
            self.start()
        else:
            self.cancel()

    def _stop(self, sentence: str) -> None:
        self.run = None
        self._setEditable(True)
        self.ui.batchRunButton.text = _("Run batch")
        self._endProgress(sentence)
        self._changed()

    def _endProgress(self, sentence: str) -> None:
        self.ui.batchProgressBar.visible = False
        self._outcome = sentence
        self._setStatus(escape(sentence))
        self.table.setReport(bool(self.last and self.last.report))

    def _setStatus(self, richText: str) -> None:
        self.ui.batchProgressLabel.text = richText
        self.ui.batchProgressContainer.visible = bool(richText)

    def _showFailure(self, failure: Failure) -> None:
        self._showMessage(f"<b>{coloured(failure.message, 'bad')}</b><br>{escape(failure.hint)}")

    def _showMessage(self, richText: str) -> None:
        self.ui.batchMessageLabel.text = richText
        self.ui.batchMessageLabel.visible = bool(richText)

    def _openReport(self) -> None:
        report = self.last.report if self.last else None
        if report is not None:
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(report)))
