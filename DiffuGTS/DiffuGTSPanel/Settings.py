"""What outlives Slicer: the last prompts, and the Python to use on this machine."""

from __future__ import annotations

import qt

MOST_PROMPTS = 12
_PROMPTS = "DiffuGTS/lastPrompts"
_PYTHON = "DiffuGTS/python"
_DEVICE = "DiffuGTS/device"


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
