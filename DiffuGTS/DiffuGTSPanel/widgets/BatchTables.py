"""The tables of the section Batch: the list of inputs and the table of cases."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Batch import BatchCase
from DiffuGTSPanel.data.Run import inScene
from DiffuGTSPanel.widgets.Section import Section, coloured, setColumns, textColour

MAX_CASE_ROWS = 8
MAX_INPUT_ROWS = 5
_FILTER = "*.nii *.nii.gz *.nrrd *.nhdr *.mha *.mhd *.hdr *.dcm *.csv *.tsv *.json"


class BatchCaseTable(Section):
    """One row per case; hidden while there are none.

    Args:
        resourcePath: of the module's widget.
        layout: to add the section to.
        onOpen: called with a case that is to be loaded.
        onReport: called when the report is to be opened.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, *,
                 onOpen: Callable[[BatchCase], None], onReport: Callable[[], None]) -> None:
        super().__init__("BatchCases", resourcePath, layout)
        self._onOpen = onOpen
        self._rows: dict[str, int] = {}
        self._cases: list[BatchCase] = []
        table = self.ui.caseTable
        setColumns(table, (
            (_("Scan"), _("Double-click to load the scan and its result.")),
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
        """Removes all cases."""
        self._rows, self._cases = {}, []
        self.ui.caseTable.setRowCount(0)
        self.root.visible = False
        self._showDetail()

    def show(self, case: BatchCase) -> None:
        """Updates the row of a case; adds a new one at the end."""
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
        status.setForeground(qt.QBrush(textColour(kind)))
        status.setToolTip(case.sentence)
        if row == self.ui.caseTable.currentRow():
            self._showDetail()

    def setReport(self, there: bool) -> None:
        """Enables the button of the report."""
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
        if row < MAX_CASE_ROWS:
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
            text = coloured(_("Double-click to load the scan and its result."), "muted")
        elif case.failure is not None:
            text = f"{coloured(case.failure.message, 'bad')} {escape(case.failure.hint)}"
        else:
            found = "<br>".join(escape(each) for each in case.sentences)
            text = found or coloured(", ".join(case.prompts), "muted")
        self.ui.caseDetailLabel.text = text


def _status(case: BatchCase) -> tuple[str, str]:
    """The status in words, and the kind of its colour."""
    if case.status == "running":
        return _("{percent} %").format(percent=int(100 * case.fraction)), "plain"
    return {
        "waiting": (_("waiting"), "muted"), "done": (_("done"), "good"),
        "failed": (_("failed"), "bad"), "skipped": (_("no scan"), "muted"),
    }[case.status]


class BatchInputList:
    """The list of files, folders and volumes to segment, with buttons to add and remove.

    Args:
        ui: the widgets of Batch.ui.
        parent: of the dialogs.
        onChanged: called after each change.
    """

    def __init__(self, ui: Any, parent: Any, onChanged: Callable[[], None]) -> None:
        self._ui, self._parent, self._onChanged = ui, parent, onChanged
        self._items: list[Any] = []
        self._menu = qt.QMenu(ui.addSceneButton)
        ui.addSceneButton.setMenu(self._menu)
        self._menu.aboutToShow.connect(self.fillMenu)
        ui.addFilesButton.clicked.connect(self._addFiles)
        ui.addFolderButton.clicked.connect(self._addFolder)
        ui.removeInputButton.clicked.connect(self._remove)
        ui.inputList.itemSelectionChanged.connect(self._showButtons)
        self._show()

    @property
    def items(self) -> list[Any]:
        """Paths and volume nodes, without nodes that were removed from the scene."""
        return [each for each in self._items if isinstance(each, Path) or inScene(each)]

    @property
    def editable(self) -> bool:
        """Whether the list may be changed."""
        return bool(self._ui.inputButtonsContainer.enabled)

    def add(self, *items: Any) -> None:
        """Adds paths and nodes that are not in the list."""
        self._items += [each for each in dict.fromkeys(items) if each not in self._items]
        self._show()
        self._onChanged()

    def refresh(self) -> None:
        """Drops the nodes that were removed from the scene."""
        if self.items != self._items:
            self._items = self.items
            self._show()
            self._onChanged()

    def fillMenu(self) -> None:
        """Fills the menu with the volumes of the scene that are not in the list."""
        self._menu.clear()
        volumes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
                   if node.GetClassName() == "vtkMRMLScalarVolumeNode"
                   and node not in self._items and not node.GetAttribute("DiffuGTS.Evidence")]
        if len(volumes) > 1:
            self._menu.addAction(_("All volumes")).triggered.connect(self._adder(*volumes))
            self._menu.addSeparator()
        for node in volumes:
            self._menu.addAction(node.GetName()).triggered.connect(self._adder(node))
        if not volumes:
            self._menu.addAction(_("No further volumes in the scene")).enabled = False

    def _adder(self, *nodes: Any) -> Callable[..., None]:
        return lambda *_arguments: self.add(*nodes)

    def _addFiles(self, *_arguments: object) -> None:
        paths = qt.QFileDialog.getOpenFileNames(
            self._parent, _("Add scans or tables"), "",
            _("Scans and tables") + f" ({_FILTER});;" + _("All files") + " (*)")
        self.add(*map(Path, paths or ()))

    def _addFolder(self, *_arguments: object) -> None:
        path = qt.QFileDialog.getExistingDirectory(self._parent, _("Add a folder of scans"), "")
        if path:
            self.add(Path(path))

    def _remove(self, *_arguments: object) -> None:
        rows = {self._ui.inputList.row(item) for item in self._ui.inputList.selectedItems()}
        self._items = [each for row, each in enumerate(self._items) if row not in rows]
        self._show()
        self._onChanged()

    def _show(self) -> None:
        box = self._ui.inputList
        box.clear()
        for each in self._items:
            node = not isinstance(each, Path)
            text = _("{name} (scene)").format(name=each.GetName()) if node else each.name
            item = qt.QListWidgetItem(text)
            item.setToolTip(_("A volume of the scene") if node else str(each))
            box.addItem(item)
        rows = min(len(self._items), MAX_INPUT_ROWS)
        if rows:
            box.setFixedHeight(rows * box.sizeHintForRow(0) + 6)
        box.visible = bool(rows)
        self._showButtons()

    def _showButtons(self) -> None:
        self._ui.removeInputButton.enabled = bool(self._ui.inputList.selectedItems())
