"""The cases of a batch as a table: what is done, what was found, what failed."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import qt
from slicer.i18n import tr as _

from DiffuGTSPanel.BatchRun import BatchCase
from DiffuGTSPanel.Section import Section, coloured, setColumns, shade

ROWS_SHOWN = 8


class BatchTable(Section):
    """A row a case; not there while there are none.

    Args:
        resourcePath: of the module's widget.
        layout: where to be.
        onOpen: called with a case that was double-clicked.
        onReport: called when the report is asked for.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, *,
                 onOpen: Callable[[BatchCase], None], onReport: Callable[[], None]) -> None:
        super().__init__("BatchCases", resourcePath, layout)
        self._onOpen = onOpen
        self._rows: dict[str, int] = {}
        self._cases: list[BatchCase] = []
        table = self.ui.caseTable
        setColumns(table, (
            (_("Scan"), _("A double-click loads the scan and its result.")),
            (_("Status"), ""),
            (_("Lesions"), _("Of all prompts.")),
            (_("Volume\nml"), _("Of all lesions, in ml.")),
        ))
        table.cellDoubleClicked.connect(self._open)
        table.itemSelectionChanged.connect(self._showDetail)
        self.ui.loadCaseButton.clicked.connect(self._openSelected)
        self.ui.reportButton.clicked.connect(lambda *_arguments: onReport())
        self.clear()

    def clear(self) -> None:
        """No cases."""
        self._rows, self._cases = {}, []
        self.ui.caseTable.setRowCount(0)
        self.root.visible = False
        self._showDetail()

    def show(self, case: BatchCase) -> None:
        """Shows a case as it is now; a new one below the others."""
        if case.name not in self._rows:
            self._add(case)
        row = self._rows[case.name]
        word, kind = _status(case)
        done = case.status == "done" and case.results
        cells = (case.name, word, str(len(case.lesions)) if done else "",
                 f"{case.volumeMl:.2f}" if done else "")
        for column, text in enumerate(cells):
            item = self.ui.caseTable.item(row, column)
            if item.text() != text:
                item.setText(text)
        status = self.ui.caseTable.item(row, 1)
        status.setForeground(qt.QBrush(shade(kind)))
        status.setToolTip(case.sentence)
        if row == self.ui.caseTable.currentRow():
            self._showDetail()

    def setReport(self, there: bool) -> None:
        """Whether there is a report to open."""
        self.ui.reportButton.enabled = there

    @property
    def selected(self) -> BatchCase | None:
        """The case of the selected row."""
        row = int(self.ui.caseTable.currentRow())
        return self._cases[row] if 0 <= row < len(self._cases) else None

    def _add(self, case: BatchCase) -> None:
        table, row = self.ui.caseTable, len(self._cases)
        self._rows[case.name] = row
        self._cases.append(case)
        table.setRowCount(row + 1)
        for column in range(int(table.columnCount)):
            item = qt.QTableWidgetItem()
            if column > 1:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            table.setItem(row, column, item)
        table.item(row, 0).setToolTip(case.name)
        self.root.visible = True
        if row < ROWS_SHOWN:
            height = table.horizontalHeader().sizeHint.height()
            table.setFixedHeight(height + (row + 1) * table.rowHeight(0) + 4)

    def _open(self, row: int, _column: int) -> None:
        self._onOpen(self._cases[row])

    def _openSelected(self, *_arguments: object) -> None:
        if self.selected is not None:
            self._onOpen(self.selected)

    def _showDetail(self) -> None:
        case = self.selected
        self.ui.loadCaseButton.enabled = case is not None
        if case is None:
            text = coloured(_("A double-click loads the scan and its result."), "muted")
        elif case.failure is not None:
            text = f"{coloured(case.failure.message, 'bad')} {escape(case.failure.hint)}"
        else:
            found = "<br>".join(escape(each) for each in case.sentences)
            text = found or coloured(", ".join(case.prompts), "muted")
        self.ui.caseDetailLabel.text = text


def _status(case: BatchCase) -> tuple[str, str]:
    """The status in a word, and the kind of its colour."""
    if case.status == "running":
        return _("{percent} %").format(percent=int(100 * case.fraction)), "plain"
    return {
        "waiting": (_("waiting"), "muted"), "done": (_("done"), "good"),
        "failed": (_("failed"), "bad"), "skipped": (_("no scan"), "muted"),
    }[case.status]
