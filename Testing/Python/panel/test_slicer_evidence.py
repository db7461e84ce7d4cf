"""The display of evidence: the window of a map, the labels of its colour legend."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from support.slicer_scans import add_volume
from support.slicer_side import slicer_side

__all__ = ["slicer_side"]


def read(path):
    """A map, read in one go."""
    from DiffuGTSPanel.scene.EvidenceVolumes import readMap

    work = readMap(path)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def write(folder, array):
    path = folder / "map.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32)), str(path))
    return path


def test_a_few_hot_voxels_do_not_darken_the_rest_of_a_map(slicer_side, tmp_path):
    array = np.zeros((20, 60, 60))
    array[5:15, 10:50, 10:50] = np.linspace(0.5, 1.0, 16000).reshape(10, 40, 40)
    array[7, 20:23, 20:23] = 50.0
    found = read(write(tmp_path, array))
    assert found.top == pytest.approx(1.0, abs=0.05)
    assert np.array_equal(found.voxels, array.astype(np.float32))


def test_a_map_of_nothing_can_be_read(slicer_side, tmp_path):
    assert read(write(tmp_path, np.zeros((4, 5, 6)))).top == 0.0


@pytest.mark.parametrize(("kind", "top", "labels"), [
    ("attention", 9.0, ["    0", "  0.5", "    1"]),
    ("residual", 1.853, ["    0", "0.926", " 1.85"]),
    ("uncertainty", 12345.6, ["    0", " 6173", "12346"]),
])  # fmt: skip
def test_all_labels_of_the_colour_legend_have_one_width(slicer_side, kind, top, labels):
    import slicer

    from DiffuGTSPanel.scene import SliceViews
    from DiffuGTSPanel.scene.EvidenceVolumes import EvidenceMap, addVolume
    from DiffuGTSPanel.scene.VolumeGrid import gridOf

    array = np.ones((3, 4, 5), np.float32)
    scan = add_volume(array, np.eye(4))
    shown = addVolume(kind, EvidenceMap(array, top), scan, gridOf(scan, scan.GetImageData()), "g")
    SliceViews.showOverlay(scan, shown, 0.5)
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(shown)
    highest = shown.GetDisplayNode().GetWindowLevelMax()
    assert [legend.GetLabelFormat() % (part * highest) for part in (0, 0.5, 1)] == labels
    assert legend.GetTitleText() == kind
