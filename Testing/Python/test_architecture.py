"""docs/architecture.md names functions that exist, and the picture shows every package."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:[a-z]\w*\.)+\w+(?:\.\w+)*)`", PAGE)))
FILES = sorted(set(re.findall(r"`(\w+/[\w/]+\.py)`", PAGE)))


@pytest.mark.parametrize("name", [n for n in NAMED if not n.endswith((".py", ".json"))])
def test_a_function_of_the_walk_exists(name: str) -> None:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(["DiffuGTSLib", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            thing = getattr(thing, attribute)
        return
    pytest.fail(f"DiffuGTSLib has no {name}")


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_named_exists(file: str) -> None:
    folders = ("DiffuGTSLib", "DiffuGTS/DiffuGTSPanel", "")
    assert any((REPOSITORY / folder / file).is_file() for folder in folders)


def test_every_package_has_its_title_in_the_picture() -> None:
    drawing = (REPOSITORY / "Testing" / "architecture.py").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (REPOSITORY / "DiffuGTSLib").glob("*/__init__.py")}
    assert packages <= set(re.findall(r'"(\w+)": "', drawing))
