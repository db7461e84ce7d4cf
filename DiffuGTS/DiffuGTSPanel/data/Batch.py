"""The data of a batch: options, cases, progress, callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import MethodOptions, nothingFound


@dataclass(frozen=True)
class BatchOptions(MethodOptions):
    """Options of a batch.

    Attributes:
        resume: continue the run that is in the output folder.
        jobs: scans processed in parallel, one child process each; None is one.
        maps: also write attention, pseudo-healthy scan, residual and more.
        dicomSeg: also write DICOM segmentations of scans that are DICOM.
    """

    resume: bool = False
    jobs: int | None = None
    maps: bool = False
    dicomSeg: bool = False

    def arguments(self) -> list[str]:
        """As arguments of `diffugts batch`."""
        valued = {
            "--jobs": self.jobs, "--model": self.model, "--device": self.device,
            "--threshold": self.threshold, "--seed": self.seed, "--samples": self.samples,
            "--modality": self.modality, "--sequence": self.sequence,
            "--host": self.host or None,
        }
        given = [f"{name}={value}" for name, value in valued.items() if value is not None]
        switches = {"--resume": self.resume, "--maps": self.maps, "--dicom-seg": self.dicomSeg,
                    "--skull-stripped": self.skullStripped is True,
                    "--whole-head": self.skullStripped is False}
        return given + [name for name, on in switches.items() if on]


@dataclass
class BatchCase:
    """A scan of a batch.

    Attributes:
        name: unique in the output folder; the base name of its files.
        image: the file or DICOM folder; of a volume of the scene, its copy.
        series: DICOM series UID where the folder holds several.
        prompts: what to segment.
        status: "waiting", "running", "done", "failed", "skipped" (no scan).
        fraction: of a running case, 0 to 1.
        seconds: processing time; 0 where not known.
        results: of a done case, one a prompt: title, found, highest_score, threshold,
            needed_score, lesions.
        segmentation: of a done case, the file.
        failure: of a failed case.
        volume: the volume node, once it is in the scene.
        segments: the segmentation node, once it is in the scene.
    """

    name: str
    image: Path
    series: str
    prompts: tuple[str, ...]
    status: str = "waiting"
    fraction: float = 0.0
    seconds: float = 0.0
    results: list[dict[str, Any]] = field(default_factory=list)
    segmentation: Path | None = None
    failure: Failure | None = None
    volume: Any = None
    segments: Any = None

    @property
    def lesions(self) -> list[dict[str, Any]]:
        """Those of all prompts, as in lesions.csv."""
        return [lesion for result in self.results for lesion in result["lesions"]]

    @property
    def volumeMl(self) -> float:
        """Total volume of all lesions."""
        return _volumeMlOf(self.lesions)

    @property
    def sentence(self) -> str:
        """The outcome in words; "" before there is one."""
        if self.failure is not None:
            return self.failure.message
        return " ".join(self.sentences)

    @property
    def sentences(self) -> list[str]:
        """The outcome of each prompt in words."""
        return [_found(result) for result in self.results]


@dataclass(frozen=True)
class BatchProgress:
    """Progress of a batch.

    Attributes:
        done, failed, total: cases; those of an earlier run count as done, skipped ones not at all.
        case: the name of the one being processed; "" before the first.
        fraction: of all, 0 to 1.
        secondsLeft: None while unknown.
        text: the stage in words.
    """

    done: int
    failed: int
    total: int
    case: str
    fraction: float
    secondsLeft: float | None
    text: str


@dataclass
class BatchCallbacks:
    """Callbacks of the caller; None where there is none."""

    onProgress: Callable[[BatchRun, BatchProgress], None] | None = None
    onCase: Callable[[BatchRun, BatchCase], None] | None = None
    onFinished: Callable[[BatchRun], None] | None = None
    onError: Callable[[BatchRun, Failure], None] | None = None
    onCancelled: Callable[[BatchRun], None] | None = None

    def call(self, name: str, *values: Any) -> None:
        """Calls one of them, where there is one."""
        callback = getattr(self, name)
        if callback is not None:
            callback(*values)

    def clear(self) -> None:
        """Removes all callbacks."""
        for each in fields(self):
            setattr(self, each.name, None)


@dataclass
class BatchRun:
    """One call of `segmentBatch`, from its start on.

    Attributes:
        id: of the batch.
        prompts: as typed.
        folder: of the results.
        options: as given.
        callbacks: of the caller.
        state: "waiting", "running", "finished" (also where cases failed), "failed", "cancelled".
        cases: all that were found, in their order; none before the inputs have been searched.
        leftOut: files among the inputs that are no scans, in words; "" where there are none.
        failure: why the batch could not start or continue.
        seconds: total processing time, once it has ended.
    """

    id: str
    prompts: tuple[str, ...]
    folder: Path
    options: BatchOptions
    callbacks: BatchCallbacks
    state: str = "waiting"
    cases: list[BatchCase] = field(default_factory=list)
    leftOut: str = ""
    failure: Failure | None = None
    seconds: float = 0.0

    @property
    def active(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in ("waiting", "running")

    @property
    def report(self) -> Path | None:
        """The HTML report; None before there is one."""
        path = self.folder / "report.html"
        return path if path.is_file() else None

    def case(self, name: str) -> BatchCase:
        """The case of that name."""
        return next(each for each in self.cases if each.name == name)

    def count(self, status: str) -> int:
        """How many cases have a status."""
        return sum(each.status == status for each in self.cases)

    @property
    def sentence(self) -> str:
        """How many cases are done, failed, and so on."""
        words = {"done": _("{count} done"), "failed": _("{count} failed"),
                 "skipped": _("{count} skipped"), "waiting": _("{count} not done")}
        counts = [(text, self.count(status)) for status, text in words.items()]
        return ", ".join(text.format(count=count) for text, count in counts if count)


def leftOutText(leftOut: dict[str, Any]) -> str:
    """The files that the library left out, in words; "" where there are none."""
    count, examples = leftOut["count"], list(leftOut["examples"])
    if not count:
        return ""
    names = ", ".join(examples + (["\u2026"] if count > len(examples) else []))
    return _("Skipped, not scans: {count} ({names}).").format(count=count, names=names)


def _volumeMlOf(lesions: list[dict[str, Any]]) -> float:
    return float(sum(lesion["volume_ml"] for lesion in lesions))


def _found(result: dict[str, Any]) -> str:
    title, count = result["title"], len(result["lesions"])
    if not count:
        return nothingFound(result)
    millilitres = _volumeMlOf(result["lesions"])
    text = _("{title}: 1 lesion, {ml:.2f} ml.") if count == 1 else _(
        "{title}: {count} lesions, {ml:.2f} ml in all.")
    return text.format(title=title, count=count, ml=millilitres)
