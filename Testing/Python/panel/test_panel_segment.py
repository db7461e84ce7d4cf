"""The segment that limits the search, as the panel chooses, keeps and follows it."""

from __future__ import annotations

import numpy as np
import pytest
from support.panel_case import Panel
from support.slicer_scans import add_region, add_roi, add_segment, add_volume

BOX = np.zeros((10, 20, 30), bool)
BOX[2:8, 4:12, 5:20] = True


@pytest.fixture
def panel(host):
    return Panel(host)


@pytest.fixture
def organs(panel):
    """A scan and a segmentation with two organs, chosen; the ids."""
    panel.parameters.volume = add_volume(BOX.astype(np.int16), np.eye(4))
    node, liver = add_region(panel.parameters.volume, BOX, "liver")
    spleen = add_segment(node, panel.parameters.volume, BOX, "spleen")
    panel.parameters.within = node
    panel.type("liver tumor")
    return node, liver, spleen


def choose(panel, text):
    """In the list of segments, as a user does."""
    selector = panel.advanced.ui.segmentSelector
    selector.setCurrentIndex(selector.findText(text))
    panel.host.process()


def shown(panel):
    """The chosen segment, as it reads."""
    return panel.advanced.ui.segmentSelector.currentText


def reload(panel, path):
    """Saves the scene, clears it and loads it again."""
    import slicer

    assert slicer.util.saveScene(str(path / "scene.mrb"), {})
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(path / "scene.mrb"), {})
    panel.host.process()


def test_the_segment_is_kept_with_the_scene(panel, organs, tmp_path):
    choose(panel, "spleen")
    reload(panel, tmp_path)
    assert panel.parameters.within.GetName() == organs[0].GetName()
    assert panel.parameters.withinSegment == organs[2]
    assert shown(panel) == "spleen"


def test_the_selectors_show_what_came_with_a_scene(panel, organs, tmp_path):
    panel.parameters.roi = add_roi([15, 10, 5], [10, 10, 5])
    reload(panel, tmp_path)
    ui = panel.advanced.ui
    assert ui.withinSelector.currentNode() is panel.parameters.within is not None
    assert ui.roiSelector.currentNode() is panel.parameters.roi is not None


def test_a_scene_that_is_loaded_behind_another_module_connects_nothing(panel, organs, tmp_path):
    import slicer

    panel.exit()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    assert panel.panel.parameters is None


def test_the_whole_scan_and_back_keeps_the_segment(panel, organs):
    selector = panel.advanced.ui.withinSelector
    choose(panel, "spleen")
    selector.setCurrentNode(None)
    assert panel.parameters.withinSegment == ""
    selector.setCurrentNode(organs[0])
    assert (panel.parameters.withinSegment, shown(panel)) == (organs[2], "spleen")


def test_a_segment_is_not_taken_over_by_another_segmentation(panel, organs):
    choose(panel, "liver")
    other, same_id = add_region(panel.parameters.volume, BOX, "liver")
    assert same_id == organs[1]
    panel.advanced.ui.withinSelector.setCurrentNode(other)
    assert (panel.parameters.withinSegment, shown(panel)) == ("", "All segments")


def test_segments_that_are_added_or_renamed_are_listed_at_once(panel, organs):
    selector = panel.advanced.ui.segmentSelector
    choose(panel, "spleen")
    add_segment(organs[0], panel.parameters.volume, BOX, "kidney")
    organs[0].GetSegmentation().GetSegment(organs[2]).SetName("big spleen")
    items = [selector.itemText(index) for index in range(selector.count)]
    assert items == ["All segments", "liver", "big spleen", "kidney"]
    assert shown(panel) == "big spleen"


def test_a_chosen_segment_that_is_removed_is_not_replaced_by_all(panel, organs):
    choose(panel, "spleen")
    assert panel.button.enabled
    organs[0].GetSegmentation().RemoveSegment(organs[2])
    assert shown(panel) == "spleen (removed)"
    assert not panel.button.enabled
    assert "was removed" in panel.button.toolTip
    choose(panel, "liver")
    assert panel.button.enabled
