"""Runs from the panel, with the real worker, the embedded model and a part of a real scan."""

from __future__ import annotations

import os
import signal
import time

import pytest
from support.panel_case import NAME, overlays, plain
from support.slicer_scans import PROMPT, SECONDS, Scan


@pytest.fixture
def panel(opened):
    import slicer

    slicer.mrmlScene.Clear(0)
    opened.enter()
    opened.host.errors.clear()
    yield opened
    assert not opened.host.errors


@pytest.fixture(scope="module")
def scan(shared_data):
    return Scan(shared_data)


class Watch:
    """What the panel shows during a run, in order and each once."""

    def __init__(self, panel):
        self.words, self.shown = [], []
        ui = panel.runSection.ui

        def poll():
            if panel.run is not None:
                self._add(self.words, ui.progressLabel.text.split(" · ")[0])
                self._add(self.shown, overlays().pop())
                time.sleep(0.02)  # the worker may have the same core
            return panel.run is None

        panel.host.until(poll, SECONDS, "the end of the run")

    def _add(self, seen, value):
        if value not in seen:
            seen.append(value)


def test_enter_runs_and_progress_is_shown_up_to_the_lesions(panel, scan):
    panel.choose(scan)
    panel.press_enter()
    assert panel.button.text == "Cancel"
    assert not panel.prompt.ui.promptEdit.enabled
    watch = Watch(panel)
    for words in ("Encoding the scan", "Inpainting healthy tissue", "Measuring lesions"):
        assert words in watch.words
    assert watch.shown == ["", "attention"]  # the preview during the run
    assert overlays() == {""}
    assert panel.button.text == "Run"
    assert panel.runSection.ui.progressLabel.text.startswith("Done in ")
    assert panel.lesions.ui.lesionTable.rowCount > 0
    assert not panel.ui.lesionsButton.collapsed
    assert NAME in panel.lesions.current[0].segmentationNode.GetName()


def test_notes_of_the_model_are_shown_beside_the_outcome(panel, scan):
    panel.choose(scan, "kidney tumor")
    panel.press_enter()
    panel.until_idle()
    note = panel.lesions.current[1].notes[0]
    assert 'not calibrated for "kidney tumor" in MR' in note
    assert note in plain(panel.lesions.ui.summaryLabel)


def test_a_run_is_remembered_for_completion(panel, scan):
    from DiffuGTSPanel.widgets import KeptSettings

    panel.choose(scan, "sarcoma of the thigh")
    panel.button.click()
    panel.cancel()
    panel.until_idle()
    assert KeptSettings.lastPrompts()[0] == "sarcoma of the thigh"


def test_cancel_stops_inpainting_and_the_next_run_works(panel, scan):
    panel.choose(scan)
    panel.button.click()
    panel.until_inpainting()
    panel.button.click()
    assert panel.button.text == "Cancelling..."
    panel.until_idle()
    assert panel.runSection.ui.progressLabel.text == "Cancelled."
    assert overlays() == {""}
    assert panel.lesions.current is None
    panel.button.click()
    panel.until_idle()
    assert panel.lesions.current is not None


def test_several_prompts_give_a_group_each(panel, scan):
    panel.choose(scan, f"{PROMPT}; bone tumor")
    panel.press_enter()
    panel.until_idle()
    selector = panel.lesions.ui.resultSelector
    titles = [selector.itemText(index) for index in range(selector.count)]
    assert titles == [f"{PROMPT} · {NAME}", f"bone tumor · {NAME}"]
    selector.setCurrentIndex(1)
    assert panel.lesions.current[1].title == "bone tumor"


def test_the_time_left_and_the_percentage_are_shown(panel, scan):
    panel.choose(scan)
    panel.press_enter()
    panel.until_inpainting()
    parts = panel.runSection.ui.progressLabel.text.split(" · ")
    assert parts[1].endswith(" %")
    assert panel.runSection.ui.progressBar.value == pytest.approx(10 * int(parts[1][:-2]), abs=10)
    panel.cancel()
    panel.until_idle()


def test_the_log_is_filled_when_it_is_opened(panel):
    panel.logic.log.add("a line")
    panel.runSection.ui.logButton.checked = True
    panel.logic.log.add("another line")
    assert panel.runSection.ui.logText.plainText.endswith("a line\nanother line")
    panel.runSection.ui.logButton.checked = False


def test_an_unknown_text_is_run_only_on_demand_and_refused_with_suggestions(panel, scan):
    import slicer

    panel.choose(scan, "the weather in Paris")
    panel.press_enter()
    assert panel.run is None
    panel.prompt.ui.readingLabel.linkActivated.emit("#anyway")
    assert panel.run is not None
    panel.until_idle()
    assert panel.message.startswith("The text names no tumor or similar finding.")
    assert "Known places: lung, liver" in panel.message
    assert panel.logic.lastRun.state == "failed"
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []
    suggestion = panel.logic.suggestions("")[0]
    panel.runSection.ui.messageLabel.linkActivated.emit(suggestion)
    assert panel.prompt.text == suggestion
    assert panel.message == ""


def test_a_wrong_modality_is_reported(panel, scan):
    panel.choose(scan)
    panel.advanced.ui.modalitySelector.setCurrentIndex(1)
    panel.press_enter()
    panel.until_idle()
    assert "cannot be a CT" in panel.message
    assert panel.button.enabled


def test_a_killed_worker_is_reported_and_the_next_run_works(panel, scan):
    from DiffuGTSPanel.process.ChildProcess import processTree

    panel.choose(scan)
    panel.press_enter()
    panel.until_idle()
    earlier = panel.logic.lastRun
    panel.press_enter()
    panel.until_inpainting()
    _launcher, python = processTree(panel.logic._runQueue._process.processId)
    os.kill(python, signal.SIGKILL)
    panel.until_idle()
    assert "ended unexpectedly (it crashed or was killed)" in panel.message
    assert panel.logic.worker.state == "off"
    assert overlays() == {""}
    panel.lesions.ui.thresholdSlider.value = 0.7
    panel.host.until(lambda: "no longer holds that result" in panel.message, SECONDS, "the error")
    assert earlier.state == "finished"
    panel.press_enter()
    panel.until_idle()
    assert panel.message == ""
    assert panel.lesions.current is not None


def test_closing_the_scene_during_a_run_leaves_a_panel_that_works(panel, scan):
    import slicer

    panel.choose(scan)
    panel.press_enter()
    panel.until_inpainting()
    slicer.mrmlScene.Clear(0)
    panel.until_idle()
    assert panel.parameters.volume is None
    assert panel.button.text == "Run"
    assert panel.lesions.current is None
    panel.choose(scan)
    assert panel.button.enabled


def test_a_run_continues_while_another_module_is_shown(panel, scan):
    import slicer

    panel.choose(scan)
    panel.press_enter()
    panel.until_inpainting()
    slicer.util.selectModule("")
    panel.until_idle()
    slicer.util.selectModule("DiffuGTS")
    assert panel.lesions.current is not None
    assert panel.button.enabled


def test_a_reload_brings_a_new_panel_that_follows_the_same_parameters(panel, scan):
    import slicer

    volume, old = panel.choose(scan), panel.panel
    slicer.util.getModuleWidget("DiffuGTS").onReload()
    panel.host.process()
    panel.panel = slicer.util.getModuleWidget("DiffuGTS").panel
    panel.enter()
    assert panel.panel is not old
    assert panel.parameters.volume is volume
    assert panel.prompt.text == PROMPT
    assert panel.button.enabled
