"""Whole heads are searched in the brain that registration finds; nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.pipeline import Segmenter
from DiffuGTSLib.pipeline.organ_search import MARGIN_MM, NAME, NO_BRAIN_NOTE
from DiffuGTSLib.pipeline.result import Result
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.scan.brain import grown
from DiffuGTSLib.scan.canonical import canonical_image
from DiffuGTSLib.scan.example_scans import example_scans

SEARCHED = f"Searched only in {NAME}"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_pretrained("embedded", "cpu")


def read(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def searched(result: Result) -> bool:
    return any(note.startswith(SEARCHED) for note in result.notes)


def test_a_healthy_head_is_searched_in_its_brain_alone(
    segmenter: Segmenter, shared_data: Path
) -> None:
    scan = segmenter.encode(read(shared_data / "brain" / "volunteer_t1" / "image.nii.gz"),
                            "MR", sequence="t1")
    result = segmenter.segment(scan, "brain tumor")
    assert searched(result)
    assert not result.within  # nobody has given a region
    assert not result.found
    brain = sitk.GetArrayFromImage(grown(scan.brain.mask, MARGIN_MM)).transpose(2, 1, 0) > 0
    attention = sitk.GetArrayFromImage(
        canonical_image(result.evidence.attention, scan.canonical)).transpose(2, 1, 0)
    assert (attention[brain] > 0).all()
    assert not attention[~brain].any()


def test_who_gives_a_region_has_it_searched(segmenter: Segmenter, shared_data: Path) -> None:
    image = read(shared_data / "brain" / "volunteer_t1" / "image.nii.gz")
    scan = segmenter.encode(image, "MR", sequence="t1")
    everything = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    everything.CopyInformation(image)
    result = segmenter.segment(scan, "brain tumor", within=everything)
    assert not searched(result)
    assert (result.evidence.attention > 0).mean() > 0.5


def test_metastases_are_found_in_a_real_head_that_the_model_has_not_seen(
    segmenter: Segmenter, shared_data: Path
) -> None:
    folder = shared_data / "brain" / "brain1"
    scan = segmenter.encode(read(folder / "image.nii.gz"), "MR", sequence="t1c")
    result = segmenter.segment(scan, "brain tumor")
    tumor = sitk.GetArrayFromImage(read(folder / "tumor.nii.gz")) > 0
    found = sitk.GetArrayFromImage(result.mask) > 0
    assert searched(result)
    assert found[tumor].mean() > 0.5
    assert dice(found, tumor) > 0.15  # much more than the tumor is marked


@pytest.mark.parametrize("prompt", ["brain tumor", "meningioma"])
@pytest.mark.parametrize("name", ["sts_007_t1", "sts_013_t1"])
def test_a_limb_has_no_brain(
    segmenter: Segmenter, shared_data: Path, name: str, prompt: str
) -> None:
    image = read(shared_data / "sarcoma" / name / "image.nii.gz")
    scan = segmenter.encode(image, "MR", sequence="t1")
    assert (segmenter.attend(scan, understand(prompt)) > 0.5).any()  # the gate does not know it
    result = segmenter.segment(scan, prompt)
    assert not result.found
    assert NO_BRAIN_NOTE in result.notes
    assert not searched(result)
    assert result.highest_score < 0.001
    everything = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    everything.CopyInformation(image)
    assert segmenter.segment(scan, prompt, within=everything).found


def test_half_a_head_has_a_brain(segmenter: Segmenter, shared_data: Path) -> None:
    image = read(shared_data / "brain" / "volunteer_t2" / "image.nii.gz")
    axis = int(np.argmax(np.abs(np.array(image.GetDirection()).reshape(3, 3)[2])))
    for part in (slice(None, image.GetSize()[axis] // 2), slice(image.GetSize()[axis] // 2, None)):
        half = image[tuple(part if n == axis else slice(None) for n in range(3))]
        result = segmenter.segment(segmenter.encode(half, "MR", sequence="t2"), "brain tumor")
        assert NO_BRAIN_NOTE not in result.notes


def test_neither_other_organs_nor_stripped_brains_are_asked_for_a_brain(
    segmenter: Segmenter
) -> None:
    lung, glioma = (next(s for s in example_scans() if s.modality == m) for m in ("CT", "MR"))
    for sample, prompts in ((lung, ["brain tumor", "lung tumor"]), (glioma, ["lung tumor"])):
        scan = segmenter.encode(read(sample.path), sample.modality, sequence=None)
        for prompt in prompts:
            assert not searched(segmenter.segment(scan, prompt))
        assert "brain" not in vars(scan)  # registration has not run
    stripped = segmenter.encode(read(glioma.path), "MR", sequence="flair")
    result = segmenter.segment(stripped, "brain tumor")
    assert not searched(result)
    assert result.found
    assert np.isclose(stripped.brain.around, 0, atol=0.02)
