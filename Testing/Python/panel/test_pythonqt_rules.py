"""PythonQt's rules, over the syntax tree of the panel: what PySide forgives and Slicer does not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PANEL = Path(__file__).resolve().parents[3] / "DiffuGTS"
FILES = sorted(PANEL.rglob("*.py"))
# What modules and extensions of Slicer use of qt and ctk from Python, as far as the panel needs it.
# Before another name is added: is it used in one of them?
ALLOWED = frozenset((
    "qt.QApplication.clipboard", "qt.QApplication.palette", "qt.QBrush", "qt.QColor",
    "qt.QCompleter", "qt.QCompleter.UnfilteredPopupCompletion", "qt.QDesktopServices.openUrl",
    "qt.QEventLoop", "qt.QFileDialog.getExistingDirectory", "qt.QFileDialog.getOpenFileNames",
    "qt.QFileDialog.getSaveFileName", "qt.QHeaderView.ResizeToContents",
    "qt.QHeaderView.Stretch", "qt.QLabel", "qt.QListWidgetItem", "qt.QMenu", "qt.QPalette.Text",
    "qt.QPalette.Window", "qt.QProcess", "qt.QProcess.CrashExit", "qt.QProcess.FailedToStart",
    "qt.QProcessEnvironment", "qt.QSettings", "qt.QSizePolicy.Expanding",
    "qt.QSizePolicy.Fixed", "qt.QStringListModel", "qt.QTableWidgetItem", "qt.QTextCursor.End",
    "qt.QTimer", "qt.QTimer.singleShot", "qt.QToolButton", "qt.QUrl.fromLocalFile",
    "qt.Qt.AlignRight", "qt.Qt.AlignVCenter", "qt.Qt.Checked", "qt.Qt.DecorationRole",
    "qt.Qt.DownArrow", "qt.Qt.ItemIsEnabled", "qt.Qt.ItemIsSelectable",
    "qt.Qt.ItemIsUserCheckable", "qt.Qt.RightArrow", "qt.Qt.ToolTipRole",
    "qt.Qt.Unchecked",
    "ctk.ctkPathLineEdit.Dirs",
))
# Properties of widgets: attributes in PythonQt, methods in PySide.
PROPERTIES = frozenset((
    "checked", "count", "currentIndex", "currentPath", "currentText", "enabled", "maximum",
    "minimum", "plainText", "sizeHint", "styleSheet", "text", "toolTip", "value", "visible",
    "wordWrap",
))
WIDGETS = ("ui", "root")  # self.ui.name and self.root are widgets


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an expression; "" of anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def faults(source: str) -> Iterator[str]:
    """Sentences on what PythonQt would refuse."""
    tree = ast.parse(source)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        name = dotted(node) if isinstance(node, ast.Attribute) and id(node) not in inner else ""
        if name.split(".")[0] in ("qt", "ctk") and name not in ALLOWED:
            yield f"line {node.lineno}: {name} is not known to be wrapped"
        if isinstance(node, ast.Call):
            called = dotted(node.func)
            if called.split(".")[0] in ("qt", "ctk") and node.keywords:
                yield f"line {node.lineno}: {called} takes no keyword arguments"
            parts = called.split(".")
            if len(parts) > 2 and parts[-1] in PROPERTIES and set(WIDGETS) & set(parts[:-1]):
                yield f"line {node.lineno}: {called} is a property"
        if isinstance(node, ast.ClassDef):
            for base in map(dotted, node.bases):
                if base.split(".")[0] in ("qt", "ctk"):
                    yield f"line {node.lineno}: {node.name} overrides {base}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PANEL).as_posix())
def test_the_panel_keeps_the_rules(file: Path) -> None:
    assert list(faults(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(("source", "words"), [
    ("qt.QLabel(text='a')", "no keyword arguments"),
    ("qt.Signal(str)", "not known to be wrapped"),
    ("ctk.ctkSliderWidget(maximum=1)", "no keyword arguments"),
    ("x = qt.Qt.AlignmentFlag.AlignLeft", "not known to be wrapped"),
    ("self.ui.promptEdit.text()", "is a property"),
    ("self.root.visible()", "is a property"),
    ("class Filter(qt.QObject):\n    pass", "overrides qt.QObject"),
])
def test_a_fault_is_seen(source: str, words: str) -> None:
    assert any(words in fault for fault in faults(source))


def test_no_name_is_allowed_that_the_panel_does_not_use() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in FILES)
    assert [name for name in sorted(ALLOWED) if name not in text] == []
