"""The segments that limit a search, as voxels of the scan; what is refused as one."""

from __future__ import annotations

import time

import numpy as np
import pytest
from support.slicer_scans import add_region, add_segment, add_transform, add_volume, turned
from support.slicer_side import slicer_side

__all__ = ["slicer_side"]

pytestmark = pytest.mark.usefixtures("slicer_side")
BOX = np.zeros((10, 20, 30), bool)
BOX[2:8, 4:12, 5:20] = True
OTHER = np.roll(BOX, 9, 2)


@pytest.fixture
def volume(host):
    return add_volume(BOX.astype(np.int16), turned(20) @ np.diag([0.8, 0.8, 2, 1]))


def pieces(volume, node, segment=""):
    """The region, and the seconds of each of its pieces."""
    from DiffuGTSPanel.scene import ScanExport, SearchRegion

    reading = SearchRegion.readRegion(volume, node, segment, ScanExport.readSource(volume).grid)
    seconds = []
    while True:
        started = time.perf_counter()
        try:
            next(reading)
        except StopIteration as end:
            return end.value, seconds
        finally:
            seconds.append(time.perf_counter() - started)


def test_one_segment_or_all_become_voxels_of_the_scan(volume):
    node, box = add_region(volume, BOX, "box")
    add_segment(node, volume, OTHER, "other")
    for segment in (box, "box"):
        region = pieces(volume, node, segment)[0]
        assert np.array_equal(region.array > 0, BOX)
        assert region.name == "“box”"
    whole = pieces(volume, node)[0]
    assert np.array_equal(whole.array > 0, BOX | OTHER)
    assert whole.name == "“box”, “other”"


def test_the_parent_transform_of_the_segmentation_counts(volume):
    node, box = add_region(volume, BOX)
    shift = np.eye(4)
    shift[:3, 3] = (turned(20) @ [0, 0, 2 * 2.0, 0])[:3]  # two slices
    node.SetAndObserveTransformNodeID(add_transform(shift).GetID())
    assert np.array_equal(pieces(volume, node, box)[0].array > 0, np.roll(BOX, 2, 0))


def test_a_segment_that_is_a_surface_is_searched_too(volume):
    node, box = add_region(volume, BOX)
    node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    node.RemoveBinaryLabelmapRepresentation()
    found = pieces(volume, node, box)[0].array > 0
    assert (found & BOX).sum() > 0.8 * (found | BOX).sum()


def test_a_large_scan_does_not_block_slicer(host):
    inside = np.zeros((200, 512, 512), bool)
    inside[50:150, 100:400, 100:400] = True
    volume = add_volume(inside.astype(np.uint8), np.eye(4))
    node, box = add_region(volume, inside)
    seconds = pieces(volume, node, box)[1]
    assert len(seconds) >= 100
    assert np.median(seconds) < 0.02


@pytest.mark.parametrize("given", ["a labelmap", "a path"])
def test_what_is_no_segmentation_is_refused_at_the_call(host, given):
    import slicer

    from DiffuGTSPanel.Logic import DiffuGTSLogic

    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    within = labelmap if given == "a labelmap" else "/data/liver.nii.gz"
    logic = DiffuGTSLogic()
    with pytest.raises(TypeError, match="has to be a vtkMRMLSegmentationNode, not a "):
        logic.segmentAsync(None, "liver tumor", within=within)
    with pytest.raises(TypeError, match="needs the segmentation"):
        logic.segmentAsync(None, "liver tumor", withinSegment="liver")
    assert logic.lastRun is None
    logic.shutdown()
