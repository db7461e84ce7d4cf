"""What more training of the embedded attention has given: scores of validation patients by hours.

    python Testing/Benchmarks/training_curve.py [TABLE.csv [PICTURE.png]]

The table has a row for each set of weights and group of scans: hours of two CPU cores and steps
until then, mean Dice of the final mask with its 95 % interval. Rows are added by hand, from
groups.csv of the validation of those weights.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from DiffuGTSLib.evaluation.charts import BLUE, GREY, ORANGE

FOLDER = Path(__file__).parents[2] / "docs" / "validation"
# What was aimed at; "validation" is all tumors.
AIMS = {
    "glioma FLAIR": 0.75, "glioma T2": 0.65, "glioma T1 Gd": 0.45, "glioma T1": 0.35,
    "lung cancer, cube CT": 0.65, "lung nodule, crop CT": 0.65, "liver tumor CT": 0.40,
    "sarcoma MR": 0.65, "sarcoma CT": 0.55, "validation": None,
}
TITLES = {"validation": "all tumors", "lung cancer, cube CT": "lung cancer",
          "lung nodule, crop CT": "lung nodule", "liver tumor CT": "liver tumor"}
COLUMNS = 5


def draw(rows: list[dict[str, str]], picture: Path) -> None:
    """A panel a group: the mean with its interval over the hours, and the aim, dashed."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (group, aim) in enumerate(AIMS.items(), 1):
        axes = figure.add_subplot(-(-len(AIMS) // COLUMNS), COLUMNS, number)
        _panel(axes, [row for row in rows if row["group"] == group], aim)
        patients = next(row["patients"] for row in rows if row["group"] == group)
        title = TITLES.get(group, group)
        axes.set_title(f"{title} ({patients} patients)", fontsize=9)
        if number % COLUMNS == 1:
            axes.set_ylabel("mean Dice")
        if number > len(AIMS) - COLUMNS:
            axes.set_xlabel("hours of training")
    figure.savefig(picture, dpi=110)


def _panel(axes: Axes, rows: list[dict[str, str]], aim: float | None) -> None:
    hours, means, low, high = (
        [float(row[name]) for row in rows] for name in ("hours", "dsc", "low", "high"))
    axes.fill_between(hours, low, high, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(hours, means, "o-", color=BLUE, markersize=4)
    if aim is not None:
        axes.axhline(aim, color=ORANGE, linestyle="--", linewidth=1)
    axes.set(xlim=(2.5, 10.5), ylim=(0, 1))
    axes.grid(True, color="0.92")
    axes.tick_params(labelsize=8, color=GREY)


def main() -> None:
    """Draws the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, nargs="?", default=FOLDER / "training_curve.csv")
    parser.add_argument("picture", type=Path, nargs="?", default=FOLDER / "training_curve.png")
    options = parser.parse_args()
    with options.table.open(encoding="utf-8", newline="") as stream:
        draw(list(csv.DictReader(stream)), options.picture)
    print(options.picture)


if __name__ == "__main__":
    main()
