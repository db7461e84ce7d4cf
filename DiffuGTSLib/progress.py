"""Progress and cancellation, passed down through the pipeline as one object.

How far a whole run is, from the steps of its stages, and how long it may still take.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from DiffuGTSLib.errors import Cancelled

Callback = Callable[[str, int, int], None]
# Shares of the time of a run on a CPU, per scan and per prompt; inpainting is the long part.
SCAN_STAGES = {"read": 0.5, "encode": 2.0}
PROMPT_STAGES = {"attention": 1.0, "inpaint": 6.0, "residual": 1.0, "lesions": 0.5}
_TOO_EARLY_SECONDS = 1.0
_TOO_EARLY_FRACTION = 0.02


class Progress:
    """Reports to a caller how far a run is, and stops it on request.

    Args:
        callback: called as callback(stage, done, total) between steps; what it raises stops the
            run, `Cancelled` among others.
    """

    def __init__(self, callback: Callback | None = None) -> None:
        self._callback = callback
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stops the run at its next step; may be called from any thread."""
        self._cancelled.set()

    def step(self, stage: str, done: int, total: int) -> None:
        """Reports that `done` of `total` steps of `stage` are finished.

        Raises:
            Cancelled: `cancel` was called, or the callback raised it.
        """
        if self._cancelled.is_set():
            raise Cancelled
        if self._callback is not None:
            self._callback(stage, done, total)
        if self._cancelled.is_set():
            raise Cancelled


class ProgressEstimator:
    """Turns steps of stages into one fraction that only grows, over one scan and its prompts.

    Args:
        prompts: how many prompts are run on the scan.
        encoded: the scan is encoded already, so that its stages do not count.
        clock: seconds; another one than the monotonic clock in tests.

    Attributes:
        prompt: index of the prompt that steps belong to.
        fraction: of the run that is done, 0 to 1.
    """

    def __init__(
        self, prompts: int = 1, encoded: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stages = {} if encoded else dict(SCAN_STAGES)
        self._before = sum(self._stages.values())
        self._each = sum(PROMPT_STAGES.values())
        self._total = self._before + prompts * self._each
        self.prompt = 0
        self._clock = clock
        self._start = clock()
        self.fraction = 0.0

    def start_prompt(self, index: int) -> None:
        """The stages that follow belong to prompt `index`, counted from 0."""
        self.prompt = index

    def step(self, stage: str, done: int, total: int) -> float:
        """The fraction of the run (0..1) after `done` of `total` steps of `stage`."""
        part = done / total if total > 0 else 1.0
        if stage in PROMPT_STAGES:
            reached = self._before + self.prompt * self._each
            reached += _weight(PROMPT_STAGES, stage, part)
        else:
            reached = _weight(self._stages, stage, part) if stage in self._stages else 0.0
        self.fraction = max(self.fraction, min(1.0, reached / self._total))
        return self.fraction

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None while it is too early to say."""
        elapsed = self._clock() - self._start
        if elapsed < _TOO_EARLY_SECONDS or self.fraction < _TOO_EARLY_FRACTION:
            return None
        return elapsed * (1 - self.fraction) / self.fraction


def _weight(stages: dict[str, float], stage: str, part: float) -> float:
    """Weight of the stages before `stage`, and of its finished part."""
    names = list(stages)
    before = sum(stages[name] for name in names[: names.index(stage)])
    return before + stages[stage] * part
