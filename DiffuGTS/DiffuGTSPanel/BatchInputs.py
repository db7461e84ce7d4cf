"""The list of what a batch is to segment: files, folders, volumes of the scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.Run import inScene

ROWS_SHOWN = 5
_FILTER = ("*.nii *.nii.gz *.nrrd *.nhdr *.mha *.mhd *.hdr *.dcm *.csv *.tsv *.json")


class BatchInputs:
    """A list with buttons that add to it and take out of it.

    Args:
        ui: the widgets of Batch.ui.
        parent: of the dialogs.
        onChanged: called after each change.
    """

    def __init__(self, ui: Any, parent: Any, onChanged: Callable[[], None]) -> None:
        self._ui, self._parent, self._onChanged = ui, parent, onChanged
        self._items: list[Any] = []
        self._menu = qt.QMenu(ui.addSceneButton)
        ui.addSceneButton.setMenu(self._menu)
        self._menu.aboutToShow.connect(self.fillMenu)
        ui.addFilesButton.clicked.connect(self._addFiles)
        ui.addFolderButton.clicked.connect(self._addFolder)
        ui.removeInputButton.clicked.connect(self._remove)
        ui.inputList.itemSelectionChanged.connect(self._showButtons)
        self._show()

    @property
    def items(self) -> list[Any]:
        """Paths and volume nodes; nodes that have left the scene are left out."""
        return [each for each in self._items if isinstance(each, Path) or inScene(each)]

    @property
    def editable(self) -> bool:
        """Whether the list may be changed now."""
        return bool(self._ui.inputButtonsPlace.enabled)

    def add(self, *items: Any) -> None:
        """Adds paths and nodes that are not there yet."""
        self._items += [each for each in dict.fromkeys(items) if each not in self._items]
        self._show()
        self._onChanged()

    def refresh(self) -> None:
        """Drops the nodes that have left the scene."""
        if self.items != self._items:
            self._items = self.items
            self._show()
            self._onChanged()

    def fillMenu(self) -> None:
        """The volumes of the scene that are not in the list."""
        self._menu.clear()
        volumes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
                   if node.GetClassName() == "vtkMRMLScalarVolumeNode"
                   and node not in self._items and not node.GetAttribute("DiffuGTS.Evidence")]
        if len(volumes) > 1:
            self._menu.addAction(_("All volumes")).triggered.connect(self._adder(*volumes))
            self._menu.addSeparator()
        for node in volumes:
            self._menu.addAction(node.GetName()).triggered.connect(self._adder(node))
        if not volumes:
            self._menu.addAction(_("No further volumes in the scene")).enabled = False

    def _adder(self, *nodes: Any) -> Callable[..., None]:
        return lambda *_arguments: self.add(*nodes)

    def _addFiles(self, *_arguments: object) -> None:
        paths = qt.QFileDialog.getOpenFileNames(
            self._parent, _("Add scans or tables"), "",
            _("Scans and tables") + f" ({_FILTER});;" + _("All files") + " (*)")
        self.add(*map(Path, paths or ()))

    def _addFolder(self, *_arguments: object) -> None:
        path = qt.QFileDialog.getExistingDirectory(self._parent, _("Add a folder of scans"), "")
        if path:
            self.add(Path(path))

    def _remove(self, *_arguments: object) -> None:
        rows = {self._ui.inputList.row(item) for item in self._ui.inputList.selectedItems()}
        self._items = [each for row, each in enumerate(self._items) if row not in rows]
        self._show()
        self._onChanged()

    def _show(self) -> None:
        box = self._ui.inputList
        box.clear()
        for each in self._items:
            node = not isinstance(each, Path)
            text = _("{name} (scene)").format(name=each.GetName()) if node else each.name
            item = qt.QListWidgetItem(text)
            item.setToolTip(_("A volume of the scene") if node else str(each))
            box.addItem(item)
        rows = min(len(self._items), ROWS_SHOWN)
        if rows:
            box.setFixedHeight(rows * box.sizeHintForRow(0) + 6)
        box.visible = bool(rows)
        self._showButtons()

    def _showButtons(self) -> None:
        self._ui.removeInputButton.enabled = bool(self._ui.inputList.selectedItems())
