"""What the panel keeps: parameters in the scene, and settings of this machine.

The parameters are saved with the scene. The settings are the last prompts, the Python, the device
and the computers that were used, in Slicer's own settings file.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import qt
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

MAX_PROMPTS = 12
_PROMPTS = "DiffuGTS/lastPrompts"
_PYTHON = "DiffuGTS/python"
_DEVICE = "DiffuGTS/device"
_HOST = "DiffuGTS/host"
_HOSTS = "DiffuGTS/lastHosts"
MAX_HOSTS = 6


class ModalityChoice(Enum):
    """Modality of the scan; automatic reads the DICOM tag, else the voxel values."""

    AUTOMATIC = 0
    CT = 1
    MR = 2

    def label(self) -> str:
        """The text in the list."""
        return _("Automatic") if self is ModalityChoice.AUTOMATIC else self.name

    @property
    def option(self) -> str | None:
        """The worker's option; None lets it decide."""
        return None if self is ModalityChoice.AUTOMATIC else self.name


class SequenceChoice(Enum):
    """MR sequence of the scan; automatic reads its name. A test compares with the library's."""

    AUTOMATIC = 0
    T1 = 1
    T1C = 2
    T2 = 3
    FLAIR = 4
    OTHER = 5

    def label(self) -> str:
        """The text in the list."""
        return {
            SequenceChoice.AUTOMATIC: _("Automatic"),
            SequenceChoice.T1C: _("T1 with contrast"),
            SequenceChoice.OTHER: _("Other"),
        }.get(self, self.name)

    @property
    def option(self) -> str | None:
        """The worker's option; None lets it decide."""
        return None if self is SequenceChoice.AUTOMATIC else self.name.lower()


class FrameChoice(Enum):
    """Frames of a sequence to segment."""

    THIS = 0
    ALL = 1

    def label(self) -> str:
        """The text in the list."""
        return _("This frame") if self is FrameChoice.THIS else _("All frames")


@parameterNodeWrapper
class Parameters:
    """The panel's parameters, connected to widgets by their property SlicerParameterName."""

    volume: vtkMRMLScalarVolumeNode
    prompt: str
    opacity: Annotated[float, WithinRange(0, 1)] = 0.5
    model: str = "embedded"
    modality: ModalityChoice = ModalityChoice.AUTOMATIC
    sequence: SequenceChoice = SequenceChoice.AUTOMATIC
    seed: Annotated[int, WithinRange(0, 999999)] = 0
    roi: vtkMRMLMarkupsROINode
    within: vtkMRMLSegmentationNode
    withinSegment: str = ""  # id of one of its segments
    frames: FrameChoice = FrameChoice.THIS


def lastPrompts() -> list[str]:
    """The prompts of earlier runs, newest first."""
    return _texts(_PROMPTS)


def rememberPrompt(text: str) -> None:
    """Stores a prompt as the newest."""
    _remember(_PROMPTS, text, MAX_PROMPTS)


def _texts(key: str) -> list[str]:
    stored = qt.QSettings().value(key)
    # Qt returns a list of one as a string.
    return [stored] if isinstance(stored, str) else list(stored or ())


def _remember(key: str, text: str, most: int) -> None:
    others = [each for each in _texts(key) if each != text]
    qt.QSettings().setValue(key, [text, *others][:most])


def python() -> str:
    """The Python executable for the worker; "" is Slicer's own."""
    return str(qt.QSettings().value(_PYTHON) or "")


def setPython(path: str) -> None:
    """Stores the Python executable."""
    qt.QSettings().setValue(_PYTHON, path)


def device() -> str:
    """The device that was chosen last, as "auto", "cpu", "cuda:0"."""
    return str(qt.QSettings().value(_DEVICE) or "auto")


def setDevice(name: str) -> None:
    """Stores the device."""
    qt.QSettings().setValue(_DEVICE, name)


def host() -> str:
    """The computer that was chosen last; "" is this one."""
    return str(qt.QSettings().value(_HOST) or "")


def setHost(name: str) -> None:
    """Stores the computer."""
    qt.QSettings().setValue(_HOST, name)


def lastHosts() -> list[str]:
    """The computers that were used, newest first."""
    return _texts(_HOSTS)


def rememberHost(name: str) -> None:
    """Stores a computer as the newest."""
    _remember(_HOSTS, name, MAX_HOSTS)
