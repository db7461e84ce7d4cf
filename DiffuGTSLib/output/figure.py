"""One picture of one result: scan, attention, pseudo-healthy scan, residual and outline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from DiffuGTSLib.files import atomic_file
from DiffuGTSLib.pipeline import Lesion
from DiffuGTSLib.pipeline.lesions import labelled
from DiffuGTSLib.scan import Modality
from DiffuGTSLib.scan.segmentation_file import MARK

COLUMNS = ("Scan", "Attention", "Pseudo-healthy", "Residual", "Outline")
FOOTER = "Research use only, not for clinical decisions"
SEGMENTED, REFERENCE = "#ffe14d", "#4dd2ff"
ATTENTION_COLOURS, RESIDUAL_COLOURS = "inferno", "viridis"
SCALE_BAR_MM = 50.0
# A magnified view shows three diameters, at least twice the scale bar and a margin.
_MIN_VIEW_MM = 120.0
_SHADOW = [withStroke(linewidth=2, foreground="black")]  # white marks on white bone
_PANEL_WIDTH, _GAP, _TOP, _BOTTOM, _LEFT = 2.9, 0.08, 0.8, 0.95, 0.42  # inches


@dataclass(frozen=True)
class _Plane:
    """A slice plane in display order: rows downwards, columns to the right."""

    name: str
    axis: int  # of the array (S, P, L) that the plane is perpendicular to
    letters: tuple[str, str, str, str]  # left, right, top, bottom

    def extract(self, array: np.ndarray, index: int) -> np.ndarray:
        """One slice (rows, columns); superior is up in the upright planes."""
        plane = np.take(array, index, axis=self.axis)
        return plane if self.axis == 0 else plane[::-1]

    def position(self, focus: np.ndarray, size: np.ndarray) -> tuple[float, float]:
        """The focus (S, P, L) in mm as (column, row) from the picture's upper left corner."""
        row, column = np.delete(focus, self.axis)
        return column, row if self.axis == 0 else size[0] - row


# Radiological convention: the patient's right is at the left of the picture.
PLANES = (
    _Plane("Axial", 0, ("R", "L", "A", "P")),
    _Plane("Coronal", 1, ("R", "L", "S", "I")),
    _Plane("Sagittal", 2, ("A", "P", "S", "I")),
)


@dataclass(frozen=True)
class Views:
    """The volumes as arrays whose axes point to S, P and L, and where to look.

    Attributes:
        volumes: by name, (S, P, L) each.
        spacing: mm, (S, P, L).
        focus: voxel index, (S, P, L).
        zoom: the magnified view's share of the whole one, 0..1.
        window: the intensities shown as black and white.
        residual_top: the residual that gets the last colour.
    """

    volumes: dict[str, np.ndarray]
    spacing: np.ndarray
    focus: np.ndarray
    zoom: float
    window: tuple[float, float]
    residual_top: float

    @property
    def size(self) -> np.ndarray:
        """The scan's outer size in mm, (S, P, L)."""
        return np.array(self.volumes["scan"].shape) * self.spacing


def overview(
    image: sitk.Image,
    attention: sitk.Image,
    pseudo_healthy: sitk.Image,
    residual: sitk.Image,
    mask: sitk.Image,
    *,
    title: str,
    lesions: Sequence[Lesion],
    path: Path | str,
    modality: Modality,
    highest_score: float | None = None,
    reference: sitk.Image | None = None,
) -> None:
    """Writes a PNG: axial, coronal and sagittal through the largest lesion, five columns.

    With a reference that is not empty they go through its largest part, so that missed lesions
    are shown too. Without either the whole scan is shown, through the highest attention where
    tissue was inpainted, else through the middle. Planes are the scan's own, named after the
    nearest anatomical plane.

    Args:
        image: the scan (HU or MR intensity); all images are 3D on one grid.
        attention: 0..1.
        pseudo_healthy: in the scan's intensities.
        residual: from 0 upwards.
        mask: nonzero is lesion.
        title: the prompt, as "liver tumor".
        lesions: of `mask`, the largest first.
        path: of the PNG; an existing file is replaced.
        modality: "CT" or "MR", for the window.
        highest_score: named in the title when there is no lesion.
        reference: a mask by other means, drawn as a dashed outline.

    Raises:
        OutputNotWritten: the file cannot be written; none is left behind.
    """
    images = {"scan": image, "attention": attention, "healthy": pseudo_healthy,
              "residual": residual, "mask": mask}
    if reference is not None:
        images["reference"] = reference
    views = views_of(images, lesions, modality)
    figure = _draw(views, modality)
    figure.text(0.5, 1 - 0.28 / figure.get_figheight(), _headline(title, lesions, highest_score),
                ha="center", va="center", fontsize=14, fontweight="bold", parse_math=False)
    figure.text(0.5, 0.13 / figure.get_figheight(), FOOTER, ha="center", va="center", fontsize=9,
                color="0.35")
    _save(figure, Path(path))


