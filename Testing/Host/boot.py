"""Starts the host: once a process, since Qt and the scene are the process's own."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dialogs import Dialogs
    from .launcher import Launcher
    from .packages import Installer

REPOSITORY = Path(__file__).resolve().parents[2]
ENUM_OPTION = "PYSIDE6_OPTION_PYTHON_ENUM"  # read when PySide6 is imported
# slicer-core puts these into `slicer`; the application has them in slicer.util only.
NOT_IN_SLICER = {"sys", "me", "module", "info", "item_name", "import_module", "iter_modules",
                 "extend_path"}


class TimedOut(AssertionError):
    """The condition did not come true in time."""


class Host:
    """The running stand-in.

    Attributes:
        dialogs: what was shown to the user, and `dialogs.answer(...)` for the next questions.
        packages: what slicer.packaging finds and was asked to install.
        launcher: of Slicer's own Python; first on the PATH.
        errors: exceptions that a slot or an observer raised, as text; nobody else sees them.
        warnings: what Qt complained of: layouts set twice, timers in wrong threads, and so on.
    """

    def __init__(self, dialogs: Dialogs, packages: Installer, launcher: Launcher) -> None:
        self.dialogs, self.packages, self.launcher = dialogs, packages, launcher
        self.errors: list[str] = []
        self.warnings: list[str] = []
        sys.excepthook = self._on_error
        from PySide6.QtCore import qInstallMessageHandler

        qInstallMessageHandler(self._on_message)

    def _on_error(self, kind: Any, error: Any, trace: Any) -> None:
        self.errors.append("".join(traceback.format_exception(kind, error, trace)))
        sys.__excepthook__(kind, error, trace)

    def _on_message(self, _kind: Any, _context: Any, message: str) -> None:
        if not message.startswith("This plugin does not support"):  # Qt without a screen
            self.warnings.append(message)

    def process(self) -> None:
        """Handles what waits in the event loop, deletions too."""
        from PySide6.QtCore import QCoreApplication, QEvent

        QCoreApplication.processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

    def until(self, condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
        """Runs the event loop until the condition holds; its value. Raises TimedOut.

        An error in a slot meanwhile is raised at once.
        """
        from PySide6.QtCore import QCoreApplication, QEventLoop

        end, known = time.monotonic() + seconds, len(self.errors)
        while not (value := condition()):
            if len(self.errors) > known:
                raise AssertionError(f"An error while waiting:\n{self.errors.pop()}")
            if time.monotonic() > end:
                raise TimedOut(f"Not within {seconds} s: {what or 'the condition'}")
            QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 20)
            time.sleep(0.002)
        return value

    def load_module(self, name: str = "DiffuGTS", path: Path | None = None) -> Any:
        """Loads a scripted module as the application does at its start; its module object."""
        import slicer

        from .scripted_module import load_file, qSlicerScriptedLoadableModule
        from .signals import forget

        if name in slicer.modules._names():
            raise RuntimeError(f"{name} is loaded already")
        file = path or REPOSITORY / name / f"{name}.py"
        source = load_file(name, str(file))
        module = qSlicerScriptedLoadableModule(name, str(file))
        setattr(slicer.modules, name.lower(), module)
        module._instance = getattr(source, name)(module)
        setattr(slicer.modules, f"{name}Instance", module._instance)
        slicer.app.moduleManager().moduleLoaded.emit(name)
        slicer.app.startupCompleted.emit()
        forget(slicer.app, "startupCompleted")  # the application starts once
        return module

    def widget(self, name: str = "DiffuGTS") -> Any:
        """The Python widget of the loaded module, its panel open (setup and enter called)."""
        import slicer

        slicer.util.selectModule(name)
        return slicer.util.getModuleWidget(name)

    def unload_module(self, name: str = "DiffuGTS") -> None:
        """Closes the panel and unloads the module, as the application does at its end."""
        import slicer

        module = slicer.util.getModule(name)
        slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(name)
        if module._representation is not None:
            slicer.util.mainWindow()._release(module._representation)
            module._representation.deleteLater()
        for key in (name.lower(), f"{name}Instance", f"{name}Widget"):
            if key in vars(slicer.modules):
                delattr(slicer.modules, key)
        slicer.selfTests.pop(name, None)
        self.process()

    def clear(self) -> None:
        """Unloads modules, empties the scene, forgets dialogs, packages and settings."""
        import slicer

        for name in slicer.modules._names():
            if f"{name}Instance" in vars(slicer.modules):
                self.unload_module(name)
        slicer.mrmlScene.Clear(0)
        slicer.app.layoutManager()._reset()
        self.process()
        self.dialogs.clear()
        self.dialogs.answers.clear()
        self.packages.reset()
        self.launcher.reset()
        sys.modules.pop("PyTorchUtils", None)
        slicer.modules.sampleDataSources.clear()
        slicer.app._reset()

    def close(self) -> None:
        """Takes down what Python must not find at its exit: widgets, views, observers."""
        import slicer
        from PySide6.QtCore import qInstallMessageHandler

        self.clear()
        sys.excepthook = sys.__excepthook__
        qInstallMessageHandler(None)
        slicer.mrmlScene.RemoveAllObservers()
        slicer.util.mainWindow().deleteLater()
        self.process()

    def install_extension(self, name: str) -> None:
        """Lets an extension look installed; "PyTorch" brings its module PyTorchUtils."""
        import slicer

        from .packages import make_pytorch_utils

        slicer.app._extensions.add(name)
        if name == "PyTorch":
            sys.modules["PyTorchUtils"] = make_pytorch_utils(self.packages)

    @property
    def restarts(self) -> int:
        """How often the application was asked to restart."""
        import slicer

        return int(slicer.app._restarts)


_host: list[Host] = []


def boot() -> Host:
    """The host; started at the first call. Needs PySide6 and slicer-core."""
    if not _host:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        if "PySide6.QtCore" in sys.modules and os.environ.get(ENUM_OPTION) != "0x2":
            raise RuntimeError("PySide6 was imported before the host was booted")
        os.environ[ENUM_OPTION] = "0x2"  # enums that compare with ints
        _host.append(_start())
    return _host[0]


def _start() -> Host:
    import slicer

    from . import dialogs, packages
    from .launcher import Launcher
    from .qt_module import make_qt

    sys.modules["qt"] = make_qt()
    from .application import Application

    app = Application()
    _fill_slicer(slicer, app)
    shown, installer = dialogs.Dialogs(), packages.Installer()
    dialogs.install(shown)
    _install_modules(slicer, installer)
    launcher = Launcher(Path(app._folder.name, "bin"))
    os.environ["PATH"] = os.pathsep.join((str(launcher.folder), os.environ.get("PATH", "")))
    return Host(shown, installer, launcher)


def _fill_slicer(slicer: Any, app: Any) -> None:
    from . import subject_hierarchy
    from .layout import application_logic
    from .modules import Modules
    from .mrml_widgets import WIDGETS

    for name in [n for n in vars(slicer) if n in NOT_IN_SLICER or n in vars(slicer.util)]:
        if not name.startswith("_") and name not in ("vtkMRMLScene",):
            delattr(slicer, name)
    slicer.app, slicer.mrmlScene, slicer.selfTests = app, slicer.vtkMRMLScene(), {}
    logic = application_logic(slicer.mrmlScene)
    slicer.modules = Modules(slicer.mrmlScene, logic, _terminologies())
    subject_hierarchy.follow(slicer.mrmlScene)
    for widget in WIDGETS:
        setattr(slicer, widget.__name__, widget)
    app._build(logic)


def _terminologies() -> str:
    """The folder of the application's terminologies, which trame-slicer brings along."""
    found = importlib.util.find_spec("trame_slicer")  # not imported: it takes seconds
    if found is None or found.origin is None:
        raise ImportError("The host needs trame-slicer for Slicer's terminologies")
    return str(Path(found.origin).parent / "resources" / "terminologies")


