"""The batch section of the panel, with the real command in a child process and a tiny model."""

from __future__ import annotations

import pytest
from support.panel_case import Panel, plain
from support.slicer_batch import FOLDER, PROMPT, SECONDS, material
from support.slicer_scans import add_volume

__all__ = ["material"]


@pytest.fixture
def panel(host):
    panel = Panel(host)
    panel.ui.batchButton.collapsed = False
    host.process()
    return panel


@pytest.fixture(scope="module")
def opened(running_host, material, tmp_path_factory):
    """The panel after a batch over two scans and a bad file."""
    running_host.clear()
    panel = Panel(running_host)
    fill(panel, material, tmp_path_factory.mktemp("results") / FOLDER)
    panel.ui.batchButton.collapsed = False
    panel.batch.ui.batchRunButton.click()
    panel.texts, panel.counts = [], []

    def poll():
        panel.texts.append(plain(panel.batch.ui.batchProgressLabel))
        panel.counts.append(counts(panel))
        return panel.batch.run is None

    assert panel.batch.ui.batchRunButton.text == "Cancel"
    assert not panel.batch.ui.outputEdit.enabled
    running_host.until(poll, SECONDS, "the end of the batch")
    yield panel
    running_host.clear()


def fill(panel, material, output):
    """Scans, prompt, folder and the tiny model."""
    panel.parameters.model = str(material.model)
    panel.batch.inputs.add(material.scans)
    panel.batch.ui.batchPromptEdit.setText(PROMPT)
    panel.batch.ui.outputEdit.currentPath = str(output)


def cells(panel, name):
    """The row of a case."""
    table = panel.batch.table.ui.caseTable
    rows = [[table.item(row, column).text() for column in range(4)]
            for row in range(table.rowCount)]
    return next(row for row in rows if row[0] == name)


def counts(panel):
    """The number of ended scans in words, and as the table shows it; None before there are any."""
    table, text = panel.batch.table.ui.caseTable, plain(panel.batch.ui.batchProgressLabel)
    states = [table.item(row, 1).text() for row in range(table.rowCount)]
    ended = sum(state in ("done", "failed") for state in states)
    return (int(text[0]), ended) if " of 3 scans" in text else None


def select(panel, name):
    table = panel.batch.table.ui.caseTable
    row = next(row for row in range(table.rowCount) if table.item(row, 0).text() == name)
    table.selectRow(row)
    return row


def test_the_section_is_collapsed_and_shows_what_a_batch_needs(host, material, tmp_path):
    panel = Panel(host)
    assert panel.ui.batchButton.collapsed
    ui = panel.batch.ui
    needs = [ui.batchRunButton.toolTip]
    panel.batch.inputs.add(material.scans)
    needs.append(ui.batchRunButton.toolTip)
    ui.batchPromptEdit.setText(PROMPT)
    needs.append(ui.batchRunButton.toolTip)
    assert not ui.batchRunButton.enabled
    ui.outputEdit.currentPath = str(tmp_path)
    assert needs == ["Add scans first.", "Type what to look for.",
                     "Choose a folder for the results."]
    assert ui.batchRunButton.enabled
    assert "not for clinical decisions" in ui.introLabel.text
    ui.outputEdit.currentPath = ""
    assert not ui.batchRunButton.enabled
    assert ui.batchRunButton.toolTip == needs[2]


def test_the_panels_prompt_is_the_default_and_a_wrong_one_is_reported(panel, material):
    panel.ui.batchButton.collapsed = True
    panel.type("lung tumor")
    panel.ui.batchButton.collapsed = False
    assert panel.batch.ui.batchPromptEdit.text == "lung tumor"
    assert plain(panel.batch.ui.batchReadingLabel).startswith("✓ lung")
    panel.batch.inputs.add(material.scans)
    panel.batch.ui.batchPromptEdit.setText("no tumor")
    assert plain(panel.batch.ui.batchReadingLabel).startswith("✗")
    assert panel.batch.ui.batchRunButton.toolTip == "The text is not understood."


