"""What stops or refuses a run, with the real worker: cancel, kill, a closed scene, bad requests."""

from __future__ import annotations

import os
import signal

from support.slicer_scans import PROMPT, SECONDS, Told, add_volume, run_to_end
from support.slicer_worker import logic, nodes, process_id, scan, shared_logic, volume

__all__ = ["logic", "scan", "shared_logic", "volume"]


def test_a_cancel_in_the_middle_of_inpainting_leaves_nothing_and_the_worker_goes_on(
    host, logic, volume
):
    run_to_end(host, logic, volume)
    worker, before = process_id(logic), len(nodes("vtkMRMLNode"))
    told = Told()
    run = logic.segmentAsync(volume, PROMPT, **told.callbacks(), device="cpu", samples=50)
    host.until(lambda: "inpaint" in told.names and told.preview, SECONDS)
    logic.cancel(run)
    host.until(lambda: not run.active, SECONDS)
    assert (run.state, told.names[-1]) == ("cancelled", "cancelled")
    assert told.preview.attentionNode not in nodes("vtkMRMLScalarVolumeNode")
    assert len(nodes("vtkMRMLNode")) == before
    again, _told = run_to_end(host, logic, volume)
    assert again.state == "finished"
    assert process_id(logic) == worker


def test_runs_queue_up_and_a_waiting_one_is_cancelled_alone(host, logic, volume):
    first, second = Told(), Told()
    one = logic.segmentAsync(volume, PROMPT, **first.callbacks(), device="cpu", samples=1)
    two = logic.segmentAsync(volume, "kidney tumor", **second.callbacks(), device="cpu")
    logic.cancel(two)
    assert second.names == []
    host.until(lambda: not one.active, SECONDS)
    assert (one.state, two.state) == ("finished", "cancelled")
    assert second.names == ["cancelled"]


def test_a_text_that_names_nothing_is_refused_with_the_known_places(host, logic, volume):
    run, told = run_to_end(host, logic, volume, "the weather in Paris")
    assert (run.state, told.failure.code) == ("failed", "prompt-not-understood")
    assert "Known places: lung, liver" in told.failure.hint
    assert nodes("vtkMRMLSegmentationNode") == []


def test_a_modality_that_cannot_be_is_refused(host, logic, volume):
    _run, told = run_to_end(host, logic, volume, modality="CT")
    assert told.failure.code == "modality-mismatch"


def test_the_modality_that_dicom_states_counts(host, logic, volume):
    import slicer

    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(volume), name, "PT")
    _run, told = run_to_end(host, logic, volume)
    assert told.failure.code == "modality-mismatch"
    assert "PT" in told.failure.message


def test_a_scene_closed_during_a_run_ends_it_and_the_next_run_works(host, logic, volume, scan):
    import slicer

    told = Told()
    run = logic.segmentAsync(volume, PROMPT, **told.callbacks(), device="cpu", samples=50)
    host.until(lambda: told.preview, SECONDS)
    slicer.mrmlScene.Clear(0)
    host.until(lambda: not run.active, SECONDS)
    assert told.names[-1] == "cancelled"
    assert run.volumeNode is None
    assert nodes("vtkMRMLVolumeNode") == nodes("vtkMRMLSegmentationNode") == []
    again, _told = run_to_end(host, logic, add_volume(scan.array, scan.matrix))
    assert again.state == "finished"


def test_a_volume_removed_during_a_run_is_said_plainly(host, logic, volume):
    import slicer

    told = Told()
    run = logic.segmentAsync(volume, PROMPT, **told.callbacks(), device="cpu", samples=1)
    host.until(lambda: told.preview, SECONDS)
    slicer.mrmlScene.RemoveNode(volume)
    host.until(lambda: not run.active, SECONDS)
    assert told.failure.code == "volume-gone"
    assert nodes("vtkMRMLSegmentationNode") == []


def test_a_killed_worker_is_told_and_the_next_run_works(host, logic, volume):
    earlier, heard = run_to_end(host, logic, volume)
    told = Told()
    run = logic.segmentAsync(volume, PROMPT, **told.callbacks(), device="cpu", samples=50)
    host.until(lambda: "inpaint" in told.names, SECONDS)
    os.kill(process_id(logic), signal.SIGKILL)
    host.until(lambda: not run.active, SECONDS)
    assert told.failure.code == "worker-died"
    assert "signal 9" in told.failure.message
    assert logic.worker.state == "off"
    logic.setThreshold(earlier, 0.7)
    host.until(lambda: heard.failure, SECONDS)
    assert heard.failure.code == "result-not-kept"
    assert earlier.state == "finished"
    again, _told = run_to_end(host, logic, volume)
    assert again.state == "finished"
