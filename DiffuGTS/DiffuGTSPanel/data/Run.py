"""The data of a run: options, results, progress, callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure

EVIDENCE = ("attention", "residual", "uncertainty", "probability", "pseudo_healthy")
Colour = tuple[float, float, float]
Position = tuple[float, float, float]


@dataclass(frozen=True)
class MethodOptions:
    """Options of the method, for one scan or a batch.

    Attributes:
        seed: the same seed gives the same segments.
        threshold: of the score, 0 to 1; None is the model's own.
        modality: "CT", "MR", or None to detect it for each scan.
        model: catalogue name or folder.
        device: "auto", "cpu", "cuda:0" ...
        samples: pseudo-healthy samples to draw; None is the model's own number.
        sequence: of MR scans, "t1", "t1c", "t2", "flair" or "other"; None reads the name.
        skullStripped: whether the skull was removed; None reads the scan's name.
        host: another computer whose networks are used, over SSH: `[user@]host[:PROGRAM]`; model and
            device are that computer's then. "" is this computer.
    """

    seed: int = 0
    threshold: float | None = None
    modality: str | None = None
    model: str = "embedded"
    device: str = "auto"
    samples: int | None = None
    sequence: str | None = None
    skullStripped: bool | None = None
    host: str = ""


@dataclass(frozen=True)
class Options(MethodOptions):
    """Options of a run.

    Attributes:
        frames: "this" or "all" frames of a sequence.
    """

    frames: str = "this"


@dataclass(frozen=True)
class ParsedPrompt:
    """How a prompt is understood.

    Attributes:
        text: as typed.
        ok: whether it can be run.
        sentence: the reading in words, or why there is none.
        title: the canonical name.
        anatomy, finding: in words; no anatomy means anywhere.
        modalities: in which the model was trained on that anatomy.
        known: every word is in the vocabulary.
        suggestions: closest matches that are understood, where this one is not.
        hint: what to do then.
        hasUnknownWords: some words are not in the vocabulary; the worker's text encoder may
            still understand them.
    """

    text: str
    ok: bool
    sentence: str
    title: str = ""
    anatomy: str = ""
    finding: str = ""
    modalities: tuple[str, ...] = ()
    known: bool = True
    suggestions: tuple[str, ...] = ()
    hint: str = ""
    hasUnknownWords: bool = False


@dataclass(frozen=True)
class ModelEntry:
    """A model of the catalogue or the store.

    Attributes:
        name, title, purpose: for programs, for people, what it is for.
        modalities: of "CT", "MR".
        licence, licenceUrl: name, and where its text is.
        sizeMb: on disk where installed, else as expected; None where not known.
        installed: its files are there.
        ready: it can segment.
        message: its state in a sentence.
        trainedOn, scores: as its makers state.
        actions: of "download", "verify", "remove", those that make sense now.
    """

    name: str
    title: str
    purpose: str
    modalities: tuple[str, ...]
    licence: str
    licenceUrl: str
    sizeMb: float | None
    installed: bool
    ready: bool
    message: str
    trainedOn: str
    scores: dict[str, Any]
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        stage: prepare, start, sending, read, encode, attention, inpaint, residual, lesions,
            receiving, receive.
        index, prompt: the prompt being processed.
        done, total: steps of the stage.
        fraction: of the whole run, 0 to 1.
        secondsLeft: None while unknown.
        text: the stage in words.
    """

    stage: str
    index: int
    prompt: str
    done: int
    total: int
    fraction: float
    secondsLeft: float | None
    text: str


@dataclass(frozen=True)
class Preview:
    """The first scene nodes, before inpainting begins; on the volume's grid."""

    index: int
    prompt: str
    attentionNode: Any
    candidatesNode: Any


@dataclass(frozen=True)
class Lesion:
    """A lesion and its segment.

    Attributes:
        number: 1 is the largest of its prompt.
        name: of the segment.
        segmentId: in the run's segmentation; "" where the user's edited one keeps the segment.
        volumeMl, longestMm, perpendicularMm: as DiffuGTSLib/pipeline/lesions.py measures them.
        score, maxScore: mean and maximum, 0 to 1.
        sliceRange: first and last slice, counted from 0, along the axis nearest to superior.
        position: of its centre, world RAS, mm.
        kept: whether its segment is in the segmentation.
        colour: red, green, blue, 0 to 1.
        index: of its prompt.
    """

    number: int
    name: str
    segmentId: str
    volumeMl: float
    longestMm: float
    perpendicularMm: float
    score: float
    maxScore: float
    sliceRange: tuple[int, int]
    position: Position
    kept: bool
    colour: Colour
    index: int


