"""The module on the stand-in: loading, samples, self-tests, and input refused without a worker."""

from __future__ import annotations

import sys
import unittest

import numpy as np
import pytest
from support.slicer_scans import add_roi, add_volume, run_to_end
from support.slicer_side import REPOSITORY, slicer_side

__all__ = ["slicer_side"]

pytestmark = pytest.mark.usefixtures("slicer_side")


@pytest.fixture
def logic(slicer_side):
    from DiffuGTSPanel.Logic import DiffuGTSLogic

    made = DiffuGTSLogic()
    yield made
    made.shutdown()


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 100, (8, 9, 10)).astype(np.int16)


def failure(host, logic, volume, prompt="liver tumor", **options):
    """The failure of a run for which no worker was started."""
    _run, events = run_to_end(host, logic, volume, prompt, **options)
    assert logic.worker.state == "off"
    return events.failure


def test_no_volume_is_refused(host, logic):
    assert failure(host, logic, None).code == "no-volume"


def test_a_volume_that_left_the_scene_is_refused(host, logic, array):
    import slicer

    volume = add_volume(array, np.eye(4))
    slicer.mrmlScene.RemoveNode(volume)
    assert failure(host, logic, volume).code == "no-volume"


def test_a_volume_without_voxels_is_refused(host, logic):
    import slicer

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert failure(host, logic, volume).code == "empty-volume"


def test_colour_and_four_dimensions_are_refused(host, logic):
    import slicer

    array = np.zeros((8, 9, 10, 3), np.uint8)
    volume = slicer.util.addVolumeFromArray(array, nodeClassName="vtkMRMLVectorVolumeNode")
    refused = failure(host, logic, volume)
    assert refused.code == "not-a-scalar-volume"
    assert "3 components per voxel" in refused.message
    assert "sequence" in refused.hint


def test_a_labelmap_is_refused(host, logic, array):
    import slicer

    volume = slicer.util.addVolumeFromArray(array, nodeClassName="vtkMRMLLabelMapVolumeNode")
    assert failure(host, logic, volume).code == "not-a-scalar-volume"


def test_a_region_beside_the_volume_is_refused(host, logic, array):
    roi = add_roi([500, 0, 0], [10, 10, 10])
    assert failure(host, logic, add_volume(array, np.eye(4)), roi=roi).code == "roi-outside"


def test_a_segmentation_of_surfaces_is_refused_as_target(host, logic, array):
    import slicer
    import vtk

    target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    target.GetSegmentation().SetSourceRepresentationName("Closed surface")
    sphere = vtk.vtkSphereSource()
    sphere.Update()
    target.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "sphere", [1, 0, 0])
    refused = failure(host, logic, add_volume(array, np.eye(4)), segmentation=target)
    assert refused.code == "segmentation-of-surfaces"
    assert target.GetSegmentation().GetNumberOfSegments() == 1


def test_missing_packages_are_reported_before_the_worker_starts(host, logic, array, tmp_path):
    from DiffuGTSPanel.library.PythonPackages import PythonPackages

    file = tmp_path / "requirements.txt"
    file.write_text("no-such-package>=1\n")
    logic._runQueue._packages = PythonPackages(file)
    refused = failure(host, logic, add_volume(array, np.eye(4)))
    assert refused.code == "packages-missing"
    assert "no-such-package" in refused.message


def test_a_python_that_cannot_be_started_is_reported(host, logic, array):
    logic.python = "/no/such/python"
    assert failure(host, logic, add_volume(array, np.eye(4))).code == "python-unusable"


