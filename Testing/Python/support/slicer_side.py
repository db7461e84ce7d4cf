"""Puts the module's own packages on the path, as Slicer does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def on_path() -> None:
    """Makes DiffuGTSPanel importable; the host has to run already."""
    folder = str(REPOSITORY / "DiffuGTS")
    if folder not in sys.path:
        sys.path.insert(0, folder)


@pytest.fixture
def slicer_side(host) -> None:
    """The host, and the module's packages on the path."""
    on_path()


def alive(pid):
    """Whether a process runs; a zombie does not."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True,
                            check=False).stdout.strip()
    return bool(listed) and not listed.startswith("Z")
