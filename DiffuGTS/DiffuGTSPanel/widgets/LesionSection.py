"""The lesions of a result: table, threshold, 3D display, and export as text and CSV."""

from __future__ import annotations

import csv
import io
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.scene import SliceViews
from DiffuGTSPanel.widgets import ResultNames
from DiffuGTSPanel.widgets.ResultNames import Entry
from DiffuGTSPanel.widgets.Section import Section, coloured, setColumns

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Run import Lesion, PromptResult, Run
    from DiffuGTSPanel.Logic import DiffuGTSLogic

MAX_ROWS = 8
_COPIED_MS = 1500


class LesionSection(Section, VTKObservationMixin):
    """Shows the result of one prompt at a time; with several, a list chooses.

    A result is named by its scan, under the scan's current name.

    Args:
        resourcePath: of the module's widget.
        layout: to add the section to.
        logic: of the module.
        onSelected: called with the run and result that are shown, or None twice.
        onFailure: called with errors.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 onSelected: Callable[[Run | None, PromptResult | None], None],
                 onFailure: Callable[[Failure], None]) -> None:
        VTKObservationMixin.__init__(self)
        Section.__init__(self, "Lesions", resourcePath, layout)
        self._logic, self._onSelected, self._onFailure = logic, onSelected, onFailure
        self._entries: list[Entry] = []
        self._count = 0  # of all results so far
        self._scan: Any = None
        self._modelThresholds: dict[str, float] = {}
        self._lesions: list[Lesion] = []
        self._filling = False
        self._prepareTable()
        self.ui.resultSelector.currentIndexChanged.connect(self._select)
        self.ui.copyButton.clicked.connect(self._copy)
        self.ui.csvButton.clicked.connect(self._saveCsv)
        self.ui.show3DCheckBox.toggled.connect(self._show3D)
        self.ui.thresholdSlider.valueChanged.connect(self._setThreshold)
        self.ui.thresholdResetButton.clicked.connect(self._resetThreshold)
        self.clear()

    @property
    def current(self) -> tuple[Run, PromptResult] | None:
        """The run and result that are shown."""
        entry = self._entry
        return (entry.run, entry.result) if entry else None

    @property
    def _entry(self) -> Entry | None:
        index = int(self.ui.resultSelector.currentIndex)
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def setScan(self, volumeNode: Any) -> None:
        """Sets the scan that is chosen for the next run: a result of another one says so."""
        self._scan = volumeNode
        self._observeScans()
        self._showScan()

    def close(self) -> None:
        """Leaves the scans; the panel is being removed."""
        self.removeObservers()

    def clear(self) -> None:
        """Removes all results."""
        self._entries, self._modelThresholds, self._lesions = [], {}, []
        self._scan = None
        self._fillSelector(0)
        self._select()

    def add(self, run: Run) -> None:
        """Adds the results of a finished run before the earlier ones."""
        now = time.strftime("%H:%M:%S")
        added = []
        for result in run.results:
            self._modelThresholds[run.id] = result.threshold
            self._count += 1
            added.append(Entry(run, result, self._count, now))
        self._entries = added + self._entries
        self._fillSelector(0)
        self._select()
        # Selecting a row moves the slices to its lesion.
        if self._lesions:
            self.ui.lesionTable.selectRow(0)

    def remove(self, isGone: Callable[[Run], bool]) -> None:
        """Removes the results of runs whose segmentation is gone."""
        remaining = [entry for entry in self._entries if not isGone(entry.run)]
        if len(remaining) != len(self._entries):
            self._entries = remaining
            self._fillSelector(0)
            self._select()
        else:
            self._showScan()  # which may be what was removed

    def refresh(self, run: Run) -> None:
        """A run's lesions have changed: another threshold, kept or dropped ones.

        Or they could not be changed, and the slider returns to their threshold.
        """
        if self.current and self.current[0] is run:
            self._fill()
            self._showThreshold()

    def _prepareTable(self) -> None:
        table = self.ui.lesionTable
        setColumns(table, (
            (_("Lesion"), _("An unticked lesion is dropped from the segmentation.")),
            (_("Volume\nml"), _("In ml.")),
            (_("Long axis\nmm"), _("Longest diameter in a slice, in mm.")),
            (_("Short axis\nmm"), _("Longest diameter at right angles to it, in mm.")),
            (_("Mean\nscore"), _("Mean score of its voxels, 0 to 1.")),
        ))
        table.cellChanged.connect(self._keep)
        table.cellClicked.connect(self._jump)
        table.itemSelectionChanged.connect(self._jumpToSelected)

    def _fillSelector(self, index: int) -> None:
        selector = self.ui.resultSelector
        wasBlocked = selector.blockSignals(True)
        selector.clear()
        for _entry in self._entries:
            selector.addItem("")
        selector.setCurrentIndex(index if self._entries else -1)
        selector.blockSignals(wasBlocked)
        selector.visible = len(self._entries) > 1
        self._observeScans()
        self._showNames()

    def _showNames(self) -> None:
        """Names the results in the list."""
        selector = self.ui.resultSelector
        for index, name in enumerate(ResultNames.listNames(self._entries)):
            selector.setItemText(index, name)
            selector.setItemData(index, ResultNames.details(self._entries[index]),
                                 qt.Qt.ToolTipRole)

    def _showScan(self) -> None:
        """Names the scan of the shown result."""
        label, entry = self.ui.scanLabel, self._entry
        label.visible = entry is not None
        label.text = ResultNames.scanLine(entry, self._scan) if entry else ""
        label.toolTip = ResultNames.details(entry, self._scan) if entry else ""

    def _observeScans(self) -> None:
        """Follows the names of all scans that are named here."""
        self.removeObservers()
        for scan in {self._scan, *(entry.run.volume for entry in self._entries)} - {None}:
            self.addObserver(scan, vtk.vtkCommand.ModifiedEvent, self._scanModified)

    def _scanModified(self, *_arguments: object) -> None:
        self._showNames()
        self._showScan()

    def _select(self, *_arguments: object) -> None:
        self._fill()
        self._showThreshold()
        self._onSelected(*(self.current or (None, None)))

    def _fill(self) -> None:
        current = self.current
        self._filling = True
        try:
            self._lesions = list(current[1].lesions) if current else []
            self._fillTable()
            self._showScan()
            self._showSummary(current[1] if current else None)
        finally:
            self._filling = False

    def _fillTable(self) -> None:
        table = self.ui.lesionTable
        selected = int(table.currentRow())
        table.setRowCount(len(self._lesions))
        for row, lesion in enumerate(self._lesions):
            numbers = (f"{lesion.volumeMl:.2f}", f"{lesion.longestMm:.1f}",
                       f"{lesion.perpendicularMm:.1f}", f"{lesion.score:.2f}")
            _showNumber(self._item(row, 0), lesion)
            for column, text in enumerate(numbers, 1):
                self._item(row, column).setText(text)
        if 0 <= selected < len(self._lesions):
            table.selectRow(selected)
        rows = min(max(len(self._lesions), 1), MAX_ROWS)
        height = table.horizontalHeader().sizeHint.height() + rows * table.rowHeight(0) + 4
        table.setFixedHeight(height)
        for widget in (table, self.ui.lesionButtonsContainer):
            widget.visible = bool(self._lesions)

    def _item(self, row: int, column: int) -> Any:
        """A cell, created once: Qt must not lose one that is reporting a change."""
        item = self.ui.lesionTable.item(row, column)
        if item is None:
            item = qt.QTableWidgetItem()
            if column:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            self.ui.lesionTable.setItem(row, column, item)
        return item

    def _showSummary(self, result: PromptResult | None) -> None:
        if result is None:
            self.ui.summaryLabel.text = coloured(_("No result yet."), "muted")
            return
        dropped = sum(not lesion.kept for lesion in self._lesions)
        droppedText = _("{count} dropped.").format(count=dropped) if dropped else ""
        notes = "".join("<br>" + coloured(text, "bad") for text in result.notes)
        for text in filter(None, (result.reliability, result.modality)):
            notes += "<br>" + coloured(text, "muted")
        if result.lesions:
            self.ui.summaryLabel.text = (f"<b>{_escaped(result.sentence)}</b> "
                                         + coloured(droppedText, "muted") + notes)
        else:
            warning = _("This does not rule out a tumor: the model may have missed it.")
            self.ui.summaryLabel.text = (f"<b>{_escaped(result.sentence)}</b><br>"
                                         + coloured(warning, "muted") + notes)

    def _showThreshold(self) -> None:
        """Sets the slider to the threshold of the segments, or to one that was requested."""
        slider = self.ui.thresholdSlider
        self.ui.thresholdContainer.visible = self.current is not None
        if self.current:
            run, result = self.current
            requested = run.requestedThreshold
            wasBlocked = slider.blockSignals(True)
            slider.value = result.threshold if requested is None else requested
            slider.blockSignals(wasBlocked)
            self._showReset()

    def _showReset(self) -> None:
        if self.current:
            self.ui.thresholdResetButton.enabled = not self._isModels(
                self.ui.thresholdSlider.value)

    def _isModels(self, value: float) -> bool:
        """Whether the slider stands at the model's threshold, as far as it can."""
        model = self._modelThresholds[self.current[0].id] if self.current else value
        decimals = int(self.ui.thresholdSlider.decimals)
        return round(value, decimals) == round(model, decimals)

    def _setThreshold(self, value: float) -> None:
        if self.current and not self._filling:
            run = self.current[0]
            # The slider rounds; the model's own threshold is not rounded.
            exact = self._modelThresholds[run.id] if self._isModels(value) else float(value)
            self._logic.setThreshold(run, exact)
            self._showReset()

    def _resetThreshold(self, *_arguments: object) -> None:
        if self.current:
            self.ui.thresholdSlider.value = self._modelThresholds[self.current[0].id]

    def _keep(self, row: int, column: int) -> None:
        if self._filling or column != 0 or not self.current:
            return
        kept = self.ui.lesionTable.item(row, 0).checkState() == qt.Qt.Checked
        self._logic.keepLesion(self.current[0], self._lesions[row], kept)

    def _jump(self, row: int, _column: int) -> None:
        if self.current:
            self._logic.jumpToLesion(self.current[0], self._lesions[row])

    def _jumpToSelected(self) -> None:
        row = int(self.ui.lesionTable.currentRow())
        if not self._filling and 0 <= row < len(self._lesions):
            self._jump(row, 0)

    def _copy(self, *_arguments: object) -> None:
        if self.current:
            qt.QApplication.clipboard().setText(asText(self.current[0]))
            self.ui.copyButton.text = _("Copied")
            # A child of the button: a panel that is closed before takes the timer along.
            timer = qt.QTimer(self.ui.copyButton)
            timer.setSingleShot(True)
            timer.connect("timeout()", self._uncopy)
            timer.start(_COPIED_MS)

    def _uncopy(self) -> None:
        self.ui.copyButton.text = _("Copy table")

    def _saveCsv(self, *_arguments: object) -> None:
        if not self.current:
            return
        path = qt.QFileDialog.getSaveFileName(
            self.root, _("Save the lesions"), "lesions.csv", _("Table (*.csv)"))
        if path:
            self.saveCsv(Path(path))

    def saveCsv(self, path: Path) -> None:
        """Saves the table of the run that is shown."""
        try:
            if self.current:
                writeCsv(self.current[0], path.with_suffix(path.suffix or ".csv"))
        except Failure as failure:
            self._onFailure(failure)

    def _show3D(self, shown: bool) -> None:
        node = self.current[0].segmentationNode if self.current else None
        if node is None:
            return
        with slicer.util.tryWithErrorDisplay(_("The surface could not be created.")):
            SliceViews.show3D(node, shown)


