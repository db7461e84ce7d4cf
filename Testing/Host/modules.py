"""`slicer.modules`: the application's own modules with their real logics, and the loaded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
from PySide6.QtCore import Property, QObject

LOGICS = {
    "Colors": "vtkSlicerColorLogic", "CropVolume": "vtkSlicerCropVolumeLogic",
    "Markups": "vtkSlicerMarkupsLogic", "Models": "vtkSlicerModelsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic", "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Tables": "vtkSlicerTablesLogic", "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Transforms": "vtkSlicerTransformLogic", "Units": "vtkSlicerUnitsLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic", "Volumes": "vtkSlicerVolumesLogic",
}


class CoreModule(QObject):
    """A module of the application: a name and a logic, no panel."""

    STAND_IN = True

    def __init__(self, name: str, logic: Any) -> None:
        super().__init__()
        self._name, self._logic = name, logic
        self.setObjectName(name)

    def logic(self) -> Any:
        """The real logic of the module."""
        return self._logic

    def widgetRepresentation(self) -> Any:
        """Raises: the host has no panels but that of the module under test."""
        raise NotImplementedError(f"The host has no panel of {self._name}")

    title = Property(str, lambda self: self._name)


def _share(home: Path) -> str:
    """A folder of shared files with the colours that labelmaps use by default."""
    folder = home / "share" / "ColorFiles"
    folder.mkdir(parents=True)
    shades = [(37 * i % 256, 91 * i % 256, 173 * i % 256) for i in range(1, 64)]
    lines = [f"{i} region_{i} {r} {g} {b} 255" for i, (r, g, b) in enumerate(shades, start=1)]
    text = "\n".join(["0 background 0 0 0 0", *lines])
    (folder / "GenericColors.txt").write_text(f"{text}\n", encoding="utf-8")
    return "share"  # as Slicer has it: below its home


class Modules:
    """Attribute access to the modules in lower case; unknown ones raise AttributeError."""

    def __init__(self, scene: Any, app_logic: Any, terminologies: str) -> None:
        self._core = {}
        self.sampleDataSources: dict[str, list[Any]] = {}
        app_logic.SetHomeDirectory(slicer.app.slicerHome)
        app_logic.SetShareDirectory(_share(Path(slicer.app.slicerHome)))
        for name, kind in LOGICS.items():
            logic = getattr(slicer, kind)()
            if name == "Terminologies":
                logic.SetModuleShareDirectory(terminologies)
            logic.SetMRMLApplicationLogic(app_logic)
            logic.SetMRMLScene(scene)
            app_logic.SetModuleLogic(name, logic)
            module = CoreModule(name, logic)
            self._core[name] = module
            setattr(self, name.lower(), module)

    def _names(self) -> tuple[str, ...]:
        loaded = [
            key.removesuffix("Instance") for key in vars(self) if key.endswith("Instance")
        ]
        return (*self._core, *loaded)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"slicer.modules has no '{name}'")
