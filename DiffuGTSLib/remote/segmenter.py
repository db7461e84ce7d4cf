"""A segmenter whose networks run on another machine: for the command line and for batches."""

from __future__ import annotations

import contextlib
import itertools
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from DiffuGTSLib.errors import (
    Cancelled,
    DiffuGTSError,
    ModelDamaged,
    OutputNotWritten,
    SequenceUnknown,
)
from DiffuGTSLib.files import CACHE_VARIABLE, session_folder
from DiffuGTSLib.pipeline import Lesion, Options, Result
from DiffuGTSLib.progress import Callback, Progress, ProgressEstimator
from DiffuGTSLib.prompt import Prompt, understand
from DiffuGTSLib.prompt.parsing import refuse_early
from DiffuGTSLib.remote.address import Address
from DiffuGTSLib.remote.connection import Connection, Event
from DiffuGTSLib.remote.failures import RemoteError
from DiffuGTSLib.remote.frames import StreamDamaged
from DiffuGTSLib.scan import Scan
from DiffuGTSLib.scan.header import quiet
from DiffuGTSLib.scan.nifti import keep_forms, states_sides
from DiffuGTSLib.scan.region import NAMELESS, Region, RegionFile

_POLL_SECONDS = 0.2
_CANCEL_SECONDS = 30.0
_IMAGES = ("mask", "attention", "pseudo_healthy", "residual", "uncertainty", "probability")


class SidesUnknown(DiffuGTSError):
    """The prompt names a side, and the scan's file does not say which side is which."""

    code = "sides-unknown"

    def __init__(self) -> None:
        super().__init__("The scan's file does not say which side is left.",
                         "Leave “left” or “right” out of the prompt.")


