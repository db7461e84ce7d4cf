"""The extension's CMake: lists that name every file, and a package in which the library works."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from DiffuGTSLib.doctor import requirements

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "Testing"))
import cmake_lists  # noqa: E402

# What Slicer's own CMake does for a scripted module, as far as the place of its files goes.
STAND_IN = """
cmake_minimum_required(VERSION 3.20)
project(stand_in NONE)
set(DiffuGTS_SOURCE_DIR "{repository}")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR modules)
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${{ARGN}})
  if(NOT MY_NAME STREQUAL "DiffuGTS" OR MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown arguments")
  endif()
  foreach(file IN LISTS MY_SCRIPTS MY_RESOURCES)
    cmake_path(GET file PARENT_PATH folder)
    install(FILES ${{file}} DESTINATION modules/${{folder}})
  endforeach()
endfunction()
add_subdirectory("{repository}/DiffuGTS" module)
add_subdirectory("{repository}/DiffuGTSLib" library)
"""
QUESTION = """
import sys
sys.path.insert(0, sys.argv[1])
import DiffuGTSLib
from DiffuGTSLib.doctor import requirements
from DiffuGTSLib.files import resource
from DiffuGTSLib.models.store import describe_models
from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.scan.example_scans import example_scans
assert DiffuGTSLib.__file__.startswith(sys.argv[1])
assert understand("hepatic neoplasm").title == "liver tumor"
embedded = describe_models()["models"][0]
assert embedded["ready"] and embedded["folder"].startswith(sys.argv[1]), embedded
assert example_scans()
assert str(resource("Templates/report.html")).startswith(sys.argv[1])
"""


@pytest.mark.parametrize(("file", "variable"), cmake_lists.LISTS, ids=lambda value: value)
def test_a_list_names_every_file(file, variable):
    try:
        wanted = cmake_lists.wanted(file, variable)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    assert wanted
    assert cmake_lists.listed(file, variable) == wanted, "run: python Testing/cmake_lists.py"


def test_the_wheel_carries_every_resource():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["DiffuGTSLib.Resources"]
    resources = REPOSITORY / "Resources"
    carried = {path.relative_to(resources).as_posix() for pattern in patterns
               for path in resources.glob(pattern)}
    assert set(cmake_lists.listed("DiffuGTSLib/CMakeLists.txt", "LIBRARY_RESOURCES")) <= carried


def test_the_packaged_library_works_from_the_modules_folder(tmp_path):
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake here")
    source = tmp_path / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(STAND_IN.format(repository=REPOSITORY.as_posix()))
    for command in ([cmake, "-S", source, "-B", tmp_path / "build"],
                    [cmake, "--install", tmp_path / "build", "--prefix", tmp_path / "out"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    modules = tmp_path / "out" / "modules"
    for name in ("DiffuGTS.py", "DiffuGTSPanel/Logic.py", "Resources/requirements.txt",
                 "DiffuGTSLib/worker/server.py", "DiffuGTSLib/NOTICE.txt"):
        assert (modules / name).is_file()
        assert (tmp_path / "build" / "modules" / name).is_file() or "DiffuGTSLib" not in name
    subprocess.run([sys.executable, "-I", "-c", QUESTION, str(modules)], check=True, cwd=tmp_path)


def test_the_extensions_metadata_is_one_quoted_line_each():
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    found = dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]+)"\)$', text, re.MULTILINE))
    assert set(found) == {"HOMEPAGE", "CATEGORY", "CONTRIBUTORS", "DESCRIPTION", "ICONURL",
                          "SCREENSHOTURLS", "DEPENDS", "LICENSE_FILE", "README_FILE"}
    for name in ("LICENSE_FILE", "README_FILE"):
        assert (REPOSITORY / found[name].removeprefix("${CMAKE_CURRENT_SOURCE_DIR}/")).is_file()
    assert found["HOMEPAGE"].rpartition("/")[2].startswith("Slicer")  # the index asks for it
    for picture in ("ICONURL", "SCREENSHOTURLS"):
        assert (REPOSITORY / found[picture].split("/main/")[1]).is_file()
    assert "project(DiffuGTS)" in text


def test_the_index_entry_agrees_with_the_metadata():
    raw = (REPOSITORY / "DiffuGTS.json").read_bytes()
    entry = json.loads(raw)
    assert b"\r" not in raw
    assert set(entry) == {"$schema", "build_dependencies", "build_subdirectory", "category",
                          "scm_revision", "scm_url", "tier"}
    text = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f'EXTENSION_CATEGORY "{entry["category"]}"' in text
    assert f'EXTENSION_HOMEPAGE "{entry["scm_url"].removesuffix(".git")}"' in text
    assert f'EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}"' in text


def test_the_icon_is_128_pixels_wide_and_high():
    png = (REPOSITORY / "DiffuGTS/Resources/Icons/DiffuGTS.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(png[place:place + 4], "big") for place in (16, 20)] == [128, 128]


def test_the_workers_requirements_are_the_projects_own_and_pin_nothing():
    needed = (REPOSITORY / "DiffuGTS/Resources/requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in needed.splitlines() if line and not line.startswith("#")]
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for line in lines:
        name, _relation, _version = line.partition(">=")
        assert re.search(rf'"{re.escape(name)}[>=]=', project), name
        assert "==" not in line


# By the names under which they are imported. The first group is Slicer's own.
SHIPPED = {"numpy", "scipy", "SimpleITK", "pydicom"}
OPTIONAL = {"highdicom", "ray"}
DISTRIBUTIONS = {"PIL": "pillow", "tokenizers": "transformers"}  # which brings it
AT_RUN_TIME = ("batch", "cli", "models", "networks", "output", "pipeline", "prompt", "scan",
               "worker")


def test_the_workers_requirements_name_all_that_worker_and_batches_import():
    listed = requirements(REPOSITORY / "DiffuGTS/Resources/requirements.txt")
    files = [file for package in AT_RUN_TIME
             for file in (REPOSITORY / "DiffuGTSLib" / package).rglob("*.py")]
    found = set()
    for file in [*files, *(REPOSITORY / "DiffuGTSLib").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                     [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            found |= {name.split(".")[0] for name in names}
    found -= {"", "DiffuGTSLib", *sys.stdlib_module_names, *SHIPPED, *OPTIONAL}
    assert {DISTRIBUTIONS.get(name, name) for name in found} <= {
        name for name, _, _ in listed}
