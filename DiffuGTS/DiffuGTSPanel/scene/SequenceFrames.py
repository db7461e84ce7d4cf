"""Time series: volumes that are one frame of a sequence, and results for all frames."""

from __future__ import annotations

from typing import Any

import slicer

from DiffuGTSPanel.data.Run import inScene


def sequenceOf(volumeNode: Any) -> tuple[Any, int] | None:
    """The browser that shows a volume as a frame of a sequence, and how many frames there are.

    None for a volume that is no frame.
    """
    if volumeNode is None:
        return None
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        sequence = browser.GetSequenceNode(volumeNode)
        if sequence is not None:
            return browser, int(sequence.GetNumberOfDataNodes())
    return None


class Frames:
    """All frames of a volume's sequence.

    Args:
        browser: of the sequence.
        volumeNode: its proxy in the scene.
    """

    def __init__(self, browser: Any, volumeNode: Any) -> None:
        self._browser = browser
        self._sequence = browser.GetSequenceNode(volumeNode)
        self._results: Any = None

    def __len__(self) -> int:
        return int(self._sequence.GetNumberOfDataNodes())

    @property
    def shown(self) -> int:
        """The frame that is shown now."""
        return int(self._browser.GetSelectedItemNumber())

    def volume(self, frame: int) -> Any:
        """The volume node of a frame; it is in the sequence, not in the scene."""
        return self._sequence.GetNthDataNode(frame)

    def store(self, frame: int, segmentationNode: Any) -> None:
        """Keeps a frame's segments in a sequence of their own, beside the volume's.

        Args:
            segmentationNode: in the scene; it becomes the proxy that shows the chosen frame.
        """
        if inScene(self._results) is None:
            self._results = slicer.mrmlScene.AddNewNodeByClass(
                "vtkMRMLSequenceNode", segmentationNode.GetName())
            self._results.SetIndexName(self._sequence.GetIndexName())
            self._results.SetIndexUnit(self._sequence.GetIndexUnit())
            self._results.SetIndexType(self._sequence.GetIndexType())
        self._results.SetDataNodeAtValue(
            segmentationNode, self._sequence.GetNthIndexValue(frame))

    def attach(self, segmentationNode: Any) -> None:
        """Shows the stored segments together with the volume's frames."""
        self._browser.AddSynchronizedSequenceNode(self._results)
        self._browser.AddProxyNode(segmentationNode, self._results, False)
        # Drawing in a frame changes that frame.
        self._browser.SetSaveChanges(self._results, True)

    def segments(self, frame: int, shownNode: Any) -> Any:
        """The segmentation of a frame: `shownNode` where that frame is shown."""
        if frame == self.shown and shownNode is not None:
            return shownNode
        return self._results.GetNthDataNode(frame)

    def show(self, frame: int) -> None:
        """Shows a frame."""
        self._browser.SetSelectedItemNumber(frame)

    def refresh(self) -> None:
        """Shows the frame anew, after its segments have changed."""
        self._browser.Modified()

    def remove(self) -> None:
        """Takes the results out of the scene again."""
        if inScene(self._results) is not None:
            slicer.mrmlScene.RemoveNode(self._results)
        self._results = None
