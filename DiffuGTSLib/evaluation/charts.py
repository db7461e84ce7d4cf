"""The report's charts, as PNG: scores by group, volumes, what each part adds, false alarms."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from DiffuGTSLib.evaluation.scoring import ABLATIONS, CaseScores
from DiffuGTSLib.evaluation.tables import Group, Mean

BLUE, ORANGE, GREY, GREEN = "#0072b2", "#d55e00", "0.55", "#009e73"
PARTS = {
    "map": "AOVA map, whole scan", "attention": "AOVA in the candidates",
    "pixel": "+ pixel residual", "feature": "+ feature residual", "both": "+ both residuals",
}
_MAX_ROWS = 40
_WIDTH = 8.0  # inches
_MIN_ML = 0.01  # 0 ml is drawn here, on an axis that has no 0


def dsc_by_group(cases: Sequence[CaseScores], groups: Sequence[Group]) -> bytes | None:
    """A row a group: every case's DSC, the mean and its interval. None without any DSC."""
    rows = [group for group in groups if "dsc" in group.means][:_MAX_ROWS]
    if not rows:
        return None
    figure, axes = _chart(0.34 * len(rows) + 1.1)
    for y, group in enumerate(rows):
        members = [case for case in cases if case.group == group.name]
        _dots(axes, [m.dsc for case in members if (m := case.measures).dsc is not None], y)
        _mean(axes, group.means["dsc"], y)
    _rows(axes, [f"{group.name} ({group.means['dsc'].cases})" for group in rows])
    axes.set(xlim=(-0.02, 1.02), xlabel="DSC (grey: a case; blue: mean and 95 % interval)")
    return _png(figure)


def volumes(cases: Sequence[CaseScores]) -> bytes | None:
    """Segmented against true volume, on logarithmic axes. None without a tumor."""
    tumors = [case.measures for case in cases if case.kind == "tumor"]
    if not tumors:
        return None
    true = np.array([m.reference_ml for m in tumors])
    ours = np.maximum([m.segmented_ml for m in tumors], _MIN_ML)
    missed = np.array([m.segmented_ml < _MIN_ML for m in tumors])
    figure, axes = _chart(4.6, 4.8)
    low = min(true.min(), ours.min()) / 1.6
    high = max(true.max(), ours.max()) * 1.6
    axes.plot([low, high], [low, high], color=GREY, linewidth=1)
    axes.loglog(true[~missed], ours[~missed], "o", color=BLUE, alpha=0.6, markersize=5)
    axes.loglog(true[missed], ours[missed], "x", color=ORANGE, markersize=6)
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="volume of the reference, ml",
             ylabel="segmented, ml (cross: nothing)")
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        _log_labels(axis, low, high)
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)
    return _png(figure)


def ablation(groups: Sequence[Group]) -> bytes | None:
    """Mean DSC of each part of the method and of the final mask, a panel a group. None without an
    ablation."""
    rows = [group for group in groups if "dsc_attention" in group.means][:_MAX_ROWS]
    if not rows:
        return None
    parts = {f"dsc_{kind}": PARTS[kind] for kind in ABLATIONS if f"dsc_{kind}" in rows[0].means}
    parts["dsc"] = "final mask"
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(_WIDTH, lines * (0.26 * len(parts) + 0.75) + 0.2),
                    layout="constrained")
    FigureCanvasAgg(figure)
    for number, group in enumerate(rows):
        axes = figure.add_subplot(lines, columns, number + 1)
        for y, part in enumerate(parts):
            mean = group.means[part]
            axes.barh(y, mean.mean, height=0.62, color=GREEN if part == "dsc" else "0.8")
            axes.text(mean.high or mean.mean, y, f" {mean.mean:.3f}", va="center", fontsize=8)
            if mean.low is not None and mean.high is not None:
                axes.plot([mean.low, mean.high], [y, y], color="0.25", linewidth=1.2)
        _rows(axes, list(parts.values()))
        tops = [m.high or m.mean for m in (group.means[part] for part in parts)]
        axes.set_xlim(0, max(0.05, *tops) * 1.25)
        axes.set_title(f"{group.name} ({rows[number].means['dsc_attention'].cases})", fontsize=9,
                       loc="left")
    return _png(figure)


def false_alarms(cases: Sequence[CaseScores]) -> bytes | None:
    """What was segmented where nothing is, ml a case by group. None without such cases."""
    absent = [case for case in cases if case.kind != "tumor"]
    if not absent:
        return None
    names = list(dict.fromkeys((case.group, case.kind) for case in absent))[:_MAX_ROWS]
    figure, axes = _chart(0.34 * len(names) + 1.1)
    for y, name in enumerate(names):
        members = [case.measures.segmented_ml for case in absent
                   if (case.group, case.kind) == name]
        _dots(axes, [max(value, _MIN_ML) for value in members], y, ORANGE)
    counts = [sum((case.group, case.kind) == name for case in absent) for name in names]
    _rows(axes, [f"{group} ({n})" if group.startswith(kind) else f"{group}: {kind} ({n})"
                 for (group, kind), n in zip(names, counts, strict=True)])
    axes.set_xscale("log")
    top = max(10.0, *(case.measures.segmented_ml for case in absent))
    axes.set(xlim=(_MIN_ML / 1.5, top * 1.5),
             xlabel=f"segmented although nothing is there, ml ({_MIN_ML:g}: nothing)")
    _log_labels(axes.xaxis, _MIN_ML, top)
    return _png(figure)


def _log_labels(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis, few enough not to overlap."""
    decades = np.log10(high / low)
    steps = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _chart(height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """One name a row, the first one at the top."""
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(True, axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _dots(axes: Axes, values: Sequence[float], y: float, colour: str = GREY) -> None:
    """A dot a value, spread a little so that equal ones show."""
    spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(len(values))
    order = np.random.default_rng(0).permutation(len(values))
    axes.plot(values, y + spread[order], "o", color=colour, alpha=0.6, markersize=4,
              markeredgewidth=0, zorder=3)


def _mean(axes: Axes, mean: Mean, y: float) -> None:
    if mean.low is not None and mean.high is not None:
        axes.plot([mean.low, mean.high], [y, y], color=BLUE, linewidth=2)
    axes.plot([mean.mean], [y], "D", color=BLUE, markersize=6)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
