"""The options of a run: their defaults, their ranges, their way to JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from DiffuGTSLib.batch.case import BatchSettings
from DiffuGTSLib.errors import InvalidOption
from DiffuGTSLib.networks.attention import MODALITIES as NETWORK_ORDER
from DiffuGTSLib.pipeline.options import HIGHEST_SEED, MOST_SAMPLES, Options
from DiffuGTSLib.scan.modality import MODALITIES, SEQUENCES

STATED = {"model": "tiny", "device": "cpu", "threshold": 0.4, "seed": 7, "samples": 2,
          "modality": "MR", "sequence": "t1c", "skull_stripped": True}


def test_options_go_to_json_and_back() -> None:
    options = Options(**STATED)
    assert options.as_dict() == STATED
    assert Options.from_dict(json.loads(json.dumps(options.as_dict()))) == options


def test_what_is_absent_or_null_is_the_default() -> None:
    assert Options.from_dict({}) == Options()
    assert Options.from_dict(dict.fromkeys(STATED)) == Options()


def test_only_the_named_options_are_written_in_that_order() -> None:
    assert list(Options().as_dict("seed", "model")) == ["seed", "model"]


@pytest.mark.parametrize("limit", [
    {"threshold": 0.0}, {"threshold": 1}, {"seed": HIGHEST_SEED}, {"samples": 1},
    {"samples": MOST_SAMPLES}, *({"sequence": name} for name in SEQUENCES),
    *({"modality": name} for name in MODALITIES)])
def test_the_limits_themselves_are_allowed(limit: dict[str, Any]) -> None:
    assert Options.from_dict(limit).as_dict(*limit) == limit


@pytest.mark.parametrize("wrong", [
    {"threshold": 1.01}, {"threshold": "0.4"}, {"threshold": float("nan")}, {"threshold": True},
    {"seed": -1}, {"seed": HIGHEST_SEED + 1}, {"seed": 1.5}, {"samples": 0},
    {"samples": MOST_SAMPLES + 1}, {"modality": "PET"}, {"modality": ["CT"]}, {"sequence": "t9"},
    {"skull_stripped": 1}, {"device": 0}, {"colour": "red"}])
def test_a_wrong_value_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.from_dict(wrong)
    assert caught.value.name == next(iter(wrong))
    assert f'"{caught.value.name}" has to be' in caught.value.message


def test_an_integer_threshold_becomes_a_fraction() -> None:
    assert isinstance(Options.from_dict({"threshold": 1}).threshold, float)


def test_the_settings_of_a_batch_state_the_options_beside_the_outputs(tmp_path) -> None:
    settings = BatchSettings(Options(**STATED), tmp_path, maps=True)
    document = settings.as_dict()
    assert document == STATED | {"folder": str(tmp_path), "suffix": ".seg.nrrd",
                                 "dicom_seg": False, "maps": True, "host": ""}
    assert BatchSettings.from_dict(json.loads(json.dumps(document))) == settings


def test_the_networks_know_the_modalities_of_scans() -> None:
    assert set(NETWORK_ORDER) == set(MODALITIES)
