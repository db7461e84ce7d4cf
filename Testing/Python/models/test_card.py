"""The card: classes by sequence, and what it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from DiffuGTSLib.errors import SequenceUnknown
from DiffuGTSLib.files import resource
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.catalogue import entry
from DiffuGTSLib.models.package import ATTENTION_ALONE


def card(model: str) -> Card:
    """A card with the class labels of a model of the catalogue."""
    embedded = Card.read(resource("Models") / "embedded")
    return replace(embedded, class_labels=entry(model).class_labels)


@pytest.mark.parametrize(
    ("model", "scan", "label"),
    [
        ("maisi-ct", ("CT",), 1),
        ("maisi-ct-ddpm", ("CT",), 0),  # its denoiser takes no class
        ("maisi-mr-brain", ("MR", "t1"), 9),
        ("maisi-mr-brain", ("MR", "flair"), 11),
        ("maisi-mr-brain", ("MR", "t1", True), 29),
        ("maisi-mr-brain", ("MR", "t2", True), 30),
        ("maisi-mr-brain", ("MR", "flair", True), 31),
        ("maisi-mr-brain", ("MR", "other", True), 8),
        ("maisi-mr", ("MR",), 8),
        ("maisi-mr", ("MR", "other"), 8),
        ("maisi-mr", ("MR", "t2", True), 10),  # it knows no skull-stripped classes
    ],
)
def test_the_class_follows_modality_sequence_and_skull(
    model: str, scan: tuple[str, str, bool], label: int
) -> None:
    assert card(model).class_label(*scan) == label


@pytest.mark.parametrize("sequence", ["", "pd"])
def test_a_model_that_needs_the_sequence_asks_for_it(sequence: str) -> None:
    with pytest.raises(SequenceUnknown) as caught:
        card("maisi-mr-brain").class_label("MR", sequence)
    assert caught.value.suggestions == ("t1", "t1c", "t2", "flair", "other")
    assert "--sequence" in caught.value.hint


def test_the_embedded_model_needs_no_sequence() -> None:
    embedded = Card.read(resource("Models") / "embedded")
    assert embedded.class_label("MR") == embedded.class_label("MR", "flair", True)
    assert embedded.class_label("CT") != embedded.class_label("MR")


def test_every_field_survives_writing_and_reading(tmp_path: Path) -> None:
    full = replace(
        card("maisi-mr-brain"), licence_url="https://example.org", guidance=10.0,
        sources=({"repository": "a/b", "file": "c", "sha256": "d"},), least_crop=(1, 2, 3),
        fusion={"MR": replace(ATTENTION_ALONE, used="pixel"),
                "brain/MR": replace(ATTENTION_ALONE, half_contrast=True)},
        left_out=("liver tumor",), trained_classes={"real": ["lung tumor"], "synthetic": []},
    )
    full.write(tmp_path)
    assert Card.read(tmp_path) == full


def test_an_anatomy_with_a_fusion_of_its_own_takes_that() -> None:
    own = replace(ATTENTION_ALONE, used="attention")
    made = replace(card("maisi-mr-brain"), fusion={"MR": ATTENTION_ALONE, "brain/MR": own})
    assert made.fusion_of("brain", "MR") is own
    assert made.fusion_of("liver", "MR") is ATTENTION_ALONE


def test_the_calibration_is_the_sequences_own_else_the_modalitys_else_none() -> None:
    made = replace(card("maisi-mr-brain"), calibration={"brain/MR": 0.5, "brain/MR/t1": 0.0})
    assert made.shift_of("brain", "MR", "t1") == 0.0
    assert made.shift_of("brain", "MR", "flair") == made.shift_of("brain", "MR") == 0.5
    assert made.shift_of("brain", "CT") is None


def test_a_card_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    card("maisi-ct").write(tmp_path)
    entries = json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))
    for name in ("licence_url", "sources", "guidance", "least_crop", "left_out"):
        del entries[name]
    (tmp_path / "card.json").write_text(json.dumps(entries))
    assert Card.read(tmp_path).least_crop == (0, 0, 0)


def test_what_a_card_does_not_say_is_not_taken_for_none() -> None:
    statements = card("maisi-ct").statements()
    assert statements["Masks of real lesions in training"] == (
        "brain tumor, breast tumor, liver tumor, lung tumor, soft tissue tumor")
    assert statements["Left out of training"] == "nothing"
    silent = replace(card("maisi-ct"), trained_classes=None, trained_on="", scores={})
    assert [silent.statements()[name] for name in (
        "Masks of real lesions in training", "Masks of real lesions behind the frozen networks",
        "Synthetic lesions in training", "Trained on", "Scores")] == [
            *["not stated"] * 4, "not measured"]
