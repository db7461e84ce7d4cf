"""Model, device, modality, MR sequence, seed, region, frames, and the Python to use."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.scene import SequenceFrames
from DiffuGTSPanel.widgets import KeptSettings
from DiffuGTSPanel.widgets.ModelTable import ModelList
from DiffuGTSPanel.widgets.Section import Section, coloured

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.library.PythonPackages import Examination
    from DiffuGTSPanel.Logic import DiffuGTSLogic
    from DiffuGTSPanel.process.WorkerProcess import WorkerState


class AdvancedSection(Section):
    """What most people never change.

    Args:
        resourcePath: of the module's widget.
        layout: where to be.
        logic: what knows models and devices.
        onPython: called after another Python was chosen.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 onPython: Callable[[], None]) -> None:
        super().__init__("Advanced", resourcePath, layout)
        self._logic, self._onPython = logic, onPython
        self._task: Any = None
        self._examined = False
        self.models = ModelList(self.ui, logic)
        self._volumeNode: Any = None
        self.root.setMRMLScene(slicer.mrmlScene)
        self.ui.roiSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._fitRoi)
        self._fillDevices([("auto", _("Automatic")), ("cpu", _("CPU"))])
        self.ui.deviceSelector.currentIndexChanged.connect(self._keepDevice)
        self.ui.refreshDevicesButton.clicked.connect(self.examine)
        self.ui.pythonEdit.currentPath = KeptSettings.python()
        logic.python = KeptSettings.python()
        self.ui.pythonEdit.currentPathChanged.connect(self._setPython)
        self._showPython("")
        self.ui.deviceInfoLabel.visible = False
        self.setVolume(None)

    @property
    def device(self) -> str:
        """The chosen device's name."""
        return str(self.ui.deviceSelector.itemData(self.ui.deviceSelector.currentIndex))

    def open(self) -> None:
        """The section was unfolded: now it is worth to look what is there."""
        self.models.refresh()
        if not self._examined:
            self.examine()

    def close(self) -> None:
        """Ends what is still at work."""
        if self._task is not None:
            self._task.cancel()
        self.models.close()

    def setVolume(self, volumeNode: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        """Frames are asked for only where the volume is part of a sequence."""
        self._volumeNode = volumeNode
        sequence = SequenceFrames.sequenceOf(volumeNode) if volumeNode else None
        self.ui.framesLabel.visible = sequence is not None
        self.ui.framesSelector.visible = sequence is not None

    def _fitRoi(self, roiNode: Any) -> None:
        """A new box begins around the whole scan, so that there is something to drag."""
        if self._volumeNode is not None:
            bounds = [0.0] * 6
            self._volumeNode.GetRASBounds(bounds)
            roiNode.SetCenter([(bounds[2 * i] + bounds[2 * i + 1]) / 2 for i in range(3)])
            roiNode.SetSize([bounds[2 * i + 1] - bounds[2 * i] for i in range(3)])

    def showWorker(self, state: WorkerState) -> None:
        """The device that the running worker has taken, with its free memory."""
        text = ""
        if state.state in ("ready", "working"):
            text = _("In use: {device}").format(device=state.device)
            if state.freeGb is not None and state.totalGb is not None:
                text += ", " + _("{free:.0f} of {total:.0f} GiB free").format(
                    free=state.freeGb, total=state.totalGb)
        self.ui.deviceInfoLabel.text = coloured(text, "muted")
        self.ui.deviceInfoLabel.visible = bool(text)

    def examine(self, *_arguments: object) -> None:
        """Asks the Python in use for its packages and devices, in a process of its own."""
        self._examined = True
        self.ui.refreshDevicesButton.enabled = False
        self._showPython(_("Looking what is there..."))
        self._task = self._logic.packages.examine(
            self._logic.python, self._showExamination, self._showFailure)

    def _showExamination(self, examination: Examination) -> None:
        self.ui.refreshDevicesButton.enabled = True
        if examination.devices:
            self._fillDevices([(each.name, each.title) for each in examination.devices])
        wrong = [each for each in examination.findings if each["state"] == "missing"]
        if wrong:
            lines = [f"{each['name']}: {each['found']}" for each in wrong]
            self.ui.pythonInfoLabel.text = coloured("; ".join(lines), "bad")
        else:
            self._showPython(_("All that is needed is there."))

    def _showFailure(self, failure: Failure) -> None:
        self.ui.refreshDevicesButton.enabled = True
        self.ui.pythonInfoLabel.text = (
            f"{coloured(failure.message, 'bad')} {escape(failure.hint)}")

    def _showPython(self, state: str) -> None:
        which = _("Empty means Slicer's own.") if not self._logic.python else ""
        self.ui.pythonInfoLabel.text = coloured(f"{which} {state}".strip(), "muted")

    def _fillDevices(self, devices: list[tuple[str, str]]) -> None:
        selector = self.ui.deviceSelector
        wasBlocked = selector.blockSignals(True)
        selector.clear()
        for name, title in devices:
            selector.addItem(title, name)
        # A GPU that is not there today is kept for tomorrow.
        selector.setCurrentIndex(max(0, selector.findData(KeptSettings.device())))
        selector.blockSignals(wasBlocked)

    def _keepDevice(self, *_arguments: object) -> None:
        KeptSettings.setDevice(self.device)

    def _setPython(self, path: str) -> None:
        KeptSettings.setPython(path.strip())
        self._logic.python = path.strip()
        self._showPython("")
        self._onPython()
        self.examine()
