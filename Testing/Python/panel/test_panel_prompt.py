"""The panel before a run: prompt, completion, setup, layout; no worker is started."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace

import pytest
from support.panel_case import Panel, plain
from support.slicer_scans import add_roi, add_volume


@pytest.fixture
def panel(host):
    return Panel(host)


@pytest.fixture
def volume(panel):
    import numpy as np

    node = add_volume(np.zeros((10, 20, 30), np.int16), np.eye(4), "scän 患者")
    panel.parameters.volume = node
    return node


def test_opening_shows_what_a_run_needs(panel):
    assert not panel.button.enabled
    assert panel.button.toolTip == "Load a CT or MR scan first."
    assert plain(panel.runSection.ui.progressLabel) == panel.button.toolTip
    assert "not for clinical decisions" in panel.ui.researchLabel.text


def test_a_volume_that_is_there_is_chosen_when_the_panel_opens(host):
    import numpy as np

    node = add_volume(np.zeros((4, 4, 4), np.int16), np.eye(4))
    assert Panel(host).parameters.volume is node


def test_a_prompt_shows_how_it_is_understood_before_it_runs(panel, volume):
    panel.type("hepatic neoplasm")
    assert panel.reading == "✓ \nliver · tumor · CT · model embedded"
    assert panel.button.enabled


def test_a_text_that_is_not_understood_shows_close_matches_and_does_not_run(panel, volume):
    panel.type("liver")
    assert "✗" in panel.reading
    assert "Closest matches: liver tumor" in panel.reading
    panel.press_enter()
    assert panel.run is None
    assert panel.logic.lastRun is None


def test_a_suggestion_replaces_only_the_prompt_that_is_wrong(panel, volume):
    panel.type("lung nodule; liver; kidney cyst")
    panel.prompt.ui.readingLabel.linkActivated.emit("liver tumor")
    assert panel.prompt.text == "lung nodule; liver tumor; kidney cyst"
    assert panel.button.enabled


def test_pasted_lines_become_prompts_of_their_own(panel):
    panel.type("lung nodule\n  kidney cyst;\n\nNierentumor")
    assert panel.prompt.text == "lung nodule; kidney cyst; Nierentumor"
    assert [each.title for each in panel.prompt.parsedPrompts] == [
        "lung nodule", "kidney cyst", "kidney tumor"]


def test_completion_offers_earlier_prompts_first_and_keeps_what_is_typed(panel):
    from DiffuGTSPanel.widgets import KeptSettings

    KeptSettings.rememberPrompt("lung metastases")
    offered = panel.prompt.completions("liver tumor; lun")
    assert offered[0] == "liver tumor; lung metastases"
    assert "liver tumor; lung tumor" in offered


def test_completion_pops_up_while_typing(host, panel):
    from PySide6.QtTest import QTest

    panel.root.window().show()
    QTest.keyClicks(panel.prompt.ui.promptEdit, "kidn")
    host.process()
    assert panel.prompt._completer.popup().visible
    assert "kidney tumor" in panel.prompt._completions.stringList()
    panel.prompt._completer.popup().hide()


def test_typing_in_the_middle_leaves_the_cursor_there(panel):
    from PySide6.QtTest import QTest

    panel.type("liver tumr")
    panel.prompt.ui.promptEdit.cursorPosition = 9
    QTest.keyClicks(panel.prompt.ui.promptEdit, "o")
    assert panel.prompt.text == panel.parameters.prompt == "liver tumor"
    assert panel.prompt.ui.promptEdit.cursorPosition == 10


def test_an_example_button_fills_in_the_prompt(panel):
    buttons = panel.prompt.ui.examplesContainer.layout()
    buttons.itemAt(0).widget().click()
    assert panel.prompt.text == "lung tumor"
    assert buttons.itemAt(0).widget().text == "Lung"


def test_the_scene_keeps_what_was_chosen(panel, volume):
    import slicer

    panel.type("kidney tumor")
    panel.advanced.ui.modalitySelector.setCurrentIndex(2)
    slicer.util.selectModule("")
    slicer.util.selectModule("DiffuGTS")
    assert panel.parameters.volume is volume
    assert panel.prompt.text == "kidney tumor"
    assert panel.advanced.ui.modalitySelector.currentText == "MR"


def test_the_choice_of_frames_is_shown_only_for_a_sequence(panel, volume):
    import slicer

    assert panel.advanced.ui.framesSelector.isHidden()
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode")
    for frame in "01":
        sequence.SetDataNodeAtValue(volume, frame)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.AddSynchronizedSequenceNode(sequence)
    panel.parameters.volume = browser.GetProxyNode(sequence)
    assert not panel.advanced.ui.framesSelector.isHidden()


def test_a_new_region_begins_around_the_whole_scan(panel, volume):
    roi = add_roi((0, 0, 0), (1, 1, 1))
    panel.advanced.ui.roiSelector.nodeAddedByUser.emit(roi)
    assert list(roi.GetSize()) == [30, 20, 10]


def test_the_segments_to_search_in_are_listed_for_the_chosen_segmentation(panel, volume):
    import slicer

    ui = panel.advanced.ui
    assert ui.segmentSelector.isHidden()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    liver = node.GetSegmentation().AddEmptySegment("", "liver")
    panel.parameters.within = node
    assert not ui.segmentSelector.isHidden()
    assert [ui.segmentSelector.itemText(n) for n in range(ui.segmentSelector.count)] == [
        "All segments", "liver"]
    assert panel.parameters.withinSegment == ""
    ui.segmentSelector.setCurrentIndex(1)
    assert panel.parameters.withinSegment == liver
    panel.parameters.within = None
    assert panel.parameters.withinSegment == ""


def test_missing_packages_are_one_line_with_one_button_that_can_be_pressed_again(
        host, panel, volume, tmp_path):
    from DiffuGTSPanel.library.PythonPackages import PythonPackages

    file = tmp_path / "requirements.txt"
    file.write_text("no-such-package-anywhere>=1\n")
    panel.type("liver tumor")
    assert panel.button.enabled
    panel.logic.packages = PythonPackages(file)
    panel.enter()
    assert panel.setup.ui.setupLabel.text == "Not installed yet: no-such-package-anywhere."
    assert panel.button.toolTip == "Install the missing packages first."
    host.dialogs.answer("Ok")
    panel.setup.ui.setupButton.click()
    assert panel.setup.ui.setupButton.text == "Try again"
    file.write_text("")
    panel.setup.ui.setupButton.click()
    assert panel.setup.root.isHidden()
    assert panel.button.enabled


def test_a_labelmap_or_a_map_of_an_earlier_run_is_not_chosen_as_the_scan(panel):
    import numpy as np
    import slicer

    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    add_volume(np.zeros((4, 4, 4)), np.eye(4), "map").SetAttribute("DiffuGTS.Evidence", "x")
    scan = add_volume(np.zeros((4, 4, 4)), np.eye(4), "scan")
    panel.parameters.volume = None
    panel.exit()
    panel.enter()
    assert panel.parameters.volume is scan


def test_where_torch_cannot_be_had_the_panel_points_to_another_python(panel, tmp_path, monkeypatch):
    from DiffuGTSPanel.library.PythonPackages import PythonPackages

    file = tmp_path / "requirements.txt"
    file.write_text("torch>=99\n")
    panel.logic.packages = PythonPackages(file)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    panel.enter()
    assert "Advanced > Python" in plain(panel.setup.ui.setupLabel)
    assert panel.setup.ui.setupButton.isHidden()
    panel.logic.python = sys.executable
    panel.enter()
    assert panel.setup.root.isHidden()


def test_another_python_is_checked_without_blocking_and_kept(host, panel, tmp_path):
    from DiffuGTSPanel.library.PythonPackages import PythonPackages
    from DiffuGTSPanel.widgets import KeptSettings

    file = tmp_path / "requirements.txt"
    file.write_text("numpy>=1\nno-such-package>=1\n")
    panel.logic.packages = PythonPackages(file)
    reports = []
    show = panel.advanced._showReport
    panel.advanced._showReport = lambda report: (reports.append(report), show(report))
    ui = panel.advanced.ui
    ui.pythonEdit.currentPath = sys.executable
    assert panel.logic.python == KeptSettings.python() == sys.executable
    assert "Checking" in ui.pythonInfoLabel.text
    host.until(lambda: ui.refreshDevicesButton.enabled, 120, "the check")
    states = {each["name"]: each["state"] for each in reports[0].findings}
    assert (states["numpy"], states["no-such-package"]) == ("ok", "missing")
    assert not reports[0].healthy
    assert "no-such-package: not installed" in ui.pythonInfoLabel.text
    devices = [ui.deviceSelector.itemData(row) for row in range(ui.deviceSelector.count)]
    assert (devices[0], devices[-1]) == ("auto", "cpu")
    complete = [each for each in reports[0].findings if each["state"] != "missing"]
    show(replace(reports[0], healthy=True, findings=complete))
    assert "All required packages are installed." in ui.pythonInfoLabel.text


def test_a_python_that_cannot_be_used_is_reported(host, panel, tmp_path):
    panel.advanced.ui.pythonEdit.currentPath = str(tmp_path / "nothing")
    host.until(lambda: panel.advanced.ui.refreshDevicesButton.enabled, 60, "the check")
    assert "cannot be started" in panel.advanced.ui.pythonInfoLabel.text


def test_an_emptied_python_is_slicers_own_again(host, panel, tmp_path):
    from DiffuGTSPanel.widgets import KeptSettings

    ui = panel.advanced.ui
    ui.pythonEdit.currentPath = str(tmp_path / "nothing")
    ui.pythonEdit.currentPath = ""
    assert panel.logic.python == KeptSettings.python() == ""
    assert "Slicer's own Python" in plain(ui.pythonInfoLabel)
    panel.advanced.close()


def test_typing_a_path_starts_one_check_when_it_pauses(host, panel, tmp_path):
    started, examine = [], panel.logic.packages.examine
    panel.logic.packages.examine = lambda python, *rest: (
        started.append(python), examine(python, *rest))[1]
    path = str(tmp_path / "nothing")
    for length in range(len(path) - 5, len(path) + 1):
        panel.advanced.ui.pythonEdit.currentPath = path[:length]
        host.process()
    assert started == []
    host.until(lambda: panel.advanced.ui.refreshDevicesButton.enabled, 60, "the check")
    assert started == [path]


def test_models_show_licence_and_size_and_only_what_can_be_done(panel):
    panel.ui.advancedButton.collapsed = False
    ui = panel.advanced.ui
    assert "Apache-2.0" in ui.modelInfoLabel.text
    assert ui.modelDownloadButton.isHidden()
    panel.parameters.model = "maisi-ct"
    assert not ui.modelDownloadButton.isHidden()
    assert "Not installed. Download it under Advanced." in plain(ui.modelInfoLabel)
    assert ui.modelRemoveButton.isHidden()
    panel.advanced.close()


def test_a_model_that_cannot_run_yet_is_not_run(panel, volume):
    panel.type("liver tumor")
    panel.parameters.model = "maisi-ct"
    assert not panel.button.enabled
    assert panel.button.toolTip == panel.advanced.models.current.message
    assert "model maisi-ct" in panel.reading


def test_a_licence_that_is_declined_downloads_nothing(host, panel):
    panel.parameters.model = "maisi-ct"
    host.dialogs.answer("No")
    panel.advanced.ui.modelDownloadButton.click()
    assert "licence" in host.dialogs[-1].text
    assert panel.advanced.models._task is None


@pytest.mark.parametrize("width", [420, 500])
def test_nothing_is_clipped(host, panel, volume, width):
    import qt
    import slicer

    panel.type("lung nodule; liver; something unknown; soft tissue sarcoma of the thigh")
    for button in (panel.ui.lesionsButton, panel.ui.evidenceButton, panel.ui.advancedButton):
        button.collapsed = False
    window = slicer.util.mainWindow()
    window.show()
    window.resize(width, 1400)
    host.process()
    assert panel.root.width <= width
    for kind in (qt.QLabel, qt.QPushButton, qt.QToolButton, qt.QCheckBox, qt.QComboBox):
        for widget in panel.root.findChildren(kind):
            inside = isinstance(widget.parent(), qt.QLineEdit)  # its button to clear it
            if widget.visible and not inside and not getattr(widget, "wordWrap", False):
                assert widget.width >= widget.minimumSizeHint.width(), widget.name
                assert widget.height >= widget.minimumSizeHint.height(), widget.name
    panel.advanced.close()


def test_a_screenshot_shows_the_panel_in_its_full_height(host, panel, volume, tmp_path):
    from Host.screenshots import Studio

    picture = Studio(host, panel.root, tmp_path).panel("panel")
    assert (tmp_path / "panel.png").stat().st_size < 200_000
    assert picture.height() >= panel.root.sizeHint.height()
