"""The overview picture: what is up, left and magnified, and that the file is whole or not there."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.output import figure
from DiffuGTSLib.pipeline.lesions import find_lesions

SPACING = (2.0, 2.0, 4.0)
YELLOW, BLUE = (255, 225, 77), (77, 210, 255)


def volume(array: np.ndarray, orientation: str = "LPS") -> sitk.Image:
    """From (z, y, x) with axes to S, P, L; then the same scan in another voxel order."""
    image = sitk.GetImageFromArray(np.asarray(array, np.float32))
    image.SetSpacing(SPACING)
    return sitk.DICOMOrient(image, orientation)


def parts(orientation: str = "LPS") -> dict[str, sitk.Image]:
    """A soft-tissue scan with a lesion at the patient's right, anterior and low."""
    scan = np.full((30, 60, 80), 40.0)
    scan[6:10, 10:22, 12:26] = 90
    mask = scan > 60
    return {
        "image": volume(scan, orientation),
        "attention": volume(mask * 0.8, orientation),
        "pseudo_healthy": volume(np.full(scan.shape, 40.0), orientation),
        "residual": volume(mask * 3.0, orientation),
        "mask": sitk.Cast(volume(mask, orientation), sitk.sitkUInt8),
    }


def drawn(images: dict[str, sitk.Image], path, **options) -> np.ndarray:
    """The PNG's pixels (rows, columns, 3), 0..255."""
    lesions = find_lesions(images["mask"], images["attention"])
    options = {"title": "liver tumor", "lesions": lesions, "modality": "CT"} | options
    figure.overview(**images, path=path, **options)
    return np.round(imread(path)[..., :3] * 255).astype(int)


def marked(pixels: np.ndarray, colour) -> np.ndarray:
    """Which pixels have about this colour, the legend at the bottom left out."""
    close = np.abs(pixels - np.array(colour)).max(axis=-1) < 12
    return close[: int(0.9 * len(close))]


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "SLA"])
def test_the_patients_right_is_left_and_anterior_is_up_in_every_voxel_order(orientation, tmp_path):
    pixels = drawn(parts(orientation), tmp_path / "f.png")
    reference = drawn(parts(), tmp_path / "g.png")
    assert np.abs(pixels - reference).mean() < 0.5


def test_the_axial_outline_lies_at_the_upper_left_and_the_coronal_one_low(tmp_path):
    images = parts()
    views = figure.views_of({"scan": images["image"], **images}, find_lesions(
        images["mask"], images["attention"]), "CT")
    axial, coronal, sagittal = figure.PLANES
    at = (views.focus + 0.5) * views.spacing
    assert views.focus.tolist() == [6, 10, 12]
    assert axial.position(at, views.size) == (25.0, 21.0)
    assert coronal.position(at, views.size) == (25.0, 94.0)
    assert sagittal.position(at, views.size) == (21.0, 94.0)


def test_a_slice_shows_its_focus_at_the_position(tmp_path):
    array = np.zeros((5, 6, 7))
    array[1, 2, 3] = 1
    for plane in figure.PLANES:
        row, column = np.argwhere(plane.extract(array, (1, 2, 3)[plane.axis]))[0]
        at = plane.position(np.array([1.5, 2.5, 3.5]), np.array([5.0, 6.0, 7.0]))
        assert at == (column + 0.5, row + 0.5)


def test_the_outline_is_drawn_and_the_reference_only_when_given(tmp_path):
    images = parts()
    without = drawn(images, tmp_path / "a.png")
    reference = np.zeros((30, 60, 80))
    reference[3:20, 6:40, 6:40] = 1
    both = drawn(images, tmp_path / "b.png", reference=volume(reference))
    assert marked(without, YELLOW).sum() > 300
    assert marked(without, BLUE).sum() == 0
    assert marked(both, BLUE).sum() > 300


