"""What each package offers to the others: every name is there, and light ones stay light."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("batch", "datasets", "models", "networks", "output", "pipeline", "prompt", "scan")
# Of the packages that Slicer's process imports, where torch may be absent.
LIGHT = {
    "batch": ("BatchSettings", "Case", "Outcome", "run_batch"),
    "datasets": ("DataSet", "LabelledCase", "read_dataset"),
    "models": ("entry", "find", "installed", "verify"),
    "pipeline": ("Lesion", "Options"),
    "prompt": ("Prompt", "several", "suggestions", "understand"),
    "scan": ("Scan", "as_scan", "from_image", "read", "write_image", "write_segmentation"),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_is_there(package: str) -> None:
    face = importlib.import_module(f"DiffuGTSLib.{package}")
    for name in face.__all__:
        assert getattr(face, name).__module__.startswith(("DiffuGTSLib.", "typing"))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_hidden_by_a_module_of_the_package(package: str) -> None:
    face = importlib.import_module(f"DiffuGTSLib.{package}")
    assert face.__file__ is not None
    modules = {path.stem for path in Path(face.__file__).parent.glob("*.py")}
    assert modules.isdisjoint(face.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_name_is_refused(package: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module(f"DiffuGTSLib.{package}").no_such_name


def test_the_light_names_need_no_torch() -> None:
    lines = [f"from DiffuGTSLib.{package} import {', '.join(names)}"
             for package, names in LIGHT.items()]
    lines += [f"import DiffuGTSLib.{package}" for package in PACKAGES]
    code = "\n".join([*lines, "import sys", "print('torch' in sys.modules)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True, cwd=Path(__file__).resolve().parents[2])
    assert done.stdout.strip() == "False"
