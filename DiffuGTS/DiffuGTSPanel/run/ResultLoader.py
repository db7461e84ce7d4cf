"""Results of the worker into the scene: previews, segments, evidence; in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import EVIDENCE, Preview, PromptResult, Run, inScene, nothingFound
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.scene import EvidenceVolumes, LesionSegments
from DiffuGTSPanel.scene.ScanExport import removeEmptyFolder
from DiffuGTSPanel.scene.VolumeGrid import Placement

Event = dict[str, Any]


class Received:
    """What one run has put into the scene, so that it can be taken out again.

    Attributes:
        target: the segmentation; None before the first result.
        own: whether the run made it.
        stamp: since when the segments are as the run made them.
        isEdited: somebody has changed them before `stamp`.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.own = run.target is None
        self.stamp = 0
        self.isEdited = False
        self.dropped = LesionSegments.Dropped()
        self._previews: dict[int, Preview] = {}

    @property
    def group(self) -> str:
        """The folder of the evidence in the subject hierarchy."""
        return f"DiffuGTS {self.run.prompts[0]}"[:40]

    def preview(self, event: Event, placement: Placement) -> Piecewise:
        """Shows attention and candidates, and tells the run's caller."""
        read = yield from EvidenceVolumes.readMap(event["attention"])
        parts = yield from LesionSegments.readParts(event["candidates"], placement)
        volume = self._volume()
        attention = EvidenceVolumes.addVolume("attention", read, volume, placement, self.group)
        candidates = LesionSegments.showCandidates(
            volume, placement, parts, _("{prompt} candidates").format(prompt=event["prompt"]))
        shown = Preview(event["index"], event["prompt"], attention, candidates)
        self._previews[event["index"]] = shown
        yield  # what follows is a turn's work of its own: the views
        if self.run.callbacks.onPreview is not None:
            self.run.callbacks.onPreview(self.run, shown)

    def result(
        self, event: Event, placement: Placement, frame: int | None
    ) -> Piecewise:
        """Makes the segments of one prompt."""
        parts = yield from LesionSegments.readParts(event["mask"], placement)
        volume = self._volume()
        result = outcome(event, frame)
        result.parts = parts
        preview = self._previews.pop(event["index"], None)
        if preview is not None:
            _remove(preview.candidatesNode)
            if inScene(preview.attentionNode) is not None:
                result.evidence["attention"] = preview.attentionNode
        # From here on what is in the scene belongs to a result, and goes with it on a cancel.
        used = sum(len(each.lesions) for each in self.run.results if each.frame == frame)
        self.run.results.append(result)
        node = self.segmentation(volume, result.title)
        yield from LesionSegments.addLesions(
            node, volume, placement, result, event["lesions"], used)
        self.stamp = LesionSegments.newStamp()
        self.run.threshold = result.threshold

    def update(
        self, event: Event, result: PromptResult, placement: Placement, frameNode: Any = None
    ) -> Piecewise:
        """Makes the segments of a result anew, for another threshold.

        Args:
            frameNode: the segmentation of the result's frame, in a sequence.
        """
        parts = yield from LesionSegments.readParts(event["mask"], placement)
        volume = self._volume()
        gone = LesionSegments.stillDropped(result, parts)
        node = frameNode or self.segmentation(volume, result.title)
        yield from LesionSegments.removeLesions(node, result)
        new = outcome(event, result.frame)
        result.found, result.threshold, result.sentence = new.found, new.threshold, new.sentence
        result.parts = parts
        used = sum(len(each.lesions) for each in self.run.results
                   if each.frame == result.frame and each.index < result.index)
        yield from LesionSegments.addLesions(node, volume, placement, result,
                                             event["lesions"], used)
        for lesion in [each for each in result.lesions if each.number in gone]:
            self.dropped.take(node, lesion)
            LesionSegments.withKept(result, lesion, False)
        self.stamp = LesionSegments.newStamp()
        self.run.threshold = result.threshold

    def segmentation(self, volume: Any, title: str) -> Any:
        """The run's segmentation; made where there is none, or where it was deleted."""
        if self.run.segmentationNode is None:
            what = title if len(self.run.prompts) == 1 else _("lesions")
            name = slicer.mrmlScene.GenerateUniqueName(f"{volume.GetName()} {what}")
            self.run.target, self.own = LesionSegments.newSegmentation(volume, name), True
        return self.run.target

    def keepEdited(self) -> bool:
        """Leaves segments that somebody has edited to them; True when that was so.

        The next segments of the run go into a new segmentation then.
        """
        node = self.run.segmentationNode
        if node is None or not (self.isEdited or self._changed()):
            return False
        self.run.target, self.own, self.isEdited = None, True, False
        self.dropped = LesionSegments.Dropped()
        for result in self.run.results:
            result.lesions = []
        return True

    def keep(self, node: Any, result: PromptResult, number: int, kept: bool) -> None:
        """Takes a lesion's segment out of the segmentation, or puts it back."""
        lesion = next(each for each in result.lesions if each.number == number)
        if lesion.kept == kept:
            return
        self.isEdited = self.isEdited or self._changed()
        if kept:
            self.dropped.putBack(node, lesion, result.lesions)
        else:
            self.dropped.take(node, lesion)
        LesionSegments.withKept(result, lesion, kept)
        self.stamp = LesionSegments.newStamp()

    def evidence(
        self, kind: str, result: PromptResult, placement: Placement
    ) -> Piecewise:
        """Reads one kind of evidence into a volume node, into `result.evidence`."""
        read = yield from EvidenceVolumes.readMap(result.files[kind])
        result.evidence[kind] = EvidenceVolumes.addVolume(
            kind, read, self._volume(), placement, self.group)
        yield

    def removePreviews(self) -> None:
        """Takes the previews out of the scene."""
        for preview in self._previews.values():
            _remove(preview.attentionNode)
            _remove(preview.candidatesNode)
        self._previews.clear()

    def remove(self) -> None:
        """Takes everything out of the scene that the run has put there."""
        self.removePreviews()
        node = self.run.segmentationNode
        for result in self.run.results:
            if node is not None:
                for _segment in LesionSegments.removeLesions(node, result):
                    pass
            for evidence in result.evidence.values():
                _remove(evidence)
        if self.own:
            _remove(node)
        if self.run.volumeNode is not None:
            removeEmptyFolder(self.run.volumeNode, self.group)
        self.run.results.clear()

    def _changed(self) -> bool:
        node = self.run.segmentationNode
        return any(LesionSegments.edited(node, result, self.stamp) for result in self.run.results
                   if result.frame is None)

    def _volume(self) -> Any:
        volume = self.run.volumeNode
        if volume is None:
            raise Failure("volume-gone", _("The scan was removed from the scene."),
                          _("Load it again."))
        return volume


def outcome(event: Event, frame: int | None) -> PromptResult:
    """What a `result` event tells, without lesions and voxels."""
    lesions = event["lesions"]
    if lesions:
        total = sum(entry["volume_ml"] for entry in lesions)
        text = _("{title}: 1 lesion, {ml:.2f} ml.") if len(lesions) == 1 else _(
            "{title}: {count} lesions, {ml:.2f} ml in all.")
        sentence = text.format(title=event["title"], count=len(lesions), ml=total)
    else:
        sentence = nothingFound(event)
    files = {kind: Path(event[kind]) for kind in EVIDENCE if kind in event}
    return PromptResult(
        event["index"], event["prompt"], event["title"], event["found"], event["highest_score"],
        event["threshold"], event["terminology"], sentence, files=files, frame=frame,
        notes=list(event.get("notes", ())))


def _remove(node: Any) -> None:
    if inScene(node) is None:
        return
    for index in range(node.GetNumberOfDisplayNodes()):
        display = node.GetNthDisplayNode(index)
        if display is not None:
            slicer.mrmlScene.RemoveNode(display)
    slicer.mrmlScene.RemoveNode(node)
