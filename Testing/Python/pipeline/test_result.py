"""Images of a result: what is made region by region is what the whole grid would give."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from DiffuGTSLib.pipeline.inpainting import Candidates
from DiffuGTSLib.pipeline.result import Evidence, Result
from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.scan.canonical import Canonical, to_canonical, to_input_grid


def scan(pixel: type) -> sitk.Image:
    """An oblique one, coarser along one axis than the model's grid."""
    voxels = np.random.default_rng(1).normal(100, 30, (18, 50, 44)).astype(pixel)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.7, 1.6, 4.0))
    c, s = np.cos(0.2), np.sin(0.2)
    image.SetDirection((c, s, 0, -s, c, 0, 0, 0, -1))
    return image


def result_of(image: sitk.Image) -> Result:
    """Three parts of M: at a corner of the scan, and two whose boxes overlap."""
    canonical = to_canonical(image, "MR", (2.0, 2.0, 2.0), 16)
    mask = np.zeros(tuple(canonical.tensor.shape[2:]), bool)
    mask[:6, :5, :7] = True
    for n in range(12):
        mask[10 + n, 12 + n : 14 + n, 10:16] = True  # a diagonal plate
    mask[18:21, 12:15, 12:18] = True  # in its bounding box, and beyond it
    evidence = Evidence.nothing(np.zeros(mask.shape, np.float32), Candidates(mask, mask, []))
    evidence.healthy[mask] = np.random.default_rng(2).random(int(mask.sum()))
    return Result(understand("brain tumor"), evidence, canonical, image, 0.5)


def pseudo_healthy_of(result: Result, canonical: Canonical) -> np.ndarray:
    """By its definition, over the whole grid at once, (z, y, x)."""
    mask, (low, high) = result.evidence.mask, canonical.limits
    fade = np.clip(ndimage.distance_transform_edt(mask) / 2, 0, 1).astype(np.float32)
    nearest = ndimage.distance_transform_edt(
        ~mask, return_distances=False, return_indices=True)
    tissue = result.evidence.healthy[tuple(nearest)] * (high - low) + low
    share, new = (sitk.GetArrayFromImage(to_input_grid(part.astype(np.float32), canonical))
                  for part in (fade, tissue))
    own = sitk.GetArrayFromImage(result.image).astype(np.float32)
    return own + share * (new - own)


@pytest.mark.parametrize("pixel", [np.int16, np.float32])
def test_the_pseudo_healthy_scan_is_what_the_whole_grid_gives(pixel: type) -> None:
    image = scan(pixel)
    before = sitk.GetArrayFromImage(image)
    result = result_of(image)
    made = sitk.GetArrayFromImage(result.pseudo_healthy)
    assert len(result.boxes) == 3
    assert (made != before).sum() > 400
    assert made.dtype == pixel
    error = np.abs(made - pseudo_healthy_of(result, result.canonical))
    assert error.max() < (0.501 if pixel == np.int16 else 1e-3)
    assert np.array_equal(sitk.GetArrayFromImage(image), before)


def test_a_map_is_on_the_input_grid_what_the_whole_grid_gives() -> None:
    result = result_of(scan(np.int16))
    result.evidence.residual[result.evidence.mask] = 0.7
    whole = to_input_grid(result.evidence.residual, result.canonical)
    assert result.residual.GetOrigin() == whole.GetOrigin()
    assert result.residual.GetDirection() == whole.GetDirection()
    assert np.allclose(sitk.GetArrayFromImage(result.residual), sitk.GetArrayFromImage(whole),
                       atol=1e-6)
