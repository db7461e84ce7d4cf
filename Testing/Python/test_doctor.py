"""The doctor, in real Pythons: a whole one, one without torch, one with a broken torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from support.tiny_model import write_tiny_model

from DiffuGTSLib.doctor import EXTRAS, Finding, as_text, healthy, requirements, suits

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def packages_without(folder: Path, *left_out: str) -> Path:
    """A folder of packages that has all of this Python's but some."""
    folder.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if entry.name.partition("-")[0].lower() not in left_out and entry.suffix != ".pth":
                (folder / entry.name).symlink_to(entry)
    return folder


def doctor(*arguments, packages: Path | None = None, **more):
    """Runs the doctor; -S leaves out this Python's own packages where others are given."""
    path = [str(REPOSITORY), *([str(packages)] if packages else [])]
    return subprocess.run(
        [sys.executable, *(["-S"] if packages else []), "-m", "DiffuGTSLib.cli", "doctor",
         *map(str, arguments)],
        capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)} | more,
    )


def states(done):
    return {f["name"]: (f["state"], f["found"], f["advice"])
            for f in json.loads(done.stdout)["findings"]}


def test_a_whole_installation_is_healthy(model):
    done = doctor("--model", model)
    assert done.returncode == 0, done.stdout
    assert "Everything that is needed is installed." in done.stdout
    assert "tiny for CT and MR, verified" in done.stdout
    assert done.stderr == ""


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    """What the doctor finds here with another cache folder, from its JSON."""
    cache = tmp_path_factory.mktemp("cache") / "my-cache"
    return states(doctor("--model", model, "--json", DIFFUGTS_CACHE=str(cache)))


def test_json_is_one_document(found):
    assert found["torch"][0] == "ok"
    assert found["text encoder"][0] == "ok"
    assert "GiB free" in found["memory"][1]


def test_a_damaged_model_is_named_and_ends_with_1(model, tmp_path):
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    (weights,) = (broken / "vae").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-8])
    done = doctor("--model", broken, "--json")
    state, words, _ = states(done)["model broken"]
    assert (done.returncode, state) == (1, "missing")
    assert "vae" in words


def test_without_torch_it_works_and_says_what_to_install(tmp_path):
    packages = packages_without(tmp_path / "p", "torch", "torchgen", "functorch")
    done = doctor("--json", packages=packages)
    assert done.returncode == 1, done.stderr
    state, words, advice = states(done)["torch"]
    assert (state, words) == ("missing", "not installed")
    assert advice.startswith('pip install "torch>=')


@pytest.mark.parametrize("content", [None, "raise OSError('a library is missing')", ""])
def test_a_half_installed_torch_is_recognised(tmp_path, content):
    packages = packages_without(tmp_path / "p", "torch")
    (packages / "torch").mkdir()
    if content is not None:
        (packages / "torch" / "__init__.py").write_text(content)
    found = states(doctor("--json", packages=packages))
    assert found["torch"][0] == "missing"
    assert found["torch"][1].startswith("half installed or damaged")
    assert "uninstall" in found["torch"][2]


def test_a_missing_package_is_named(tmp_path):
    packages = packages_without(tmp_path / "p", "safetensors", "torch")
    assert states(doctor("--json", packages=packages))["safetensors"][:2] == (
        "missing", "not installed")


def test_the_cache_folder_that_is_set_is_reported(found):
    assert found["cache folder"][1].startswith("my-cache")


def test_the_requirements_are_those_of_the_project():
    named = {name: (relation, version) for name, relation, version in requirements()}
    assert named["torch"][0] == ">="
    assert {"numpy", "SimpleITK", "diffusers"} <= set(named)
    assert "pytest" not in named


@pytest.mark.parametrize(("there", "relation", "version", "fits"), [
    ("2.13.0+cpu", ">=", "2.6", True), ("2.5.9", ">=", "2.6", False), ("2.10", ">=", "2.9", True),
    ("0.1.0", "==", "0.1", True), ("0.1.1", "==", "0.1.0", False), ("1", "", "", True),
])
def test_versions_are_compared_as_numbers(there, relation, version, fits):
    assert suits(there, relation, version) is fits


def test_only_what_is_missing_makes_it_unhealthy():
    findings = [Finding("a", "ok", "1"), Finding("b", "note", "little", "do it")]
    assert healthy(findings)
    assert not healthy([*findings, Finding("c", "missing", "none")])
    assert "-> do it" in as_text(findings)


def test_an_extra_that_is_missing_is_a_note_that_says_what_for(tmp_path):
    packages = packages_without(tmp_path / "p", "monai")
    done = doctor("--json", packages=packages)
    assert done.returncode == 0, done.stderr
    state, words, advice = states(done)["extra train"]
    assert (state, words) == ("note", "not installed: monai")
    assert "diffugts evaluate" in advice
    assert '[train]"' in advice


def test_the_extras_of_the_project_are_those_that_are_looked_at():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["optional-dependencies"]) - {"dev"} == set(EXTRAS)


def test_it_runs_as_a_module_with_other_requirements(tmp_path):
    needed = tmp_path / "requirements.txt"
    needed.write_text("# what another program needs\npytest>=1\nno-such-package>=2.5\n")
    done = subprocess.run(
        [sys.executable, "-m", "DiffuGTSLib.doctor", "--json", "--requirements", str(needed)],
        capture_output=True, text=True, check=False, cwd=REPOSITORY)
    found = states(done)
    assert done.returncode == 1
    assert found["pytest"][0] == "ok"
    assert found["no-such-package"] == ("missing", "not installed",
                                        'pip install "no-such-package>=2.5"')
    assert "diffusers" not in found
