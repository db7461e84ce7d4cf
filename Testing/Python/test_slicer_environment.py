"""The checks of `make test-slicer`: that they see what they are for, with this Python."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "Testing"))
import slicer_environment  # noqa: E402

PYTHON = Path(sys.executable)
SHIPPED = {"numpy": version("numpy")}


def module(folder: Path, text: str) -> Path:
    """A repository whose extension is one module."""
    (folder / "DiffuGTS").mkdir()
    (folder / "DiffuGTS" / "Module.py").write_text(text)
    return folder


def test_what_slicer_ships_can_be_imported(tmp_path: Path, capsys) -> None:
    folder = module(tmp_path, "import numpy, qt, slicer")
    slicer_environment.check_imports(PYTHON, SHIPPED, folder)
    assert "with the 1 shipped packages alone" in capsys.readouterr().out


def test_an_installed_package_that_slicer_does_not_ship_is_out_of_reach(tmp_path: Path) -> None:
    folder = module(tmp_path, "import typer")
    with pytest.raises(SystemExit, match="Slicer does not ship typer"):
        slicer_environment.check_imports(PYTHON, SHIPPED, folder)


def test_a_shipped_package_of_another_version_is_named(capsys) -> None:
    slicer_environment.check_unchanged(SHIPPED, PYTHON)
    assert "beside the 1 that Slicer ships" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"numpy 0\.1 -> "):
        slicer_environment.check_unchanged({"numpy": "0.1"}, PYTHON)


@pytest.mark.parametrize("name", ["requirements.txt", "PackageInstall.py"])
def test_an_environment_is_made_anew_where_the_way_of_installing_has_changed(
    name: str, tmp_path: Path
) -> None:
    assert name in [path.name for path in slicer_environment.MADE_FROM]
    (tmp_path / name).write_text("before")
    before = slicer_environment.state_of("5.12", (tmp_path / name,))
    (tmp_path / name).write_text("after")
    assert slicer_environment.state_of("5.12", (tmp_path / name,)) != before