def _headline(title: str, lesions: Sequence[Lesion], highest_score: float | None) -> str:
    """The prompt and the result in one line."""
    if not lesions:
        score = "" if highest_score is None else f" (highest score {highest_score:.2f})"
        return f"{title}: no tumor found{score}"
    largest = lesions[0]
    extent = f"{largest.longest_diameter_mm:.0f} x {largest.perpendicular_mm:.0f} mm"
    if len(lesions) == 1:
        return f"{title}: {largest.volume_ml:.2f} ml, {extent}"
    total = sum(lesion.volume_ml for lesion in lesions)
    return (f"{title}: {len(lesions)} lesions, {total:.2f} ml in all; "
            f"the largest {largest.volume_ml:.2f} ml, {extent}")


def patient_array(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """A view of the voxels whose axes point to S, P and L, and the spacing in mm in that order.

    The voxel axes of an oblique scan count as the anatomical axis nearest to them. The view does
    not keep `image` alive: hold on to it.
    """
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    array = sitk.GetArrayViewFromImage(image).T  # axes in the order of `letters`
    order = [next(i for i in range(3) if letters[i] in pair) for pair in ("SI", "PA", "LR")]
    flips = tuple(slice(None, None, 1 if letters[i] in "SPL" else -1) for i in order)
    return array.transpose(order)[flips], np.array(image.GetSpacing())[order]


def views_of(
    images: dict[str, sitk.Image], lesions: Sequence[Lesion], modality: Modality
) -> Views:
    """Decides the slices, the magnification and the windows."""
    volumes = {name: patient_array(image)[0] for name, image in images.items()}
    spacing = patient_array(images["scan"])[1]
    known = "reference" in volumes and bool(volumes["reference"].any())
    if known or lesions:
        focus, across_mm = _through(images["reference" if known else "mask"], spacing)
        # Wide enough for the largest lesion, too, wherever it is.
        wanted = 3 * max([across_mm, *(lesion.feret_3d_mm for lesion in lesions[:1])])
    else:
        focus, wanted = _without_lesion(volumes), np.inf
    longest = float(max(np.array(volumes["scan"].shape) * spacing))
    zoom = max(wanted, _MIN_VIEW_MM) / longest
    return Views(volumes, spacing, focus, zoom if zoom < 0.75 else 1.0,
                  _window(volumes["scan"], spacing, focus, modality),
                  _residual_top(volumes["residual"]))


def _through(mask: sitk.Image, spacing: np.ndarray) -> tuple[np.ndarray, float]:
    """Where (S, P, L) the slices show most of the largest part, and how far it reaches, in mm."""
    labels = labelled(mask, minimum_ml=0.0)
    largest = patient_array(labels)[0] == 1
    others = ((1, 2), (0, 2), (0, 1))
    # Not the centroid, which may lie outside of it.
    focus = np.array([np.argmax(np.sum(largest, axis=axes)) for axes in others])
    extent = [np.ptp(np.flatnonzero(largest.any(axes))) + 1 for axes in others]
    return focus, float(np.max(np.array(extent) * spacing))


def _without_lesion(volumes: dict[str, np.ndarray]) -> np.ndarray:
    """Where to look (S, P, L) when nothing was segmented."""
    inpainted = volumes["healthy"] != volumes["scan"]
    if not inpainted.any():
        return np.array(inpainted.shape) // 2
    candidates = np.where(inpainted, volumes["attention"], -1.0)
    return np.array(np.unravel_index(np.argmax(candidates), inpainted.shape))


def _residual_top(residual: np.ndarray) -> float:
    """The residual shown brightest: a single hot voxel must not darken the rest."""
    highest = float(residual.max())
    if highest <= 0:
        return 1.0
    return float(np.percentile(residual[residual > 0.02 * highest], 99))


def _window(
    scan: np.ndarray, spacing: np.ndarray, focus: np.ndarray, modality: Modality
) -> tuple[float, float]:
    """CT: the lung window in lung-like surroundings, else soft tissue; MR: percentiles."""
    if modality == "MR":
        step = max(1, round((scan.size / 2_000_000) ** (1 / 3)))
        sample = scan[::step, ::step, ::step]
        tissue = sample[sample > np.percentile(sample, 1)]
        low, high = np.percentile(tissue if tissue.size else sample, (1, 99.5))
        return float(low), float(max(high, low + 1e-6))
    reach = np.maximum(1, np.round(25 / spacing)).astype(int)
    around = scan[tuple(slice(max(0, f - r), f + r + 1) for f, r in zip(focus, reach, strict=True))]
    aerated = np.mean((around > -970) & (around < -500))
    return (-1350.0, 150.0) if aerated > 0.3 else (-160.0, 240.0)


def _draw(views: Views, modality: Modality) -> Figure:
    """The panels, their headings and colour bars."""
    wholes = [_whole_view(plane, views.size) for plane in PLANES]
    heights = [_PANEL_WIDTH * (w[3] - w[2]) / (w[1] - w[0]) for w in wholes]
    width = _LEFT + len(COLUMNS) * (_PANEL_WIDTH + _GAP)
    height = _TOP + sum(heights) + _GAP * len(heights) + _BOTTOM
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    below = height - _TOP
    for plane, whole, tall in zip(PLANES, wholes, heights, strict=True):
        below -= tall + _GAP
        for column, heading in enumerate(COLUMNS):
            left = _LEFT + column * (_PANEL_WIDTH + _GAP)
            axes = figure.add_axes((left / width, below / height,
                                    _PANEL_WIDTH / width, tall / height))
            _panel(axes, views, plane, column, whole)
            if plane is PLANES[0]:
                magnified = " (magnified)" if column >= 2 and views.zoom < 1 else ""
                axes.set_title(heading + magnified, fontsize=11, pad=4)
        figure.text(0.5 * _LEFT / width, (below + tall / 2) / height, plane.name, rotation=90,
                    ha="center", va="center", fontsize=11)
    _keys(figure, views, modality)
    return figure


def _whole_view(plane: _Plane, size: np.ndarray) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of the whole slice in mm; a thin slab gets a margin."""
    tall, wide = np.delete(size, plane.axis)
    extra_tall, extra_wide = max(0.0, wide * 0.4 - tall) / 2, max(0.0, tall * 0.7 - wide) / 2
    return -extra_wide, wide + extra_wide, -extra_tall, tall + extra_tall


def _magnified_view(
    whole: tuple[float, float, float, float], focus: tuple[float, float], zoom: float
) -> tuple[float, float, float, float]:
    """A part of the same shape around the focus, moved inside the whole."""
    left, right, top, bottom = whole
    wide, tall = (right - left) * zoom, (bottom - top) * zoom
    start = float(np.clip(focus[0] - wide / 2, left, right - wide))
    upper = float(np.clip(focus[1] - tall / 2, top, bottom - tall))
    return start, start + wide, upper, upper + tall


def _panel(
    axes: Axes, views: Views, plane: _Plane, column: int, whole: tuple[float, float, float, float]
) -> None:
    """One picture of the grid: scan and attention whole, the others magnified."""
    index = int(views.focus[plane.axis])
    focus = plane.position((views.focus + 0.5) * views.spacing, views.size)
    part = _magnified_view(whole, focus, views.zoom)
    view = whole if column < 2 else part
    tall, wide = np.delete(views.size, plane.axis)
    options: dict[str, Any] = {"extent": (0, wide, tall, 0), "interpolation": "bilinear"}
    low, high = views.window

    def extract(name: str) -> np.ndarray:
        return np.asarray(plane.extract(views.volumes[name], index), dtype=np.float32)

    grey = extract("healthy" if column == 2 else "scan")
    blank = column in (2, 3) and np.array_equal(extract("healthy"), extract("scan"))
    axes.imshow(grey, cmap="gray", vmin=low, vmax=high, alpha=0.35 if blank else 1.0, **options)
    if blank:
        words = "nothing inpainted" if column == 2 else "no residual"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center",
                  color="white", fontsize=13, path_effects=_SHADOW)
    elif column in (1, 3):
        name, colours, top = (("attention", ATTENTION_COLOURS, 1.0) if column == 1
                              else ("residual", RESIDUAL_COLOURS, views.residual_top))
        values = extract(name)
        # Low values let the scan shine through.
        axes.imshow(values, cmap=colours, vmin=0, vmax=top,
                    alpha=np.clip(1.6 * values / top, 0, 0.8), **options)
    if column == 4:
        _outline(axes, extract("mask"), (wide, tall), SEGMENTED, "solid")
        if "reference" in views.volumes:
            _outline(axes, extract("reference"), (wide, tall), REFERENCE, "dashed")
    if column < 2 and views.zoom < 1:
        axes.add_patch(Rectangle((part[0], part[2]), part[1] - part[0], part[3] - part[2],
                                 fill=False, edgecolor="white", linewidth=0.9,
                                 linestyle=(0, (4, 3)), path_effects=_SHADOW))
    axes.set(xlim=view[:2], ylim=(view[3], view[2]), xticks=[], yticks=[], facecolor="black")
    _letters(axes, plane.letters)
    _scale_bar(axes, view)


def _outline(
    axes: Axes, mask: np.ndarray, size: tuple[float, float], colour: str, style: str
) -> None:
    """The border of a mask's slice (rows, columns); `size` is its (width, height) in mm."""
    if not mask.any():
        return
    framed = np.pad(mask > 0, 1).astype(np.float32)  # so that a lesion at the edge is closed
    steps = size[0] / mask.shape[1], size[1] / mask.shape[0]
    columns = (np.arange(framed.shape[1]) - 0.5) * steps[0]
    rows = (np.arange(framed.shape[0]) - 0.5) * steps[1]
    axes.contour(columns, rows, framed, levels=[0.5], colors=[colour], linewidths=1.4,
                 linestyles=style)


def _letters(axes: Axes, letters: tuple[str, str, str, str]) -> None:
    """Orientation letters at the four sides."""
    positions = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"),
                 (0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom"))
    for letter, (x, y, horizontal, vertical) in zip(letters, positions, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, ha=horizontal, va=vertical,
                  color="white", fontsize=9, path_effects=_SHADOW)


def _scale_bar(axes: Axes, view: tuple[float, float, float, float]) -> None:
    """A bar of 5 cm (1 cm in a small view) in the lower right corner."""
    left, right, top, bottom = view
    length = SCALE_BAR_MM if right - left > 2 * SCALE_BAR_MM else SCALE_BAR_MM / 5
    end, y = right - 0.05 * (right - left), bottom - 0.05 * (bottom - top)
    axes.plot([end - length, end], [y, y], color="white", linewidth=2.5,
              solid_capstyle="butt", path_effects=[withStroke(linewidth=4, foreground="black")])
    axes.text(end - length / 2, y - 0.02 * (bottom - top), f"{length / 10:.0f} cm",
              color="white", fontsize=8, ha="center", va="bottom", path_effects=_SHADOW)


def _keys(figure: Figure, views: Views, modality: Modality) -> None:
    """Colour bars under the first four columns and the meaning of the lines under the last."""
    width, height = figure.get_size_inches()
    unit = "HU" if modality == "CT" else "MR intensity"
    bars = (("gray", views.window, unit), (ATTENTION_COLOURS, (0.0, 1.0), "attention (0 to 1)"),
            ("gray", views.window, unit),
            (RESIDUAL_COLOURS, (0.0, views.residual_top), "residual (0 = as if healthy)"))
    for column, (colours, (low, high), label) in enumerate(bars):
        left = _LEFT + column * (_PANEL_WIDTH + _GAP) + 0.35
        axes = figure.add_axes((left / width, 0.68 / height,
                                (_PANEL_WIDTH - 0.7) / width, 0.12 / height))
        bar = figure.colorbar(ScalarMappable(Normalize(low, high), colours), cax=axes,
                              orientation="horizontal", ticks=MaxNLocator(5))
        bar.set_label(label, fontsize=9, labelpad=2)
        bar.ax.tick_params(labelsize=8)
    lines = [Line2D([], [], color=SEGMENTED, linewidth=2, label="segmented")]
    if "reference" in views.volumes:
        lines.append(Line2D([], [], color=REFERENCE, linewidth=2, linestyle="--",
                            label="reference"))
    right = _LEFT + 4.5 * (_PANEL_WIDTH + _GAP)
    legend = figure.legend(handles=lines, loc="center", ncols=2, fontsize=9, frameon=True,
                           bbox_to_anchor=(right / width, 0.64 / height), facecolor="0.25")
    for text in legend.get_texts():
        text.set_color("white")


def _save(figure: Figure, path: Path) -> None:
    """Writes the PNG in one step; it says which program made it."""
    with atomic_file(path, ".png") as unfinished:
        figure.savefig(unfinished, format="png", dpi=110, metadata={"Software": MARK})
