"""The worker's messages: what is a request and what is not, and who may print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.worker.protocol import BadRequest, Cancel, Quit, Segment, Threshold, parse

SEGMENT = {"type": "segment", "id": 1, "image": "a.nrrd", "prompt": "liver tumor", "folder": "f"}


def line(**fields) -> bytes:
    return json.dumps(fields).encode()


def test_a_segment_request_has_defaults():
    assert parse(line(**SEGMENT)) == Segment(1, Path("a.nrrd"), ("liver tumor",), Path("f"))


def test_a_segment_request_takes_options_and_several_prompts():
    request = parse(line(**SEGMENT | {
        "prompt": ["a", "b"], "seed": 4, "threshold": 0.3, "modality": "MR", "samples": 5}))
    assert request == Segment(1, Path("a.nrrd"), ("a", "b"), Path("f"),
                              Options(seed=4, threshold=0.3, modality="MR", samples=5))


def test_the_other_requests_are_read():
    threshold = {"type": "threshold", "id": "t", "result": 1, "threshold": 1, "folder": "f"}
    assert parse(line(**threshold)) == Threshold("t", 1, 1.0, Path("f"))
    assert parse(line(type="cancel", id="t")) == Cancel("t")
    assert parse(line(type="quit")) == Quit()


@pytest.mark.parametrize("changed", [
    {"id": None}, {"id": True}, {"id": ""}, {"id": 1.5}, {"id": [1]}, {"image": ""},
    {"image": 3}, {"image": "a\0b"}, {"prompt": []}, {"prompt": [1]}, {"prompt": None},
    {"folder": None}, {"seed": -1}, {"seed": 1.5}, {"seed": True}, {"threshold": 1.1},
    {"threshold": "0.4"}, {"threshold": float("nan")}, {"modality": "PET"}, {"samples": 0},
    {"colour": "red"},
])
def test_a_wrong_field_is_refused_by_its_name(changed):
    with pytest.raises(BadRequest) as caught:
        parse(line(**SEGMENT | changed))
    assert next(iter(changed)) in caught.value.message


@pytest.mark.parametrize("garbage", [
    b"", b"x", b"\xff", b"[]", b"null", b"{}", b'{"type": 3}', b'{"type": ["segment"]}',
    b"[" * 100_000, b'{"type": "segment"', b"9" * 10_000,
])
def test_garbage_is_refused(garbage):
    with pytest.raises(BadRequest):
        parse(garbage)


def test_a_refusal_carries_the_jobs_id():
    with pytest.raises(BadRequest) as caught:
        parse(line(**SEGMENT | {"seed": "x"}))
    assert caught.value.job == 1


NOISY = """
import os, subprocess, sys
from DiffuGTSLib.channel import Channel
channel = Channel()
print("python prints")
os.write(1, b"C prints\\n")
subprocess.run(["cat"], check=True)
os.system("echo a child prints")
for line in channel.lines():
    channel.send("ready", text="ä" + line.decode().strip())
"""


def test_nothing_but_events_reaches_stdout_and_no_child_eats_the_requests():
    repository = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", NOISY], input=b"one\n\ntwo\n",
                          capture_output=True, cwd=repository, timeout=30, check=True)
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert [event["text"] for event in events] == ["äone", "ätwo"]
    assert done.stdout.isascii()
    for noise in (b"python prints", b"C prints", b"a child prints"):
        assert noise in done.stderr
