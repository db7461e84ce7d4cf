"""The grids of volumes: transforms, regions, shear, and their files; segments and overlays."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from support.slicer_scans import add_roi, add_transform, add_volume, turned
from support.slicer_side import slicer_side

__all__ = ["slicer_side"]

pytestmark = pytest.mark.usefixtures("slicer_side")
MATRIX = turned(20) @ np.array([[-2.0, 0, 0, 10], [0, 1.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(-1000, 1000, (8, 9, 10)).astype(np.int16)


def grid_of(volume, roi=None):
    from DiffuGTSPanel.scene.VolumeGrid import gridOf

    return gridOf(volume, volume.GetImageData(), roi)


def written(volume, path, roi=None, modality=None):
    """The volume's file as SimpleITK reads it."""
    from DiffuGTSPanel.scene import VolumeFile
    from DiffuGTSPanel.scene.ScanExport import readSource

    source = readSource(volume, roi, modality)
    list(VolumeFile.write(path, source.array, source.grid.fileToRas, source.tag))
    return sitk.ReadImage(str(path))


def ras(image, index):
    x, y, z = image.TransformIndexToPhysicalPoint([int(n) for n in index])
    return [-x, -y, z]


@pytest.mark.parametrize("kind", ["int16", "uint8", "int8", "uint16", "int32", "float32",
                                  "float64"])
