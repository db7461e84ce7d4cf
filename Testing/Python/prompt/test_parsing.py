"""Prompts: what is understood, what is refused, the calibration."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.prompt_texts import FINDINGS, FINDINGS_UNSEEN, NOT_FINDINGS, NOT_FINDINGS_UNSEEN

from DiffuGTSLib.errors import PromptNotUnderstood
from DiffuGTSLib.networks.text_encoder import TextEncoder
from DiffuGTSLib.prompt.free_text import FreeText
from DiffuGTSLib.prompt.parsing import (
    MAX_LENGTH,
    Prompt,
    refuse_early,
    several,
    suggestions,
    understand,
)
from DiffuGTSLib.prompt.vocabulary import tokens, vocabulary

LIVER_MASS = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^"
    "~Anatomic codes - DICOM master list~SCT^10200004^Liver~^^"
)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.from_package()


def refusal(text: str, encoder: TextEncoder | None = None) -> PromptNotUnderstood:
    with pytest.raises(PromptNotUnderstood) as caught:
        understand(text, encoder)
    return caught.value


def accepted(text: str, encoder: TextEncoder) -> Prompt | None:
    try:
        return understand(text, encoder)
    except PromptNotUnderstood:
        return None


# What is understood


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("liver tumor", "liver tumor"),
        ("Liver Tumours", "liver tumor"),
        ("tumor in the liver", "liver tumor"),
        ("hepatic neoplasm", "liver tumor"),
        ("Lebertumor", "liver tumor"),
        ("Leber-Tumor", "liver tumor"),
        ("tumeur du foie", "liver tumor"),
        ("Tumor de hígado", "liver tumor"),
        ("tumore del fegato", "liver tumor"),
        ("tumor no fígado", "liver tumor"),
        ("please segment all liver tumors on this CT", "liver tumor"),
        ("tumor of liver segment VII, 3 cm", "liver tumor"),
        ("brain mets", "brain metastasis"),
        ("Hirnmetastasen", "brain metastasis"),
        ("Nierenkrebs", "kidney cancer"),
        ("tumeur du sein", "breast tumor"),
        ("cáncer de mama", "breast cancer"),
        ("HCC", "hepatocellular carcinoma"),
        ("renal cell carcinoma of the left kidney", "renal cell carcinoma"),
        ("non-small-cell lung cancer", "non-small cell lung cancer"),
        ("small cell lung cancer", "small cell lung cancer"),
        ("head and neck cancer", "head and neck cancer"),
        ("pancreatic neck tumor", "pancreatic tumor"),
        ("hepatic vein tumor", "liver vessel tumor"),
        ("cystic pancreatic lesion", "pancreatic cyst"),
        ("osteosarcoma of the femur", "bone sarcoma"),
        ("T2-hyperintense brain lesion", "brain lesion"),
        ("tumor", "tumor"),
    ],
)
def test_a_prompt_has_its_canonical_title(text: str, title: str) -> None:
    prompt = understand(text)
    assert (prompt.title, prompt.known, prompt.text) == (title, True, text)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("breast cancer brain metastases", "brain metastasis"),
        ("brain metastasis from lung cancer", "brain metastasis"),
        ("metastatic breast cancer in the liver", "liver metastasis"),
        ("liver metastases of colorectal cancer", "liver metastasis"),
        ("HCC metastasis in the lung", "lung metastasis"),
        ("CRC liver mets", "liver metastasis"),
    ],
)
def test_a_metastasis_is_where_it_grows_not_where_it_comes_from(text: str, title: str) -> None:
    assert understand(text).title == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("livr tumor", "liver tumor"),
        ("liver tumro", "liver tumor"),
        ("brian tumor", "brain tumor"),
        ("metastsis in the kindey", "kidney metastasis"),
        ("pancreus cyst", "pancreatic cyst"),
        ("menigioma", "meningioma"),
        ("hepatocelular carcinoma", "hepatocellular carcinoma"),
    ],
)
def test_small_typing_errors_are_forgiven(text: str, title: str) -> None:
    assert understand(text).title == title


@pytest.mark.parametrize("text", ["RCD", "GBN", "rumor", "cancel", "hematoma", "lesson", "costs"])
def test_abbreviations_and_real_words_are_not_taken_for_typing_errors(text: str) -> None:
    assert "names no tumor" in refusal(text).message


@pytest.mark.parametrize(
    ("text", "anatomy"),
    [("HCC", "liver"), ("RCC", "kidney"), ("GBM", "brain"), ("NSCLC", "lung"),
     ("PDAC", "pancreas"), ("STS", "soft_tissue"), ("CRC", "colon"), ("tumor", "")],
)  # fmt: skip
def test_a_finding_implies_its_anatomy(text: str, anatomy: str) -> None:
    assert understand(text).anatomy == anatomy


def test_a_prompt_carries_slicers_terminology() -> None:
    assert understand("liver tumor").terminology == LIVER_MASS
    assert "~SCT^367643001^Cyst~" in understand("renal cyst").terminology
    anywhere = understand("tumor").terminology.split("~")
    assert (len(anywhere), anywhere[5], anywhere[6]) == (7, "^^", "^^")


def test_a_prompt_describes_the_organ_with_and_without_the_finding() -> None:
    prompt = understand("kidney cyst")
    assert "healthy kidney" in prompt.normal
    assert "kidney with a cyst" in prompt.abnormal
    assert not any("cyst" in text for text in prompt.normal)
    assert "kidney" in prompt.gate
    assert not re.search(r"[{}]", " ".join(prompt.normal + prompt.abnormal))


def test_anywhere_has_no_gate() -> None:
    prompt = understand("tumor")
    assert (prompt.gate, prompt.anatomy_name, prompt.region) == ((), "", "any")
    assert prompt.modalities == ("CT", "MR")


def test_a_prompt_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        understand("liver tumor").title = "other"  # type: ignore[misc]


def test_unknown_words_beside_a_known_finding_do_no_harm_without_an_encoder() -> None:
    prompt = understand("Bosniak liver tumor")
    assert (prompt.title, prompt.known) == ("liver tumor", False)
    assert understand("pheochromocytoma").title == "pheochromocytoma"


@pytest.mark.parametrize(
    ("text", "finding", "anatomy"),
    [("hepatoblastoma", "tumor", "liver"), ("angiosarcoma", "sarcoma", ""),
     ("microcarcinomas", "cancer", ""), ("esthesioneuroblastoma", "tumor", "")],
)  # fmt: skip
def test_a_word_that_ends_like_a_tumor_is_one(text: str, finding: str, anatomy: str) -> None:
    prompt = understand(text)
    assert (prompt.finding, prompt.anatomy, prompt.known) == (finding, anatomy, False)


# What is refused


@pytest.mark.parametrize("text", ["no tumor", "liver without tumor", "kein Lebertumor",
                                  "pas de tumeur", "healthy liver", "tumor-free liver", "non-tumor",
                                  "no evidence of liver metastasis", "absence of metastases",
                                  "liver tumor: no", "tumor: none", "there isn't a liver tumor",
                                  "Leber tumorfrei", "Lebermetastase ausgeschlossen",
                                  "ohne Befund"])
def test_a_denied_finding_is_refused(text: str) -> None:
    assert "no finding" in refusal(text).message


@pytest.mark.parametrize("text", ["liver tumor, not a cyst", "liver tumor without metastases",
                                  "Lebertumor, keine Zyste"])
def test_a_finding_to_leave_out_is_refused_and_the_other_suggested(text: str) -> None:
    error = refusal(text)
    assert "leave out" in error.message
    assert error.suggestions == ("liver tumor",)


@pytest.mark.parametrize("text", [
    "tumor excluding liver", "exclude metastasis liver", "tumor except the left kidney",
    "mass other than in the liver", "tumor not in the liver", "lesion outside the liver",
    "Tumor außer Leber", "Tumor, ausgenommen die Leber", "Tumor nicht in der Leber",
    "Metastasen abgesehen von der Leber", "Tumor außerhalb der Leber",
    "tumeur sauf foie", "tumeur à l'exception du foie", "tumeur pas dans le foie",
    "tumor excepto hígado", "tumor salvo el riñón", "tumor fuera del hígado",
    "tumore tranne fegato", "tumore escluso il fegato", "tumore non nel fegato",
    "tumor exceto fígado", "tumor excluindo o fígado", "tumor fora do fígado",
])
def test_a_place_to_leave_out_is_refused_in_six_languages(text: str) -> None:
    assert "leave out" in refusal(text).message


@pytest.mark.parametrize(("text", "title"), [
    ("exophytic mass extending outside the kidney", "kidney mass"),
    ("renal mass without invasion of the adrenal gland", "kidney mass"),
    ("lesion, not further characterized, in the liver", "liver lesion"),
    ("nodule, non-enhancing, liver", "liver nodule"),
    ("rule out liver metastasis", "liver metastasis"), ("tumor no fígado", "liver tumor"),
])
def test_a_place_that_is_not_left_out_is_searched(text: str, title: str) -> None:
    assert understand(text).title == title


@pytest.mark.parametrize(("text", "title"), [
    ("abdominal wall desmoid", "soft tissue tumor"), ("tumore al fegato", "liver tumor"),
    ("tumori alla mammella", "breast tumor"), ("Desmoid der Bauchwand", "soft tissue tumor"),
])
def test_words_that_were_missing_are_known(text: str, title: str) -> None:
    prompt = understand(text)
    assert (prompt.title, prompt.known) == (title, True)


@pytest.mark.parametrize("text", ["肝脏肿瘤", "опухоль печени", "όγκος", "ورم الكبد"])
def test_for_another_script_the_languages_are_named(text: str) -> None:
    assert "English, German, French, Spanish, Italian and Portuguese" in refusal(text).hint


@pytest.mark.parametrize("text", ["mass without calcification", "non-enhancing liver lesion",
                                  "tumeur sans nécrose", "tumor no fígado"])
def test_a_denial_of_something_else_is_not(text: str) -> None:
    assert understand(text).finding in ("mass", "tumor", "lesion")


@pytest.mark.parametrize("text", ["banana", "hello world", "asdfgh", "none of it", "what a day"])
def test_only_what_is_near_is_suggested_else_the_places_are_told(
    text: str, encoder: TextEncoder
) -> None:
    for error in (refusal(text), refusal(text, encoder)):
        assert error.suggestions == ()


def test_without_a_near_prompt_the_known_places_are_told(encoder: TextEncoder) -> None:
    assert "Known places: lung, liver" in refusal("banana", encoder).hint
    near = refusal("pneumonia", encoder)
    assert near.suggestions[0].startswith("lung")
    assert "Known places" not in near.hint


def test_what_the_encoder_decides_is_decided_early_too() -> None:
    refuse_early(["liver tumor", "pheochromocytoma", "enhancing growth in the bladder"])
    for text in ("banana", "liver", "no tumor", ""):
        with pytest.raises(PromptNotUnderstood):
            refuse_early(["liver tumor", text])


@pytest.mark.parametrize("text", ["liver", "the left kidney", "Leber", "hepatic"])
def test_a_place_alone_is_refused_with_findings_for_it(text: str) -> None:
    error = refusal(text)
    assert "place" in error.message
    assert error.suggestions[0] in ("liver tumor", "kidney tumor")


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("liver tumor and kidney cyst", ("liver tumor", "kidney tumor")),
        ("liver and kidney metastases", ("liver metastasis", "kidney metastasis")),
        ("tumeur du foie et du rein", ("liver tumor", "kidney tumor")),
    ],
)
def test_two_places_are_two_prompts(text: str, both: tuple[str, str]) -> None:
    assert refusal(text).suggestions == both


@pytest.mark.parametrize(
    "text", ["", " \n", "liver\x00tumor", "\x1b[31mtumor", "tumor " * MAX_LENGTH])
def test_what_cannot_be_a_prompt_is_refused(text: str) -> None:
    assert refusal(text).code == "prompt-not-understood"


def test_an_emoji_beside_words_is_ignored() -> None:
    assert understand("liver tumor 🙂").title == "liver tumor"


@pytest.mark.parametrize("text", ["Jane Doe 12345", "remove the Doe tumor", "Doe liver"])
def test_messages_do_not_repeat_what_was_typed(text: str, encoder: TextEncoder) -> None:
    error = refusal(text, encoder)
    assert "Doe" not in error.message + error.hint
    assert len(error.suggestions) <= 5


def test_the_suggestions_of_a_refusal_are_understood(encoder: TextEncoder) -> None:
    for text in NOT_FINDINGS:
        for title in refusal(text, encoder).suggestions if not accepted(text, encoder) else ():
            assert understand(title).known


# Free text: rates on the lists of prompt_texts.py


def test_the_lists_hold_none_of_the_anchors() -> None:
    anchors = vocabulary().words["anchors"]
    known = {tokens(text) for part in anchors.values() for text in part}
    lists = [text for text, _ in FINDINGS] + NOT_FINDINGS + FINDINGS_UNSEEN + NOT_FINDINGS_UNSEEN
    asked = [text for text in lists if vocabulary().read(text).unknown]
    assert not [text for text in asked if tokens(text) in known]


def test_free_texts_that_name_a_finding_are_understood(encoder: TextEncoder) -> None:
    missed = [text for text, _ in FINDINGS if not accepted(text, encoder)]
    assert len(missed) <= 0.02 * len(FINDINGS), missed


def test_free_texts_that_name_none_are_refused(encoder: TextEncoder) -> None:
    taken = [text for text in NOT_FINDINGS if accepted(text, encoder)]
    assert not taken


def test_the_place_of_a_free_text_is_right_or_anywhere(encoder: TextEncoder) -> None:
    asked = [(accepted(text, encoder), place) for text, place in FINDINGS if place is not None]
    places = [(prompt.anatomy, place) for prompt, place in asked if prompt]
    right = sum(place == wanted for place, wanted in places)
    assert right >= 0.94 * len(places)
    assert all(place in (wanted, "") for place, wanted in places)


def test_the_rates_hold_on_texts_that_chose_nothing(encoder: TextEncoder) -> None:
    missed = [text for text in FINDINGS_UNSEEN if not accepted(text, encoder)]
    taken = [text for text in NOT_FINDINGS_UNSEEN if accepted(text, encoder)]
    assert len(missed) <= 0.1 * len(FINDINGS_UNSEEN), missed
    assert len(taken) <= 0.1 * len(NOT_FINDINGS_UNSEEN), taken


def test_the_encoders_own_judgement_suffices_mostly(encoder: TextEncoder) -> None:
    # Without the rules for known words and endings, which spare it most of these texts.
    judge = FreeText(encoder, vocabulary()).names_a_finding
    assert sum(judge(text) for text, _ in FINDINGS) >= 0.9 * len(FINDINGS)
    unknown = [text for text in NOT_FINDINGS if vocabulary().read(text).unknown]
    unmatched = [text for text in unknown if not vocabulary().read(text).named("finding")]
    assert len(unmatched) > 50
    assert not any(judge(text) for text in unmatched)


def test_words_beyond_the_vocabulary_reach_the_texts(encoder: TextEncoder) -> None:
    prompt = understand("pheochromocytoma", encoder)
    assert (prompt.anatomy, prompt.known) == ("adrenal_gland", False)
    assert "adrenal gland with a pheochromocytoma" in prompt.abnormal


def test_normal_and_abnormal_texts_are_apart_in_the_encoder(encoder: TextEncoder) -> None:
    for title in ("liver tumor", "lung nodule", "brain metastasis", "tumor"):
        prompt = understand(title)
        normal = encoder.encode_ensemble(prompt.normal)
        assert float(normal @ encoder.encode_ensemble(prompt.abnormal)) < 0.9


# Lists, completion, start


def test_several_prompts_are_one_a_line_or_divided_by_semicolons() -> None:
    assert several("liver tumor; kidney cyst\r\n\n lung nodule ;") == [
        "liver tumor", "kidney cyst", "lung nodule",
    ]  # fmt: skip
    assert several(" \n;") == []


@pytest.mark.parametrize(
    ("prefix", "title"),
    [("liv", "liver tumor"), ("hepat", "liver tumor"), ("glio", "glioblastoma"),
     ("Leb", "liver tumor"), ("GB", "glioblastoma"), ("liver tum", "liver tumor"),
     ("pancr", "pancreatic tumor"), ("", "liver tumor")],
)  # fmt: skip
def test_suggestions_complete_a_prefix(prefix: str, title: str) -> None:
    found = suggestions(prefix)
    assert title in found
    assert len(found) == len(set(found)) <= 8


def test_nothing_completes_nonsense() -> None:
    assert suggestions("xqz") == []


def test_the_vocabulary_needs_no_torch() -> None:
    code = (
        "import sys; from DiffuGTSLib.prompt.parsing import understand; understand('liver tumor');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(("text", "expected"), [
    ("mesothelioma", True), ("pleural tumor", True), ("lung tumor invading the chest wall", True),
    ("Pancoast tumor", True), ("pituitary adenoma", True), ("Hypophysenadenom", True),
    ("acoustic neuroma", True), ("skull base tumor", True), ("tumor an der Schädelbasis", True),
    ("lung tumor", False), ("subpleural nodule", False), ("meningioma", False),
    ("brain metastasis", False), ("liver tumor", False),
])
def test_what_lies_at_the_border_of_its_organ(text: str, expected: bool) -> None:
    assert understand(text).at_border is expected
