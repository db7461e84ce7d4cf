"""Slicer's own process imports only what Slicer ships: the panel opens before anything is
installed, and never imports torch."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
MODULE = REPOSITORY / "DiffuGTS"
FILES = sorted(MODULE.rglob("*.py"))
HEAVY = ("torch", "monai", "diffusers", "transformers")
# Slicer ships none of these either; the panel has to open before they are installed.
NOT_SHIPPED = (*HEAVY, "filelock", "huggingface_hub", "jinja2", "jsonschema", "matplotlib",
               "psutil", "rich", "safetensors", "typer")
# Not SimpleITK: Slicer imports all modules at its start, and it takes half a second.
ALLOWED = {"slicer", "qt", "ctk", "vtk", "numpy", "DiffuGTSPanel"}
IMPORT_ALL = """
import sys
sys.path[:0] = sys.argv[1:3]
for name in {absent!r}:
    sys.modules[name] = None  # as if it were not installed
from Host.boot import boot
host = boot()
for name in sys.argv[3:]:
    __import__(name)
from DiffuGTS import DiffuGTSLogic
logic = DiffuGTSLogic()
assert logic.understand("liver tumor")[0].ok
assert logic.models() and logic.suggestions("liv")
assert "torch (half installed)" in logic.packages.sentence()
logic.shutdown()
host.load_module()
panel = host.widget().panel
panel.ui.advancedButton.collapsed = panel.ui.batchButton.collapsed = False
assert not panel.setup.root.isHidden() and "torch" in panel.setup.ui.setupLabel.text
assert panel.advanced.models.current.ready
assert not host.errors, host.errors
host.close()
print("all imported")
"""


def test_every_file_imports_and_the_panel_opens_with_what_slicer_ships(running_host):
    names = [".".join(path.relative_to(MODULE).with_suffix("").parts) for path in FILES]
    names = [name.removesuffix(".__init__") for name in names]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL.format(absent=NOT_SHIPPED), str(REPOSITORY / "Testing"),
         str(MODULE), *names],
        capture_output=True, text=True, check=False, timeout=200,
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen"})
    assert done.stdout.strip().endswith("all imported"), done.stderr


@pytest.mark.parametrize("name", ["worker.server", "cli.app", "cli.segment", "batch.processor"])
def test_only_figures_and_thumbnails_import_matplotlib(name):
    code = ("import sys; sys.modules.update(matplotlib=None, jsonschema=None); "
            f"import DiffuGTSLib.{name}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=False, timeout=200, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def imported(tree, at_file_scope):
    scope = tree.body if at_file_scope else list(ast.walk(tree))
    for node in scope:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_imports_only_what_slicer_always_has(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert set(imported(tree, at_file_scope=False)).isdisjoint(HEAVY)
    assert set(imported(tree, at_file_scope=True)) <= ALLOWED | set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_names_no_package_index(path):
    text = path.read_text(encoding="utf-8")
    assert "pypi" not in text.lower()
    assert "pythonhosted" not in text.lower()
