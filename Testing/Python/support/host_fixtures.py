"""The stand-in for Slicer's Python (Testing/Host) as a fixture."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from Host.boot import Host
    from support.panel_case import Panel

TESTING = Path(__file__).resolve().parents[2]
NEEDED = {"PySide6": "PySide6-Essentials", "slicer": "slicer-core", "trame_slicer": "trame-slicer"}


@pytest.fixture(scope="session")
def running_host() -> Iterator[Host]:
    """The host, started once a session; skips where PySide6 or slicer-core are not installed."""
    missing = [package for name, package in NEEDED.items() if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"the host needs {', '.join(missing)} (make test installs them)")
    if str(TESTING) not in sys.path:
        sys.path.insert(0, str(TESTING))
    from Host.boot import boot

    try:
        host = boot()
    except ImportError as error:  # Qt's libraries of the system, as libEGL
        pytest.skip(f"the host does not start on this machine: {error}")
    yield host
    host.close()


@pytest.fixture(scope="module")
def opened(running_host: Host) -> Iterator[Panel]:
    """The panel, whose worker all tests of a file share."""
    from support.panel_case import Panel

    running_host.clear()
    yield Panel(running_host)
    running_host.clear()


@pytest.fixture
def host(running_host: Host) -> Iterator[Host]:
    """The host with an empty scene, no module and no settings; silent errors fail the test."""
    running_host.clear()
    running_host.errors.clear()
    running_host.warnings.clear()
    yield running_host
    running_host.clear()
    errors = "\n".join(running_host.errors)
    assert not errors, f"Unhandled errors in slots or observers:\n{errors}"
    warnings = "\n".join(running_host.warnings)
    assert not warnings, f"Warnings of Qt:\n{warnings}"
