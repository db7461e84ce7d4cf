"""`slicer.app`, its module manager and the main window."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import slicer
from PySide6.QtCore import Property, QObject, QProcessEnvironment, QSettings, Signal
from PySide6.QtWidgets import QApplication, QMainWindow, QScrollArea

from .files import CoreIOManager
from .layout import LayoutManager
from .signals import forget

VERSION = (5, 12, 0)


class ModuleManager(QObject):
    """Knows the loaded modules by name."""

    STAND_IN = True
    SIGNATURES = {  # noqa: RUF012
        "moduleAboutToBeUnloaded(QString)": "moduleAboutToBeUnloaded",
        "moduleLoaded(QString)": "moduleLoaded",
        "moduleUnloaded(QString)": "moduleUnloaded",
    }
    moduleAboutToBeUnloaded = Signal(str)
    moduleLoaded = Signal(str)
    moduleUnloaded = Signal(str)

    def module(self, name: str) -> Any:
        """The module, or None."""
        return getattr(slicer.modules, name.lower(), None)

    def factoryManager(self) -> Any:
        """The one who lists the modules."""
        return self

    def loadedModuleNames(self) -> tuple[str, ...]:
        """The names of all modules."""
        return slicer.modules._names()

    def isLoaded(self, name: str) -> bool:
        """Whether there is such a module."""
        return name in self.loadedModuleNames()


class ModuleSelector(QObject):
    """The list of modules in the tool bar; enters and leaves their panels."""

    STAND_IN = True

    def __init__(self, window: MainWindow) -> None:
        super().__init__()
        self._window, self._selected = window, ""

    def selectModule(self, name: str) -> None:
        """Leaves the open panel and enters that of the module."""
        if name == self._selected:
            return
        if self._selected:
            slicer.util.getModule(self._selected).widgetRepresentation().exit()
        self._selected = name
        if name:
            panel = slicer.util.getModule(name).widgetRepresentation()
            self._window._scrollArea.setWidget(panel)
            panel.enter()

    selectedModule = Property(str, lambda self: self._selected)


class MainWindow(QMainWindow):
    """The window; its left side holds the open panel."""

    STAND_IN = True

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._scrollArea = QScrollArea(self)
        self._scrollArea.setWidgetResizable(True)
        self.setCentralWidget(self._scrollArea)
        self._selector = ModuleSelector(self)

    def moduleSelector(self) -> ModuleSelector:
        """The list of modules."""
        return self._selector

    def _release(self, panel: Any) -> None:
        if self._scrollArea.widget() is panel:
            self._scrollArea.takeWidget()
        self._selector._selected = ""


class Application(QApplication):
    """`slicer.app`."""

    STAND_IN = True
    SIGNATURES = {  # noqa: RUF012
        "startupCompleted()": "startupCompleted",
        "mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged",
    }
    startupCompleted = Signal()
    mrmlSceneChanged = Signal(object)

    def __init__(self) -> None:
        super().__init__(["Slicer", "-platform", "offscreen"])
        self.setApplicationName("Slicer")
        self.setOrganizationName("DiffuGTS host")
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-host-")
        folder = self._folder.name
        Path(folder, "home").mkdir()
        self._temporary = folder
        QSettings.setDefaultFormat(QSettings.Format.IniFormat)
        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, folder)
        self._render_pauses = 0
        self._restarts = 0
        self._extensions: set[str] = set()
        self._testing = False

    def _build(self, logic: Any) -> None:
        """What needs the scene and the modules of the host."""
        self._logic = logic
        self._modules, self._io = ModuleManager(self), CoreIOManager(slicer.mrmlScene)
        self._layout = LayoutManager(slicer.mrmlScene, logic)
        self._window = MainWindow()

    def _set_temporary(self, folder: str) -> None:
        self._temporary = folder

    def _reset(self) -> None:
        """As at the start."""
        self._temporary = self._folder.name
        self._restarts = self._render_pauses = 0
        self._extensions.clear()
        self._testing = False
        forget(self, "startupCompleted")
        QSettings().clear()

    applicationVersion = Property(str, lambda self: ".".join(map(str, VERSION)))
    mainApplicationName = Property(str, lambda self: "Slicer")
    majorVersion = Property(int, lambda self: VERSION[0])
    minorVersion = Property(int, lambda self: VERSION[1])
    revision = Property(str, lambda self: "33241")
    temporaryPath = Property(str, lambda self: self._temporary, _set_temporary)
    slicerHome = Property(str, lambda self: str(Path(self._folder.name, "home")))
    documentationBaseUrl = Property(str, lambda self: "https://slicer.readthedocs.io/en/5.12/")

    def testingEnabled(self) -> bool:
        """As CTest starts Slicer; False: messages are shown, and the host answers for the user."""
        return self._testing

    def applicationLogic(self) -> Any:
        """The application logic."""
        return self._logic

    def mrmlScene(self) -> Any:
        """The scene."""
        return slicer.mrmlScene

    def layoutManager(self) -> LayoutManager:
        """The views."""
        return self._layout

    def coreIOManager(self) -> CoreIOManager:
        """The reader and writer of files."""
        return self._io

    def moduleManager(self) -> ModuleManager:
        """The modules."""
        return self._modules

    def moduleDocumentationUrl(self, name: str) -> str:
        """Where a module's page is."""
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def userSettings(self) -> QSettings:
        """The user's settings."""
        return QSettings()

    settings = userSettings

    def isRenderPaused(self) -> bool:
        """Whether the views wait."""
        return self._render_pauses > 0

    def pauseRender(self) -> None:
        """The views wait until resumeRender."""
        self._render_pauses += 1

    def resumeRender(self) -> None:
        """Raises where nobody has paused."""
        if not self._render_pauses:
            raise RuntimeError("resumeRender without pauseRender")
        self._render_pauses -= 1

    def setRenderPaused(self, paused: bool) -> None:
        """Pauses or resumes."""
        (self.pauseRender if paused else self.resumeRender)()

    def startupEnvironment(self) -> Any:
        """The environment in which the application was started."""
        return QProcessEnvironment.systemEnvironment()

    def translate(self, context: str, text: str) -> str:
        """The host speaks English."""
        return text

    def restart(self) -> None:
        """Counted, not done: host.restarts."""
        self._restarts += 1

    def extensionsManagerModel(self) -> Any:
        """Which extensions are installed."""
        return self

    def isExtensionInstalled(self, name: str) -> bool:
        """None, unless a test sets it (host.install_extension)."""
        return name in self._extensions
