"""Scans that cannot be opened until a test lets them: they hold a batch where the test wants it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

GATED = Path(__file__).with_name("gated")
# For the children of this process, whoever starts them.
os.environ["PYTHONPATH"] = os.pathsep.join(
    part for part in (os.environ.get("PYTHONPATH"), str(GATED)) if part)


class Gate:
    """A scan whose reader waits until the gate is opened, in processes with GATED on PYTHONPATH.

    Args:
        path: of a scan; the gate is a pipe beside it.
    """

    def __init__(self, path: Path) -> None:
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        import support.gated.sitecustomize as hook  # for readers in this process

        self.path = path
        self._gate = path.with_name(f"{hook.PREFIX}{path.name}")
        self._shut()

    def open(self) -> None:
        """Lets the readers go on, and all later ones pass."""
        if self._gate.exists():
            self._gate.unlink()
            os.write(self._pipe, bytes(64))

    def shut(self) -> None:
        """Makes the next reader wait; the gate was open."""
        os.close(self._pipe)
        self._shut()

    def _shut(self) -> None:
        os.mkfifo(self._gate)
        # Open for both: who reads waits for a byte, and does not see the end of the file.
        self._pipe = os.open(self._gate, os.O_RDWR)
