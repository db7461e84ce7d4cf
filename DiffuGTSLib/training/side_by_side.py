"""Parts of a workshop made at the same time, each by a process of its own."""

from __future__ import annotations

import multiprocessing
import queue
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any

import torch

from DiffuGTSLib.errors import DiffuGTSError, TrainingImpossible
from DiffuGTSLib.training.workshop import Workshop

_LOOK_SECONDS = 1.0
_ENDING_SECONDS = 10.0


@dataclass(frozen=True)
class _Line:
    """What a process says: a line of its log, or at its end `error` (None: all went well)."""

    part: str
    text: str = ""
    ended: bool = False
    error: DiffuGTSError | None = None


def make(
    shop: Workshop, parts: Sequence[str], threads: int, tell: Callable[[str, str], None],
    made: Callable[[str], None],
) -> None:
    """Makes the parts, which are methods of the workshop; threads are shared out among them.

    Args:
        tell: is given a part and a line of its log.
        made: is given each part at its end.

    Raises:
        TrainingImpossible: a process was ended from outside; the others are ended, too.
        DiffuGTSError: what one of them raised.
    """
    context = multiprocessing.get_context("spawn")
    lines: Queue[_Line] = context.Queue()
    share = max(1, threads // len(parts))
    # No daemons: those may not have the processes that draw windows ahead.
    at_work = {part: context.Process(target=_make, args=(shop, part, share, lines), name=part)
               for part in parts}
    try:
        for process in at_work.values():
            process.start()
        while at_work:
            line = _next(lines, at_work)
            if line.error is not None:
                raise line.error
            if line.ended:
                at_work.pop(line.part).join()
                made(line.part)
            elif line.text:
                tell(line.part, line.text)
    finally:
        for process in at_work.values():
            process.terminate()
            process.join(_ENDING_SECONDS)
            if process.is_alive():
                process.kill()


def _next(lines: Queue[_Line], at_work: Mapping[str, BaseProcess]) -> _Line:
    """The next line, as soon as there is one.

    Raises:
        TrainingImpossible: none will come from one of the processes.
    """
    while True:
        gone = [part for part, process in at_work.items() if not process.is_alive()]
        try:
            return lines.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            if gone:  # and what it said before has been read
                code = at_work[gone[0]].exitcode
                raise TrainingImpossible(
                    f"The process that trained {gone[0]} ended (exit code {code}).",
                    "Start the same command again: it continues from the last checkpoint.",
                ) from None


def _make(shop: Workshop, part: str, threads: int, lines: Queue[_Line]) -> None:
    """The child: makes one part; ends where nobody listens any more."""
    # Ctrl-C reaches the whole group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    parent: Any = multiprocessing.parent_process()

    def tell(text: str) -> None:
        if not parent.is_alive():
            raise SystemExit("The process that started this one has ended.")
        lines.put(_Line(part, text))

    try:
        getattr(replace(shop, tell=tell), part)()
    except DiffuGTSError as error:
        lines.put(_Line(part, ended=True, error=error))
    else:
        lines.put(_Line(part, ended=True))
