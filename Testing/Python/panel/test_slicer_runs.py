"""Runs on the stand-in for Slicer, and what stops or refuses them.

With the real worker, the embedded model and a region of a real scan.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.slicer_scans import (
    PROMPT,
    SECONDS,
    RunEvents,
    add_region,
    add_roi,
    add_transform,
    add_volume,
    dice,
    run_to_end,
    segment_array,
    turned,
    union,
)
from support.slicer_worker import logic, nodes, process_id, scan, shared_logic, volume

__all__ = ["logic", "scan", "shared_logic", "volume"]


def test_a_run_reports_progress_shows_a_preview_and_creates_the_segments(host, logic, volume, scan):
    import slicer

    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    seen = []
    events = RunEvents()
    callbacks = events.callbacks()
    callbacks["onPreview"] = lambda run, preview: (events._preview(run, preview), seen.append((
        slicer.util.arrayFromVolume(preview.attentionNode).copy(),
        segment_array(preview.candidatesNode, "candidates", volume))))
    run = logic.segmentAsync(volume, PROMPT, **callbacks, device="cpu", samples=1)
    assert run.state == "waiting"
    host.until(lambda: not run.active, SECONDS)
    assert events.failure is None
    assert events.names[-1] == "finished"
    last_inpainting = len(events.names) - 1 - events.names[::-1].index("inpaint")
    assert events.names.index("preview") < last_inpainting
    fractions = [step.fraction for step in events.steps]
    assert fractions == sorted(fractions)
    attention, candidates = seen[0]
    assert attention[scan.truth].mean() > attention[~scan.truth].mean() + 0.2
    assert candidates[scan.truth].mean() > 0.3
    assert events.preview.candidatesNode not in nodes("vtkMRMLSegmentationNode")
    node = run.segmentationNode
    assert dice(union(run, volume), scan.truth) > 0.5
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is volume
    lesion = run.results[0].lesions[0]
    segment = node.GetSegmentation().GetSegment(lesion.segmentId)
    assert segment.GetName() == "soft tissue sarcoma 1"
    assert "SCT^49755003^Morphologically Altered Structure" in segment.GetTerminology()
    assert segment.GetColor() == pytest.approx((144 / 255, 238 / 255, 144 / 255))
    voxel_ml = abs(np.linalg.det(scan.matrix[:3, :3])) / 1000
    counted = segment_array(node, lesion.segmentId, volume).sum() * voxel_ml
    assert lesion.volumeMl == pytest.approx(counted, rel=1e-4)
    index = np.linalg.solve(scan.matrix, [*lesion.position, 1])[:3]
    centre = np.argwhere(segment_array(node, lesion.segmentId, volume)).mean(axis=0)[::-1]
    assert index == pytest.approx(centre, abs=0.05)


def test_a_second_prompt_does_not_encode_again_and_several_prompts_make_groups(
    host, logic, volume
):
    run_to_end(host, logic, volume)
    run, events = run_to_end(host, logic, volume, "soft tissue sarcoma; kidney tumor")
    assert "encode" not in events.stages
    assert [result.title for result in run.results] == ["soft tissue sarcoma", "kidney tumor"]
    names = {lesion.name for result in run.results for lesion in result.lesions}
    assert len(names) == run.segmentationNode.GetSegmentation().GetNumberOfSegments()
    assert len(nodes("vtkMRMLSegmentationNode")) == 2


def test_a_changed_volume_is_read_again(host, logic, volume, scan):
    import slicer

    run_to_end(host, logic, volume)
    slicer.util.updateVolumeFromArray(volume, scan.array + 1)
    _run, events = run_to_end(host, logic, volume)
    assert "encode" in events.stages


def test_a_left_handed_volume_gives_the_same_voxels(host, logic, volume, scan):
    straight, _events = run_to_end(host, logic, volume)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = scan.array.shape[2] - 1
    flipped = add_volume(scan.array[:, :, ::-1], scan.matrix @ flip)
    run, events = run_to_end(host, logic, flipped)
    assert events.failure is None
    assert np.linalg.det((scan.matrix @ flip)[:3, :3]) * np.linalg.det(scan.matrix[:3, :3]) < 0
    assert dice(union(run, flipped)[:, :, ::-1], union(straight, volume)) > 0.98


def test_an_oblique_volume_gives_its_own_voxels(host, logic, scan):
    oblique = add_volume(scan.array, turned(25) @ turned(15, 0) @ scan.matrix)
    run, _events = run_to_end(host, logic, oblique)
    assert dice(union(run, oblique), scan.truth) > 0.5


def test_a_parent_transform_puts_the_scan_where_it_lies(host, logic, volume, scan):
    straight, _events = run_to_end(host, logic, volume)
    move = turned(90, 0) @ turned(30, 1)
    moved = add_volume(scan.array, np.linalg.inv(move) @ scan.matrix)
    transform = add_transform(move)
    moved.SetAndObserveTransformNodeID(transform.GetID())
    run, _events = run_to_end(host, logic, moved)
    assert run.segmentationNode.GetTransformNodeID() == transform.GetID()
    assert dice(union(run, moved), union(straight, volume)) > 0.99
    first, second = straight.results[0].lesions[0], run.results[0].lesions[0]
    assert second.position == pytest.approx(first.position, abs=0.1)


def test_a_region_of_interest_limits_the_search(host, logic, volume, scan):
    centre = (scan.matrix @ [28, 20, 20, 1])[:3]
    size = np.abs(np.diag(scan.matrix)[:3]) * [30, 52, 40]
    run, events = run_to_end(host, logic, volume, roi=add_roi(centre, size))
    assert events.failure is None
    found = union(run, volume)
    assert dice(found[:, :, 14:43], scan.truth[:, :, 14:43]) > 0.4
    assert not found[:, :, :13].any()
    assert not found[:, :, 44:].any()


def test_a_segment_limits_the_search(host, logic, volume, scan):
    whole, _events = run_to_end(host, logic, volume)
    half = np.zeros(scan.array.shape, bool)
    half[:, :, : scan.array.shape[2] // 2] = True
    node, segment = add_region(volume, half)
    run, events = run_to_end(host, logic, volume, within=node, withinSegment=segment)
    assert events.failure is None
    assert any(note.startswith("Searched only in “thigh” (") for note in run.results[0].notes)
    found, everywhere = union(run, volume), union(whole, volume)
    assert everywhere[~half].sum() > 500
    assert found[half].sum() > 500
    assert found[~half].sum() < 0.05 * everywhere[~half].sum()


def test_a_segment_that_is_not_there_or_elsewhere_ends_the_run_in_a_sentence(
    host, logic, volume, scan
):
    node, _segment = add_region(volume, np.zeros(scan.array.shape, bool))
    for segment, words in (("spleen", "is not there"), ("thigh", "Nothing of the segment")):
        _run, events = run_to_end(host, logic, volume, within=node, withinSegment=segment)
        assert words in events.failure.message


def test_a_new_threshold_changes_the_segments_and_the_newest_counts(host, logic, volume):
    run, events = run_to_end(host, logic, volume)
    before, results = union(run, volume), run.results[0]
    shown = run.segmentationNode
    for threshold in (0.9, 0.8, 0.7, 0.2):
        logic.setThreshold(run, threshold)
    host.until(lambda: run.threshold == 0.2, SECONDS)
    assert events.names.count("updated") <= 2
    assert run.segmentationNode is shown
    after = union(run, volume)
    assert after.sum() > before.sum()
    assert not (before & ~after).any()
    assert results.threshold == 0.2


def test_segments_edited_by_hand_survive_a_new_threshold(host, logic, volume):
    import slicer

    run, _events = run_to_end(host, logic, volume)
    node, lesion = run.segmentationNode, run.results[0].lesions[0]
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, lesion.segmentId, volume)
    array[:3] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, lesion.segmentId, volume)
    logic.setThreshold(run, 0.7)
    host.until(lambda: run.threshold == 0.7, SECONDS)
    assert run.segmentationNode is not node
    assert segment_array(node, lesion.segmentId, volume)[:3].all()


def test_a_dropped_lesion_leaves_and_comes_back_and_stays_dropped_at_another_threshold(
    host, logic, volume
):
    run, events = run_to_end(host, logic, volume)
    segmentation = run.segmentationNode.GetSegmentation()
    lesion = run.results[0].lesions[0]
    before = segment_array(run.segmentationNode, lesion.segmentId, volume)
    logic.keepLesion(run, lesion, False)
    assert segmentation.GetSegment(lesion.segmentId) is None
    logic.keepLesion(run, run.results[0].lesions[0], True)
    assert segmentation.GetNthSegmentID(0) == lesion.segmentId
    after = segment_array(run.segmentationNode, lesion.segmentId, volume)
    assert np.array_equal(after, before)
    logic.keepLesion(run, run.results[0].lesions[0], False)
    logic.setThreshold(run, 0.45)
    host.until(lambda: run.threshold == 0.45, SECONDS)
    assert not run.results[0].lesions[0].kept
    assert events.names.count("updated") == 4


def test_evidence_becomes_volumes_on_the_scans_grid(host, logic, volume, scan):
    import slicer

    from DiffuGTSPanel.data.Run import EVIDENCE

    run, _events = run_to_end(host, logic, volume)
    for kind in EVIDENCE:
        ready: list[Any] = []
        logic.evidence(run, kind, ready.append)
        host.until(lambda ready=ready: ready, 30)
        matrix = slicer.util.arrayFromVTKMatrix(_matrix(ready[0]))
        assert matrix == pytest.approx(scan.matrix)
        assert slicer.util.arrayFromVolume(ready[0]).shape == scan.array.shape
        assert ready[0].GetDisplayNode().GetColorNode() is not None
    healthy = slicer.util.arrayFromVolume(run.results[0].evidence["pseudo_healthy"])
    outside = slicer.util.arrayFromVolume(run.results[0].evidence["residual"]) == 0
    assert np.median(np.abs(healthy - scan.array)[outside]) == 0
    assert not np.array_equal(healthy, scan.array)


def _matrix(node):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def test_two_volumes_one_after_the_other_keep_their_results(host, logic, volume, scan):
    shifted = np.roll(scan.array, 3, axis=2)
    other = add_volume(shifted, turned(10) @ scan.matrix, "other")
    one, _events = run_to_end(host, logic, volume)
    two, _events = run_to_end(host, logic, other)
    assert dice(union(one, volume), scan.truth) > 0.5
    assert dice(union(two, other), np.roll(scan.truth, 3, axis=2)) > 0.5
    assert one.segmentationNode is not two.segmentationNode
    logic.setThreshold(one, 0.7)
    host.until(lambda: one.threshold == 0.7, SECONDS)
    assert two.threshold == 0.5


def test_segments_that_were_there_stay_as_they_are(host, logic, volume, scan):
    import slicer

    existing = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    existing.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    drawn = {}
    for number, name in enumerate(("soft tissue sarcoma 1", "overlapping")):
        identity = existing.GetSegmentation().AddEmptySegment(f"own{number}", name)
        array = np.zeros(scan.array.shape, np.uint8)
        array[5:30, 10:40, 10 + 5 * number:40] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, existing, identity, volume)
        existing.GetSegmentation().SeparateSegmentLabelmap(identity)
        drawn[identity] = array > 0
    run, _events = run_to_end(host, logic, volume, segmentation=existing)
    assert run.segmentationNode is existing
    assert dice(union(run, volume), scan.truth) > 0.5
    assert run.results[0].lesions[0].name == "soft tissue sarcoma 1 (2)"
    for identity, before in drawn.items():
        assert np.array_equal(segment_array(existing, identity, volume), before)


def test_waiting_for_a_run_keeps_the_event_loop_alive(host, logic, volume):
    import qt

    turns, steps = [], []
    timer = qt.QTimer()
    timer.connect("timeout()", lambda: turns.append(1))
    timer.start(50)
    node = logic.segment(volume, PROMPT, device="cpu", samples=1,
                         progress=lambda fraction, text: steps.append((fraction, text)))
    timer.stop()
    assert node is logic.lastRun.segmentationNode
    assert steps[0][1] == "Preparing the scan"
    assert len(turns) > 5


def test_a_failure_of_a_waited_for_run_is_raised(host, logic, volume):
    from DiffuGTSPanel.data.Failure import Failure

    with pytest.raises(Failure, match="cannot be a CT"):
        logic.segment(volume, PROMPT, modality="CT", device="cpu")


def test_all_frames_of_a_sequence_get_their_segments(host, logic, volume, scan):
    import slicer

    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "frames")
    for frame in range(2):
        slicer.util.updateVolumeFromArray(volume, np.roll(scan.array, 6 * frame, axis=2))
        sequence.SetDataNodeAtValue(volume, str(frame))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    proxy = browser.GetProxyNode(sequence)
    run, events = run_to_end(host, logic, proxy, frames="all")
    assert events.failure is None
    assert [result.frame for result in run.results] == [0, 1]
    assert "Frame 2 of 2" in " ".join(step.text for step in events.steps)
    before = frame_arrays(host, browser, run, proxy)
    for frame, found in enumerate(before):
        assert dice(found, np.roll(scan.truth, 6 * frame, axis=2)) > 0.5
    logic.setThreshold(run, 0.7)
    host.until(lambda: "updated" in events.names, SECONDS)
    after = frame_arrays(host, browser, run, proxy)
    assert all((old & ~new).any() and not (new & ~old).any()
               for old, new in zip(before, after, strict=True))
    logic.jumpToLesion(run, run.results[0].lesions[0])
    assert browser.GetSelectedItemNumber() == 0


def frame_arrays(host, browser, run, proxy):
    """All lesions of each frame, as bool arrays, as they are shown."""
    arrays = []
    for result in run.results:
        browser.SetSelectedItemNumber(result.frame)
        host.process()
        arrays.append(np.any([segment_array(run.segmentationNode, lesion.segmentId, proxy)
                              for lesion in result.lesions], axis=0))
    return arrays


# What stops or refuses a run


def test_a_cancel_during_inpainting_leaves_no_nodes_and_the_worker_continues(
    host, logic, volume
):
    run_to_end(host, logic, volume)
    worker, before = process_id(logic), len(nodes("vtkMRMLNode"))
    events = RunEvents()
    run = logic.segmentAsync(volume, PROMPT, **events.callbacks(), device="cpu", samples=50)
    host.until(lambda: "inpaint" in events.names and events.preview, SECONDS)
    logic.cancel(run)
    host.until(lambda: not run.active, SECONDS)
    assert (run.state, events.names[-1]) == ("cancelled", "cancelled")
    assert events.preview.attentionNode not in nodes("vtkMRMLScalarVolumeNode")
    assert len(nodes("vtkMRMLNode")) == before
    again, _events = run_to_end(host, logic, volume)
    assert again.state == "finished"
    assert process_id(logic) == worker


def test_runs_queue_up_and_a_waiting_one_is_cancelled_alone(host, logic, volume):
    first, second = RunEvents(), RunEvents()
    one = logic.segmentAsync(volume, PROMPT, **first.callbacks(), device="cpu", samples=1)
    two = logic.segmentAsync(volume, "kidney tumor", **second.callbacks(), device="cpu")
    logic.cancel(two)
    assert second.names == []
    host.until(lambda: not one.active, SECONDS)
    assert (one.state, two.state) == ("finished", "cancelled")
    assert second.names == ["cancelled"]


def test_a_modality_that_cannot_be_is_refused(host, logic, volume):
    _run, events = run_to_end(host, logic, volume, modality="CT")
    assert events.failure.code == "modality-mismatch"


def test_the_modality_that_dicom_states_counts(host, logic, volume):
    import slicer

    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(volume), name, "PT")
    _run, events = run_to_end(host, logic, volume)
    assert events.failure.code == "modality-mismatch"
    assert "PT" in events.failure.message


def test_a_scene_closed_during_a_run_ends_it_and_the_next_run_works(host, logic, volume, scan):
    import slicer

    events = RunEvents()
    run = logic.segmentAsync(volume, PROMPT, **events.callbacks(), device="cpu", samples=50)
    host.until(lambda: events.preview, SECONDS)
    slicer.mrmlScene.Clear(0)
    host.until(lambda: not run.active, SECONDS)
    assert events.names[-1] == "cancelled"
    assert run.volumeNode is None
    assert nodes("vtkMRMLVolumeNode") == nodes("vtkMRMLSegmentationNode") == []
    again, _events = run_to_end(host, logic, add_volume(scan.array, scan.matrix))
    assert again.state == "finished"


def test_a_volume_removed_during_a_run_is_reported(host, logic, volume):
    import slicer

    events = RunEvents()
    run = logic.segmentAsync(volume, PROMPT, **events.callbacks(), device="cpu", samples=1)
    host.until(lambda: events.preview, SECONDS)
    slicer.mrmlScene.RemoveNode(volume)
    host.until(lambda: not run.active, SECONDS)
    assert events.failure.code == "volume-gone"
    assert nodes("vtkMRMLSegmentationNode") == []