@pytest.mark.parametrize("found", [True, False])
def test_the_planes_follow_the_reference_where_there_is_one(found, tmp_path):
    images = parts()
    images["mask"] = images["mask"] * int(found)
    array = np.zeros((30, 60, 80))
    array[20:24, 40:44, 60:64] = 1
    array[2, 2, 2] = 1
    images |= {"scan": images["image"], "healthy": images["pseudo_healthy"],
               "reference": sitk.Cast(volume(array), sitk.sitkUInt8)}
    lesions = find_lesions(images["mask"], images["attention"])
    views = figure.views_of(images, lesions, "CT")
    assert views.volumes["reference"][tuple(views.focus)] == 1
    assert views.focus.tolist() != [2, 2, 2]
    images["reference"] = images["reference"] * 0
    emptied = figure.views_of(images, lesions, "CT")
    del images["reference"]
    assert emptied.focus.tolist() == figure.views_of(images, lesions, "CT").focus.tolist()


def test_without_a_lesion_no_outline_is_drawn_and_the_planes_follow_the_attention(tmp_path):
    images = parts()
    images["mask"] = images["mask"] * 0
    pixels = drawn(images, tmp_path / "a.png", highest_score=0.21)
    assert marked(pixels, YELLOW).sum() == 0
    views = figure.views_of({"scan": images["image"], "healthy": images["pseudo_healthy"],
                             **images}, [], "CT")
    assert views.volumes["attention"][tuple(views.focus)] == pytest.approx(0.8)


def test_without_a_lesion_the_whole_scan_is_shown(tmp_path):
    images = parts()
    images["mask"] = images["mask"] * 0
    assert figure.views_of({**images, "scan": images["image"], "healthy":
                            images["pseudo_healthy"]}, [], "CT").zoom == 1.0


def test_where_nothing_was_inpainted_the_middle_is_shown_and_labelled(tmp_path):
    images = parts()
    images |= {"mask": images["mask"] * 0, "residual": images["residual"] * 0}
    inpainted = drawn(images, tmp_path / "a.png")
    images["pseudo_healthy"] = images["image"]
    views = figure.views_of({**images, "scan": images["image"], "healthy": images["image"]}, [],
                            "CT")
    assert views.focus.tolist() == [15, 30, 40]
    pixels = drawn(images, tmp_path / "b.png")
    third = slice(int(0.42 * pixels.shape[1]), int(0.58 * pixels.shape[1]))
    white = [(picture[:, third].min(axis=-1) > 250).sum() for picture in (inpainted, pixels)]
    assert white[1] > white[0] + 100  # the words


def test_the_headline_says_what_was_found():
    images = parts()
    lesions = find_lesions(images["mask"], images["attention"])
    assert figure._headline("liver tumor", [], 0.214) == (
        "liver tumor: no tumor found (highest score 0.21)")
    assert figure._headline("liver tumor", lesions, 0.9).startswith("liver tumor: 10.75 ml, 3")
    assert "2 lesions, 21.50 ml in all" in figure._headline("liver tumor", lesions * 2, 0.9)


def test_a_lesion_in_the_lung_gets_the_lung_window(shared_data):
    scan = sitk.ReadImage(shared_data / "chest" / "lung1" / "image.nii.gz")
    tumor = sitk.ReadImage(shared_data / "chest" / "lung1" / "tumor.nii.gz")
    array, spacing = figure.patient_array(scan)
    focus = np.round(np.argwhere(figure.patient_array(tumor)[0]).mean(axis=0)).astype(int)
    assert figure._window(array, spacing, focus, "CT") == (-1350, 150)


def test_a_lesion_in_the_liver_gets_the_soft_tissue_window(shared_data):
    scan = sitk.ReadImage(shared_data / "abdomen" / "abdomen_3mm" / "image.nii.gz")
    liver = sitk.ReadImage(shared_data / "abdomen" / "abdomen_3mm" / "liver.nii.gz")
    array, spacing = figure.patient_array(scan)
    focus = np.round(np.argwhere(figure.patient_array(liver)[0]).mean(axis=0)).astype(int)
    assert figure._window(array, spacing, focus, "CT") == (-160, 240)


def test_a_dollar_sign_in_the_prompt_and_a_non_ascii_name_are_drawn(tmp_path):
    drawn(parts(), tmp_path / "Übersicht ü.png", title="$tumor_{")
    assert [p.name for p in tmp_path.iterdir()] == ["Übersicht ü.png"]


def test_a_missing_folder_is_said_plainly(tmp_path):
    with pytest.raises(OutputNotWritten, match=r"f\.png could not be written"):
        drawn(parts(), tmp_path / "none" / "f.png")
