"""The process in which cases are scored: one that dies costs one case, not the evaluation."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from DiffuGTSLib.datasets.case import LabelledCase
from DiffuGTSLib.errors import DiffuGTSError

if TYPE_CHECKING:
    from DiffuGTSLib.evaluation.scoring import CaseScores, Settings

_ENDING_SECONDS = 10
_KILLED = -9  # by the system, which does so when memory runs out


@dataclass(frozen=True)
class Failure:
    """A case without scores, and why."""

    case: str
    code: str
    message: str
    hint: str = ""


class Scores(Protocol):
    """Where cases are scored."""

    def score(self, case: LabelledCase) -> CaseScores | Failure:
        """The scores of a case, or why there are none; raises `ModelUnusable` alone."""


class ModelUnusable(DiffuGTSError):
    """The process could not load the model; no case can be scored."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, failure.hint)
        self.code = failure.code


class Place:
    """A child process that holds the model. Use as a context manager.

    Args:
        settings: of the evaluation.
        folder: the output folder.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(self, case: LabelledCase) -> CaseScores | Failure:
        """The scores of a case; a failure if it cannot be used, or if the process dies of it.

        Raises:
            ModelUnusable: the model cannot be loaded.
        """
        pipe = self._started()
        try:
            pipe.send(case)
            answer = pipe.recv()
        except (EOFError, OSError):
            return self._died(case)
        return answer

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.terminate()
            self._process.join(_ENDING_SECONDS)
            if self._process.is_alive():
                self._process.kill()
        self._process = self._pipe = None

    def _started(self) -> Connection:
        if self._pipe is not None:
            return self._pipe
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._settings, self._folder), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            trouble = self._pipe.recv()
        except (EOFError, OSError):
            trouble = Failure("", "worker-died", "The process that scores ended while it loaded "
                              "the model.", "Run: diffugts doctor")
        if trouble is not None:
            self.close()
            raise ModelUnusable(trouble)
        return self._pipe

    def _died(self, case: LabelledCase) -> Failure:
        process = self._process
        if process is not None:
            process.join(_ENDING_SECONDS)
        code = process.exitcode if process is not None else None
        self.close()
        likely = " It probably ran out of memory." if code == _KILLED else ""
        return Failure(case.name, "worker-died",
                       f"The process that scored it ended (exit code {code}).{likely}",
                       "Crop the scan, or use a machine with more memory." if likely else "")


def _serve(pipe: Connection, settings: Settings, folder: Path) -> None:
    """The child: loads the model, says None or why not, then answers cases until the pipe ends."""
    # Ctrl-C reaches the whole group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from DiffuGTSLib.evaluation.scoring import Scorer

    scorers: list[Scorer] = []
    pipe.send(attempt("", lambda: scorers.append(Scorer(settings, folder))))
    with suppress(EOFError, OSError):  # the parent has ended, in the middle of a case perhaps
        while scorers:
            case = pipe.recv()
            pipe.send(attempt(case.name, partial(scorers[0].score, case)))


def attempt(name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns, or the failure that it ended in."""
    try:
        return work()
    except DiffuGTSError as error:
        return Failure(name, error.code, error.message, error.hint)
    except MemoryError:
        return Failure(name, "out-of-memory", "There is not enough memory for this scan.",
                       "Crop the scan to the region.")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Failure(name, "internal", "Something went wrong inside the program.",
                       f"Report this: {type(error).__name__} in {Path(last.filename).name}, "
                       f"line {last.lineno}.")
