"""What holds for the repository as a whole: sizes, layers, what the wheel carries."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARY = REPOSITORY / "DiffuGTSLib"
MEGABYTE = 1_000_000
IMPORT = re.compile(r"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)
# The brackets keep this file from naming one itself.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/])/(?:w[o]rk|h[o]me|U[s]ers)/\w")


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    files = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return [path for path in files if path.is_file()]


def text_files() -> dict[Path, str]:
    contents = {path: path.read_bytes() for path in tracked_files()}
    return {p: c.decode("utf-8") for p, c in contents.items() if b"\0" not in c}


def imported_by(path: Path) -> set[str]:
    return set(IMPORT.findall(path.read_text(encoding="utf-8")))


def test_no_file_has_more_than_500_lines() -> None:
    lines = {path.name: text.count("\n") for path, text in text_files().items()}
    assert {name: n for name, n in lines.items() if n > 500} == {}


def test_no_file_of_the_library_is_a_sliver() -> None:
    small = ("__init__.py", "__main__.py", "errors.py", "progress.py")
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines())
             for path in LIBRARY.rglob("*.py") if path.name not in small}
    assert {name: n for name, n in lines.items() if n < 60} == {}


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_function_has_more_than_60_lines() -> None:
    every = [path for path in tracked_files() if path.suffix == ".py"]
    assert [(path.name, name, n) for path in every for name, n in functions(path) if n > 60] == []


def test_every_class_that_a_shipped_model_names_can_be_imported() -> None:
    for path in (REPOSITORY / "Resources" / "Models").rglob("model_index.json"):
        for entry in json.loads(path.read_text(encoding="utf-8")).values():
            if isinstance(entry, list) and entry[0] and entry[0].startswith("DiffuGTSLib"):
                assert hasattr(importlib.import_module(entry[0]), entry[1])


def test_no_file_is_larger_than_20_megabytes() -> None:
    assert [p.name for p in tracked_files() if p.stat().st_size > 20 * MEGABYTE] == []


def test_the_embedded_weights_stay_within_20_megabytes() -> None:
    weights = (REPOSITORY / "Resources" / "Models").rglob("*.safetensors")
    assert sum(path.stat().st_size for path in weights) <= 20_000_000


def test_no_file_names_a_path_of_one_machine() -> None:
    assert [p.name for p, text in text_files().items() if MACHINE_PATH.search(text)] == []


def test_a_path_of_one_machine_would_be_found() -> None:
    assert MACHINE_PATH.search("open('{}me/me/scan.nii.gz')".format("/ho"))
    assert not MACHINE_PATH.search("https://example.org{}me/page".format("/ho"))


@pytest.mark.parametrize("path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: path.stem)
def test_the_library_does_not_import_slicer(path: Path) -> None:
    assert imported_by(path).isdisjoint({"slicer", "qt", "ctk", "vtk", "PythonQt"})


@pytest.mark.parametrize("module", [
    "cli", "cli.app", "prompt.parsing", "scan.phantom", "doctor", "worker.protocol", "models.store",
    "batch", "pipeline", "datasets",
])
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = (
        f"import sys, DiffuGTSLib.{module}; "
        "print(*{'torch', 'transformers', 'diffusers', 'monai'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == ""


def test_the_wheel_carries_every_package_of_the_library() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    found = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for path in LIBRARY.rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found | {"DiffuGTSLib.Resources"}


def test_every_required_package_has_an_exact_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = project["dependencies"] + [
        line for extra in project["optional-dependencies"].values() for line in extra
    ]
    names = {re.split(r"[<>=!\[]", line)[0].lower() for line in required} - {project["name"]}
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").lower()
    constraints = constraints.replace("_", "-")
    pinned = set(re.findall(r"^([\w.-]+)==\d", constraints, re.MULTILINE))
    assert {name.replace("_", "-") for name in names} <= pinned


def test_the_notice_names_what_the_weights_were_trained_on() -> None:
    card = json.loads((REPOSITORY / "Resources/Models/embedded/card.json").read_text("utf-8"))
    notice = (REPOSITORY / "NOTICE.txt").read_text("utf-8")
    trained_on = notice[:notice.index("Used for scoring only")]
    names = re.findall(r"\b[A-Z][A-Za-z-]{4,}", card["trained_on"])
    assert {"Soft-tissue-Sarcoma", "TCGA-LGG", "UCSF-PDGM", "LIDC-IDRI"} <= set(names)
    assert [name for name in names if name not in trained_on] == []
