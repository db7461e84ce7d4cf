"""A result in words: counted, summed, and never an endless table."""

from __future__ import annotations

import pytest
from rich.console import Console
from tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.report import describe, lesion_table, sentence
from DiffuGTSLib.segmenter import Segmenter


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    segmenter = Segmenter.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("m") / "tiny"))
    return segmenter.segment(segmenter.encode(ball_scan()[0]), PROMPT)


def printed(table) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_table_has_a_row_a_lesion_with_slices_counted_from_1(result):
    lesion = result.lesions[0]
    (row,) = (line for line in printed(lesion_table(result)).splitlines() if "tumor 1" in line)
    assert f"{lesion.volume_ml:.2f}" in row
    assert f"{lesion.slice_range[0] + 1}-{lesion.slice_range[1] + 1}" in row


def test_many_lesions_end_in_one_row(result):
    many = result.with_threshold(result.threshold)
    many.__dict__["lesions"] = result.lesions[:1] * 25
    text = printed(lesion_table(many))
    assert "5 smaller ones" in text
    assert f"{5 * result.lesions[0].volume_ml:.2f}" in text
    assert "25 lesions" in sentence(many)


def test_nothing_found_is_a_sentence_with_the_highest_score(result):
    nothing = result.with_threshold(1.0)
    assert sentence(nothing) == (
        f'No tumor found for "brain tumor" (highest score {result.highest_score:.2f}, '
        "threshold 1.00).")


def test_the_description_names_what_was_found(result):
    described = describe(result)
    assert described["found"] is True
    assert described["title"] == "brain tumor"
    assert len(described["lesions"]) == len(result.lesions)
