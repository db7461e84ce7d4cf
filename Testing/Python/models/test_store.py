"""Where models are kept, and what is said of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from DiffuGTSLib import files
from DiffuGTSLib.errors import ModelMissing
from DiffuGTSLib.files import resource
from DiffuGTSLib.models import store

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def own(folder: Path) -> Path:
    """A package in the store that no catalogue knows."""
    return Path(shutil.copytree(resource("Models") / "embedded", folder / "own"))


def described(name: str) -> dict:
    return next(m for m in store.describe_models()["models"] if m["name"] == name)


@pytest.mark.parametrize(("platform", "variable", "expected"), [
    ("linux", "XDG_DATA_HOME", "diffugts/models"), ("win32", "LOCALAPPDATA", "diffugts/models"),
])  # fmt: skip
def test_models_are_kept_where_the_system_keeps_data(
    platform: str, variable: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DIFFUGTS_MODELS", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert files.store_folder() == tmp_path / expected


def test_a_model_of_the_store_is_found_by_its_name(own: Path) -> None:
    assert store.find("own") == own
    assert store.installed() == ["own"]


def test_the_embedded_model_is_found_without_a_store(folder: Path) -> None:
    assert store.find("embedded") == resource("Models") / "embedded"
    assert store.installed() == []


def test_a_name_is_that_of_the_model_that_is_listed(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in (own.parent / "embedded", tmp_path / "embedded", tmp_path / "own",
                  tmp_path / "here"):
        shutil.copytree(own, other)
    monkeypatch.chdir(tmp_path)
    listed = {m["name"]: m["folder"] for m in store.describe_models()["models"]}
    for name in ("embedded", "own"):
        assert str(store.find(name).absolute()) == listed[name]
    assert store.find(tmp_path / "own") == tmp_path / "own"
    assert store.find("here").resolve() == (tmp_path / "here").resolve()


def test_a_model_that_is_not_installed_comes_with_the_way_to_get_it(folder: Path) -> None:
    with pytest.raises(ModelMissing, match=r"maisi-ct.* is not installed") as caught:
        store.find("maisi-ct")
    assert "diffugts models download maisi-ct" in caught.value.hint


def test_a_model_of_no_catalogue_is_described_by_its_card(own: Path) -> None:
    model = described("own")
    assert (model["catalogue"], model["ready"], model["modalities"]) == (False, True, ["CT", "MR"])
    assert model["actions"] == ["verify", "remove"]


def test_a_model_with_a_broken_card_is_damaged(own: Path) -> None:
    (own / "card.json").write_text("{")
    model = described("own")
    assert (model["state"], model["ready"]) == ("damaged", False)
    assert "card.json" in model["message"]


def test_a_model_without_attention_needs_training(own: Path) -> None:
    (own / store.INDEX).write_text("{}")
    assert described("own")["state"] == "needs-training"


def test_what_is_under_construction_is_no_model(own: Path) -> None:
    own.rename(own.with_name(".building-1"))
    assert store.installed() == []


def test_a_removed_model_is_gone(own: Path, folder: Path) -> None:
    store.remove("own")
    assert list(folder.iterdir()) == []


def test_the_list_needs_no_torch() -> None:
    code = ("import sys; from DiffuGTSLib.models.store import describe_models; describe_models();"
            "print(*{'torch', 'numpy', 'SimpleITK', 'transformers'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True,
                          text=True, check=True)
    assert done.stdout.strip() == ""