def test_a_program_that_is_not_python_is_reported_with_its_own_error(host, logic, array, tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'I am no Python' >&2\nexit 3\n")
    program.chmod(0o755)
    logic.python = str(program)
    refused = failure(host, logic, add_volume(array, np.eye(4)))
    assert refused.code == "worker-not-started"
    assert "I am no Python" in refused.message
    assert next(iter(logic.log.lines)) == "I am no Python"


def test_an_unknown_option_is_a_type_error(logic):
    with pytest.raises(TypeError, match="colour"):
        logic.segmentAsync(None, "liver tumor", colour="red")


def test_no_callback_comes_before_the_call_returns(host, logic):
    calls = []
    run = logic.segmentAsync(None, "liver tumor", onError=lambda run, failure: calls.append(run))
    assert calls == []
    host.until(lambda: calls, 10)
    assert calls == [run]


def test_prompts_are_understood_with_several_in_a_text(logic):
    first, second, third = logic.understand("hepatic neoplasm; xyzzy plugh\nlung nodule")
    assert (first.ok, first.title) == (True, "liver tumor")
    assert first.sentence == "liver · tumor · CT · model embedded"
    assert not second.ok
    assert second.hasUnknownWords
    assert "Known places: lung, liver" in second.hint
    assert third.finding == "nodule"
    assert logic.understand("  \n ") == []
    assert "liver tumor" in logic.suggestions("liv")
    assert all(logic.understand(example)[0].ok for example in logic.examples())


def test_the_examples_come_in_the_order_of_the_models_scores(slicer_side):
    from DiffuGTSLib.models import Card, find
    from DiffuGTSLib.prompt import understand
    from DiffuGTSPanel.library.PromptReading import EXAMPLES

    measured = Card.read(find("embedded")).validation
    means = []
    for anatomy in (understand(example).anatomy for example in EXAMPLES):
        own = [each for each in measured if each.anatomy == anatomy]
        patients = sum(each.patients for each in own)
        means.append(sum(each.patients * each.dsc for each in own) / patients if own else -1.0)
    assert means == sorted(means, reverse=True)


def test_the_catalogue_is_listed(logic):
    embedded = next(entry for entry in logic.models() if entry.name == "embedded")
    assert embedded.installed
    assert embedded.ready
    assert embedded.modalities == ("CT", "MR")
    assert 5 < embedded.sizeMb < 30


def test_a_model_is_verified_without_blocking(host, logic):
    done, failed = [], []
    logic.modelAction("verify", "embedded", done.append, failed.append, lambda line: None)
    assert done == []
    host.until(lambda: done or failed, 200)
    assert failed == []
    logic.modelAction("verify", "no-such-model", done.append, failed.append, lambda line: None)
    host.until(lambda: failed, 200)
    assert "no-such-model" in failed[0].message


def test_the_module_loads_and_registers_its_samples(host):
    import slicer

    module = host.load_module()
    assert module.title == "DiffuGTS"
    assert "not for clinical decisions" in module.helpText
    assert "Apache" in module.acknowledgementText
    sources = slicer.modules.sampleDataSources["DiffuGTS"]
    assert {source.sampleName for source in sources} == {
        "Lung cancer (lung tumor)", "Glioma FLAIR stripped (brain tumor)"}
    assert all(source.checksums[0].startswith("SHA256:") for source in sources)


@pytest.fixture
def self_tests(host, monkeypatch):
    """The module's self-tests, where packages are missing."""
    from DiffuGTSPanel.library.PythonPackages import MissingPackage, PythonPackages

    monkeypatch.setattr(PythonPackages, "missing",
                        lambda self: [MissingPackage("torch", "not installed")])
    host.load_module()
    return sys.modules["DiffuGTS"].DiffuGTSTest


def test_ctest_skips_the_self_tests_that_need_missing_packages(self_tests):
    """`slicer.testing.runUnitTest` loads each test itself, and not runTest."""
    import slicer

    slicer.app._testing = True
    result = unittest.TestResult()
    unittest.TestLoader().loadTestsFromTestCase(self_tests).run(result)
    assert (result.testsRun, result.errors, result.failures) == (4, [], [])
    assert sorted(test.id().rpartition(".")[2] for test, _reason in result.skipped) == [
        "test_phantomIsSegmented", "test_unknownPromptIsRefused"]
    assert all("torch" in reason for _test, reason in result.skipped)


def test_the_self_tests_that_need_no_run_pass(self_tests):
    test = self_tests()
    test.messageDelay = 0
    test.runTest()


def test_a_slicer_that_is_too_old_gets_one_sentence(host, monkeypatch):
    import qt

    for name in [each for each in sys.modules if each.split(".")[0] == "DiffuGTSPanel"]:
        monkeypatch.setitem(sys.modules, name, None)  # Python 3.9 cannot import it
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 9, 10, "final", 0))
        patch.setattr(sys, "version", "3.9.10 (main)")
        host.load_module()
        widget = host.widget()
    texts = [label.text for label in widget.parent.findChildren(qt.QLabel)]
    assert texts == ["DiffuGTS needs Slicer 5.10 or newer; this Slicer has Python 3.9.10."]
    assert host.errors == []


def test_a_reload_imports_all_files_again_and_ends_the_old_worker(host):
    host.load_module()
    widget = host.widget()
    before = sys.modules["DiffuGTSPanel.run.RunQueue"], widget.logic
    widget.onReload()
    after = sys.modules["DiffuGTSPanel.run.RunQueue"], host.widget().logic
    assert before[0] is not after[0]
    assert before[1] is not after[1]
    assert type(after[1]._runQueue) is after[0].RunQueue
    assert before[1]._closing is None  # it was shut down


def test_the_library_is_found_beside_the_module():
    from DiffuGTSPanel.process.LibraryLauncher import libraryFolder

    assert libraryFolder() == REPOSITORY
