"""The panel on the stand-in host, as a user operates it; for tests."""

from __future__ import annotations

from typing import Any

from support.slicer_scans import PROMPT, SECONDS, Scan, add_volume

NAME = "scän 患者"


class Panel:
    """The open panel and what a user does with it.

    Attributes:
        host: the stand-in.
        panel: DiffuGTSPanel.widgets.Panel.Panel.
    """

    def __init__(self, host: Any) -> None:
        self.host = host
        host.load_module()
        self.panel = host.widget().panel
        host.process()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.panel, name)

    def choose(self, scan: Scan, text: str = PROMPT) -> Any:
        """Adds the scan to the scene, selects it and types a prompt; returns the volume node."""
        volume = add_volume(scan.array, scan.matrix, NAME)
        self.panel.parameters.volume = volume
        self.type(text)
        return volume

    def type(self, text: str) -> None:
        """Replaces the prompt."""
        self.panel.prompt.ui.promptEdit.setText(text)
        self.host.process()

    def press_enter(self) -> None:
        """In the prompt line."""
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        QTest.keyClick(self.panel.prompt.ui.promptEdit, Qt.Key.Key_Return)

    def until_idle(self) -> None:
        """Waits for the end of the run."""
        self.host.until(lambda: self.panel.run is None, SECONDS, "the end of the run")

    def until_inpainting(self) -> None:
        """Waits for the long part of the run."""
        label = self.panel.runSection.ui.progressLabel
        self.host.until(lambda: label.text.startswith("Inpainting"), SECONDS, "inpainting")

    @property
    def button(self) -> Any:
        """Run, or Cancel."""
        return self.panel.runSection.ui.runButton

    @property
    def reading(self) -> str:
        """How the prompt is understood, without markup."""
        return plain(self.panel.prompt.ui.readingLabel)

    @property
    def message(self) -> str:
        """The error message that is shown."""
        label = self.panel.runSection.ui.messageLabel
        return "" if label.isHidden() else plain(label)


def plain(label: Any) -> str:
    """The text of a label without markup."""
    from PySide6.QtGui import QTextDocument

    document = QTextDocument()
    document.setHtml(label.text)
    return document.toPlainText().replace("\xa0", " ").strip()


def overlays() -> set[str]:
    """The kinds of evidence in the foreground of the slice views; "" without one."""
    import slicer

    nodes = [slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID() or "")
             for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")]
    return {node.GetAttribute("DiffuGTS.Evidence") if node else "" for node in nodes}


def backgrounds() -> set[str]:
    """The names of the background volumes of the slice views."""
    import slicer

    return {slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID()).GetName()
            for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")}
