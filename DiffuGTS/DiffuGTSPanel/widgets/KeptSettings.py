"""What the panel keeps in the scene, so that a saved scene opens as it was left.

What outlives Slicer: the last prompts, and the Python to use on this machine.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import qt
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

MOST_PROMPTS = 12
_PROMPTS = "DiffuGTS/lastPrompts"
_PYTHON = "DiffuGTS/python"
_DEVICE = "DiffuGTS/device"


class ModalityChoice(Enum):
    """What the scan is; automatic looks at its values."""

    AUTOMATIC = 0
    CT = 1
    MR = 2

    def label(self) -> str:
        """The words in the list."""
        return _("Automatic") if self is ModalityChoice.AUTOMATIC else self.name

    @property
    def told(self) -> str | None:
        """As the worker calls it; None where it finds out itself."""
        return None if self is ModalityChoice.AUTOMATIC else self.name


class SequenceChoice(Enum):
    """Which MR sequence the scan is; automatic reads its name."""

    AUTOMATIC = 0
    T1 = 1
    T1C = 2
    T2 = 3
    FLAIR = 4
    OTHER = 5

    def label(self) -> str:
        """The words in the list."""
        return {
            SequenceChoice.AUTOMATIC: _("Automatic"),
            SequenceChoice.T1C: _("T1 with contrast"),
            SequenceChoice.OTHER: _("Other"),
        }.get(self, self.name)

    @property
    def told(self) -> str | None:
        """As the worker calls it; None where it finds out itself."""
        return None if self is SequenceChoice.AUTOMATIC else self.name.lower()


class FrameChoice(Enum):
    """Which time points of a sequence are looked at."""

    THIS = 0
    ALL = 1

    def label(self) -> str:
        """The words in the list."""
        return _("This frame") if self is FrameChoice.THIS else _("All frames")


@parameterNodeWrapper
class Parameters:
    """The panel's values; widgets with the property SlicerParameterName follow them."""

    volume: vtkMRMLScalarVolumeNode
    prompt: str
    opacity: Annotated[float, WithinRange(0, 1)] = 0.5
    model: str = "embedded"
    modality: ModalityChoice = ModalityChoice.AUTOMATIC
    sequence: SequenceChoice = SequenceChoice.AUTOMATIC
    seed: Annotated[int, WithinRange(0, 999999)] = 0
    roi: vtkMRMLMarkupsROINode
    frames: FrameChoice = FrameChoice.THIS


def lastPrompts() -> list[str]:
    """The prompts of earlier runs, the newest first."""
    kept = qt.QSettings().value(_PROMPTS)
    # A list of one comes back as a text.
    return [kept] if isinstance(kept, str) else list(kept or ())


def rememberPrompt(text: str) -> None:
    """Puts a prompt in front of the others."""
    others = [prompt for prompt in lastPrompts() if prompt != text]
    qt.QSettings().setValue(_PROMPTS, [text, *others][:MOST_PROMPTS])


def python() -> str:
    """The program of the Python that the worker runs in; empty is Slicer's own."""
    return str(qt.QSettings().value(_PYTHON) or "")


def setPython(path: str) -> None:
    """Keeps the Python to use."""
    qt.QSettings().setValue(_PYTHON, path)


def device() -> str:
    """The device that was chosen last: "auto", "cpu", "cuda:0"."""
    return str(qt.QSettings().value(_DEVICE) or "auto")


def setDevice(name: str) -> None:
    """Keeps the device to use."""
    qt.QSettings().setValue(_DEVICE, name)