def test_a_volume_is_written_with_its_voxels_type_and_grid(slicer_side, tmp_path, kind):
    array = np.random.default_rng(0).integers(0, 100, (8, 9, 10)).astype(kind)
    image = written(add_volume(array, MATRIX), tmp_path / "Müller 患者.nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    assert sitk.GetArrayFromImage(image).dtype == kind
    assert ras(image, (3, 2, 1)) == pytest.approx((MATRIX @ [3, 2, 1, 1])[:3])
    assert [path.name for path in tmp_path.iterdir()] == ["Müller 患者.nrrd"]


def test_a_linear_transform_moves_the_file_and_not_the_voxels(slicer_side, array, tmp_path):
    volume, move = add_volume(array, MATRIX), turned(90, 0) @ turned(10, 1)
    volume.SetAndObserveTransformNodeID(add_transform(move).GetID())
    image = written(volume, tmp_path / "a.nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    assert ras(image, (3, 2, 1)) == pytest.approx((move @ MATRIX @ [3, 2, 1, 1])[:3])


def test_a_position_in_the_file_is_the_same_in_the_world(slicer_side, array):
    from DiffuGTSPanel.scene.VolumeGrid import worldOf

    volume, move = add_volume(array, MATRIX), turned(33, 0)
    volume.SetAndObserveTransformNodeID(add_transform(move).GetID())
    grid = grid_of(volume)
    seen = (grid.fileToRas @ [4, 5, 6, 1])[:3]
    world = worldOf(volume, grid.toVolume(seen))
    assert world == pytest.approx((move @ MATRIX @ [4, 5, 6, 1])[:3])


def test_a_sheared_grid_is_orthogonalised_and_keeps_volume_and_centre(slicer_side, array):
    tilt = np.eye(4)
    tilt[1, 2] = np.tan(np.deg2rad(20))
    sheared = tilt @ np.diag([0.8, 0.8, 3.0, 1])
    grid = grid_of(add_volume(array, sheared))
    axes = grid.fileToRas[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    assert (axes / lengths).T @ (axes / lengths) == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(axes) == pytest.approx(np.linalg.det(sheared[:3, :3]))
    middle = [4.5, 4, 3.5, 1]
    assert grid.fileToRas @ middle == pytest.approx(sheared @ middle)
    assert lengths == pytest.approx([0.8, 0.8, 3.0])
    assert "orthogonal axes" in grid.note
    index = np.linalg.solve(sheared, [*grid.toVolume((grid.fileToRas @ [1, 2, 3, 1])[:3]), 1])
    assert index[:3] == pytest.approx([1, 2, 3])


def test_a_grid_that_has_collapsed_is_refused(slicer_side, array):
    from DiffuGTSPanel.data.Failure import Failure

    flat = np.array([[1.0, 1, 0, 0], [0, 0.1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(Failure, match="axes"):
        grid_of(add_volume(array, flat))


def test_a_warping_transform_leaves_the_scan_where_it_was_acquired(slicer_side, array):
    import slicer
    import vtk

    volume = add_volume(array, MATRIX)
    warp = vtk.vtkThinPlateSplineTransform()
    points, moved = vtk.vtkPoints(), vtk.vtkPoints()
    for point in ((0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50), (30, 30, 30)):
        points.InsertNextPoint(point)
        moved.InsertNextPoint(point[0] + point[1] * 0.1, point[1], point[2] + 1)
    warp.SetSourceLandmarks(points)
    warp.SetTargetLandmarks(moved)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(warp)
    volume.SetAndObserveTransformNodeID(node.GetID())
    grid = grid_of(volume)
    assert grid.fileToRas == pytest.approx(MATRIX)
    assert "nonlinear" in grid.note


def test_a_region_takes_the_voxels_that_it_touches(slicer_side, array, tmp_path):
    volume = add_volume(array, np.diag([2.0, 2, 2, 1]))
    roi = add_roi([8, 8, 8], [5, 6, 2.1])  # x 5.5..10.5, y 5..11, z 6.95..9.05
    assert grid_of(volume, roi).extent == (3, 5, 3, 5, 3, 5)
    image = written(volume, tmp_path / "a.nrrd", roi)
    assert np.array_equal(sitk.GetArrayFromImage(image), array[3:6, 3:6, 3:6])
    assert ras(image, (0, 0, 0)) == pytest.approx([6, 6, 6])


def test_a_region_and_a_moved_volume_meet_in_the_world(slicer_side, array):
    volume = add_volume(array, np.diag([2.0, 2, 2, 1]))
    move = np.eye(4)
    move[:3, 3] = 100, 0, 0
    volume.SetAndObserveTransformNodeID(add_transform(move).GetID())
    assert grid_of(volume, add_roi([108, 8, 8], [5, 6, 2.1])).extent == (3, 5, 3, 5, 3, 5)


def test_a_region_beside_the_volume_is_refused(slicer_side, array):
    from DiffuGTSPanel.data.Failure import Failure

    with pytest.raises(Failure, match="outside"):
        grid_of(add_volume(array, MATRIX), add_roi([500, 0, 0], [10, 10, 10]))


def test_a_region_of_a_ct_is_still_a_ct_without_any_air_in_it(slicer_side, tmp_path):
    from DiffuGTSPanel.scene.ScanExport import readSource

    array = np.full((40, 40, 40), -1000, np.int16)
    array[5:35, 5:35, 5:35] = 40
    volume = add_volume(array, np.diag([2.0, 2, 2, 1]))
    roi = add_roi([40, 40, 40], [30, 30, 30])
    assert readSource(volume, roi).tag == "CT"
    image = written(volume, tmp_path / "a.nrrd", roi, "CT")
    assert image.GetMetaData("0008|0060") == "CT"
    assert sitk.GetArrayFromImage(image).min() == 40


def test_a_file_of_a_result_that_was_cut_short_is_refused(slicer_side, array, tmp_path):
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.scene.VolumeFile import Reader

    written(add_volume(array, MATRIX), tmp_path / "a.nrrd")
    data = (tmp_path / "a.nrrd").read_bytes()
    read = np.stack(list(Reader(tmp_path / "a.nrrd").planes()))
    assert np.array_equal(read, array)
    for damaged in (data[:-1], data[:40], b""):
        (tmp_path / "b.nrrd").write_bytes(damaged)
        with pytest.raises(Failure, match="can no longer be read"):
            Reader(tmp_path / "b.nrrd")


def test_the_workers_files_are_read(slicer_side, array, tmp_path):
    from DiffuGTSLib.worker.job_files import write_nrrd
    from DiffuGTSPanel.scene.VolumeFile import Reader

    for kind in ("uint8", "uint16", "int16", "float32"):
        wide = np.zeros((9, 40, 50), kind)
        wide[2:4, 10:20, 10:20] = 3
        write_nrrd(sitk.GetImageFromArray(wide), tmp_path / "a.nrrd")
        reader = Reader(tmp_path / "a.nrrd")
        assert reader.dtype == wide.dtype
        assert np.array_equal(np.stack(list(reader.planes())), wide)


def test_segments_lie_at_the_voxels_of_their_labels_under_another_transform_too(
    slicer_side, array
):
    import slicer

    from DiffuGTSPanel.data.Run import LesionMask, PromptResult
    from DiffuGTSPanel.scene.LesionSegments import addLesions

    volume = add_volume(array, MATRIX)
    volume.SetAndObserveTransformNodeID(add_transform(turned(30, 0)).GetID())
    target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    target.SetAndObserveTransformNodeID(add_transform(turned(50, 1)).GetID())
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[0, 1:, 2:] = 1
    result = PromptResult(0, "x", "liver tumor", True, 1.0, 0.5, "", "")
    masks = {1: LesionMask(labels, (3, 2, 4))}
    entry = {"number": 1, "volume_ml": 1, "longest_diameter_mm": 1, "perpendicular_mm": 1,
             "mean_score": 1, "max_score": 1, "slice_range": [0, 1], "centroid_ras_mm": [0, 0, 0]}
    drained(addLesions(target, volume, grid_of(volume), result, masks, [entry], 0))
    found = slicer.util.arrayFromSegmentBinaryLabelmap(
        target, result.lesions[0].segmentId, volume)
    expected = np.zeros(array.shape, np.uint8)
    expected[4:6, 2:5, 3:7] = labels
    # Slicer resamples from one turned grid to the other; a voxel at the border may be added.
    assert found[expected > 0].all()
    assert found.sum() <= expected.sum() + 2


def drained(generator):
    """What a generator returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def test_a_labelmap_is_read_lesion_by_lesion(slicer_side, tmp_path):
    from DiffuGTSPanel.scene.LesionSegments import readLesionMasks

    labels = np.zeros((8, 9, 10), np.uint16)
    labels[1:3, 4:6, 2] = labels[6, 8, 9] = 1  # one lesion may have a gap
    labels[2, 4, 3] = 300
    volume = add_volume(labels, np.eye(4))
    written(volume, tmp_path / "a.nrrd")
    masks = drained(readLesionMasks(tmp_path / "a.nrrd", grid_of(volume)))
    assert set(masks) == {1, 300}
    again = np.zeros_like(labels)
    for number, mask in masks.items():
        (i, j, k), (depth, height, width) = mask.start, mask.array.shape
        again[k:k + depth, j:j + height, i:i + width][mask.array > 0] = number
    assert np.array_equal(again, labels)
    assert masks[300].array.shape == (1, 1, 1)


def test_a_lesion_stays_dropped_when_most_of_it_was_dropped_before(slicer_side):
    from dataclasses import replace

    from DiffuGTSPanel.data.Run import Lesion, LesionMask, PromptResult
    from DiffuGTSPanel.scene.LesionSegments import stillDropped

    def cube(x, size):
        return LesionMask(np.ones((size, size, size), np.uint8), (x, 0, 0))

    kept = Lesion(1, "a", "a", 1, 1, 1, 1, 1, (0, 1), (0, 0, 0), True, (1, 1, 1), 0)
    before = PromptResult(0, "x", "x", True, 1, 0.5, "", "", masks={1: cube(0, 5), 2: cube(10, 3)},
                          lesions=[kept, replace(kept, number=2, kept=False)])
    assert stillDropped(before, {1: cube(9, 6), 2: cube(1, 3), 3: cube(40, 2)}) == {1}
    assert stillDropped(before, {1: cube(0, 12)}) == set()


def test_segments_survive_a_file(slicer_side, array, tmp_path):
    import slicer

    from DiffuGTSPanel.data.Run import LesionMask, PromptResult
    from DiffuGTSPanel.scene.LesionSegments import addLesions, newSegmentation

    volume = add_volume(array, MATRIX)
    masks = {n: LesionMask(np.ones((2, 2, 2), np.uint8), (2 * n, n, n)) for n in (1, 2)}
    result = PromptResult(0, "x", "liver tumor", True, 1, 0.5, "a~b", "")
    entry = {"volume_ml": 1, "longest_diameter_mm": 1, "perpendicular_mm": 1, "mean_score": 1,
             "max_score": 1, "slice_range": [0, 1], "centroid_ras_mm": [0, 0, 0]}
    node = newSegmentation(volume, "x")
    described = [{"number": n, **entry} for n in (1, 2)]
    drained(addLesions(node, volume, grid_of(volume), result, masks, described, 0))
    before = [slicer.util.arrayFromSegmentBinaryLabelmap(node, each.segmentId, volume).copy()
              for each in result.lesions]
    assert slicer.util.saveNode(node, str(tmp_path / "Müller.seg.nrrd"), properties={})
    loaded = slicer.util.loadSegmentation(str(tmp_path / "Müller.seg.nrrd"))
    segmentation = loaded.GetSegmentation()
    assert [segmentation.GetNthSegment(n).GetName() for n in range(2)] == [
        "liver tumor 1", "liver tumor 2"]
    for lesion, array in zip(result.lesions, before, strict=True):
        again = slicer.util.arrayFromSegmentBinaryLabelmap(loaded, lesion.segmentId, volume)
        assert np.array_equal(again > 0, array > 0)
        assert array.sum() == 8


def test_an_overlay_gives_back_what_lay_over_the_scan_before(slicer_side, array):
    import slicer

    from DiffuGTSPanel.scene import SliceViews
    from DiffuGTSPanel.scene.EvidenceVolumes import EvidenceMap, addVolume

    scan, pet = add_volume(array, MATRIX), add_volume(array, MATRIX)
    maps = [addVolume(kind, EvidenceMap(array.astype(np.float32), 100.0), scan, grid_of(scan), "g")
            for kind in ("attention", "pseudo_healthy")]
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    for composite in composites:
        composite.SetForegroundVolumeID(pet.GetID())
        composite.SetForegroundOpacity(0.3)
    SliceViews.showOverlay(scan, maps[0], 0.4)
    SliceViews.showOverlay(scan, maps[0], 0.6, pseudoHealthyNode=maps[1], blend=1.0)
    assert {c.GetBackgroundVolumeID() for c in composites} == {maps[1].GetID()}
    assert {c.GetForegroundVolumeID() for c in composites} == {maps[0].GetID()}
    SliceViews.showOverlay(scan, None, 0.6, pseudoHealthyNode=maps[1], blend=0.25)
    assert {c.GetForegroundVolumeID() for c in composites} == {maps[1].GetID()}
    assert {c.GetForegroundOpacity() for c in composites} == {0.25}
    SliceViews.clear(scan)
    assert {c.GetBackgroundVolumeID() for c in composites} == {scan.GetID()}
    assert {c.GetForegroundVolumeID() for c in composites} == {pet.GetID()}
    assert {c.GetForegroundOpacity() for c in composites} == {0.3}


def test_a_jump_centres_the_slice_views(slicer_side):
    import slicer

    from DiffuGTSPanel.scene import SliceViews

    SliceViews.jumpTo((12.0, -34.0, 56.0))
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        middle = [node.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
        assert middle == pytest.approx([12, -34, 56])
