"""What the panel offers after a run: lesions, threshold, evidence; one run, many looks at it."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from support.panel_case import NAME, Panel, backgrounds, overlays, plain
from support.slicer_scans import SECONDS, Scan, segment_array


@pytest.fixture(scope="module")
def opened(running_host, shared_data):
    """The panel after a run."""
    running_host.clear()
    panel = Panel(running_host)
    panel.volume = panel.choose(Scan(shared_data))
    panel.press_enter()
    panel.until_idle()
    assert panel.lesions.current, panel.message
    yield panel
    running_host.clear()


@pytest.fixture
def panel(opened):
    """As after the run: all lesions kept, the model's threshold, no overlay."""
    opened.host.errors.clear()
    opened.lesions.ui.thresholdResetButton.click()
    settle(opened)
    for row in range(opened.lesions.ui.lesionTable.rowCount):
        tick(opened, row, True)
    for kind in ("attention", "residual", "uncertainty"):
        getattr(opened.evidence.ui, f"{kind}CheckBox").checked = False
    opened.evidence.ui.blendSlider.value = 0.0
    yield opened
    assert not opened.host.errors


def settle(panel):
    """Waits until the segments follow the slider."""
    slider = panel.lesions.ui.thresholdSlider
    run = panel.lesions.current[0]
    panel.host.until(lambda: round(run.threshold, 2) == slider.value, SECONDS, "the threshold")
    panel.host.process()


def tick(panel, row, ticked):
    import qt

    state = qt.Qt.Checked if ticked else qt.Qt.Unchecked
    panel.lesions.ui.lesionTable.item(row, 0).setCheckState(state)


def segments(panel):
    """The names of the segments."""
    segmentation = panel.lesions.current[0].segmentationNode.GetSegmentation()
    return [segmentation.GetNthSegment(number).GetName()
            for number in range(segmentation.GetNumberOfSegments())]


def marked(panel):
    """Marked voxels, in all."""
    run, result = panel.lesions.current
    return sum(int(segment_array(run.segmentationNode, lesion.segmentId, panel.volume).sum())
               for lesion in result.lesions)


def show(panel, kind):
    """Ticks an overlay and waits for it."""
    getattr(panel.evidence.ui, f"{kind}CheckBox").checked = True
    panel.host.until(lambda: overlays() == {kind}, SECONDS, kind)


def legends():
    """The kinds of evidence whose colour legend is visible."""
    import slicer

    shown = set()
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        if legend is not None and legend.GetVisibility():
            shown.add(node.GetAttribute("DiffuGTS.Evidence"))
    return shown


def test_each_lesion_is_a_row_with_its_measures(panel):
    table, lesions = panel.lesions.ui.lesionTable, panel.lesions.current[1].lesions
    assert table.rowCount == len(lesions)
    cells = [table.item(0, column).text() for column in range(5)]
    first = lesions[0]
    assert cells == ["1", f"{first.volumeMl:.2f}", f"{first.longestMm:.1f}",
                     f"{first.perpendicularMm:.1f}", f"{first.score:.2f}"]
    assert table.item(0, 0).toolTip() == first.name == "soft tissue sarcoma 1"
    result = panel.lesions.current[1]
    shown = plain(panel.lesions.ui.summaryLabel)
    assert plain(panel.lesions.ui.scanLabel) == f"Scan: {NAME}"
    assert shown.startswith(result.sentence)
    assert result.reliability in shown
    assert result.modality in shown


def test_a_click_on_a_row_moves_the_slices_there(panel):
    import slicer

    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, 0, 0, 0)
    panel.lesions.ui.lesionTable.cellClicked.emit(0, 1)
    superior = panel.lesions.current[1].lesions[0].position[2]
    assert red.GetSliceToRAS().GetElement(2, 3) == pytest.approx(superior, abs=3.0)


def test_an_unticked_lesion_leaves_the_segmentation_and_a_tick_restores_it(panel):
    name = panel.lesions.current[1].lesions[0].name
    before = marked(panel)
    tick(panel, 0, False)
    assert name not in segments(panel)
    assert "1 dropped." in plain(panel.lesions.ui.summaryLabel)
    tick(panel, 0, True)
    assert name in segments(panel)
    assert marked(panel) == before


