"""A strip of small pictures of one result: scan, outline, attention, pseudo-healthy, residual."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw
from scipy import ndimage

from DiffuGTSLib.files import write_atomically
from DiffuGTSLib.output.figure import ATTENTION_COLOURS, PLANES, RESIDUAL_COLOURS, SEGMENTED, Views
from DiffuGTSLib.output.figure import views_of as choose_views
from DiffuGTSLib.pipeline import Result
from DiffuGTSLib.scan import Modality

PANELS = ("Scan", "Outline", "Attention", "Pseudo-healthy", "Residual")
SIDE = 224  # pixels
GAP = 4
_QUALITY = 82
_BOX = (255, 255, 255)
# Left, upper, right, lower in mm of the axial slice.
_Box = tuple[float, float, float, float]


def write_thumbnail(result: Result, image: sitk.Image, modality: Modality, path: Path) -> None:
    """Writes the strip as JPEG; axial, the patient's right at the left, as radiologists look.

    The first picture is the whole slice with a frame; the others magnify the frame.

    Raises:
        OutputNotWritten: nothing is left behind then.
    """
    content = io.BytesIO()
    strip(result, image, modality).save(content, "JPEG", quality=_QUALITY)
    write_atomically(path, content.getvalue())


def strip(result: Result, image: sitk.Image, modality: Modality) -> Image.Image:
    """The five pictures side by side, (5 x SIDE + 4 x GAP) x SIDE pixels."""
    images = {"scan": image, "attention": result.attention, "healthy": result.pseudo_healthy,
              "residual": result.residual, "mask": result.mask}
    views = choose_views(images, result.lesions, modality)
    whole, part = _boxes(views)
    pictures = [
        _framed(_grey(views, "scan", whole), whole, part),
        _outlined(views, part),
        _coloured(views, "attention", ATTENTION_COLOURS, 1.0, part),
        _grey(views, "healthy", part),
        _coloured(views, "residual", RESIDUAL_COLOURS, views.residual_top, part),
    ]
    joined = np.zeros((SIDE, len(pictures) * (SIDE + GAP) - GAP, 3))
    for index, picture in enumerate(pictures):
        joined[:, index * (SIDE + GAP) :][:, :SIDE] = picture
    return Image.fromarray(np.uint8(np.clip(joined, 0, 1) * 255))


def _boxes(views: Views) -> tuple[_Box, _Box]:
    """The square around the whole slice, and the part of it that is magnified."""
    _, tall, wide = views.size
    side = max(tall, wide)
    middle = np.array([wide, tall]) / 2
    focus = ((views.focus + 0.5) * views.spacing)[[2, 1]]
    half = side * views.zoom / 2
    # The part stays inside the whole.
    centre = np.clip(focus, middle - side / 2 + half, middle + side / 2 - half)
    return _square(middle, side / 2), _square(centre, half)


def _square(centre: np.ndarray, half: float) -> _Box:
    x, y = (float(value) for value in centre)
    return x - half, y - half, x + half, y + half


def _sampled(views: Views, name: str, box: _Box, order: int) -> np.ndarray:
    """SIDE x SIDE samples of the axial slice; black, the least value, outside of it."""
    plane = PLANES[0].extract(views.volumes[name], int(views.focus[0]))
    plane = np.asarray(plane, np.float32)
    left, upper, right, lower = box
    steps = (np.arange(SIDE) + 0.5) / SIDE
    rows = (upper + steps * (lower - upper)) / views.spacing[1] - 0.5
    columns = (left + steps * (right - left)) / views.spacing[2] - 0.5
    positions = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(plane, positions, order=order, mode="constant",
                                   cval=float(plane.min()), prefilter=False)


def _grey(views: Views, name: str, box: _Box) -> np.ndarray:
    low, high = views.window
    grey = np.clip((_sampled(views, name, box, 1) - low) / (high - low), 0, 1)
    return np.repeat(grey[..., None], 3, axis=2)


def _coloured(views: Views, name: str, colours: str, top: float, box: _Box) -> np.ndarray:
    """Colours over the scan; low values let it shine through."""
    values = np.clip(_sampled(views, name, box, 1) / top, 0, 1)
    alpha = np.clip(1.6 * values, 0, 0.8)[..., None]
    return (1 - alpha) * _grey(views, "scan", box) + alpha * colormaps[colours](values)[..., :3]


def _outlined(views: Views, box: _Box) -> np.ndarray:
    picture = _grey(views, "scan", box)
    inside = _sampled(views, "mask", box, 1) > 0.5
    edge = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside)
    picture[edge] = to_rgb(SEGMENTED)
    return picture


def _framed(picture: np.ndarray, whole: _Box, part: _Box) -> np.ndarray:
    """The whole slice with a frame around the part that is magnified, if any is."""
    if part[2] - part[0] >= whole[2] - whole[0]:
        return picture
    scale = SIDE / (whole[2] - whole[0])
    corners = [(part[i] - whole[i % 2]) * scale for i in range(4)]
    drawn = Image.fromarray(np.uint8(picture * 255))
    ImageDraw.Draw(drawn).rectangle(corners, outline=_BOX)
    return np.asarray(drawn) / 255
