"""The child process in which cases are scored: one that dies costs one case, not the evaluation."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from DiffuGTSLib.errors import DiffuGTSError, explain

# Nothing heavy above: the child must ignore Ctrl+C before it imports torch.
if TYPE_CHECKING:
    from DiffuGTSLib.datasets import LabelledCase
    from DiffuGTSLib.evaluation.scoring import CaseScores, EvaluationSettings, Scorer

T = TypeVar("T")
_KILLED = -9  # by the system, which does so when memory runs out
_scorer: Scorer | None = None  # in the child alone


@dataclass(frozen=True)
class CaseFailure:
    """A case without scores, and why."""

    case: str
    code: str
    message: str
    hint: str = ""


class CaseScorer(Protocol):
    """What scores cases, in this process or in another one."""

    def score(self, case: LabelledCase) -> CaseScores | CaseFailure:
        """The scores of a case, or why there are none; raises `ModelUnusable` alone."""


class ModelUnusable(DiffuGTSError):
    """The child process could not load the model; no case can be scored."""

    def __init__(self, failure: CaseFailure) -> None:
        super().__init__(failure.message, failure.hint)
        self.code = failure.code


class ScoringProcess:
    """A child process that holds the model; replaced after it died. Use as a context manager.

    Args:
        settings: of the evaluation.
        folder: the output folder.
    """

    def __init__(self, settings: EvaluationSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._pool: ProcessPoolExecutor | None = None
        self._child: BaseProcess | None = None

    def __enter__(self) -> ScoringProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, case: LabelledCase) -> CaseScores | CaseFailure:
        """The scores of a case; a failure if it cannot be used, or if the child dies of it.

        Raises:
            ModelUnusable: the model cannot be loaded.
        """
        pool = self._pool or self._start()
        try:
            return pool.submit(_score, case).result()
        except BrokenProcessPool:
            return self._died(case)

    def close(self) -> None:
        """Ends the child, also in the middle of a case."""
        if self._child is not None:
            self._child.kill()
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = self._child = None

    def _start(self) -> ProcessPoolExecutor:
        before = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(
            max_workers=1, mp_context=multiprocessing.get_context("spawn"),
            initializer=_follow_parent,
        )
        loading = self._pool.submit(_load, self._settings, self._folder)
        self._child = (set(multiprocessing.active_children()) - before).pop()
        try:
            failure = loading.result()
        except BrokenProcessPool:
            failure = CaseFailure("", "worker-died", "The process that scores ended while it "
                                  "loaded the model.", "Run: diffugts doctor")
        if failure is not None:
            self.close()
            raise ModelUnusable(failure)
        return self._pool

    def _died(self, case: LabelledCase) -> CaseFailure:
        """The failure of a case whose child ended, by the exit code of that child."""
        assert self._pool is not None
        assert self._child is not None
        self._pool.shutdown()  # waits for the child; two threads must not
        code = self._child.exitcode
        self._pool = self._child = None
        likely = " It probably ran out of memory." if code == _KILLED else ""
        return CaseFailure(case.name, "worker-died",
                           f"The process that scored it ended (exit code {code}).{likely}",
                           "Crop the scan, or use a machine with more memory." if likely else "")


def _follow_parent() -> None:
    """Runs first in the child: leaves Ctrl+C to the parent, and ends when the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _load(settings: EvaluationSettings, folder: Path) -> CaseFailure | None:
    """In the child: loads the model; None, or why that was not possible."""
    def load() -> None:
        from DiffuGTSLib.evaluation.scoring import Scorer

        global _scorer
        _scorer = Scorer(settings, folder)

    return attempt("", load)


def _score(case: LabelledCase) -> CaseScores | CaseFailure:
    """In the child: scores a case with the model of `_load`."""
    assert _scorer is not None
    scorer = _scorer
    return attempt(case.name, lambda: scorer.score(case))


def attempt(name: str, work: Callable[[], T]) -> T | CaseFailure:
    """What `work` returns, or the failure of case `name` that it ended in."""
    try:
        return work()
    except Exception as error:
        known = explain(error)
        return CaseFailure(name, known.code, known.message, known.hint)
