"""The worker's messages: requests as JSON lines in, events as JSON lines (ASCII) out.

Requests, one JSON object a line:

    {"type": "segment", "id": ID, "image": PATH, "prompt": TEXT or [TEXT, ...], "folder": PATH,
     "seed": 0, "threshold": null, "modality": null, "samples": null, "sequence": null,
     "skull_stripped": null, "within": null, "within_name": null}
                                             (from "seed" on all are optional; see Segment)
    {"type": "threshold", "id": ID, "result": ID of a segment job, "threshold": 0.4, "folder": PATH}
    {"type": "cancel", "id": ID of the job}          a job that has ended already is no error
    {"type": "quit"}

Events, each with the `id` of its job (null where there is none):

    ready      version, python, torch, device, model, model_sha256, memory_free_gb,
               memory_total_gb (GiB, of the device)
    progress   index, prompt, stage, done, total, fraction (0..1 of the job), seconds_left or null
    preview    index, prompt, attention, candidates (paths)
    result     one a prompt: index, count, prompt, title, terminology, found, highest_score,
               threshold, needed_score (of a lesion's peak), lesions, and paths: mask (labels 1..
               as the lesions' numbers), attention, pseudo_healthy, residual, uncertainty,
               probability; after `threshold` only mask. The job is done with the result whose
               index is count - 1.
    error      code, message, hint, suggestions (prompts that would be understood, or the MR
               sequences of which one has to be stated)
    cancelled
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from DiffuGTSLib.channel import TOO_LONG, Id
from DiffuGTSLib.errors import DiffuGTSError, InvalidOption
from DiffuGTSLib.pipeline import Options
from DiffuGTSLib.scan.region import RegionFile

# Of a run, those that a request may state.
OPTIONS = ("seed", "threshold", "modality", "samples", "sequence", "skull_stripped")


class BadRequest(DiffuGTSError):
    """A line on stdin is no request that the worker knows."""

    code = "bad-request"

    def __init__(self, message: str, job: Id | None = None) -> None:
        super().__init__(message, "Send one JSON object a line, as worker/protocol.py describes.")
        self.job = job


@dataclass(frozen=True)
class Segment:
    """Run prompts on a scan; the files go to `folder`, which is made if need be.

    Attributes:
        within: a mask to which the search is limited; its name for sentences is that of the
            request's "within_name".
    """

    id: Id
    image: Path
    prompts: tuple[str, ...]
    folder: Path
    options: Options = field(default_factory=Options)  # model and device are the worker's own
    within: RegionFile | None = None


@dataclass(frozen=True)
class Threshold:
    """Another threshold on the result of the earlier job `result`."""

    id: Id
    result: Id
    threshold: float
    folder: Path


@dataclass(frozen=True)
class Cancel:
    """Stop the job `id`, running or waiting."""

    id: Id


@dataclass(frozen=True)
class Quit:
    """End the worker, a run included."""


Request = Segment | Threshold | Cancel | Quit


def parse(line: bytes) -> Request:
    """The request that a line of stdin holds.

    Raises:
        BadRequest: not JSON, not an object, an unknown type or field, a field of a wrong kind.
    """
    if line == TOO_LONG:
        raise BadRequest("A line is longer than 1 MB.")
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadRequest("A line is not JSON.") from None
    if not isinstance(message, dict):
        raise BadRequest("A line is JSON, but not an object.")
    fields = _Fields(message)
    kind = message.get("type")
    if kind == "segment":
        request: Request = Segment(
            fields.identity("id"), fields.path("image"), fields.prompts(), fields.path("folder"),
            fields.options(*OPTIONS), fields.region("within", "within_name"),
        )
    elif kind == "threshold":
        threshold = fields.options("threshold").threshold
        if threshold is None:
            raise fields.wrong("threshold", "a number from 0 to 1")
        request = Threshold(fields.identity("id"), fields.identity("result"), threshold,
                            fields.path("folder"))
    elif kind == "cancel":
        request = Cancel(fields.identity("id"))
    elif kind == "quit":
        request = Quit()
    else:
        raise BadRequest("The request's type is unknown.", fields.job)
    fields.check_all_used()
    return request


class _Fields:
    """Takes the fields out of a message and names the one that is wrong."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        self._left = {key: value for key, value in message.items() if key != "type"}
        job = message.get("id")
        self.job = job if isinstance(job, str | int) else None

    def wrong(self, name: str, expected: str) -> BadRequest:
        return BadRequest(f'The field "{name}" has to be {expected}.', self.job)

    def identity(self, name: str) -> Id:
        value = self._left.pop(name, None)
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise self.wrong(name, "a text or a whole number")
        return value

    def path(self, name: str) -> Path:
        value = self._left.pop(name, None)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.wrong(name, "a path")
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            raise self.wrong(name, "a path") from None
        return Path(value)

    def region(self, name: str, title: str) -> RegionFile | None:
        stated = self._left.pop(title, None)
        if not isinstance(stated, str | None):
            raise self.wrong(title, "a text")
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return None
        return RegionFile(self.path(name), name=" ".join((stated or "").split()))

    def prompts(self) -> tuple[str, ...]:
        value = self._left.pop("prompt", None)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
            raise self.wrong("prompt", "a text or a list of texts")
        return tuple(texts)

    def options(self, *names: str) -> Options:
        stated = {name: self._left.pop(name) for name in names if name in self._left}
        try:
            return Options.from_dict(stated)
        except InvalidOption as error:
            raise self.wrong(error.name, error.expected) from None

    def check_all_used(self) -> None:
        if self._left:
            raise BadRequest(f'The field "{min(self._left)}" is unknown.', self.job)