class ReceivedResult(Result):
    """A result that came from another machine; its images are there, the networks' evidence is not.

    Args:
        event: the worker's `result`.
        scan: as this machine read it.
        images: by name.
        model: its name.
        within: what the search was limited to; "" for nothing. Its name stayed here.
    """

    def __init__(
        self, event: Event, scan: Scan, images: dict[str, sitk.Image], model: str,
        within: str = "",
    ) -> None:
        notes = [note.replace(NAMELESS, within) if within else note for note in event["notes"]]
        known = {"prompt": _prompt(event), "image": scan.image, "threshold": event["threshold"],
                 "notes": tuple(dict.fromkeys([*scan.notes, *notes])), "model": model,
                 "reliability": event["reliability"], "modality_reason": scan.modality_reason,
                 "within": within}
        defaults = {each.name: each.default for each in fields(Result)}
        self.__dict__.update(defaults | known | {"evidence": None, "canonical": None})
        labels = images["mask"]  # the lesions' numbers: so the worker sends them
        self.__dict__.update(images, labels=labels, mask=labels > 0, _event=event)

    @property
    def modality(self) -> str:
        """"CT" or "MR"."""
        return str(self.__dict__["_event"]["modality"])

    @property
    def highest_score(self) -> float:
        """See Result."""
        return float(self.__dict__["_event"]["highest_score"])

    @property
    def needed_score(self) -> float:
        """See Result."""
        return float(self.__dict__["_event"]["needed_score"])

    @cached_property
    def lesions(self) -> list[Lesion]:
        """As the other machine measured them, largest first."""
        return [_lesion(each) for each in self.__dict__["_event"]["lesions"]]

    def with_threshold(self, threshold: float) -> Result:
        """Not here: the scores are on the other machine.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("run again with that threshold")


def _lesion(entries: dict[str, Any]) -> Lesion:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value
                              for key, value in entries.items()}
    return Lesion(**values)


def _prompt(event: Event) -> Prompt:
    """What a result's prompt is here: its names; the networks' texts stay on the other side."""
    return Prompt(event["prompt"], "", "", "", event["title"], event["known"], (), (), (),
                  event["terminology"], "any", ())


@dataclass(frozen=True)
class UnsentScan:
    """A scan that was read here and waits for its turn."""

    scan: Scan


class RemoteSegmenter:
    """Does what `pipeline.Segmenter.segment_all` does, on another machine.

    The scan is read here, by this machine's file formats and checks; the voxels travel, without any
    tag and under a name that says nothing. `close` it.

    Args:
        address: of the machine.
        model, device: of the machine.

    Raises:
        DiffuGTSError: there is no connection, or the worker does not start there.
    """

    def __init__(self, address: Address, model: str = "embedded", device: str = "auto") -> None:
        self._address, self._wanted = address, (model, device)
        self._numbers = itertools.count(1)
        self._folder = session_folder("sending")
        self._turn = threading.Lock()
        self._events: queue.Queue[Event] = queue.Queue()
        self._connection: Connection | None = None
        try:
            self.ready = self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def model_name(self) -> str:
        """Of the model that is used there."""
        return str(self.ready["model"])

    @property
    def fingerprint(self) -> str:
        """The model's, as `Package.fingerprint`."""
        return str(self.ready["model_sha256"])

    @property
    def device(self) -> str:
        """Where the networks run, with the machine's name."""
        return f"{self.ready['device']} on {self._address.host}"

    def prepare(self, scan: Scan) -> UnsentScan:
        """The same as of a local segmenter, which brings it to the model's grid; here it waits."""
        return UnsentScan(scan)

    def segment_all(
        self, scan: Scan | UnsentScan, prompts: Sequence[str], options: Options | None = None, *,
        progress: Callback | Progress | None = None, estimator: ProgressEstimator | None = None,
        within: RegionFile | None = None,
    ) -> Iterator[Result]:
        """Runs prompts on a scan; see `pipeline.Segmenter.segment_all`.

        A connection that was lost before is made again.

        Raises:
            DiffuGTSError: whatever kind fits, on either machine.
        """
        own = scan.scan if isinstance(scan, UnsentScan) else scan
        refuse_early(list(prompts))
        region = within.read() if within is not None else None
        if region is not None:
            region.notes_on(own.image)  # another scan's is refused before anything travels
        if not states_sides(own.image) and any(map(_names_side, prompts)):
            raise SidesUnknown  # the voxels travel without what their file says of its grid
        steps = progress if isinstance(progress, Progress) else Progress(progress)
        with self._turn:
            if self._connection is None or not self._connection.running:
                self._connect_again()
            yield from self._results(own, prompts, options or Options(), steps, estimator, region)

    def close(self) -> None:
        """Ends the connection and removes the scans' copies."""
        if self._connection is not None:
            self._connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connect_again(self) -> None:
        """After a connection was lost: the results have to go on with the same model.

        Raises:
            ModelDamaged: it is another one now.
        """
        ready = self._connect()
        if ready["model_sha256"] != self.fingerprint:
            raise ModelDamaged("The model on the other machine has changed meanwhile.",
                               "Start again, into another folder.")
        self.ready = ready

    def _connect(self) -> Event:
        if self._connection is not None:
            self._connection.close()
        events: queue.Queue[Event] = queue.Queue()
        self._events = events
        self._connection = Connection(self._address, events.put)
        self._connection.start(*self._wanted)
        while (event := events.get())["type"] != "ready":
            if event["type"] == "error":
                raise _known(event)
        return event

    def _results(
        self, scan: Scan, prompts: Sequence[str], options: Options, steps: Progress,
        estimator: ProgressEstimator | None, within: Region | None,
    ) -> Iterator[Result]:
        job = f"job-{next(self._numbers)}"
        folder = self._folder / job
        request = {
            "type": "segment", "id": job, "prompt": list(prompts),
            "folder": str(folder / "results"),
            "seed": options.seed, "threshold": options.threshold, "samples": options.samples,
            "modality": scan.modality, "sequence": scan.sequence or None,
            "skull_stripped": scan.skull_stripped if scan.modality == "MR" else None,
            "image": str(folder / "scan.nrrd"), "within": None,
        }
        try:
            folder.mkdir()
            _write(scan.image, folder / "scan.nrrd")
            if within is not None:
                _write(within.image, folder / "region.nrrd")
                # Its own name, which may be a patient's, stays here.
                request |= {"within": str(folder / "region.nrrd"), "within_name": NAMELESS}
            assert self._connection is not None
            self._connection.request(request)
            for event in self._until_done(job, steps, estimator):
                yield ReceivedResult(event, scan, _images(event, scan.image), self.model_name,
                                     within.name if within is not None else "")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _until_done(
        self, job: str, steps: Progress, estimator: ProgressEstimator | None
    ) -> Iterator[Event]:
        """The results' events; progress and a cancel go their way meanwhile."""
        last = ("read", 1, 1)
        steps.step("read", 0, 1)
        while True:
            try:
                event = self._events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                event = {"type": "none", "id": job}
            if event["id"] not in (None, job):
                continue
            if event["type"] == "error":
                raise _known(event)
            if event["type"] == "progress":
                if estimator is not None:
                    estimator.start_prompt(event["index"])
                last = event["stage"], event["done"], event["total"]
            try:
                steps.step(*last)
            except BaseException:
                self._cancel(job)
                raise
            if event["type"] == "result":
                yield event
                if event["index"] == event["count"] - 1:
                    return

    def _cancel(self, job: str) -> None:
        """Cancels a job there and waits until it has stopped."""
        assert self._connection is not None
        self._connection.request({"type": "cancel", "id": job})
        with contextlib.suppress(queue.Empty):
            while self._connection.running:
                event = self._events.get(timeout=_CANCEL_SECONDS)
                if event["type"] in ("cancelled", "error"):
                    return
                if event["type"] == "result" and event["index"] == event["count"] - 1:
                    return


def _names_side(prompt: str) -> bool:
    try:
        return bool(understand(prompt).side)
    except DiffuGTSError:
        return False  # words that only the other machine's text encoder may know


def _known(event: Event) -> DiffuGTSError:
    """The exception that an error event means; those that callers look for have their class."""
    if event["code"] == SequenceUnknown.code:
        return SequenceUnknown("", event["suggestions"])
    if event["code"] == Cancelled.code:
        return Cancelled()
    return RemoteError(event)


def _write(image: sitk.Image, path: Path) -> None:
    """The voxels and their grid, without tags.

    Raises:
        OutputNotWritten: the disk is full.
    """
    plain = sitk.Image(image)
    for key in plain.GetMetaDataKeys():
        plain.EraseMetaData(key)
    try:
        with quiet():
            sitk.WriteImage(plain, str(path), useCompression=False)
    except RuntimeError:
        raise OutputNotWritten(
            "The scan could not be copied for its way to the other machine.",
            f"Free some space on this computer, or set {CACHE_VARIABLE} to another folder.",
        ) from None


def _images(event: Event, scan: sitk.Image) -> dict[str, sitk.Image]:
    """The volumes of a result, read into memory; their grid is the scan's own.

    Raises:
        StreamDamaged: they are no volumes on the scan's grid.
    """
    images = {}
    for name in _IMAGES:
        try:
            with quiet():
                image = sitk.ReadImage(event[name])
        except (RuntimeError, KeyError):
            raise StreamDamaged from None
        if image.GetSize() != scan.GetSize():
            raise StreamDamaged
        image.CopyInformation(scan)
        images[name] = keep_forms(scan, image)
    return images