@dataclass(frozen=True)
class LesionMask:
    """The mask of one lesion.

    Attributes:
        array: (K, J, I) uint8, 1 in the lesion; of the size of its bounding box.
        start: index (i, j, k) of its first voxel on the volume's own grid.
    """

    array: np.ndarray
    start: tuple[int, int, int]

    def overlap(self, other: LesionMask) -> int:
        """The number of voxels in both."""
        starts = np.maximum(self.start, other.start)
        ends = np.minimum(np.add(self.start, self.array.shape[::-1]),
                          np.add(other.start, other.array.shape[::-1]))
        if (starts >= ends).any():
            return 0
        views = []
        for mask in (self, other):
            i, j, k = (slice(a, b) for a, b in zip(
                starts - mask.start, ends - mask.start, strict=True))
            views.append(mask.array[k, j, i])
        return int(np.count_nonzero(views[0] & views[1]))


@dataclass
class PromptResult:
    """The result of one prompt.

    Attributes:
        index, prompt, title: position and text of the prompt, and its canonical name.
        found: whether any lesion was found.
        highestScore, threshold: 0 to 1.
        terminology: of the segments, as Slicer writes it.
        sentence: the outcome in words.
        lesions: largest first.
        masks: their voxels, by number.
        evidence: volume nodes that have been read so far, by kind.
        files: where the evidence lies, by kind.
        frame: of the sequence; None without one.
        notes: further sentences to show with it.
        reliability: how good the model is here, a sentence; "" where it does not say.
        modality: what the scan was taken for, and why; a sentence.
    """

    index: int
    prompt: str
    title: str
    found: bool
    highestScore: float
    threshold: float
    terminology: str
    sentence: str
    lesions: list[Lesion] = field(default_factory=list)
    masks: dict[int, LesionMask] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    frame: int | None = None
    notes: list[str] = field(default_factory=list)
    reliability: str = ""
    modality: str = ""


@dataclass
class Callbacks:
    """Callbacks of the caller; None where there is none."""

    onProgress: Callable[[Run, Progress], None] | None = None
    onPreview: Callable[[Run, Preview], None] | None = None
    onFinished: Callable[[Run], None] | None = None
    onError: Callable[[Run, Failure], None] | None = None
    onCancelled: Callable[[Run], None] | None = None
    onUpdated: Callable[[Run], None] | None = None

    def clear(self) -> None:
        """Removes all callbacks."""
        for each in fields(self):
            setattr(self, each.name, None)


@dataclass
class Run:
    """One call of `segmentAsync`, from its start on.

    Attributes:
        id: of the run.
        prompts: as typed.
        options: as given.
        callbacks: of the caller.
        state: "waiting", "running", "finished", "failed", "cancelled".
        results: one a prompt; of a sequence, one a prompt and frame.
        threshold: of the segments; None before there are any.
        requestedThreshold: the one that is to replace it; None without a request.
        note: a sentence worth showing, or "".
    """

    id: str
    prompts: tuple[str, ...]
    options: Options
    callbacks: Callbacks
    state: str = "waiting"
    results: list[PromptResult] = field(default_factory=list)
    threshold: float | None = None
    requestedThreshold: float | None = None
    note: str = ""
    volume: Any = None
    roi: Any = None
    within: Any = None  # a segmentation that limits the search, and one of its segments
    withinSegment: str = ""
    target: Any = None  # the segmentation, once there is one or as the caller chose it

    @property
    def active(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in ("waiting", "running")

    @property
    def volumeNode(self) -> Any:
        """The scan; None when it is no longer in the scene."""
        return inScene(self.volume)

    @property
    def scanName(self) -> str:
        """The scan's name; its last one where the scene no longer holds it."""
        return "" if self.volume is None else str(self.volume.GetName())

    @property
    def roiNode(self) -> Any:
        """The region of interest; None when there is none."""
        return inScene(self.roi)

    @property
    def segmentationNode(self) -> Any:
        """The segments; None before there are any, and when they are no longer in the scene."""
        return inScene(self.target)


def inScene(node: Any) -> Any:
    """The node, or None when the scene no longer holds it."""
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None


def nothingFound(result: Mapping[str, Any]) -> str:
    """That no lesion was found and why, from a result's event or record."""
    score, threshold = result["highest_score"], result["threshold"]
    needed = result.get("needed_score", threshold)  # not in records of older batches
    text = _('No tumor found for "{title}" (highest score {score:.2f}, threshold '
             "{threshold:.2f}).")
    if threshold < min(score, needed):
        text = _('No tumor found for "{title}" (highest score {score:.2f}; at threshold '
                 "{threshold:.2f} a lesion needs a peak of {needed:.2f}).")
    return text.format(title=result["title"], score=score, threshold=threshold,
                       needed=needed)


def stageText(stage: str) -> str:
    """A stage in words."""
    return {
        "prepare": _("Preparing the scan"), "start": _("Starting the model"),
        "sending": _("Sending the scan"),
        "read": _("Reading the scan"), "encode": _("Encoding the scan"),
        "attention": _("Computing attention"),
        "inpaint": _("Inpainting healthy tissue"),
        "residual": _("Computing the residual"),
        "lesions": _("Measuring lesions"), "receiving": _("Receiving the result"),
        "receive": _("Loading the result"),
    }.get(stage, stage)
