"""Puts the module's own packages on the path, as Slicer does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def on_path() -> None:
    """Makes DiffuGTSPanel importable; the host has to run already."""
    folder = str(REPOSITORY / "DiffuGTS")
    if folder not in sys.path:
        sys.path.insert(0, folder)


@pytest.fixture
def slicer_side(host) -> None:
    """The host, and the module's packages on the path."""
    on_path()
