"""Scans that cannot be read until a test lets them: they hold a batch where the test wants it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Gate:
    """A scan whose reader waits until the gate is opened; only then is there an image.

    Args:
        path: of a scan; it is hidden behind the gate.
    """

    def __init__(self, path: Path) -> None:
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        self.path = path
        self._scan = path.with_name(f".hidden {path.name}")
        self._close()

    def open(self) -> None:
        """Puts the scan in the pipe's place and lets its reader go on."""
        if self._scan.exists():
            self._scan.replace(self.path)
            os.write(self._pipe, b"\0")

    def shut(self) -> None:
        """Hides the scan from the next reader; the gate was open."""
        os.close(self._pipe)
        self._close()

    def _close(self) -> None:
        self.path.replace(self._scan)
        os.mkfifo(self.path)
        # Open for both: who reads waits for a byte, and does not see the end of the file.
        self._pipe = os.open(self.path, os.O_RDWR)
