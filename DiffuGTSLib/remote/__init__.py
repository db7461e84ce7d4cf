"""The background process on another machine, over the user's own SSH.

address.py names the machine, relay.py is what runs there, frames.py is the stream between the two,
connection.py the end here. What uses that end: bridge.py for the panel, segmenter.py for the
command line and batches.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the panel's bridge on this process's stdin and stdout; returns the exit code."""
    from DiffuGTSLib.remote import bridge

    return bridge.main(arguments)
