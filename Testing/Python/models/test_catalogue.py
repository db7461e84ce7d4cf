"""The catalogue and what is computed from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from DiffuGTSLib.errors import BadConfiguration, ModelMissing
from DiffuGTSLib.files import resource
from DiffuGTSLib.models.catalogue import Entry, catalogue, entry

FOLDER = resource("Models")
each_model = pytest.mark.parametrize("model", catalogue().values(), ids=catalogue())


def document() -> dict[str, Any]:
    return json.loads((FOLDER / "catalogue.json").read_text(encoding="utf-8"))


def test_the_catalogue_fits_its_schema() -> None:
    schema = json.loads((FOLDER / "catalogue.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document(), schema)


def test_it_has_the_five_models_and_only_the_embedded_one_is_trained() -> None:
    assert list(catalogue()) == [
        "embedded", "maisi-ct", "maisi-ct-ddpm", "maisi-mr-brain", "maisi-mr"
    ]
    assert [m.name for m in catalogue().values() if m.attention == "trained"] == ["embedded"]


@each_model
def test_every_model_has_a_licence_with_its_text(model: Entry) -> None:
    assert model.licence.url.startswith("https://")
    assert model.text_encoder.licence.url.startswith("https://")


def test_only_the_general_mr_model_is_not_for_commercial_use() -> None:
    assert [m.name for m in catalogue().values() if not m.licence.commercial] == ["maisi-mr"]


@each_model
def test_the_spacing_is_one_that_the_model_was_made_for(model: Entry) -> None:
    for low, chosen, high in zip(model.limits.min_spacing, model.spacing_mm,
                                 model.limits.max_spacing, strict=True):
        assert low <= chosen <= high


@each_model
def test_the_least_crop_is_within_the_models_sizes(model: Entry) -> None:
    if model.bundled:
        return
    limits = zip(model.limits.min_voxels, model.least_crop, model.limits.max_voxels,
                 strict=True)
    assert all(low <= crop <= high for low, crop, high in limits if low and high)


def test_files_have_their_pages_and_addresses() -> None:
    file = entry("maisi-ct").files[1]
    assert file.name == "diff_unet_3d_rflow-ct.pt"
    assert file.page == "https://huggingface.co/nvidia/NV-Generate-CT"
    assert file.url == f"{file.page}/resolve/main/models/diff_unet_3d_rflow-ct.pt"


def test_a_size_that_was_not_seen_is_not_stated() -> None:
    sizes = [f.megabytes for m in catalogue().values() for f in m.files]
    assert sizes == [None] * 8


def test_the_embedded_models_card_agrees_with_the_catalogue() -> None:
    card = json.loads((FOLDER / "embedded" / "card.json").read_text(encoding="utf-8"))
    embedded = entry("embedded")
    assert tuple(card["spacing_mm"]) == embedded.spacing_mm
    assert tuple(card["modalities"]) == embedded.modalities


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelMissing, match="nonsense") as caught:
        entry("nonsense")
    assert "maisi-mr-brain" in caught.value.hint


def write(path: Path, content: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    monkeypatch.setenv("DIFFUGTS_CATALOGUE", str(path))


def test_another_catalogue_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = document()
    other["models"] = other["models"][:2]
    write(tmp_path / "own.json", other, monkeypatch)
    assert list(catalogue()) == ["embedded", "maisi-ct"]


def _change(path: str, value: object) -> dict[str, Any]:
    changed = document()
    place: Any = changed["models"][1]
    *way, last = path.split(".")
    for key in way:
        place = place[key]
    place[last] = value
    return changed


@pytest.mark.parametrize(("content", "words"), [
    ("{", "cannot be read"),
    (_change("licence", "No Such Licence"), "No Such Licence"),
    (_change("spacing_mm", [1, 1]), "wrong"),
    (_change("networks.denoiser.configuration", "maisi-9"), "maisi-9"),
    (_change("class_labels", {"PET": 1}), "PET"),
])  # fmt: skip
def test_a_wrong_catalogue_is_refused_with_the_reason(
    content: object, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "own.json", content, monkeypatch)
    with pytest.raises(BadConfiguration, match=words):
        catalogue()


def test_catalogues_are_read_without_jsonschema_which_slicer_does_not_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)  # as if it were not installed
    write(tmp_path / "own.json", document(), monkeypatch)
    assert "maisi-ct" in catalogue()
    for content, words in ((_change("licence", "No Such"), "No Such"),
                           (_change("spacing_mm", [1, 1]), "wrong"), ([], "wrong")):
        write(tmp_path / "own.json", content, monkeypatch)
        with pytest.raises(BadConfiguration, match=words):
            catalogue()


def test_a_catalogue_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUGTS_CATALOGUE", "absent.json")
    with pytest.raises(BadConfiguration, match=r"absent\.json"):
        catalogue()


def test_no_size_is_computed_for_the_embedded_model() -> None:
    assert entry("embedded").expected_bytes is None


def test_a_package_takes_four_bytes_a_parameter() -> None:
    assert entry("maisi-ct").expected_bytes == 4 * (20944897 + 180500868 + 108891648)
