"""Configuration files of training: what is unknown, missing or wrong is named."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from support.training_material import attention_config, write_config

from DiffuGTSLib.errors import BadConfiguration, TrainingImpossible
from DiffuGTSLib.files import resource
from DiffuGTSLib.networks.attention import AnomalyAttention
from DiffuGTSLib.training.config import (
    PARTS,
    SCHEMA,
    AttentionConfig,
    AutoencoderConfig,
    DenoiserConfig,
    Training,
    read_config,
    record_origin,
    record_settings,
)

DEFINITIONS = json.loads(resource(SCHEMA).read_text(encoding="utf-8"))["$defs"]


def complaint(path: Path) -> str:
    with pytest.raises(BadConfiguration) as caught:
        read_config(path, AttentionConfig)
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("part", ["attention", "autoencoder", "denoiser"])
def test_the_examples_are_valid_and_state_the_usual_values(part: str) -> None:
    config = read_config(resource(f"Training/{part}.toml"), PARTS[part])
    assert config.training == PARTS[part].__dataclass_fields__["training"].default


@pytest.mark.parametrize("part", ["attention", "autoencoder", "denoiser"])
def test_the_schema_knows_every_entry_and_no_other(part: str) -> None:
    assert set(DEFINITIONS[part]["properties"]) == {f.name for f in fields(PARTS[part])}
    assert set(DEFINITIONS["training"]["properties"]) == {f.name for f in fields(Training)}


def test_the_schema_names_only_arguments_that_the_network_takes() -> None:
    known = set(inspect.signature(AnomalyAttention.__init__).parameters)
    assert set(DEFINITIONS["attention"]["properties"]["network"]["properties"]) <= known


def test_an_unknown_entry_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = attention_config(tmp_path / "a.json", training={"lerning_rate": 1e-3})
    assert "“lerning_rate” in training" in complaint(path)
    assert "“learning_rate”" in complaint(path)


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('model = "tiny"\noutput = "o"\nruns = "r"\n')
    assert "“data” is missing" in complaint(tmp_path / "a.toml")


@pytest.mark.parametrize(("training", "named"), [
    ({"steps": 0}, "training.steps"), ({"steps": "many"}, "training.steps"),
    ({"learning_rate": -1.0}, "training.learning_rate"),
    ({"precision": "fp8"}, "training.precision"),
])
def test_a_wrong_value_is_named(tmp_path: Path, training: dict, named: str) -> None:
    assert f"{named} is wrong" in complaint(attention_config(tmp_path / "a.json",
                                                             training=training))


def test_one_class_without_a_list_is_shown_as_one(tmp_path: Path) -> None:
    said = complaint(attention_config(tmp_path / "a.json", left_out="liver tumor"))
    assert "left_out is wrong" in said
    assert said.endswith('Write a list: ["liver tumor"].')


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    text = 'model = "m"\noutput = "o"\nruns = "r"\ndata = [{folder = "d", share = nan}]\n'
    (tmp_path / "a.toml").write_text(text)
    assert "data[0].share is nan" in complaint(tmp_path / "a.toml")


@pytest.mark.parametrize(("name", "text"), [("a.toml", "model ="), ("a.json", "{"),
                                            ("a.json", "[1]"), ("b.toml", None)])
def test_a_file_that_is_no_configuration_is_named(
    tmp_path: Path, name: str, text: str | None
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    assert name in complaint(tmp_path / name)


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path / "a.json"), AutoencoderConfig)
    assert config.output == tmp_path / "made"
    assert config.data[0].folder == tmp_path / "cases"


def test_a_model_is_a_folder_beside_the_file_or_a_name(tmp_path: Path) -> None:
    path = attention_config(tmp_path / "a.json")
    assert read_config(path, AttentionConfig).model == "tiny"
    (tmp_path / "tiny").mkdir()  # of other files, as those that a model was converted from
    assert read_config(path, AttentionConfig).model == "tiny"
    (tmp_path / "tiny" / "model_index.json").write_text("{}")
    assert read_config(path, AttentionConfig).model == str(tmp_path / "tiny")
    assert read_config(path, AttentionConfig, {"model": "tiny"}).model == "tiny"


def test_a_training_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    path = write_config(tmp_path / "a.json", autoencoder="vae")
    config = read_config(path, DenoiserConfig)
    record_settings(config.runs, config)
    (config.runs / "checkpoint.pt").touch()
    record_settings(config.runs, replace(config, output=tmp_path / "elsewhere"))
    other = replace(config, training=replace(config.training, learning_rate=0.5))
    with pytest.raises(TrainingImpossible, match=r"training\.learning_rate"):
        record_settings(config.runs, other)


def test_what_a_training_began_with_is_compared_by_name(tmp_path: Path) -> None:
    scans = {name: ["1"] for name in "abcdef"}
    record_origin(tmp_path, {"model": {"autoencoder": "1"}, "scans": {"x": ["1"]}})
    record_origin(tmp_path, {"scans": scans})  # nothing is trained yet
    (tmp_path / "checkpoint.pt").touch()
    record_origin(tmp_path, {"scans": scans, "classes": {"liver tumor": True}})
    with pytest.raises(TrainingImpossible) as caught:
        record_origin(tmp_path, {"model": {"autoencoder": "2"}, "classes": {"liver tumor": True},
                                 "scans": {"a": ["1"], "b": ["2"], "g": ["1"]}})
    assert caught.value.message.endswith(
        "holds a training that began with something else (model: autoencoder changed; "
        "scans: c, d, e and 1 more missing, g new, b changed).")
    assert caught.value.hint.startswith("Choose another folder for runs")
