"""Means, intervals and the paper's table, from invented scores."""

from __future__ import annotations

import numpy as np
import pytest
from support.scored_cases import scored

from DiffuGTSLib.evaluation.measures import Measures
from DiffuGTSLib.evaluation.tables import everything, grouped, summarise, zero_shot_words


def test_the_mean_is_over_the_cases_that_have_the_figure():
    means = everything([scored(0, 0.2), scored(1, 0.6), scored(2, None)]).means
    assert means["dsc"].mean == pytest.approx(0.4)
    assert (means["dsc"].cases, means["dsc"].patients) == (2, 2)
    assert means["false_alarm_ml"].mean == 2
    assert means["no_tumor_right"].mean == 0
    assert means["volume_error_percent_absolute"].mean == pytest.approx(20)
    assert "wrong_organ_ml" not in means


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).random(200)
    mean = everything([scored(i, float(v)) for i, v in enumerate(values)]).means["dsc"]
    half = 1.96 * values.std() / np.sqrt(200)
    assert mean.low == pytest.approx(mean.mean - half, abs=0.01)
    assert mean.high == pytest.approx(mean.mean + half, abs=0.01)


def test_scans_of_one_patient_are_drawn_together():
    values = np.random.default_rng(2).random(25)
    one = [scored(i, float(v)) for i, v in enumerate(values)]
    four = [scored(i, float(v)) for i, v in enumerate(values) for _ in range(4)]
    first, second = (everything(cases).means["dsc"] for cases in (one, four))
    assert second.high - second.low == pytest.approx(first.high - first.low, rel=0.1)


def test_one_patient_has_no_interval_and_equal_values_have_a_point():
    single = everything([scored(0)]).means["dsc"]
    assert (single.low, single.high) == (None, None)
    equal = everything([scored(0), scored(1)]).means["dsc"]
    assert (equal.low, equal.high) == (0.5, 0.5)


def test_the_same_cases_give_the_same_interval():
    cases = [scored(i, i / 10) for i in range(10)]
    assert everything(cases) == everything(cases)


def test_groups_keep_the_order_of_the_cases():
    cases = [scored(number, group=group) for number, group in enumerate("bab")]
    groups = grouped(cases, lambda case: case.group)
    assert [(group.name, group.cases) for group in groups] == [("b", 2), ("a", 1)]


def test_the_gain_is_counted_scan_by_scan():
    parts = {kind: Measures(dsc, None, 1.0, 1.0, 1, 1, 1)
             for kind, dsc in (("attention", 0.4), ("both", 0.5))}
    means = everything([scored(0, 0.55, ablation=parts), scored(1)]).means
    assert means["dsc_gain_of_refinement"].mean == pytest.approx(0.15)
    assert means["dsc_attention"].cases == 1


def test_the_paper_stands_beside_its_data_sets_alone():
    (row,) = summarise([scored(0), scored(1, dataset="cases")]).compared
    assert (row.name, row.paper_dsc) == ("MSD Task03 liver tumor", pytest.approx(0.6323))
    assert row.ours.cases == 1


@pytest.mark.parametrize(("exposures", "words"), [
    (("unseen",), "zero-shot"),
    (("unseen", "synthetic"), "zero-shot by masks; synthetic lesions of the class were trained on"),
    (("real",), "not zero-shot"), (("unknown",), "not zero-shot"), ((), "not zero-shot"),
])
def test_only_an_unseen_class_is_plainly_zero_shot(exposures, words):
    assert zero_shot_words(exposures) == words
