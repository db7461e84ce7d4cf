"""Lets a process wait where it opens a scan with a shut gate beside it; see gates.py.

A folder with this file on PYTHONPATH is enough: Python imports it when it starts.
"""

import os
import sys

PREFIX = ".gate "


def wait_at_gate(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], str):
        return
    folder, name = os.path.split(arguments[0])
    gate = os.path.join(folder, PREFIX + name)
    if not name.startswith(PREFIX) and os.path.exists(gate):
        pipe = os.open(gate, os.O_RDONLY)
        os.read(pipe, 1)
        os.close(pipe)


if not hasattr(sys, "_waits_at_gates"):
    sys._waits_at_gates = True  # an audit hook stays: one is enough
    sys.addaudithook(wait_at_gate)
