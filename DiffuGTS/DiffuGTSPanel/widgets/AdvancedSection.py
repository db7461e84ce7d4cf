"""Model, computer, device, modality, MR sequence, seed, where to look, frames and Python."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.process.Piecewise import singleShotTimer
from DiffuGTSPanel.scene import SequenceFrames
from DiffuGTSPanel.widgets import KeptSettings
from DiffuGTSPanel.widgets.ComputeSelector import ComputeSelector
from DiffuGTSPanel.widgets.ModelTable import ModelTable
from DiffuGTSPanel.widgets.Section import Section, coloured
from DiffuGTSPanel.widgets.SegmentChoice import SegmentChoice

if TYPE_CHECKING:
    from DiffuGTSPanel.data.Failure import Failure
    from DiffuGTSPanel.library.PythonPackages import PythonReport
    from DiffuGTSPanel.Logic import DiffuGTSLogic
    from DiffuGTSPanel.process.WorkerProcess import WorkerState

_TYPING_SECONDS = 0.7


def _anyDevices() -> list[tuple[str, str]]:
    return [("auto", _("Automatic")), ("cpu", _("CPU"))]


class AdvancedSection(Section):
    """Settings that most users never change.

    Args:
        resourcePath: of the module's widget.
        layout: to add the section to.
        logic: of the module.
        onPython: called after another Python or another computer was chosen.
    """

    def __init__(self, resourcePath: Callable[[str], str], layout: Any, logic: DiffuGTSLogic, *,
                 onPython: Callable[[], None]) -> None:
        super().__init__("Advanced", resourcePath, layout)
        self._logic, self._onPython = logic, onPython
        self._task: Any = None
        self._examined = False
        self.models = ModelTable(self.ui, logic)
        self._volumeNode: Any = None
        self.root.setMRMLScene(slicer.mrmlScene)
        self.ui.roiSelector.connect("nodeAddedByUser(vtkMRMLNode*)", self._fitRoi)
        self.segments = SegmentChoice(self.ui.segmentSelector, self.ui.segmentLabel)
        self._fillDevices(_anyDevices())
        self.ui.deviceSelector.currentIndexChanged.connect(self._keepDevice)
        self.ui.refreshDevicesButton.clicked.connect(self.examine)
        self.ui.pythonEdit.currentPath = KeptSettings.python()
        logic.python = KeptSettings.python()
        # Each key changes the path; a process a key would be too many.
        self._examineLater = singleShotTimer(self.examine, _TYPING_SECONDS)
        self.ui.pythonEdit.currentPathChanged.connect(self._setPython)
        self.ui.pythonEdit.validInputChanged.connect(self._setPython)  # it was emptied
        self._showPython("")
        self.ui.deviceInfoLabel.visible = False
        self.setVolume(None)
        self.compute = ComputeSelector(
            self.ui, self._computerChanged, lambda report: self._fillDevices(
                [(each.name, each.title) for each in report.devices]))
        self._showComputer()

    @property
    def host(self) -> str:
        """The other computer to compute on; "" for this one."""
        return self.compute.host

    @property
    def device(self) -> str:
        """The chosen device's name."""
        return str(self.ui.deviceSelector.itemData(self.ui.deviceSelector.currentIndex))

    def open(self) -> None:
        """The section was opened: reads the models and, once, packages and devices."""
        self.models.refresh()
        self.compute.refresh()
        if not self._examined and not self.host:
            self.examine()

    def close(self) -> None:
        """Stops running tasks."""
        self._stopExamination()
        self.compute.close()
        self.models.close()
        self.segments.close()

    def _stopExamination(self) -> None:
        self._examineLater.stop()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _computerChanged(self) -> None:
        """Devices and packages are those of the computer; what runs is of the earlier one."""
        self.ui.deviceInfoLabel.visible = False
        self._fillDevices(_anyDevices())
        self._showComputer()
        if not self.host:
            self.examine()
        self._onPython()

    def _showComputer(self) -> None:
        """The Python is that of this computer alone."""
        for widget in (self.ui.pythonLabel, self.ui.pythonEdit, self.ui.pythonInfoLabel,
                       self.ui.refreshDevicesButton):
            widget.visible = not self.host

    def setVolume(self, volumeNode: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        """Shows the choice of frames only where the volume is part of a sequence."""
        self._volumeNode = volumeNode
        sequence = SequenceFrames.sequenceOf(volumeNode) if volumeNode else None
        self.ui.framesLabel.visible = sequence is not None
        self.ui.framesSelector.visible = sequence is not None

    def _fitRoi(self, roiNode: Any) -> None:
        """Fits a new ROI to the whole scan, so that its handles are in view."""
        if self._volumeNode is not None:
            bounds = [0.0] * 6
            self._volumeNode.GetRASBounds(bounds)
            roiNode.SetCenter([(bounds[2 * i] + bounds[2 * i + 1]) / 2 for i in range(3)])
            roiNode.SetSize([bounds[2 * i + 1] - bounds[2 * i] for i in range(3)])

    def showWorker(self, state: WorkerState) -> None:
        """Shows the running worker's device and its free memory."""
        text = ""
        if state.state in ("ready", "working"):
            device = f"{state.device}, {self.host}" if self.host else state.device
            text = _("In use: {device}").format(device=device)
            if state.freeGb is not None and state.totalGb is not None:
                text += ", " + _("{free:.0f} of {total:.0f} GiB free").format(
                    free=state.freeGb, total=state.totalGb)
        self.ui.deviceInfoLabel.text = coloured(text, "muted")
        self.ui.deviceInfoLabel.visible = bool(text)

    def examine(self, *_arguments: object) -> None:
        """Checks packages and devices of the chosen Python, in a process of its own."""
        self._prepareExamination()
        self._task = self._logic.packages.examine(
            self._logic.python, self._showReport, self._showFailure)

    def _prepareExamination(self) -> None:
        self._stopExamination()
        self._examined = True
        self.ui.refreshDevicesButton.enabled = False
        self._showPython(_("Checking packages and devices..."))

    def _showReport(self, report: PythonReport) -> None:
        self.ui.refreshDevicesButton.enabled = True
        if report.devices:
            self._fillDevices([(each.name, each.title) for each in report.devices])
        missing = [each for each in report.findings if each["state"] == "missing"]
        if missing:
            lines = [f"{each['name']}: {each['found']}" for each in missing]
            self.ui.pythonInfoLabel.text = coloured("; ".join(lines), "bad")
        else:
            self._showPython(_("All required packages are installed."))

    def _showFailure(self, failure: Failure) -> None:
        self.ui.refreshDevicesButton.enabled = True
        self.ui.pythonInfoLabel.text = (
            f"{coloured(failure.message, 'bad')} {escape(failure.hint)}")

    def _showPython(self, state: str) -> None:
        which = _("Empty: Slicer's own Python.") if not self._logic.python else ""
        self.ui.pythonInfoLabel.text = coloured(f"{which} {state}".strip(), "muted")

    def _fillDevices(self, devices: list[tuple[str, str]]) -> None:
        selector = self.ui.deviceSelector
        wasBlocked = selector.blockSignals(True)
        selector.clear()
        for name, title in devices:
            selector.addItem(title, name)
        # A GPU that is not available now stays the stored choice.
        selector.setCurrentIndex(max(0, selector.findData(KeptSettings.device())))
        selector.blockSignals(wasBlocked)

    def _keepDevice(self, *_arguments: object) -> None:
        KeptSettings.setDevice(self.device)

    def _setPython(self, *_arguments: object) -> None:
        path = str(self.ui.pythonEdit.currentPath).strip()
        if path == self._logic.python:
            return
        KeptSettings.setPython(path)
        self._logic.python = path
        self._onPython()
        self._prepareExamination()
        self._examineLater.start()
