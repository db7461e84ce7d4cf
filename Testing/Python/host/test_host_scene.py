"""The stand-in host's scene: files, subject hierarchy, terminologies, views."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from Host.boot import Host

LIVER_MASS = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^"
    "~Anatomic codes - DICOM master list~SCT^10200004^Liver~^^"
)
OBLIQUE = np.array([[-0.8, -0.6, 0, 10], [0.6, -0.8, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])
TURNED = np.diag([2.0, -1, -3, 1])
LEFT_HANDED = np.diag([-1.0, -1, -3, 1])


def volume(matrix: np.ndarray = OBLIQUE, name: str = "Läsion 1") -> Any:
    """A small volume node with noise."""
    import slicer

    array = np.random.default_rng(0).integers(-1000, 1000, (6, 8, 10)).astype(np.int16)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name=name)


def segmentation(reference: Any) -> Any:
    """A segmentation node with one box, named, coloured, and with a terminology."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(reference)
    segment_id = node.GetSegmentation().AddEmptySegment("", "liver tumor 1", (0.5, 0.25, 1.0))
    segment = node.GetSegmentation().GetSegment(segment_id)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), LIVER_MASS)
    box = np.zeros((6, 8, 10), np.uint8)
    box[1:4, 2:6, 3:8] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(box, node, segment_id, reference)
    return node, segment_id, box


def terminology(segment: Any) -> str:
    """The terminology of a segment, in Slicer's seven parts."""
    import slicer
    import vtk

    found = vtk.reference("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), found)
    return str(found.get())


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".mha"])
@pytest.mark.parametrize("matrix", [OBLIQUE, TURNED])
def test_volumes_come_back_bit_by_bit(
    host: Host, tmp_path: Path, ending: str, matrix: np.ndarray
) -> None:
    import slicer
    import vtk

    node, path = volume(matrix), tmp_path / f"ä{ending}"
    assert slicer.util.exportNode(node, str(path), properties={})
    back, found = slicer.util.loadVolume(str(path), properties={}), vtk.vtkMatrix4x4()
    back.GetIJKToRASMatrix(found)
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(back), slicer.util.arrayFromVolume(node)
    )
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(found), matrix, atol=1e-5)


def test_slicers_reader_makes_left_handed_volumes_right_handed(host: Host, tmp_path: Path) -> None:
    import slicer

    node = volume(LEFT_HANDED)
    slicer.util.exportNode(node, str(tmp_path / "a.nrrd"), properties={})
    back = slicer.util.loadVolume(str(tmp_path / "a.nrrd"), properties={})
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(back), slicer.util.arrayFromVolume(node)[::-1]
    )


def test_segmentations_keep_names_colours_and_terminology(host: Host, tmp_path: Path) -> None:
    import slicer

    node, _id, box = segmentation(reference := volume())
    assert slicer.util.saveNode(node, str(tmp_path / "s.seg.nrrd"), {})
    back = slicer.util.loadSegmentation(str(tmp_path / "s.seg.nrrd"), properties={})
    segment = back.GetSegmentation().GetNthSegment(0)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(
        back, back.GetSegmentation().GetNthSegmentID(0), reference
    )
    np.testing.assert_array_equal(array, box)
    assert segment.GetName() == "liver tumor 1"
    np.testing.assert_allclose(segment.GetColor(), (0.5, 0.25, 1.0), atol=1e-3)
    assert "SCT^4147007^Mass" in terminology(segment)


def test_exporting_leaves_the_nodes_own_file_alone(host: Host, tmp_path: Path) -> None:
    import slicer

    node = volume()
    slicer.util.saveNode(node, str(tmp_path / "own.nrrd"), {})
    slicer.util.exportNode(node, str(tmp_path / "other.nii.gz"), properties={})
    assert node.GetStorageNode().GetFileName() == str(tmp_path / "own.nrrd")


def test_unreadable_files_raise_and_leave_nothing(host: Host, tmp_path: Path) -> None:
    import slicer

    (tmp_path / "a.nrrd").write_text("no image")
    scan = volume()
    before = slicer.mrmlScene.GetNumberOfNodes()
    for name in ("a.nrrd", "missing.nrrd"):
        with pytest.raises(RuntimeError, match="Failed to load"):
            slicer.util.loadVolume(str(tmp_path / name), properties={})
    with pytest.raises(ValueError, match="no known file format"):
        slicer.util.exportNode(scan, str(tmp_path / "a.xyz"), properties={})
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_scenes_come_back_whole(host: Host, tmp_path: Path) -> None:
    import slicer

    segmentation(volume())
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    assert slicer.util.getNode("Läsion 1").GetImageData().GetDimensions() == (10, 8, 6)
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


