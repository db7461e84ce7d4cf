"""Batches from Slicer's Python: files, folders, volumes of the scene; the real command."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from support.gates import Gate
from support.slicer_batch import FOLDER, PROMPT, SECONDS, BatchEvents, material, run_batch, statuses
from support.slicer_scans import add_transform, add_volume, turned
from support.slicer_side import alive
from support.slicer_worker import logic, shared_logic

__all__ = ["logic", "material", "shared_logic"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The output folder."""
    return tmp_path_factory.mktemp("results") / f"{FOLDER} results"


@pytest.fixture(scope="module")
def ran(running_host, shared_logic, material, folder):
    """A batch over two scans and a bad file, and its callbacks."""
    return run_batch(running_host, shared_logic, material.scans, folder, material)


def add_scan(material, name, matrix=None):
    """A scan of the material as a volume of the scene."""
    import SimpleITK as sitk

    image = sitk.ReadImage(str(material.scans / "eins.nrrd"))
    lps = np.diag([*image.GetSpacing(), 1.0])
    lps[:3, 3] = image.GetOrigin()
    own = np.diag([-1.0, -1, 1, 1]) @ lps
    return add_volume(sitk.GetArrayFromImage(image), own if matrix is None else own @ matrix, name)


def blocked_table(material, folder):
    """A table of scans that block their reader, one more than a process prefetches."""
    folder.mkdir()
    gates = [Gate(Path(shutil.copy(material.scans / "eins.nrrd", folder / f"gate {number}.nrrd")))
             for number in range(4)]
    lines = ["image", *(gate.path.name for gate in gates), ""]
    (folder / "scans.csv").write_text("\n".join(lines))
    return gates


def centre_of(node, volume):
    """The centre of all segments, in voxels, and the number of their voxels."""
    import slicer

    ids = node.GetSegmentation().GetSegmentIDs()
    array = np.any([slicer.util.arrayFromSegmentBinaryLabelmap(node, each, volume) > 0
                    for each in ids], axis=0)
    middle = np.argwhere(array).mean(axis=0)[::-1]
    return middle, array.sum()


def test_a_folder_is_segmented_and_a_bad_file_does_not_stop_the_others(ran):
    run, events = ran
    assert events.ends == ["finished"]
    assert statuses(run) == {"eins": "done", "zwei": "done", "kaputt": "failed"}
    assert run.case("kaputt").failure.code == "unreadable-image"
    assert run.case("eins").segmentation.is_file()
    assert run.case("eins").sentence.startswith("brain tumor: ")
    assert run.sentence == "2 done, 1 failed"
    assert run.report is not None
    fractions = [step.fraction for step in events.steps]
    assert fractions == sorted(fractions)
    assert ("eins", "running") in events.statuses


def test_a_case_is_loaded_into_the_scene_and_found_there_the_next_time(logic, ran):
    import slicer

    run, _events = ran
    volume, segments = logic.loadCase(run.case("eins"))
    assert volume.GetName() == "eins"
    centre, count = centre_of(segments, volume)
    assert count > 50
    other = logic.loadCase(run.case("zwei"))[1]
    assert [node.GetDisplayVisibility() for node in (segments, other)] == [0, 1]
    assert logic.loadCase(run.case("eins")) == (volume, segments)
    assert segments.GetDisplayVisibility()
    slicer.mrmlScene.RemoveNode(segments)
    again = logic.loadCase(run.case("eins"))[1]
    assert np.allclose(centre_of(again, volume)[0], centre)


def test_a_failed_case_reports_its_error_when_it_is_loaded(logic, ran):
    from DiffuGTSPanel.data.Failure import Failure

    with pytest.raises(Failure, match=r"kaputt\.nii\.gz cannot be read"):
        logic.loadCase(ran[0].case("kaputt"))


def test_a_folder_with_an_earlier_run_is_refused_in_words(logic, ran, material, folder):
    from DiffuGTSPanel.data.Failure import Failure

    with pytest.raises(Failure) as raised:
        logic.segmentBatch(material.scans, PROMPT, folder, wait=True)
    assert raised.value.code == "folder-not-empty"
    assert "--" not in raised.value.hint


def test_a_resumed_batch_does_again_only_what_failed_and_knows_the_rest(
        logic, ran, material, folder):
    events = BatchEvents()
    before = (folder / "segmentations" / "eins.seg.nrrd").stat().st_mtime_ns
    run = logic.segmentBatch([material.scans], PROMPT, folder, **events.callbacks(), resume=True,
                             model=str(material.model), device="cpu", wait=True)
    assert statuses(run) == statuses(ran[0])
    assert {("kaputt", "running"), ("eins", "running")} & set(events.statuses) == {
        ("kaputt", "running")}
    assert run.case("zwei").lesions == ran[0].case("zwei").lesions
    assert (folder / "segmentations" / "eins.seg.nrrd").stat().st_mtime_ns == before