def _install_modules(slicer: Any, installer: Installer) -> None:
    from . import packages, parameter_node, scripted_module
    from .ctk_widgets import make_ctk
    from .sample_data import make_sample_data
    from .ui_loader import QUiLoader

    sys.modules["ctk"] = make_ctk()
    sys.modules["SampleData"] = make_sample_data()
    sys.modules["qt"].QUiLoader = QUiLoader
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: text
    i18n.translate = lambda context, text: text
    public = {
        "slicer.ScriptedLoadableModule": (scripted_module, (
            "ScriptedLoadableModule", "ScriptedLoadableModuleWidget",
            "ScriptedLoadableModuleLogic", "ScriptedLoadableModuleTest")),
        "slicer.parameterNodeWrapper": (parameter_node, (
            "parameterNodeWrapper", "isParameterNodeWrapper", "Validator", "WithinRange",
            "Minimum", "Maximum", "Choice", "Default", "Decimals", "SingleStep",
            "SlicerParameterNamePropertyName")),
    }
    made = {"slicer.i18n": i18n, "slicer.packaging": packages.make_packaging(installer)}
    for name in ("pip_install", "pip_uninstall"):  # never in earnest
        setattr(slicer.util, name, getattr(made["slicer.packaging"], name))
    for name, (source, names) in public.items():
        made[name] = types.ModuleType(name)
        made[name].__dict__.update({n: getattr(source, n) for n in names}, __all__=list(names))
    for name, module in made.items():
        sys.modules[name] = module
        setattr(slicer, name.split(".")[1], module)
    for name in ("qSlicerScriptedLoadableModule", "qSlicerScriptedLoadableModuleWidget"):
        setattr(slicer, name, getattr(scripted_module, name))
