"""Another computer from the panel and from Slicer's console: a real sshd on loopback."""

from __future__ import annotations

import pytest
from support.panel_case import Panel, plain
from support.slicer_scans import PROMPT, SECONDS, Scan, add_volume
from support.sshd import gpu, sshd

__all__ = ["gpu", "sshd"]


@pytest.fixture(scope="module")
def scan(shared_data):
    return Scan(shared_data)


@pytest.fixture
def panel(host, gpu):
    import qt

    settings = qt.QSettings()
    for key in ("DiffuGTS/host", "DiffuGTS/lastHosts"):
        settings.remove(key)
    opened = Panel(host)
    opened.panel.ui.advancedButton.collapsed = False
    host.process()
    yield opened
    opened.panel.logic.shutdown()
    for key in ("DiffuGTS/host", "DiffuGTS/lastHosts"):
        settings.remove(key)


def choose(panel, address):
    """Types an address."""
    panel.panel.advanced.ui.computeSelector.setEditText(address)
    panel.host.process()


def info(panel):
    return plain(panel.panel.advanced.ui.computeInfoLabel)


def test_this_computer_is_chosen_at_first(panel):
    ui = panel.panel.advanced.ui
    assert ui.computeSelector.currentText == "This computer"
    assert panel.panel.advanced.host == ""
    assert not ui.testHostButton.enabled


def test_a_test_says_what_is_there_and_the_host_is_offered_again(panel, gpu):
    from DiffuGTSPanel.widgets import KeptSettings

    choose(panel, gpu.address)
    ui = panel.panel.advanced.ui
    ui.testHostButton.click()
    panel.host.until(lambda: "models" in info(panel), SECONDS, "the test")
    assert "DiffuGTS 0." in info(panel)
    assert "cpu" in info(panel)
    assert "embedded" in info(panel)
    assert KeptSettings.lastHosts() == [gpu.address]
    assert KeptSettings.host() == gpu.address
    assert ui.pythonEdit.isHidden()


def test_a_test_names_what_is_wrong_and_what_to_do(panel):
    choose(panel, "gpu:/nowhere/diffugts")
    panel.panel.advanced.ui.testHostButton.click()
    panel.host.until(lambda: "There is no program" in info(panel), SECONDS, "the test")
    assert "pip install diffugts" in info(panel)


def test_missing_packages_of_this_computer_do_not_matter(panel, gpu, monkeypatch):
    from DiffuGTSPanel.data.Failure import Failure

    packages = panel.panel.logic.packages
    monkeypatch.setattr(packages, "problem", lambda: Failure("packages-missing", "Not there."))
    panel.panel.setup.refresh()
    assert not panel.panel.setup.complete
    choose(panel, gpu.address)
    assert panel.panel.setup.complete


def test_a_run_on_a_host_gives_segments_and_evidence(panel, gpu, scan):
    choose(panel, gpu.address)
    panel.choose(scan)
    stages = []
    panel.panel.logic.log.onLine = None
    shown = panel.panel._onProgress
    panel.panel._onProgress = lambda run, step: (stages.append(step.text), shown(run, step))
    panel.press_enter()
    panel.until_idle()
    run = panel.panel.logic.lastRun
    assert run.state == "finished", panel.message
    assert run.results[0].lesions
    assert any(text.startswith("Sending the scan (") for text in stages)
    ready = []
    panel.panel.logic.evidence(run, "residual", ready.append)
    panel.host.until(lambda: ready, SECONDS, "the evidence")
    updated = []
    run.callbacks.onUpdated = updated.append
    panel.panel.logic.setThreshold(run, 0.95)
    panel.host.until(lambda: updated, SECONDS, "the threshold")
    assert run.threshold == pytest.approx(0.95)


def test_a_lost_connection_is_shown_and_the_run_can_be_started_again(panel, gpu, scan):
    choose(panel, gpu.address)
    panel.choose(scan)
    panel.press_enter()
    panel.until_inpainting()
    gpu.kill_connections()
    panel.until_idle()
    assert "The connection to gpu is lost." in panel.message
    panel.press_enter()
    panel.until_idle()
    assert panel.panel.logic.lastRun.state == "finished", panel.message


def test_the_console_takes_a_host(panel, gpu, scan):
    volume = add_volume(scan.array, scan.matrix, "scan")
    logic = panel.panel.logic
    node = logic.segment(volume, PROMPT, host=gpu.address, samples=1)
    assert node.GetSegmentation().GetNumberOfSegments() > 0
    assert logic.worker.device == "cpu"


def test_a_batch_of_scene_volumes_on_a_host(panel, gpu, scan, tmp_path):
    volume = add_volume(scan.array, scan.matrix, "scan")
    run = panel.panel.logic.segmentBatch(
        volume, PROMPT, tmp_path / "out", host=gpu.address, wait=True)
    assert [case.status for case in run.cases] == ["done"]
    assert run.cases[0].lesions