def test_volumes_of_the_scene_survive_a_cancel_and_get_their_lesions_where_they_lie(
        host, logic, material, tmp_path):
    sheared = np.eye(4)
    sheared[1, 2] = 0.2
    nodes = [add_scan(material, "Müller 患者"), add_scan(material, "Müller 患者"),
             add_scan(material, "tilted", sheared)]
    nodes[1].SetAndObserveTransformNodeID(add_transform(turned(10)).GetID())
    options, events = {"model": str(material.model), "device": "cpu"}, BatchEvents()
    # The last of them cannot begin before another one is opened.
    gates = blocked_table(material, tmp_path / "gates")
    run = logic.segmentBatch([*nodes, tmp_path / "gates" / "scans.csv"], PROMPT, tmp_path / "out",
                             **events.callbacks(), **options)
    host.until(lambda: "done" in dict(events.statuses).values(), SECONDS, "the first case")
    logic.cancel(run)
    host.until(lambda: "Ending." in logic.log.lines, SECONDS, "the command to notice")
    for gate in gates:
        gate.open()
    host.until(lambda: not run.active, SECONDS, "the cancel")
    assert events.ends == ["cancelled"]
    assert 1 <= run.count("done") <= 3
    assert run.count("done") + run.count("waiting") == 3 + len(gates)
    again, _events = run_batch(host, logic, nodes, tmp_path / "out", material, resume=True)
    assert statuses(again) == dict.fromkeys(("Müller 患者", "Müller 患者_2", "tilted"), "done")
    assert all(case.image.name.isascii() for case in again.cases)
    found = []
    for case, node in zip(again.cases, nodes, strict=True):
        volume, segments = logic.loadCase(case)
        assert volume is node
        assert segments.GetTransformNodeID() == node.GetTransformNodeID()
        found.append(centre_of(segments, volume)[0])
    # At the same voxels, however the grid lies.
    assert np.abs(np.ptp(found, axis=0)).max() < 3


def test_a_batch_that_is_cancelled_at_once_runs_nothing(host, logic, material, tmp_path):
    events = BatchEvents()
    run = logic.segmentBatch(material.scans, PROMPT, tmp_path / "out", **events.callbacks())
    logic.cancel(run)
    host.until(lambda: events.ends, SECONDS)
    assert events.ends == ["cancelled"]
    assert not (tmp_path / "out").exists()


def start(host, logic, material, output):
    """A batch whose command has started its own child; its process tree."""
    from DiffuGTSPanel.process.ChildProcess import processTree

    run = logic.segmentBatch(material.scans, PROMPT, output, device="cpu",
                             model=str(material.model))
    controllers = logic._batchQueue._controllers
    host.until(lambda: controllers and controllers[0].processId and len(
        processTree(controllers[0].processId)) > 1, SECONDS)
    return run, processTree(controllers[0].processId)


def test_a_batch_that_dies_keeps_its_files_and_reports_that_it_can_be_resumed(
        host, logic, material, tmp_path):
    """Slicer's launcher ends with code 1 then, as the command does after a bad scan."""
    from DiffuGTSPanel.process.ChildProcess import processTree

    gates = blocked_table(material, tmp_path / "gates")
    node = add_scan(material, "in the scene")
    run = logic.segmentBatch([tmp_path / "gates" / "scans.csv", node], PROMPT, tmp_path / "out",
                             device="cpu", model=str(material.model))
    host.until(lambda: run.cases, SECONDS, "the start of the batch")
    _, python = processes = processTree(logic._batchQueue._controllers[0].processId)[:2]
    os.kill(python, signal.SIGKILL)
    host.until(lambda: not run.active, SECONDS)
    assert (run.state, run.failure.code) == ("failed", "worker-died")
    assert "it crashed or was killed" in run.failure.message
    assert "resume" in run.failure.hint
    copies = [case.image for case in run.cases if case.volume is node]
    assert [copy.is_file() for copy in copies] == [True]
    host.until(lambda: not any(map(alive, processes)), SECONDS)
    for gate in gates:
        gate.open()


def test_the_end_of_slicer_is_the_end_of_the_batch(host, material, tmp_path):
    from DiffuGTSPanel.Logic import DiffuGTSLogic

    logic = DiffuGTSLogic()
    run, processes = start(host, logic, material, tmp_path / "out")
    logic.shutdown()
    assert run.state == "cancelled"
    host.until(lambda: not any(map(alive, processes)), SECONDS)


@pytest.mark.parametrize(("inputs", "code"), [([], "nothing-asked"), (["gone"], "no-volume")])
def test_unusable_inputs_are_reported_before_a_process_is_started(
        host, logic, material, tmp_path, inputs, code):
    import slicer

    if inputs:
        inputs = [add_scan(material, "gone")]
        slicer.mrmlScene.RemoveNode(inputs[0])
    run, events = run_batch(host, logic, inputs, tmp_path / "out", material)
    assert (events.ends, events.failure.code, run.state) == (["error"], code, "failed")


def test_a_removed_temporary_folder_is_created_again(host, logic, material):
    from DiffuGTSPanel.batch.BatchScanExport import BatchScanExport
    from DiffuGTSPanel.scene.ScanExport import JobFolder

    folder = JobFolder()
    scans, node = BatchScanExport(folder), add_scan(material, "again")
    for _time in range(2):
        list(scans.write([node]))
        scans.touch()
        (table,) = scans.table("batch", [], [node])
        assert json.loads(table.read_text(encoding="utf-8"))[0]["name"] == "again"
        folder.remove()


def test_a_temporary_folder_that_cannot_be_written_is_reported(host, logic):
    from DiffuGTSPanel.batch.BatchScanExport import BatchScanExport
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.scene.ScanExport import JobFolder

    folder = JobFolder()
    folder.new("batch").write_text("a file where the folder should be")
    with pytest.raises(Failure, match="temporary folder cannot be written"):
        BatchScanExport(folder).touch()
    folder.remove()


def test_an_option_that_there_is_not_is_refused(host, logic, tmp_path):
    with pytest.raises(TypeError):
        logic.segmentBatch([], PROMPT, tmp_path, colour="red")
