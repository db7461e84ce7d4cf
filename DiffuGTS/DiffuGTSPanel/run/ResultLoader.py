"""Loads the worker's results into the scene in pieces: previews, segments, evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import (
    EVIDENCE,
    LesionMask,
    Preview,
    PromptResult,
    Run,
    inScene,
    nothingFound,
)
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.scene import EvidenceVolumes, LesionSegments
from DiffuGTSPanel.scene.ScanExport import removeEmptyFolder
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid

Event = dict[str, Any]


class ResultLoader:
    """Loads the results of one run, and can remove them from the scene again.

    Attributes:
        run: whose results.
        ownsSegmentation: the run created its segmentation.
        stamp: modification time of the last change by the run.
        isEdited: the user has edited the segments before `stamp`.
        droppedSegments: removed by the user, to be restored on request.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ownsSegmentation = run.target is None
        self.stamp = 0
        self.isEdited = False
        self.droppedSegments = LesionSegments.DroppedSegments()
        self._previews: dict[int, Preview] = {}

    @property
    def group(self) -> str:
        """The folder of the evidence in the subject hierarchy."""
        return f"DiffuGTS {self.run.prompts[0]}"[:40]

    def preview(self, event: Event, grid: VolumeGrid) -> Piecewise:
        """Loads attention and candidates, then calls `onPreview`."""
        attentionMap = yield from EvidenceVolumes.readMap(event["attention"])
        masks = yield from LesionSegments.readLesionMasks(event["candidates"], grid)
        volume = self._volume()
        attention = EvidenceVolumes.addVolume(
            "attention", attentionMap, volume, grid, self.group)
        candidates = LesionSegments.showCandidates(
            volume, grid, masks, _("{prompt} candidates").format(prompt=event["prompt"]))
        preview = Preview(event["index"], event["prompt"], attention, candidates)
        self._previews[event["index"]] = preview
        yield  # updating the views takes a time slice of its own
        if self.run.callbacks.onPreview is not None:
            self.run.callbacks.onPreview(self.run, preview)

    def result(self, event: Event, grid: VolumeGrid, frame: int | None) -> Piecewise:
        """Creates the segments of one prompt."""
        masks = yield from LesionSegments.readLesionMasks(event["mask"], grid)
        volume = self._volume()
        result = resultFrom(event, frame)
        preview = self._previews.pop(event["index"], None)
        if preview is not None:
            _removeNode(preview.candidatesNode)
            if inScene(preview.attentionNode) is not None:
                result.evidence["attention"] = preview.attentionNode
        # From here on the nodes belong to the result and are removed with it on a cancel.
        used = sum(len(each.lesions) for each in self.run.results if each.frame == frame)
        self.run.results.append(result)
        node = self.segmentation(volume, result.title)
        yield from LesionSegments.addLesions(
            node, volume, grid, result, masks, event["lesions"], used)
        self.stamp = LesionSegments.newStamp()
        self.run.threshold = result.threshold

    def update(
        self, event: Event, result: PromptResult, masks: dict[int, LesionMask], grid: VolumeGrid,
        frameNode: Any = None,
    ) -> Piecewise:
        """Replaces the segments of a result by those of another threshold.

        Args:
            masks: of the event, by number.
            frameNode: the segmentation of the result's frame, in a sequence.
        """
        volume = self._volume()
        dropped = LesionSegments.stillDropped(result, masks)
        node = frameNode or self.segmentation(volume, result.title)
        used = sum(len(each.lesions) for each in self.run.results
                   if each.frame == result.frame and each.index < result.index)
        yield from LesionSegments.addLesions(
            node, volume, grid, result, masks, event["lesions"], used)
        new = resultFrom(event, result.frame)
        result.found, result.threshold, result.sentence = new.found, new.threshold, new.sentence
        result.notes = new.notes
        for lesion in [each for each in result.lesions if each.number in dropped]:
            self.droppedSegments.remove(node, lesion)
            LesionSegments.withKept(result, lesion, False)
        self.stamp = LesionSegments.newStamp()
        self.run.threshold = result.threshold

    def segmentation(self, volume: Any, title: str) -> Any:
        """The run's segmentation; created where there is none or it was deleted."""
        if self.run.segmentationNode is None:
            content = title if len(self.run.prompts) == 1 else _("lesions")
            name = slicer.mrmlScene.GenerateUniqueName(f"{volume.GetName()} {content}")
            self.run.target = LesionSegments.newSegmentation(volume, name)
            self.ownsSegmentation = True
        return self.run.target

    def keepEdited(self) -> None:
        """Leaves a segmentation that the user has edited as it is; a new one takes its place.

        Raises:
            Failure: the scan was removed; nothing has changed then.
        """
        node = self.run.segmentationNode
        if node is None or not (self.isEdited or self._changed()):
            return
        volume = self._volume()
        self.run.target, self.isEdited = None, False
        self.segmentation(volume, self.run.results[0].title)
        self.droppedSegments = LesionSegments.DroppedSegments()
        for result in self.run.results:
            result.lesions = [replace(lesion, segmentId="") for lesion in result.lesions]

    def keep(self, node: Any, result: PromptResult, number: int, kept: bool) -> None:
        """Removes a lesion's segment from the segmentation, or restores it."""
        lesion = next(each for each in result.lesions if each.number == number)
        if lesion.kept == kept:
            return
        self.isEdited = self.isEdited or self._changed()
        if kept:
            self.droppedSegments.restore(node, lesion, result.lesions)
        else:
            self.droppedSegments.remove(node, lesion)
        LesionSegments.withKept(result, lesion, kept)
        self.stamp = LesionSegments.newStamp()

    def evidence(self, kind: str, result: PromptResult, grid: VolumeGrid) -> Piecewise:
        """Loads one kind of evidence as a volume node into `result.evidence`."""
        evidenceMap = yield from EvidenceVolumes.readMap(result.files[kind])
        result.evidence[kind] = EvidenceVolumes.addVolume(
            kind, evidenceMap, self._volume(), grid, self.group)
        yield

    def removePreviews(self) -> None:
        """Removes the previews from the scene."""
        for preview in self._previews.values():
            _removeNode(preview.attentionNode)
            _removeNode(preview.candidatesNode)
        self._previews.clear()

    def remove(self) -> None:
        """Removes everything that the run has added to the scene."""
        self.removePreviews()
        node = self.run.segmentationNode
        for result in self.run.results:
            if node is not None:
                for _segment in LesionSegments.removeLesions(node, result):
                    pass
            for evidence in result.evidence.values():
                _removeNode(evidence)
        if self.ownsSegmentation:
            _removeNode(node)
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


def resultFrom(event: Event, frame: int | None) -> PromptResult:
    """The result of a `result` event, without lesions and masks."""
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
        notes=list(event.get("notes", ())), reliability=event.get("reliability", ""),
        modality=_("Taken for {modality}, {reason}.").format(
            modality=event["modality"], reason=event["modality_reason"])
        if event.get("modality_reason") else "")


def _removeNode(node: Any) -> None:
    if inScene(node) is None:
        return
    for index in range(node.GetNumberOfDisplayNodes()):
        display = node.GetNthDisplayNode(index)
        if display is not None:
            slicer.mrmlScene.RemoveNode(display)
    slicer.mrmlScene.RemoveNode(node)