def test_files_folders_and_volumes_are_added_once_and_removed(host, panel, material):
    import numpy as np

    volume = add_volume(np.zeros((4, 4, 4), np.int16), np.eye(4), "loaded")
    ui, inputs = panel.batch.ui, panel.batch.inputs
    files = [str(material.scans / name) for name in ("eins.nrrd", "zwei.nrrd")]
    host.dialogs.answer(files, files[:1], str(material.scans))
    ui.addFilesButton.click()
    ui.addFilesButton.click()
    ui.addFolderButton.click()
    inputs.fillMenu()
    ui.addSceneButton.menu().actions()[0].trigger()
    texts = [ui.inputList.item(row).text() for row in range(ui.inputList.count)]
    assert texts == ["eins.nrrd", "zwei.nrrd", FOLDER, "loaded (scene)"]
    ui.inputList.item(1).setSelected(True)
    ui.removeInputButton.click()
    assert inputs.items[1:] == [material.scans, volume]
    import slicer

    slicer.mrmlScene.RemoveNode(volume)
    assert inputs.items[1:] == [material.scans]
    assert ui.inputList.count == 2


def test_a_batch_shows_its_progress_and_fills_the_table(opened):
    assert any("of 3 scans · " in text and "brain" not in text for text in opened.texts)
    assert cells(opened, "eins")[1] == "done"
    assert int(cells(opened, "eins")[2]) > 0
    assert float(cells(opened, "zwei")[3]) > 0
    assert cells(opened, "kaputt")[1:] == ["failed", "", ""]
    assert plain(opened.batch.ui.batchProgressLabel).startswith("2 done, 1 failed; ")
    assert opened.batch.ui.batchRunButton.text == "Run batch"
    assert opened.batch.ui.outputEdit.enabled
    assert plain(opened.batch.ui.batchMessageLabel) == (
        "Some scans failed; select a row to see why.\n"
        "Skipped, not scans: 1 (Notizen.txt).")


def test_the_number_of_scans_that_have_ended_is_that_of_the_table(opened):
    seen = set(filter(None, opened.counts))
    assert len(seen) > 1
    assert all(said == shown for said, shown in seen)


def test_a_selected_row_shows_the_findings_or_the_error(opened):
    label = opened.batch.table.ui.caseDetailLabel
    select(opened, "eins")
    assert plain(label).startswith("brain tumor: ")
    select(opened, "kaputt")
    assert plain(label).startswith("kaputt.nii.gz cannot be read")


def test_a_double_click_loads_scan_and_result(opened):
    import slicer

    table = opened.batch.table.ui.caseTable
    table.cellDoubleClicked.emit(select(opened, "zwei"), 0)
    shown = {composite.GetBackgroundVolumeID()
             for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
    assert shown == {slicer.util.getNode("zwei").GetID()}
    segments = slicer.util.getNode("zwei lesions").GetSegmentation()
    assert segments.GetNumberOfSegments() == int(cells(opened, "zwei")[2])
    table.cellDoubleClicked.emit(select(opened, "kaputt"), 0)
    assert "cannot be read" in plain(opened.batch.ui.batchMessageLabel)


def test_the_report_is_opened(opened):
    from PySide6.QtCore import QObject, Slot
    from PySide6.QtGui import QDesktopServices

    class Browser(QObject):
        @Slot("QUrl")
        def show(self, url):
            self.url = url

    browser = Browser()
    QDesktopServices.setUrlHandler("file", browser, "show")
    opened.batch.table.ui.reportButton.click()
    QDesktopServices.unsetUrlHandler("file")
    assert browser.url.toLocalFile() == str(opened.batch.last.report)


def test_the_same_button_cancels(host, panel, material, tmp_path):
    fill(panel, material, tmp_path / "out")
    panel.batch.ui.batchRunButton.click()
    panel.batch.ui.batchRunButton.click()
    assert panel.batch.ui.batchRunButton.text == "Cancelling..."
    host.until(lambda: panel.batch.run is None, SECONDS, "the cancel")
    assert plain(panel.batch.ui.batchProgressLabel).startswith("Cancelled.")
    assert panel.batch.ui.batchRunButton.enabled


@pytest.mark.parametrize("width", [420, 500])
def test_the_section_fits_into_a_narrow_panel(host, panel, material, width):
    import slicer

    fill(panel, material, material.scans)
    slicer.util.mainWindow().resize(width, 900)
    slicer.util.mainWindow().show()
    host.process()
    ui = panel.batch.ui
    assert panel.batch.root.minimumSizeHint.width() <= width - 60
    edges = {widget.mapTo(panel.batch.root, widget.rect.topLeft()).x()
             for widget in (ui.addFilesButton, ui.inputList, ui.batchPromptEdit, ui.outputEdit)}
    assert len(edges) == 1
