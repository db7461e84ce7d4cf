"""Fewer progress events, and less of the processor's time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from DiffuGTSLib.channel import TOO_LONG, Throttle

REPOSITORY = Path(__file__).resolve().parents[2]


def test_events_that_follow_too_soon_are_dropped_but_the_first_and_the_last_of_a_stage() -> None:
    throttle = Throttle(3600)
    steps = [("encode", 0, 3), ("encode", 1, 3), ("encode", 2, 3), ("encode", 3, 3),
             ("inpaint", 1, 9), ("inpaint", 2, 9)]
    assert [step for step in steps if throttle.passes(*step)] == [
        ("encode", 0, 3), ("encode", 3, 3), ("inpaint", 1, 9)]


def test_an_event_after_the_pause_passes() -> None:
    throttle = Throttle(0.0)
    assert all(throttle.passes("encode", done, 9) for done in range(9))


@pytest.mark.skipif(not hasattr(os, "nice"), reason="Windows has no nice values")
def test_a_process_lowers_its_own_priority() -> None:
    code = ("import os; from DiffuGTSLib.channel import lower_priority; before = os.nice(0); "
            "lower_priority(); print(os.nice(0) - before)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True, cwd=REPOSITORY)
    assert int(done.stdout) > 0


def test_a_line_of_50_mb_is_one_line_and_the_next_is_read() -> None:
    code = ("from DiffuGTSLib.channel import Channel; channel = Channel()\n"
            "for line in channel.lines(): channel.send('line', text=line.decode())")
    done = subprocess.run([sys.executable, "-c", code], input=b"x" * 50_000_000 + b"\n{}\n",
                          capture_output=True, cwd=REPOSITORY, timeout=60, check=True)
    lines = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    assert lines == [TOO_LONG.decode(), "{}\n"]
