"""The background process of the panel in 3D Slicer."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the worker on this process's stdin and stdout; returns the exit code."""
    from DiffuGTSLib.worker import server

    return server.main(arguments)
