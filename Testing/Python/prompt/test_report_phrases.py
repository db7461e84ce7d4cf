"""Phrases of radiology reports: the right organ and finding, and what of them was not used."""

from __future__ import annotations

import pytest
from support.report_phrases import PHRASES

from DiffuGTSLib.errors import PromptNotUnderstood
from DiffuGTSLib.networks.text_encoder import TextEncoder
from DiffuGTSLib.prompt.parsing import Prompt, understand
from DiffuGTSLib.prompt.vocabulary import vocabulary


def accepted(text: str, encoder: TextEncoder | None) -> Prompt | None:
    try:
        return understand(text, encoder)
    except PromptNotUnderstood:
        return None


@pytest.fixture(scope="module", params=["alone", "with the encoder"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder | None:
    return None if request.param == "alone" else TextEncoder.from_package()


def test_phrases_of_reports_are_understood(encoder: TextEncoder | None) -> None:
    read = [(accepted(text, encoder), text, place, finding) for text, place, finding in PHRASES]
    wrong = [(text, prompt and (prompt.anatomy, prompt.finding))
             for prompt, text, place, finding in read
             if not prompt or (prompt.anatomy, prompt.finding) != (place, finding)]
    assert len(PHRASES) >= 300
    assert len(wrong) <= 0.02 * len(PHRASES), wrong


def test_no_phrase_of_a_report_is_wrongly_known() -> None:
    read = [(understand(text), place) for text, place, _ in PHRASES]
    assert not [prompt.text for prompt, place in read if prompt.known and prompt.anatomy != place]


def test_the_phrases_are_many_and_different() -> None:
    assert len({text.lower() for text, _, _ in PHRASES}) == len(PHRASES)
    assert {place for _, place, _ in PHRASES} >= set(vocabulary().anatomies) - {"liver_vessels"}


@pytest.mark.parametrize(
    ("text", "place"),
    [("mass between the lung and heart", "lung"), ("mass near the heart", "heart"),
     ("mass near the heart in the lung", "lung"),
     ("pancreatic mass invading the stomach", "pancreas"),
     ("kidney lesion in a patient with lung cancer", "kidney"),
     ("metastasis of the colon in the liver", "liver"), ("neck of the femur tumor", "bone")],
)  # fmt: skip
def test_the_organ_that_a_finding_sits_in_wins(text: str, place: str) -> None:
    prompt = accepted(text, None)
    assert prompt is None or prompt.anatomy == place


@pytest.mark.parametrize("word", ["lingula", "core", "base", "cardia", "vesicle", "nidal", "ileus"])
def test_an_english_word_is_not_corrected(word: str) -> None:
    assert vocabulary().read(f"{word} tumor").tokens[0] == word


@pytest.mark.parametrize(
    ("text", "note"),
    [("left liver tumor", "“left” was not used."),
     ("2.3 cm liver tumor", "“2.3 cm” was not used."),
     ("tumor of liver segment VII", "“segment VII” was not used."),
     ("ureter tumor", "“ureter” was not used."),
     ("tumor and edema", "“edema” was not used."),
     ("axillary mass", "“axillary” was not used."),
     ("large, left brain tumor", "“large” and “left” were not used."),
     ("prostate cancer liver metastasis", "“prostate cancer” was not used."),
     ("nodule in the RUL", "“RUL” was used as right lung."),
     ("livr tumor", "“livr” was read as “liver”."),
     ("4.5 x 3 cm renal mass", "“4.5 x 3 cm” was not used.")],
)  # fmt: skip
def test_what_was_not_used_is_said(text: str, note: str) -> None:
    assert understand(text).notes == (note,)


@pytest.mark.parametrize("text", ["liver tumor", "tumor in the liver", "tumeur du foie",
                                  "segment all liver tumors on this CT", "Lebertumoren"])
def test_nothing_is_said_where_all_was_used(text: str) -> None:
    assert understand(text).notes == ()


@pytest.mark.parametrize(
    ("text", "side"),
    [("left kidney tumor", "left"), ("tumor der rechten Niere", "right"), ("RUL nodule", "right"),
     ("LLL nodule", "left"), ("left and right kidney tumor", ""), ("left liver tumor", ""),
     ("kidney tumor", ""), ("masse du rein gauche", "left")],
)  # fmt: skip
def test_a_side_counts_for_organs_of_which_there_are_two(text: str, side: str) -> None:
    assert understand(text).side == side


def test_a_guessed_place_is_said() -> None:
    prompt = understand("pheochromocytoma", TextEncoder.from_package())
    assert prompt.anatomy == "adrenal_gland"
    assert prompt.notes == (
        "The text names no place that is known; it is most like one about: adrenal gland.",)
