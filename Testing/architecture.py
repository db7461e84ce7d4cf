"""Draws the packages of DiffuGTSLib, layer by layer, with the imports between them.

`python Testing/architecture.py` writes docs/architecture.png anew. The layers are those of the
import contract in pyproject.toml, the imports are read from the code, those in functions too.
"""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from pathlib import Path

import grimp
import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = "DiffuGTSLib"
PICTURE = REPOSITORY / "docs" / "architecture.png"
TITLES = {
    "cli": "the command diffugts", "training": "trainers, their data,\nthe embedded model",
    "batch": "many scans: this machine\nor a Ray cluster",
    "worker": "the background process\nof 3D Slicer",
    "evaluation": "scores, tables, report", "output": "text, labelmap, figure",
    "pipeline": "START HERE\nencode, attend, inpaint, compare, refine",
    "datasets": "public data sets", "doctor": "what is installed",
    "scan": "files, DICOM, modality, grids", "prompt": "text to finding and site",
    "models": "packages, catalogue, store",
    "remote": "another machine, over SSH",
    "networks": "autoencoder, denoiser,\nattention, text encoder", "files": "atomic files, folders",
    "progress": "progress, cancel", "channel": "JSON lines", "errors": "one class a kind",
}
# Imported by nearly everything: their arrows would hide the others.
EVERYWHERE = ("errors", "files", "progress", "channel")
# Left to right within a layer, and what stands alone in its layer but not in the middle: so that no
# arrow passes behind a box.
ORDER = ("batch", "worker", "evaluation", "doctor", "pipeline", "datasets", "models", "scan",
         "prompt", "networks", "files", "progress", "channel")
ON_THE_RIGHT = ("training",)
FACE, EDGE, START = "#eef3f8", "#4a6785", "#fbe9c6"
HEIGHT, GAP, WIDTH = 0.62, 0.5, 12.0


def layers() -> list[list[str]]:
    """The layers from the top down, as the import contract names them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    contract = next(c for c in contracts if c.get("containers") == [LIBRARY])
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def imports() -> Counter[tuple[str, str]]:
    """How many modules of one package import one of another."""
    sys.path.insert(0, str(REPOSITORY))
    graph = grimp.build_graph(LIBRARY, exclude_type_checking_imports=True)
    pairs: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            source, target = (name.split(".")[1:2] for name in (module, other))
            if source and target and source != target:
                pairs[source[0], target[0]] += 1
    return pairs


def needed(pairs: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """The imports that follow from no others: an arrow to a package that a longer
    way leads to is left out, as are those to the modules that everything imports."""
    kept = {pair: n for pair, n in pairs.items() if pair[1] not in EVERYWHERE}

    def leads(source: str, target: str) -> bool:
        return (source, target) in kept or any(
            leads(middle, target) for first, middle in kept if first == source)

    return Counter({
        (source, target): n for (source, target), n in kept.items()
        if not any(leads(middle, target) for first, middle in kept
                   if first == source and middle != target)
    })


def files_in(name: str) -> int:
    """Python files of a package or module, without `__init__` and `__main__`."""
    folder = REPOSITORY / LIBRARY / name
    if not folder.is_dir():
        return 1
    return sum(1 for path in folder.rglob("*.py") if not path.name.startswith("__"))


def draw() -> None:
    """Writes the picture."""
    rows = layers()
    figure, axes = plt.subplots(figsize=(WIDTH, len(rows) * (HEIGHT + GAP) + 0.4))
    places: dict[str, tuple[float, float, float]] = {}
    for depth, row in enumerate(rows):
        y = -depth * (HEIGHT + GAP)
        width = min(3.4, (WIDTH - 0.4) / len(row) - 0.3)
        ordered = sorted(row, key=lambda name: ORDER.index(name) if name in ORDER else -1)
        for column, name in enumerate(ordered):
            middle = (len(row) - 1) / 2 - (name in ON_THE_RIGHT)
            x = WIDTH / 2 + (column - middle) * (width + 0.3)
            places[name] = (x, y, width)
    for (source, target), count in sorted(needed(imports()).items()):
        if source in places and target in places:
            (x0, y0, _), (x1, y1, _) = places[source], places[target]
            axes.add_patch(FancyArrowPatch(
                (x0, y0 - HEIGHT / 2), (x1, y1 + HEIGHT / 2), arrowstyle="-|>", mutation_scale=12,
                linewidth=1 + min(count, 24) / 10, color=EDGE, alpha=0.7, zorder=1,
                connectionstyle=f"arc3,rad={0.0}"))
    for name, (x, y, width) in places.items():
        count = files_in(name)
        axes.add_patch(FancyBboxPatch(
            (x - width / 2, y - HEIGHT / 2), width, HEIGHT,
            boxstyle="round,pad=0.02,rounding_size=0.08",
            facecolor=START if name == "pipeline" else FACE, edgecolor=EDGE, zorder=2))
        several = f"  ({count} files)" if count > 1 else ""
        axes.text(x, y + 0.15, f"{name}{several}", ha="center", va="center", fontsize=10,
                  fontweight="bold", zorder=3)
        axes.text(x, y - 0.13, TITLES.get(name, ""), ha="center", va="center", fontsize=7.5,
                  linespacing=1.1, zorder=3)
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-(len(rows) - 1) * (HEIGHT + GAP) - HEIGHT, HEIGHT)
    axes.axis("off")
    figure.savefig(PICTURE, dpi=110, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    draw()
