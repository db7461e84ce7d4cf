"""A child process of a batch on this machine: cases as JSON lines in, events as JSON lines out.

Requests: first {"type": "settings", "settings": {...}, "slot": N}, then any number of
{"type": "case", ...a Case's fields}, and {"type": "cancel"}. Events: `ready` with the processor's
facts, `progress`, `outcome` with an Outcome's fields, `error`. The process ends when its stdin
closes, as it does when the batch is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from typing import Any

from DiffuGTSLib.batch.case import WORKER_THREADS, BatchFailure, BatchSettings, Case
from DiffuGTSLib.batch.processor import CaseProcessor
from DiffuGTSLib.channel import Channel, ChannelClosed, Parent, Throttle, lower_priority
from DiffuGTSLib.errors import DiffuGTSError

_SECONDS_BETWEEN_EVENTS = 0.2
# A case ends at its next step once stdin has closed; one that cannot must not stay behind.
_GRACE_SECONDS = 60.0
_START_GRACE_SECONDS = 2.0


class BatchWorker:
    """Gives cases to WORKER_THREADS threads and reports how they go.

    Args:
        channel: where requests come from and events go to.
        parent: the batch; without it no case is finished.
    """

    def __init__(self, channel: Channel, parent: Parent) -> None:
        self._channel = channel
        self._parent = parent
        self._requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._cases: queue.Queue[Case | None] = queue.Queue()
        self._cancelled = threading.Event()
        self._started = threading.Event()

    def serve(self) -> int:
        """Works until stdin closes; returns the exit code."""
        threading.Thread(target=self._listen, daemon=True).start()
        first = self._requests.get()
        if first is None:
            return 0
        try:
            settings = BatchSettings.from_dict(first["settings"])
            processor = CaseProcessor(
                settings, device_of(settings, first["slot"]), self._parent.check)
        except (DiffuGTSError, RuntimeError, MemoryError) as error:
            self._channel.send("error", **BatchFailure.of(error).__dict__)
            return 1
        self._started.set()
        self._channel.send("ready", facts=processor.facts())
        threads = [threading.Thread(target=self._work, args=(processor,), daemon=True)
                   for _ in range(WORKER_THREADS)]
        for thread in threads:
            thread.start()
        while (request := self._requests.get()) is not None:
            self._take(request)
        self._cancelled.set()
        for _ in threads:
            self._cases.put(None)
        deadline = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        processor.close()
        return 0

    def _listen(self) -> None:
        """Reads stdin to its end; a start that is still under way then is given up."""
        starting = False
        try:
            for line in self._channel.lines():
                self._requests.put(json.loads(line))
                starting = True
        finally:
            self._requests.put(None)
        if starting and not self._started.is_set():
            # It waits for a model or another machine, and looks at nothing meanwhile.
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if not self._started.wait(_START_GRACE_SECONDS):
                os._exit(130)

    def _take(self, request: dict[str, Any]) -> None:
        if request["type"] == "cancel":
            self._cancelled.set()
        else:
            self._cases.put(Case.from_dict(request))

    def _work(self, processor: CaseProcessor) -> None:
        """One of the threads: case after case."""
        with contextlib.suppress(ChannelClosed):
            while (case := self._cases.get()) is not None:
                progress = _CaseProgress(self._channel, case)
                outcome = processor.process(case, progress, self._cancelled)
                self._channel.send("outcome", case.name, outcome=outcome.as_dict())


class _CaseProgress:
    """Sends a case's progress, not too often."""

    def __init__(self, channel: Channel, case: Case) -> None:
        self._channel = channel
        self._case = case.name
        self._throttle = Throttle(_SECONDS_BETWEEN_EVENTS)

    def __call__(self, stage: str, done: int, total: int, fraction: float) -> None:
        if self._throttle.passes(stage, done, total):
            self._channel.send("progress", self._case, stage=stage, done=done, total=total,
                               fraction=round(fraction, 4))


def device_of(settings: BatchSettings, slot: int) -> str:
    """The device of process number `slot`, from 0: the processes share the GPUs in turn."""
    device = settings.options.device
    if not settings.host and device in ("auto", "cuda"):
        import torch

        if torch.cuda.is_available():
            return f"cuda:{slot % torch.cuda.device_count()}"
    return device


def main() -> int:
    """`python -m DiffuGTSLib.batch.local_child`, started by local_executor.py."""
    parent, channel = Parent(), Channel()
    lower_priority()
    try:
        return BatchWorker(channel, parent).serve()
    except (KeyboardInterrupt, ChannelClosed):
        return 130


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads that are still at work may hold torch's locks; a regular exit would wait for them.
    os._exit(code)
