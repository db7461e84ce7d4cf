"""Lines on the worker's stdin that are no requests: each is one error, and the worker works on."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import SimpleITK as sitk
from support.tiny_model import PROMPT, ball_scan
from tally import Tally

LINES = 2000
SECONDS = 300.0  # for all of them
ODD: tuple[Any, ...] = (None, True, -1, 1e308, "", "a", [], {}, [1], {"a": 1}, "\0", "../x", 2**70)
FIELDS = ("id", "image", "prompt", "folder", "seed", "threshold", "modality", "samples", "sequence",
          "skull_stripped", "within", "result", "type", "more")


def line(chance: random.Random, scan: Path, folder: Path) -> bytes:
    """One line that is no request of today, or one that ends in an error."""
    how = chance.random()
    if how < 0.2:
        return chance.randbytes(chance.randint(1, 60)).replace(b"\n", b"")
    if how < 0.3:
        return b"[" * chance.randint(1, 100_000)
    if how < 0.33:
        return b"a" * chance.randint(10**5, 3 * 10**6)
    request: dict[str, Any] = {
        "type": chance.choice(["segment", "threshold", "cancel", "nothing", 5]),
        "id": f"x{chance.randrange(10**9)}", "image": str(scan),
        "prompt": "no organ of the banana?", "folder": str(folder / "job"),
        "result": "never", "threshold": 0.5,
    }
    for _ in range(chance.randint(1, 4)):
        request[chance.choice(FIELDS)] = chance.choice(ODD)
    return json.dumps(request).encode()


def _is_last(raw: bytes) -> bool:
    return b'"result"' in raw and b'"last"' in raw


def campaign(folder: Path, model: Path, seed: int = 1) -> Tally:
    """Sends all the lines, then a request that has to be answered."""
    tally = Tally("lines on the worker's stdin")
    scan = folder / "scan.nii.gz"
    sitk.WriteImage(ball_scan()[0], str(scan))
    process = subprocess.Popen(
        [sys.executable, "-m", "DiffuGTSLib.cli", "worker", "--model", str(model),
         "--device", "cpu"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    events: list[bytes] = []
    errors: list[bytes] = []
    threads = [Thread(target=lambda s=stream, k=kept: k.extend(s), daemon=True)
               for stream, kept in ((process.stdout, events), (process.stderr, errors))]
    for thread in threads:
        thread.start()
    chance = random.Random(seed)
    for _ in range(LINES):
        process.stdin.write(line(chance, scan, folder) + b"\n")
    last = {"type": "segment", "id": "last", "image": str(scan), "prompt": PROMPT,
            "folder": str(folder / "last")}
    process.stdin.write(json.dumps(last).encode() + b"\n")
    process.stdin.flush()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None and not any(map(_is_last, events)):
        time.sleep(0.1)
    answered = any(map(_is_last, events))
    process.stdin.write(b'{"type": "quit"}\n')
    process.stdin.close()
    try:
        code: int | None = process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        code = None
    for thread in threads:
        thread.join(10)
    for raw in events:
        event = json.loads(raw)
        bad = event["type"] == "error" and (event["code"] == "internal" or not event["message"])
        tally.check(not bad, f"{event}")
    tally.tried = LINES
    tally.check(code == 0, f"the worker ended with {code}")
    tally.check(answered, "the request at the end was not answered")
    tally.check(not any(b"Traceback" in raw for raw in errors), "a traceback on stderr")
    return tally
