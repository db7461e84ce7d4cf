"""Volumes in the stand-in's scene, and the callbacks of a run; for tests of the Slicer side."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk

PROMPT = "soft tissue sarcoma"
SECONDS = 240.0
# A region with the tumor and its surroundings: k, j, i.
REGION = (slice(10, 46), slice(16, 64), slice(10, 58))


class Scan:
    """A region of a real T1 with a sarcoma of the thigh.

    Attributes:
        array: (K, J, I).
        truth: bool, the expert's outline.
        matrix: 4x4, indices to RAS mm.
    """

    def __init__(self, shared_data: Any) -> None:
        folder = shared_data / "sarcoma" / "sts_033_t1"
        image = sitk.ReadImage(str(folder / "image.nii.gz"))
        mask = sitk.ReadImage(str(folder / "tumor.nii.gz"))
        self.array = sitk.GetArrayFromImage(image)[REGION].copy()
        self.truth = sitk.GetArrayFromImage(mask)[REGION] > 0
        lps = np.eye(4)
        lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        start = [int(axis.start) for axis in REGION[::-1]]
        lps[:3, 3] = image.TransformIndexToPhysicalPoint(start)
        self.matrix = np.diag([-1.0, -1, 1, 1]) @ lps


def add_volume(array: np.ndarray, matrix: np.ndarray, name: str = "scan") -> Any:
    """A scalar volume node in the scene."""
    import slicer

    return slicer.util.addVolumeFromArray(array.copy(), ijkToRAS=matrix, name=name)


def turned(degrees: float, axis: int = 2) -> np.ndarray:
    """4x4, a rotation about an axis through the origin."""
    angle, matrix = np.deg2rad(degrees), np.eye(4)
    first, second = [other for other in range(3) if other != axis]
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def add_transform(matrix: np.ndarray) -> Any:
    """A linear transform node in the scene."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def add_roi(centre: Any, size: Any) -> Any:
    """A Markups ROI in the scene."""
    import slicer

    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetCenter(*centre)
    roi.SetSize(*size)
    return roi


def add_region(volume: Any, inside: np.ndarray, name: str = "thigh") -> tuple[Any, str]:
    """A segmentation with one segment, from a bool array (K, J, I); the node and the id."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node, add_segment(node, volume, inside, name)


def add_segment(node: Any, volume: Any, inside: np.ndarray, name: str) -> str:
    """One more segment in a segmentation; its id."""
    import slicer

    segment = str(node.GetSegmentation().AddEmptySegment(f"id of {name}", name))
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        inside.astype(np.uint8), node, segment, volume)
    return segment


def segment_array(node: Any, segment_id: str, volume: Any) -> np.ndarray:
    """A segment as a bool array (K, J, I) on the volume's grid."""
    import slicer

    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume) > 0


def union(run: Any, volume: Any) -> np.ndarray:
    """All lesions of a run as one bool array on the volume's grid."""
    arrays = [segment_array(run.segmentationNode, lesion.segmentId, volume)
              for result in run.results for lesion in result.lesions if lesion.kept]
    return np.any(arrays, axis=0) if arrays else np.zeros((1, 1, 1), bool)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two bool arrays, 0 to 1."""
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))


class RunEvents:
    """The callbacks of a run in order, by name, and their last values."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[Any] = []
        self.preview: Any = None
        self.failure: Any = None

    def callbacks(self) -> dict[str, Any]:
        """For `segmentAsync`."""
        return {
            "onProgress": self._progress, "onPreview": self._preview, "onError": self._error,
            "onFinished": lambda run: self.names.append("finished"),
            "onCancelled": lambda run: self.names.append("cancelled"),
            "onUpdated": lambda run: self.names.append("updated"),
        }

    @property
    def stages(self) -> list[str]:
        """The stages, each once."""
        return list(dict.fromkeys(step.stage for step in self.steps))

    def _progress(self, run: Any, step: Any) -> None:
        self.names.append(step.stage)
        self.steps.append(step)

    def _preview(self, run: Any, preview: Any) -> None:
        self.names.append("preview")
        self.preview = preview

    def _error(self, run: Any, failure: Any) -> None:
        self.names.append("error")
        self.failure = failure


def run_to_end(host: Any, logic: Any, volume: Any, prompts: Any = PROMPT, **options: Any) -> Any:
    """A run and its callbacks, when it has ended; on the CPU with one sample, for speed."""
    events = RunEvents()
    run = logic.segmentAsync(volume, prompts, **events.callbacks(),
                             **{"device": "cpu", "samples": 1} | options)
    host.until(lambda: not run.active, SECONDS, "the end of the run")
    return run, events
