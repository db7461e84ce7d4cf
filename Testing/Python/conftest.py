"""Fixtures that every test module may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from host_fixtures import host, running_host

__all__ = ["host", "running_host", "shared_data"]

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans; DIFFUGTS_TEST_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("DIFFUGTS_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "manifest.json").exists():
        pytest.skip("the real scans (DIFFUGTS_TEST_DATA or ../shared/data) are not here")
    return folder
