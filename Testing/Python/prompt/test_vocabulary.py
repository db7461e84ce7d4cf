"""The vocabulary: its data, and how words are recognised."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from DiffuGTSLib.prompt.parsing import titles, understand
from DiffuGTSLib.prompt.vocabulary import FOLDER, fold, is_close, tokens, vocabulary
from DiffuGTSLib.training.data.windows import ORGANS

CATALOGUES = ("anatomies", "findings", "words", "dictionary")


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def entries() -> list[dict[str, Any]]:
    return [*read("anatomies")["anatomies"], *read("findings")["findings"]]


def check_digit_is_right(code: str) -> bool:
    """Verhoeff's check, which every SNOMED CT identifier passes."""
    state = 0
    for position, digit in enumerate(reversed(code)):
        value = int(digit)
        for _ in range(position % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        # The product of the dihedral group of order ten.
        turn, low = divmod(state, 5)
        flip, add = divmod(value, 5)
        state = (low + (-add if turn else add)) % 5 + 5 * (turn ^ flip)
    return state == 0


@pytest.mark.parametrize("name", CATALOGUES)
def test_the_catalogues_fit_their_schemas(name: str) -> None:
    schema = read(f"{name}.schema")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(read(name))


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry["id"])
def test_codes_are_snomed_identifiers(entry: dict[str, Any]) -> None:
    assert check_digit_is_right(entry["code"]["value"])
    wrong = str(int(entry["code"]["value"]) + 1)
    assert not check_digit_is_right(wrong)


def test_every_synonym_belongs_to_one_entry() -> None:
    phrases = [tokens(text) for entry in entries() for text in (entry["name"], *entry["synonyms"])]
    twice = {phrase for phrase in phrases if phrases.count(phrase) > 1}
    assert not twice


def test_ids_are_unique_and_implied_anatomies_exist() -> None:
    ids = [entry["id"] for entry in entries()]
    assert len(set(ids)) == len(ids)
    assert {f.anatomy for f in vocabulary().findings.values()} <= {"", *vocabulary().anatomies}


def test_every_synonym_of_a_finding_is_understood_as_it() -> None:
    wrong = [
        synonym
        for finding in read("findings")["findings"]
        for synonym in finding["synonyms"]
        if understand(synonym).finding != finding["id"]
    ]
    assert not wrong


def test_every_synonym_of_a_place_is_understood_as_it() -> None:
    wrong = [
        synonym
        for place in read("anatomies")["anatomies"]
        for synonym in (place["name"], *place["synonyms"])
        for text in (f"tumor {synonym}", f"{synonym} mass")
        if understand(text).anatomy != place["id"]
    ]
    assert not wrong


def test_every_title_is_understood_as_itself() -> None:
    for title in titles():
        prompt = understand(title)
        assert (prompt.title, prompt.known) == (title, True)


def test_the_organs_of_the_training_are_anatomies_of_the_same_name() -> None:
    names = {organ: organ.replace("_", " ") for organ in ORGANS}
    assert names == {organ: vocabulary().anatomies[organ].name for organ in ORGANS}


def test_folding_drops_case_and_accents() -> None:
    assert fold("Œsophage Hígado GROẞE Ösophagus") == "oesophage higado grosse osophagus"
    assert tokens("Non-small-cell, T2/FLAIR!") == ("non", "small", "cell", ",", "t2", "/", "flair")


@pytest.mark.parametrize(
    ("typed", "word", "close"),
    [("livr", "liver", True), ("brian", "brain", True), ("rumor", "tumor", False),
     ("tumroo", "tumor", False), ("metasatsiss", "metastasis", True), ("rcd", "rcc", False),
     ("cost", "cyst", False), ("lnug", "lung", True), ("lunk", "lung", False)],
)  # fmt: skip
def test_typing_errors_are_few_and_not_in_the_first_letter(
    typed: str, word: str, close: bool
) -> None:
    assert is_close(typed, word) is close


def test_the_longest_phrase_wins() -> None:
    assert [m.id for m in vocabulary().read("non small cell lung cancer").matches] == ["nsclc"]
    assert [m.id for m in vocabulary().read("hepatic vein").matches] == ["liver_vessels"]


def test_words_in_no_list_are_reported_as_typed() -> None:
    assert vocabulary().read("Bosniak-IV cyst of 3 cm").unknown == ("bosniak",)
