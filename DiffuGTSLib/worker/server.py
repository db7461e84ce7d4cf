"""The background process: it holds the model, reads requests on stdin, writes events on stdout.

protocol.py describes the messages. Jobs run one after the other on the main thread; a
second thread reads stdin, so that a cancel is seen while a job runs.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DiffuGTSLib.channel import Channel, ChannelClosed, Id, Throttle, lower_priority
from DiffuGTSLib.errors import Cancelled, DiffuGTSError, explain
from DiffuGTSLib.output import describe
from DiffuGTSLib.progress import Progress, ProgressEstimator
from DiffuGTSLib.scan.file_checks import file_states
from DiffuGTSLib.worker.job_files import JobFiles
from DiffuGTSLib.worker.protocol import BadRequest, Cancel, Quit, Segment, Threshold, parse

if TYPE_CHECKING:
    from DiffuGTSLib.pipeline import EncodedScan, Preview, Result, Segmenter

Stamp = tuple[object, ...]
ScanKey = tuple[Stamp | None, str | None, str | None, bool | None]

VOLUMES = ("attention", "pseudo_healthy", "residual", "uncertainty", "probability")
# A run stops within one step once stdin has closed; a worker that cannot must not stay behind.
GRACE_SECONDS = 60.0
# Of all kept results together; 100 million are about 2.5 GB of maps.
KEPT_VOXELS = 100_000_000
_SECONDS_BETWEEN_EVENTS = 0.1


def stamp(path: Path) -> Stamp | None:
    """What identifies the state of a scan on disk: paths, sizes and times of its files.

    None where that cannot be found out.
    """
    try:
        return tuple(file_states(path)) or None
    except (OSError, ValueError):
        return None


def _key(request: Segment) -> ScanKey:
    """What has to be the same so that an encoded scan can be used again."""
    options = request.options
    return stamp(request.image), options.modality, options.sequence, options.skull_stripped


class ResultNotKept(DiffuGTSError):
    """A new threshold was requested for a result that the worker no longer holds."""

    code = "result-not-kept"


class _Job:
    """A request on its way: its progress object, and its progress events."""

    def __init__(self, request: Segment | Threshold, channel: Channel) -> None:
        self.request = request
        self.progress = Progress(self._report)
        self.estimator = ProgressEstimator()
        self._channel = channel
        self._cancelled = False
        self._throttle = Throttle(_SECONDS_BETWEEN_EVENTS)

    @property
    def index(self) -> int:
        """Of the prompt that steps belong to."""
        return self.estimator.prompt

    @property
    def prompt(self) -> str | None:
        """The text of that prompt; None where the request has none."""
        return self.request.prompts[self.index] if isinstance(self.request, Segment) else None

    def cancel(self) -> None:
        """Stops the job at its next step; may be called from any thread."""
        self._cancelled = True
        self.progress.cancel()

    def check(self) -> None:
        """Raises `Cancelled` when the job is to stop; between the steps of the method."""
        if self._cancelled:
            raise Cancelled

    def _report(self, stage: str, done: int, total: int) -> None:
        fraction = self.estimator.step(stage, done, total)
        if not self._throttle.passes(stage, done, total):
            return
        left = self.estimator.seconds_left
        self._channel.send(
            "progress", self.request.id, index=self.index, prompt=self.prompt, stage=stage,
            done=done, total=total, fraction=round(fraction, 4),
            seconds_left=None if left is None else round(left, 1),
        )


class WorkerServer:
    """The loop of the background process.

    Args:
        channel: where requests come from and events go to.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._requests: queue.Queue[_Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._jobs: dict[Id, _Job] = {}  # waiting and running ones
        self._running: Id | None = None
        self._ending = threading.Event()
        self._files: JobFiles | None = None
        self._scan: tuple[ScanKey, EncodedScan] | None = None
        self._results: OrderedDict[Id, list[Result]] = OrderedDict()

    def serve(self, load: Callable[[], Segmenter]) -> None:
        """Loads the model and works until stdin closes, `quit` comes or nobody reads the events.

        Raises:
            DiffuGTSError: the model cannot be loaded.
        """
        threading.Thread(target=self._listen, name="stdin", daemon=True).start()
        try:
            self._segmenter = load()
            self._channel.send("ready", **_facts(self._segmenter))
            while (job := self._requests.get()) is not None and not self._ending.is_set():
                self._work(job)
        except ChannelClosed:
            return

    def _listen(self) -> None:
        """Reads stdin to its end; runs on a thread of its own."""
        try:
            for line in self._channel.lines():
                try:
                    if not self._take(line):
                        break
                except BadRequest as error:
                    self._channel.send_error(error, error.job)
        except ChannelClosed:
            pass
        self._end()

    def _take(self, line: bytes) -> bool:
        """Puts a request into the queue; cancels at once; False for `quit`."""
        request = parse(line)
        if isinstance(request, Quit):
            return False
        if isinstance(request, Cancel):
            self._cancel(request.id)
            return True
        job = _Job(request, self._channel)
        with self._lock:
            if request.id in self._jobs:
                raise BadRequest("A job with that id is at work already.", request.id)
            self._jobs[request.id] = job
        self._requests.put(job)
        return True

    def _cancel(self, job: Id) -> None:
        with self._lock:
            waiting = job in self._jobs and job != self._running
            if waiting:
                del self._jobs[job]
            elif job in self._jobs:
                self._jobs[job].cancel()
        if waiting:
            self._channel.send("cancelled", job)

    def _end(self) -> None:
        """Stops the running job and the loop; ends the process by force if that takes too long."""
        self._ending.set()
        with self._lock:
            for job in self._jobs.values():
                job.cancel()
        self._requests.put(None)
        time.sleep(GRACE_SECONDS)
        if self._files is not None:
            self._files.remove_unfinished()
        os._exit(1)

    def _work(self, job: _Job) -> None:
        """Runs one job; whatever goes wrong becomes an event."""
        request = job.request
        with self._lock:
            if request.id not in self._jobs:
                return  # cancelled while it waited
            self._running = request.id
        try:
            if isinstance(request, Segment):
                self._segment(job, request)
            else:
                self._threshold(job, request)
        except Cancelled:
            self._release(request.id)
            self._channel.send("cancelled", request.id)
        except ChannelClosed:
            raise
        except Exception as error:
            known = explain(error)
            if known is not error:
                _print_trace(error)
            self._release(request.id)
            self._channel.send_error(known, request.id)

    def _release(self, job: Id) -> None:
        """Ends a job before its last event is sent: the answer to that may use the id again."""
        with self._lock:
            self._jobs.pop(job, None)
            self._running = None

    def _segment(self, job: _Job, request: Segment) -> None:
        key = _key(request)
        kept = self._kept_scan(key)
        job.estimator = ProgressEstimator(len(request.prompts), encoded=kept is not None)

        def keep(encoded: EncodedScan) -> None:
            self._scan = key, encoded

        found = self._segmenter.segment_all(
            kept or request.image, request.prompts, request.options, progress=job.progress,
            estimator=job.estimator, on_encoded=keep,
            preview=lambda index, preview: self._preview(job, preview), within=request.within,
        )
        if kept is None:
            self._scan = None  # its memory is needed for the next one
        self._files = JobFiles(request.folder)
        results = []
        for result in found:
            self._send_result(job, result, VOLUMES, len(request.prompts))
            results.append(result)
        self._keep(request.id, results)

    def _kept_scan(self, key: ScanKey) -> EncodedScan | None:
        """The scan as an earlier job has encoded it; None where that was another one."""
        known = self._scan is not None and self._scan[0] == key and key[0] is not None
        return self._scan[1] if self._scan and known else None

    def _threshold(self, job: _Job, request: Threshold) -> None:
        if request.result not in self._results:
            raise ResultNotKept("That result is no longer held by the worker.",
                                "Run the prompt again.")
        results = [r.with_threshold(request.threshold) for r in self._results[request.result]]
        self._files = JobFiles(request.folder)
        for index, result in enumerate(results):
            job.estimator.start_prompt(index)
            self._send_result(job, result, (), len(results))

    def _preview(self, job: _Job, preview: Preview) -> None:
        paths = self._write(job, preview, {name: name for name in ("attention", "candidates")},
                            f"-preview-{job.index + 1}")
        self._channel.send("preview", job.request.id, index=job.index, prompt=job.prompt, **paths)

    def _send_result(
        self, job: _Job, result: Result, volumes: Sequence[str], count: int
    ) -> None:
        attributes = {"mask": "labels", **{name: name for name in volumes}}
        paths = self._write(job, result, attributes, f"-{job.index + 1}")
        if job.index == count - 1:
            self._release(job.request.id)
        self._channel.send(
            "result", job.request.id, index=job.index, count=count, **describe(result), **paths
        )

    def _write(
        self, job: _Job, images: Result | Preview, attributes: Mapping[str, str], ending: str
    ) -> dict[str, str]:
        """Paths by plain name of what the `attributes` give; `ending` keeps the files of several
        prompts apart."""
        assert self._files is not None
        makers = {f"{name}{ending}": partial(getattr, images, attribute)
                  for name, attribute in attributes.items()}
        paths = self._files.write(makers, job.check)
        return {name: paths[f"{name}{ending}"] for name in attributes}

    def _keep(self, job: Id, results: list[Result]) -> None:
        """Keeps the results for `threshold`; the oldest go when they are too many voxels."""
        self._results.pop(job, None)
        self._results[job] = results

        def voxels() -> int:
            every = [result for kept in self._results.values() for result in kept]
            return sum(result.mask.GetNumberOfPixels() for result in every)

        while len(self._results) > 1 and voxels() > KEPT_VOXELS:
            self._results.popitem(last=False)


def _facts(segmenter: Segmenter) -> dict[str, Any]:
    """The fields of the `ready` event."""
    import torch

    from DiffuGTSLib import __version__

    return {"version": __version__, "python": sys.version.split()[0],
            "torch": str(torch.__version__), "device": str(segmenter.device),
            "model": segmenter.model_name, "model_sha256": segmenter.fingerprint,
            **_memory(str(segmenter.device))}


def _memory(device: str) -> dict[str, float]:
    """GiB of the device's memory, or of the machine's."""
    import psutil
    import torch

    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
    else:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
    return {"memory_free_gb": round(free / 2**30, 1), "memory_total_gb": round(total / 2**30, 1)}


def _print_trace(error: Exception) -> None:
    """The traceback on stderr, with file names instead of full paths, which may name a patient."""
    for frame in traceback.extract_tb(error.__traceback__):
        print(f"  {Path(frame.filename).name}:{frame.lineno} {frame.name}", file=sys.stderr)
    message = " ".join(Path(word).name for word in str(error).split())
    print(f"{type(error).__name__}: {message}", file=sys.stderr, flush=True)


def run_worker(model: str = "embedded", device: str = "auto") -> int:
    """Runs the worker on this process's stdin and stdout; returns the exit code."""
    channel = Channel()

    def load() -> Segmenter:
        from DiffuGTSLib.pipeline import Segmenter

        return Segmenter.from_pretrained(model, device)

    lower_priority()
    try:
        WorkerServer(channel).serve(load)
    except KeyboardInterrupt:
        return 130
    except DiffuGTSError as error:
        channel.send_error(error)
        return 1
    except ImportError as error:
        _print_trace(error)
        channel.send_error(DiffuGTSError(
            f"The Python package {error.name} is not installed or damaged.",
            "Run `diffugts doctor` in the worker's Python; it says what to install."))
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m DiffuGTSLib.worker [--model NAME] [--device auto]`."""
    parser = argparse.ArgumentParser(prog="python -m DiffuGTSLib.worker", description=__doc__)
    parser.add_argument("--model", default="embedded", help="catalogue name or folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    options = parser.parse_args(arguments)
    return run_worker(options.model, options.device)
