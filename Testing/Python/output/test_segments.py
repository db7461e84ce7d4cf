"""A result in words: counted, summed, and never an endless table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import SimpleITK as sitk
from rich.console import Console
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.output.segments import describe, lesion_table, sentence
from DiffuGTSLib.pipeline.lesions import labelled
from DiffuGTSLib.pipeline.segmenter import Segmenter


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


def test_a_lesion_that_is_not_prominent_enough_says_what_it_needs(result):
    peak = result.highest_score
    demanding = replace(result.with_threshold(0.5), prominence=20.0)
    assert not demanding.found
    assert sentence(demanding) == (
        f'No tumor found for "brain tumor" (highest score {peak:.2f}; at threshold 0.50 a lesion '
        "needs a peak of 1.00).")
    assert describe(demanding)["needed_score"] == pytest.approx(1.0)
    assert describe(result)["needed_score"] == result.threshold


def test_in_a_console_a_result_is_a_line(result):
    lesion = result.lesions[0]
    assert repr(result) == (f"<Result “brain tumor”: 1 lesion, {lesion.volume_ml:.2f} ml, "
                            "threshold 0.50, model tiny>")
    assert "no tumor found, highest score" in str(result.with_threshold(1.0))
    assert "model" not in repr(replace(result, model=""))
    assert len(repr(result.evidence)) < 80


def test_a_lesions_score_is_the_mean_and_is_called_so(result):
    voxels = sitk.GetArrayViewFromImage(result.probability)[
        sitk.GetArrayViewFromImage(labelled(result.mask)) == 1]
    text = printed(lesion_table(result))
    assert "mean score" in text
    assert f"{voxels.mean():.2f}" in text
    assert result.highest_score >= result.lesions[0].max_score - 1e-6


def test_the_description_names_what_was_found(result):
    described = describe(result)
    assert described["found"] is True
    assert described["title"] == "brain tumor"
    assert len(described["lesions"]) == len(result.lesions)
