"""Model packages: damage is named, undamaged ones load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from support.tiny_model import write_tiny_model

from DiffuGTSLib.errors import ModelDamaged, ModelMissing
from DiffuGTSLib.files import sha256
from DiffuGTSLib.models import store
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.package import load, save


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("package") / "tiny")


@pytest.fixture
def package(written: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "tiny"))


def test_a_package_is_in_diffusers_layout(package: Path) -> None:
    index = json.loads((package / "model_index.json").read_text(encoding="utf-8"))
    for part in ("vae", "unet", "aova"):
        assert part in index
        assert (package / part / "config.json").is_file()
        assert (package / part / store.WEIGHTS).is_file()
    assert (package / "scheduler" / "scheduler_config.json").is_file()


def test_a_loaded_package_is_frozen(package: Path) -> None:
    loaded = load(package)
    parts = (loaded.autoencoder, loaded.denoiser, loaded.attention)
    assert not any(p.requires_grad for part in parts for p in part.parameters())
    assert not any(part.training for part in parts)


def test_weights_are_stored_as_float16_and_computed_in_float32(package: Path) -> None:
    stored = load_file(package / "vae" / store.WEIGHTS)
    assert {t.dtype for t in stored.values()} == {torch.float16}
    assert {p.dtype for p in load(package).autoencoder.parameters()} == {torch.float32}


def test_a_saved_package_does_not_name_its_origin(package: Path, tmp_path: Path) -> None:
    loaded = load(package)
    save(tmp_path / "again", loaded.card, loaded.autoencoder, loaded.denoiser,
                loaded.attention, FlowMatchEulerDiscreteScheduler())
    for part in ("vae", "unet", "aova"):
        assert str(tmp_path) not in (tmp_path / "again" / part / "config.json").read_text("utf-8")


def test_the_card_survives_writing_and_reading(package: Path, tmp_path: Path) -> None:
    card = Card.read(package)
    card.write(tmp_path)
    assert Card.read(tmp_path) == card


@pytest.mark.parametrize("name", ["vae/" + store.WEIGHTS, "aova/config.json"])
def test_a_changed_file_is_named(package: Path, name: str) -> None:
    damaged = package / name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelDamaged, match=name):
        load(package)


def test_a_missing_file_is_named(package: Path) -> None:
    (package / "unet" / store.WEIGHTS).unlink()
    with pytest.raises(ModelDamaged, match="unet"):
        load(package)


def test_weights_of_another_version_are_refused(package: Path) -> None:
    path = package / "unet" / store.WEIGHTS
    weights = load_file(path)
    weights["out.7.weight"] = weights.pop("out.0.weight")
    save_file(weights, path)
    card = Card.read(package)
    card.files[f"unet/{store.WEIGHTS}"] = sha256(path)
    card.write(package)
    with pytest.raises(ModelDamaged, match=r"unet does not fit this version \(out"):
        load(package)


def test_a_broken_card_is_named(package: Path) -> None:
    (package / store.CARD).write_text("{")
    with pytest.raises(ModelDamaged, match=r"card\.json"):
        load(package)


def test_an_unknown_model_is_missing() -> None:
    with pytest.raises(ModelMissing, match="no-such-model"):
        load("no-such-model")


def test_the_embedded_model_is_undamaged_and_small() -> None:
    folder = store.find("embedded")
    store.verify(folder)
    assert sum(p.stat().st_size for p in folder.rglob("*.safetensors")) <= 20_000_000
    assert Card.read(folder).modalities == ("CT", "MR")


@pytest.mark.parametrize("changes", [
    {"steps": "x"}, {"steps": 0}, {"samples": 10**9}, {"threshold": "high"}, {"threshold": 7},
    {"spacing_mm": [1, 2]}, {"spacing_mm": [0, 0, 0]}, {"fusion": 5}, {"fusion": {}},
    {"modalities": []}, {"scale_factor": None}, {"class_labels": 5}, {"class_labels": {"MR": 999}},
    {"calibration": {"brain/MR": "x"}}, {"unknown": 1}, {"guidance": "x"},
])
def test_a_card_with_values_that_no_run_can_use_is_damaged(
    package: Path, changes: dict[str, object]
) -> None:
    card = json.loads((package / "card.json").read_text(encoding="utf-8"))
    (package / "card.json").write_text(json.dumps(card | changes))
    with pytest.raises(ModelDamaged, match=r"card\.json"):
        load(package)


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, "5", "\x00", "{"])
def test_a_card_that_is_none_is_damaged(package: Path, content: str) -> None:
    (package / "card.json").write_text(content)
    with pytest.raises(ModelDamaged, match=r"card\.json"):
        load(package)


def test_other_users_may_read_a_package(package: Path) -> None:
    plain = package / "plain"
    plain.touch()
    files = [path for path in package.rglob("*") if path.is_file()]
    assert {path.stat().st_mode for path in files} == {plain.stat().st_mode}


def test_codes_in_a_card_do_not_reach_the_terminal(package: Path) -> None:
    card = json.loads((package / "card.json").read_text(encoding="utf-8"))
    (package / "card.json").write_text(json.dumps(card | {"licence": "\x1b[31mred"}))
    assert load(package).card.licence == "red"
