"""Dialogs would wait for a user: the host records each and returns the test's answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from PySide6.QtWidgets import QDialog, QFileDialog, QInputDialog, QMenu, QMessageBox


class UnansweredDialog(RuntimeError):
    """The module asked something, and the test had no answer ready."""


@dataclass(frozen=True)
class Dialog:
    """What was shown."""

    kind: str
    title: str
    text: str
    detail: str = ""


class Dialogs(list[Dialog]):
    """All dialogs since the last clear, and the answers to come."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: deque[Any] = deque()

    def answer(self, *answers: Any) -> None:
        """Answers for the next questions: a button's name ("Yes", "Ok", "Cancel"), or a path."""
        self.answers.extend(answers)

    def take(self, dialog: Dialog, default: Any = None) -> Any:
        """Writes the dialog down and gives the next answer; raises where there is none."""
        self.append(dialog)
        if default is not None:
            return default
        if not self.answers:
            raise UnansweredDialog(f"Nobody answers '{dialog.title}': {dialog.text}")
        return self.answers.popleft()


def _button(name: Any) -> Any:
    return getattr(QMessageBox.StandardButton, name) if isinstance(name, str) else name


def install(dialogs: Dialogs) -> None:
    """Replaces the functions of Qt's dialogs that wait for a user."""

    def message(self: Any) -> int:
        buttons = int(self.standardButtons)
        plain = int(QMessageBox.StandardButton.Ok)
        dialog = Dialog("message", self.windowTitle.strip(), self.text, self.detailedText)
        return int(_button(dialogs.take(dialog, plain if buttons in (0, plain) else None)))

    def other(self: Any) -> int:
        return int(dialogs.take(Dialog(type(self).__name__, self.windowTitle, "")))

    def static_message(kind: str, default: Any) -> Any:
        def show(parent: Any, title: str, text: str, *rest: Any) -> Any:
            plain = default if not rest else None
            return _button(dialogs.take(Dialog(kind, title, text), plain))

        return staticmethod(show)

    def paths(parent: Any = None, caption: str = "", *rest: Any) -> list[str]:
        answer = dialogs.take(Dialog("getOpenFileNames", caption, ""))
        return [str(each) for each in answer]

    def path(kind: str, pair: bool) -> Any:
        def ask(parent: Any = None, caption: str = "", *rest: Any) -> Any:
            answer = str(dialogs.take(Dialog(kind, caption, "")))
            return (answer, "") if pair else answer

        return staticmethod(ask)

    for kind, shown in ((QDialog, other), (QMenu, other), (QMessageBox, message)):
        kind.exec = shown
        kind.exec_ = shown
    ok = QMessageBox.StandardButton.Ok
    for name, default in (("question", None), ("information", ok), ("warning", ok),
                          ("critical", ok)):
        setattr(QMessageBox, name, static_message(name, default))
    for name in ("getOpenFileName", "getSaveFileName", "getExistingDirectory"):
        setattr(QFileDialog, name, path(name, False))
    QFileDialog.getOpenFileNames = staticmethod(paths)
    for name in ("getText", "getItem"):
        setattr(QInputDialog, name, path(name, False))
