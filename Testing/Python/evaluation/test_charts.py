"""The report's charts: drawn where there is something to draw, and legible."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.image import imread
from support.scored_cases import scored

from DiffuGTSLib.evaluation import charts
from DiffuGTSLib.evaluation.measures import Measures
from DiffuGTSLib.evaluation.tables import summarise


def case(number: int, reference_ml: float, segmented_ml: float):
    measures = Measures(0.5, 0.5, reference_ml, segmented_ml, 2, 3, 1)
    return replace(scored(number), measures=measures)


@pytest.mark.parametrize(("low", "high"), [
    (3.0, 11.0), (1.9, 26.0), (0.5, 40.0), (0.006, 12.0), (0.01, 1300.0),
])
def test_the_labels_of_a_logarithmic_axis_do_not_overlap(low: float, high: float) -> None:
    figure, axes = charts._chart(4.6, 4.8)
    axes.loglog([low, high], [low, high])
    axes.set(xlim=(low, high), ylim=(low, high))
    charts._log_labels(axes.xaxis, low, high)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    boxes = [label.get_window_extent(renderer) for label in axes.get_xticklabels(which="both")
             if label.get_text() and low <= label.get_position()[0] <= high]
    assert len(boxes) >= 2
    boxes.sort(key=lambda box: box.x0)
    assert all(first.x1 < second.x0 for first, second in pairwise(boxes))


def test_charts_are_drawn_where_there_is_something_to_draw() -> None:
    cases = [case(0, 5.0, 7.2), case(1, 9.0, 0.0), scored(2, None)]
    summary = summarise(cases)
    for png in (charts.volumes(cases), charts.dsc_by_group(cases, summary.groups),
                charts.false_alarms(cases)):
        assert png is not None
        assert imread(io.BytesIO(png)).std() > 0.05
    assert charts.volumes(cases[2:]) is None
    assert charts.dsc_by_group(cases[2:], summarise(cases[2:]).groups) is None
    assert charts.false_alarms(cases[:2]) is None
