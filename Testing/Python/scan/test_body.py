"""The patient and the lungs, by thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.phantom_chest import LUNG, TISSUE, chest

from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.scan.body import body, lungs, lungs_of_a_chest
from DiffuGTSLib.scan.canonical import to_canonical


def test_lungs_are_found_with_the_nodule_inside_them() -> None:
    image = chest()
    image[22:28, 44:50, 20:26] = TISSUE  # a nodule of 12 mm in the left of the array
    found = lungs(image)
    assert found[22:28, 44:50, 20:26].all()
    assert not found[48, 48, 24]  # the mediastinum
    assert not found[2, 2, 24]  # the air around


def test_the_body_is_one_piece_without_holes() -> None:
    found = body(chest(), "CT")
    assert found[23, 48, 24]  # lung
    assert not found[1, 1, 1]


def test_a_whole_chest_has_two_lungs_with_air() -> None:
    whole = chest(length=120)
    found = lungs_of_a_chest(whole, 2.0)
    assert found is not None
    np.testing.assert_array_equal(found, lungs(whole))
    assert lungs_of_a_chest(chest(length=48), 2.0) is None  # half a litre: a part of one
    white = whole.copy()
    white[:48][white[:48] == LUNG] = TISSUE  # one lung without air
    assert lungs_of_a_chest(white, 2.0) is None
    assert lungs_of_a_chest(np.full((40, 40, 40), TISSUE, np.float32), 2.0) is None
    assert lungs_of_a_chest(np.zeros((40, 40, 40), np.float32), 2.0) is None


@pytest.mark.parametrize("name", ["lung1", "lidc0314"])
def test_the_lungs_of_real_chests_are_the_same_on_a_coarser_grid(
    shared_data: Path, name: str
) -> None:
    image = sitk.ReadImage(str(shared_data / "chest" / name / "image.nii.gz"))
    fine, coarse = (to_canonical(image, "CT", (step,) * 3, 2).tensor[0, 0].numpy()
                    for step in (2.0, 4.0))
    found = lungs_of_a_chest(coarse, 4.0)
    assert found is not None
    assert 2000 < found.sum() * 0.064 < 4000  # ml
    wide = found.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    size = tuple(slice(0, min(a, b)) for a, b in zip(wide.shape, fine.shape, strict=True))
    assert dice(wide[size], lungs(fine)[size]) > 0.93


def test_an_abdomen_is_no_chest(shared_data: Path) -> None:
    image = sitk.ReadImage(str(shared_data / "abdomen" / "abdomen_3mm" / "image.nii.gz"))
    coarse = to_canonical(image, "CT", (4.0, 4.0, 4.0)).tensor[0, 0].numpy()
    assert lungs_of_a_chest(coarse, 4.0) is None