def _showNumber(item: Any, lesion: Lesion) -> None:
    item.setText(str(lesion.number))
    item.setToolTip(lesion.name)
    item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
    item.setCheckState(qt.Qt.Checked if lesion.kept else qt.Qt.Unchecked)
    item.setData(qt.Qt.DecorationRole, qt.QColor(*(round(255 * part) for part in lesion.colour)))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def asText(run: Run, separator: str = "\t") -> str:
    """A header and a line per kept lesion; decimal points in every locale."""
    withFrames = any(result.frame is not None for result in run.results)
    header = ["scan", "prompt", "lesion", "volume_ml", "longest_mm", "perpendicular_mm",
              "mean_score", "max_score", "r_mm", "a_mm", "s_mm", "first_slice", "last_slice"]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow([*header, "frame"] if withFrames else header)
    for result in run.results:
        for lesion in result.lesions:
            if lesion.kept:
                row = [
                    run.scanName, result.title, lesion.name, f"{lesion.volumeMl:.3f}",
                    f"{lesion.longestMm:.1f}", f"{lesion.perpendicularMm:.1f}",
                    f"{lesion.score:.3f}", f"{lesion.maxScore:.3f}",
                    *(f"{x:.1f}" for x in lesion.position),
                    # Slicer shows slice numbers from 1.
                    *(number + 1 for number in lesion.sliceRange),
                ]
                frame = "" if result.frame is None else result.frame + 1
                writer.writerow([*row, frame] if withFrames else row)
    return out.getvalue()


def writeCsv(run: Run, path: Path | str) -> None:
    """Writes the table atomically: the file gets its name when it is complete.

    Raises:
        Failure: no permission, no space or no such folder; no file remains.
    """
    path = Path(path)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.csv")
    try:
        # Excel recognises UTF-8 by the byte order mark.
        unfinished.write_text(asText(run, ","), encoding="utf-8-sig", newline="")
        unfinished.replace(path)
    except OSError:
        raise Failure("output-not-written", _("The table could not be written."),
                      _("Choose another folder.")) from None
    finally:
        unfinished.unlink(missing_ok=True)
