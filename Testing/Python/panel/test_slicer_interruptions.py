"""What stops or refuses a run, with the real worker: cancel, a closed scene, bad requests."""

from __future__ import annotations

from support.slicer_scans import PROMPT, SECONDS, RunEvents, add_volume, run_to_end
from support.slicer_worker import logic, nodes, process_id, scan, shared_logic, volume

__all__ = ["logic", "scan", "shared_logic", "volume"]


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