def test_a_loaded_volume_is_shown_in_the_slices(host: Host, tmp_path: Path) -> None:
    import slicer

    slicer.util.exportNode(volume(), str(tmp_path / "a.nrrd"), properties={})
    node = slicer.util.loadVolume(str(tmp_path / "a.nrrd"), properties={})
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    assert [c.GetBackgroundVolumeID() for c in composites] == [node.GetID()] * 3


def test_layers_are_set_by_slicers_own_function(host: Host) -> None:
    import slicer

    scan, overlay = volume(), volume(name="map")
    slicer.util.setSliceViewerLayers(
        background=scan, foreground=overlay, foregroundOpacity=0.25, fit=True
    )
    composite = slicer.app.layoutManager().sliceWidget("Green").mrmlSliceCompositeNode()
    assert composite.GetForegroundVolumeID() == overlay.GetID()
    assert composite.GetForegroundOpacity() == 0.25


def test_slices_jump_to_a_position(host: Host) -> None:
    import slicer

    slicer.util.setSliceViewerLayers(background=volume(np.eye(4)), fit=True)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, 3, 4, 2)
    offsets = {
        name: slicer.app.layoutManager().sliceWidget(name).sliceLogic().GetSliceOffset()
        for name in ("Red", "Yellow", "Green")
    }
    assert offsets == {"Red": 2, "Yellow": -3, "Green": 4}


def test_the_subject_hierarchy_follows_the_scene(host: Host) -> None:
    import slicer

    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    node = volume()
    item = hierarchy.GetItemByDataNode(node)
    assert hierarchy.GetItemName(item) == "Läsion 1"
    slicer.mrmlScene.RemoveNode(node)
    assert not hierarchy.GetItemByDataNode(node)


def test_the_hierarchy_is_there_again_after_the_scene_is_closed(host: Host) -> None:
    import slicer

    slicer.mrmlScene.Clear(0)
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume()), study)
    assert len(slicer.util.getSubjectHierarchyItemChildren(study)) == 1


def test_terminologies_are_slicers(host: Host) -> None:
    import slicer

    logic, entry = slicer.modules.terminologies.logic(), slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(LIVER_MASS, entry)
    assert logic.UpdateEntryFromLoadedTerminologies(entry, [], [])
    assert entry.GetTypeObject().GetCodeMeaning() == "Mass"
    assert entry.GetTypeObject().GetRecommendedDisplayRGBValue() == (144, 238, 144)


def test_a_sequence_browser_shows_its_frames(host: Host) -> None:
    import slicer

    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "frames")
    for index in range(3):
        sequence.SetDataNodeAtValue(volume(name=f"frame {index}"), str(index))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    assert browser.GetNumberOfItems() == 3
    assert browser.GetProxyNode(sequence).IsA("vtkMRMLScalarVolumeNode")


def test_colour_bars_can_be_added(host: Host) -> None:
    import slicer

    node = volume()
    node.CreateDefaultDisplayNodes()
    assert slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)


def test_closed_surfaces_are_made(host: Host) -> None:
    node, segment_id, _box = segmentation(volume())
    assert node.CreateClosedSurfaceRepresentation()
    assert node.GetClosedSurfaceInternalRepresentation(segment_id).GetNumberOfPoints() > 0


def test_the_views_draw_the_scene(host: Host, tmp_path: Path) -> None:
    import slicer
    from PySide6.QtGui import QImage

    from Host import views

    if not views.can_render():
        pytest.skip("VTK finds nothing to draw with (libEGL or libOSMesa)")
    node, _, _ = segmentation(scan := volume(np.diag([1.0, 1, 2, 1])))
    node.CreateClosedSurfaceRepresentation()
    slicer.util.setSliceViewerLayers(background=scan)
    slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(scan).SetTitleText("HU")
    before = slicer.mrmlScene.GetNumberOfNodes()
    views.save(tmp_path / "views.png", size=(120, 90))
    picture = QImage(str(tmp_path / "views.png"))
    places = product(range(0, picture.width(), 3), range(0, picture.height(), 3))
    assert len({picture.pixel(x, y) for x, y in places}) > 200
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert slicer.app.layoutManager().mrmlSliceLogics().GetNumberOfItems() == 3
    (legend,) = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert legend.GetTitleText() == "HU"
