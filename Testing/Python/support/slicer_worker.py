"""A logic with the real worker and the embedded model, and a real scan, for tests in the host."""

from __future__ import annotations

import os

import pytest

from support.slicer_scans import Scan, add_volume
from support.slicer_side import on_path


@pytest.fixture(scope="module")
def scan(shared_data):
    return Scan(shared_data)


@pytest.fixture(scope="module")
def shared_logic(running_host, tmp_path_factory):
    """A logic that all tests of a file share.

    Its temporary folder has a non-ASCII name and has to be empty at the end.
    """
    on_path()
    import slicer

    from DiffuGTSPanel.Logic import DiffuGTSLogic

    before = slicer.app._folder.name
    slicer.app._folder.name = str(tmp_path_factory.mktemp("Jürgen Müller 患者"))
    logic = DiffuGTSLogic()
    yield logic
    logic.shutdown()
    left = os.listdir(slicer.app._folder.name)
    slicer.app._folder.name = before
    assert left == []


@pytest.fixture
def logic(host, shared_logic):
    return shared_logic


@pytest.fixture
def volume(logic, scan):
    return add_volume(scan.array, scan.matrix, "scän 患者")


def nodes(kind):
    import slicer

    return slicer.util.getNodesByClass(kind)


def process_id(logic):
    return logic._runQueue._process.processId