def test_the_table_is_copied(panel):
    import qt

    panel.lesions.ui.copyButton.click()
    lines = qt.QApplication.clipboard().text().splitlines()
    assert lines[0].startswith("scan\tprompt\tlesion\tvolume_ml")
    assert len(lines) == 1 + len(panel.lesions.current[1].lesions)
    assert panel.lesions.ui.copyButton.text == "Copied"


def test_the_table_is_saved_as_csv(panel, tmp_path):
    panel.host.dialogs.answer(str(tmp_path / "läsionen"))
    panel.lesions.ui.csvButton.click()
    with (tmp_path / "läsionen.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    largest = panel.lesions.current[1].lesions[0]
    assert float(rows[0]["volume_ml"]) == pytest.approx(largest.volumeMl, abs=0.001)


def test_a_table_that_cannot_be_saved_is_reported(panel, tmp_path):
    panel.host.dialogs.answer(str(tmp_path / "no" / "such" / "folder.csv"))
    panel.lesions.ui.csvButton.click()
    assert panel.message.startswith("The table could not be written.")
    panel.runSection.clearMessage()


def test_the_threshold_changes_the_segments_without_a_new_run(panel):
    before, runs = marked(panel), panel.logic.lastRun
    result = panel.lesions.current[1]
    panel.lesions.ui.thresholdSlider.value = (result.threshold + result.highestScore) / 2
    assert panel.run is None
    settle(panel)
    assert 0 < marked(panel) < before
    assert panel.lesions.ui.lesionTable.item(0, 1).text() == (
        f"{panel.lesions.current[1].lesions[0].volumeMl:.2f}")
    panel.lesions.ui.thresholdResetButton.click()
    settle(panel)
    assert marked(panel) == before
    assert panel.logic.lastRun is runs


def test_the_message_of_a_failed_threshold_goes_when_a_later_one_succeeds(panel, tmp_path):
    from DiffuGTSPanel.data.Failure import Failure

    run, slider = panel.lesions.current[0], panel.lesions.ui.thresholdSlider
    run.callbacks.onError(run, Failure("unwritable", "The disk is full."))
    tick(panel, 0, False)
    tick(panel, 0, True)
    assert panel.message.startswith("The disk is full.")  # lesions were changed, no threshold
    slider.value = slider.value + 0.02
    settle(panel)
    assert not panel.message
    panel.host.dialogs.answer(str(tmp_path / "no" / "such" / "folder.csv"))
    panel.lesions.ui.csvButton.click()
    slider.value = slider.value + 0.02
    settle(panel)
    assert panel.message.startswith("The table could not be written.")  # it still is not
    panel.runSection.clearMessage()


def test_a_threshold_that_the_slider_rounds_is_the_models_own(panel):
    run, result = panel.lesions.current
    exact = panel.lesions._modelThresholds[run.id]
    rounded = round(exact, 2) + 0.004  # shown with two decimals
    panel.lesions._modelThresholds[run.id] = result.threshold = run.threshold = rounded
    try:
        panel.lesions._showThreshold()
        slider, reset = panel.lesions.ui.thresholdSlider, panel.lesions.ui.thresholdResetButton
        assert slider.value == round(rounded, 2)
        assert not reset.enabled
        slider.value = slider.value + 0.05
        assert reset.enabled
        reset.click()
        assert not reset.enabled
        panel.host.until(lambda: run.threshold == rounded, SECONDS, "the model's threshold")
    finally:
        panel.lesions._modelThresholds[run.id] = exact
        panel.logic.setThreshold(run, exact)
        panel.host.until(lambda: run.threshold == exact, SECONDS)


def test_no_tumor_is_reported_with_the_highest_score(panel):
    panel.lesions.ui.thresholdSlider.value = 1.0
    settle(panel)
    text = plain(panel.lesions.ui.summaryLabel)
    assert text.startswith("No tumor found")
    assert f"highest score {panel.lesions.current[1].highestScore:.2f}" in text
    assert "does not rule out a tumor" in text
    assert panel.lesions.ui.lesionTable.isHidden()


def test_a_lesion_below_the_needed_score_is_reported_with_that_score(panel):
    from DiffuGTSPanel.data.Run import nothingFound

    record = {"title": "lung tumor", "highest_score": 0.6, "threshold": 0.5, "needed_score": 0.73}
    assert nothingFound(record) == (
        'No tumor found for "lung tumor" (highest score 0.60; at threshold 0.50 a lesion needs a '
        "peak of 0.73).")
    assert nothingFound(record | {"highest_score": 0.4}) == (
        'No tumor found for "lung tumor" (highest score 0.40, threshold 0.50).')


@pytest.mark.parametrize("kind", ["attention", "residual", "uncertainty"])
def test_evidence_is_shown_over_the_slices_with_its_colour_legend(panel, kind):
    show(panel, kind)
    assert legends() == {kind}
    display = panel.lesions.current[1].evidence[kind].GetDisplayNode()
    assert display.GetWindowLevelMin() == 0
    assert display.GetWindowLevelMax() > 0
    assert not panel.lesions.current[0].segmentationNode.GetDisplayNode().GetVisibility2DFill()


def test_one_overlay_replaces_the_other_and_none_leaves_the_scan(panel):
    show(panel, "attention")
    show(panel, "residual")
    assert not panel.evidence.ui.attentionCheckBox.checked
    panel.evidence.ui.residualCheckBox.checked = False
    assert overlays() == {""}
    assert legends() == set()
    assert panel.lesions.current[0].segmentationNode.GetDisplayNode().GetVisibility2DFill()


def test_a_map_whose_file_is_gone_is_reported_and_not_shown(panel, monkeypatch):
    result = panel.lesions.current[1]
    monkeypatch.setattr(result, "evidence", {})
    monkeypatch.setattr(result, "files", {})
    panel.evidence.ui.residualCheckBox.checked = True
    panel.host.until(lambda: panel.message, SECONDS, "the message")
    assert not panel.evidence.ui.residualCheckBox.checked
    assert overlays() == {""}
    panel.runSection.clearMessage()


def test_the_opacity_is_that_of_the_overlay(panel):
    import slicer

    show(panel, "attention")
    panel.evidence.ui.opacitySlider.value = 0.25
    composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    assert composite.GetForegroundOpacity() == pytest.approx(0.25)
    assert panel.parameters.opacity == pytest.approx(0.25)


def test_the_pseudo_healthy_scan_is_blended_in_and_swapped(panel):
    import slicer

    panel.evidence.ui.blendSlider.value = 0.3
    panel.host.until(lambda: overlays() == {"pseudo_healthy"}, SECONDS, "the pseudo-healthy scan")
    composite = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")[0]
    assert composite.GetForegroundOpacity() == pytest.approx(0.3)
    panel.evidence.ui.swapButton.click()
    assert composite.GetForegroundOpacity() == pytest.approx(1.0)
    assert "not a real scan" in plain(panel.evidence.ui.blendMeaningLabel)
    panel.evidence.ui.swapButton.click()
    assert overlays() == {""}
    assert backgrounds() == {NAME}


def test_the_pseudo_healthy_scan_differs_only_near_the_lesions(panel):
    import slicer

    healthy = panel.lesions.current[1].evidence["pseudo_healthy"]
    scan = slicer.util.arrayFromVolume(panel.volume)
    changed = np.abs(slicer.util.arrayFromVolume(healthy) - scan) > 1
    assert 0 < changed.mean() < 0.9


def test_the_surface_is_created_only_on_demand(panel):
    segmentation = panel.lesions.current[0].segmentationNode.GetSegmentation()
    assert not segmentation.ContainsRepresentation("Closed surface")
    panel.lesions.ui.show3DCheckBox.checked = True
    assert segmentation.ContainsRepresentation("Closed surface")
    panel.lesions.ui.show3DCheckBox.checked = False
    assert not panel.lesions.current[0].segmentationNode.GetDisplayNode().GetVisibility3D()


def test_a_result_whose_volume_is_gone_shows_no_evidence_and_no_error(panel):
    import slicer

    show(panel, "attention")
    slicer.mrmlScene.RemoveNode(panel.volume)
    panel.evidence.ui.residualCheckBox.checked = True
    panel.host.process()
    assert panel.lesions.ui.lesionTable.rowCount >= 1
