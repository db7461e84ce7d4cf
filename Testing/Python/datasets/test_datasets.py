"""Data sets in their published layouts: which cases they yield, and what those hold."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk
from support.published_layouts import (
    SIZE,
    labels,
    scan,
    write,
    write_brats,
    write_cases,
    write_kits,
    write_msd,
)

from DiffuGTSLib.datasets.folder import read_dataset
from DiffuGTSLib.datasets.layouts import published
from DiffuGTSLib.errors import BadDataSet, NotAScalarVolume, UnreadableImage
from DiffuGTSLib.files import resource
from DiffuGTSLib.prompt.parsing import understand

MSD_CT = [entry.id for entry in published().values() if entry.layout == "msd"
          and entry.modality == "CT"]


def voxels(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


@pytest.fixture
def one(tmp_path):
    """A scan with its mask, as an entry of a CASES.json."""
    write(scan("MR"), tmp_path / "scan.nii.gz")
    write(labels("brats23"), tmp_path / "mask.nii.gz")
    return {"image": "scan.nii.gz", "mask": "mask.nii.gz", "prompt": "glioma", "name": "one"}


def test_the_catalogue_fits_its_schema():
    document = json.loads(resource("datasets.json").read_text(encoding="utf-8"))
    schema = json.loads(resource("datasets.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(document)
    assert all(set(entry.tumor) | set(entry.organ) <= set(entry.labels)
               for entry in published().values())


@pytest.mark.parametrize("entry", published().values(), ids=lambda entry: entry.id)
def test_every_prompt_of_the_catalogue_is_understood(entry):
    prompt = understand(entry.prompt)
    assert prompt.known
    assert entry.modality in prompt.modalities


def test_the_papers_figures_are_those_of_the_method():
    figures = {entry.id: entry.paper_dsc_percent for entry in published().values()}
    assert figures == {
        "kits23": 59.8, "msd-pancreas": 43.61, "msd-lung": 42.94, "msd-liver": 63.23,
        "msd-colon": 38.72, "msd-hepatic-vessel": 62.76, "msd-brain": 47.51, "brats23": 44.7,
    }


@pytest.mark.parametrize("dataset", MSD_CT)
def test_a_ct_task_of_the_decathlon_yields_tumor_and_organ(tmp_path, dataset):
    found = read_dataset(write_msd(tmp_path, dataset, ("x_001", "x_003")))
    assert [case.name for case in found.cases] == ["x_001", "x_003"]
    volumes = found.cases[0].read()
    assert voxels(volumes.tumor).sum() == 64
    if published()[dataset].organ:
        assert voxels(volumes.organ).sum() == 8 * 8 * 10
    else:
        assert volumes.organ is None


def test_the_brain_task_yields_a_case_a_sequence(tmp_path):
    cases = read_dataset(write_msd(tmp_path, "msd-brain", ("BRATS_001",))).cases
    assert [case.sequence for case in cases] == ["flair", "t1", "t1c", "t2"]
    assert cases[2].name == "BRATS_001_t1c"
    assert {case.patient for case in cases} == {"BRATS_001"}
    second, third = (case.read() for case in cases[1:3])
    assert voxels(third.image).mean() == pytest.approx(voxels(second.image).mean() + 100, abs=2)
    assert third.image.GetSpacing() == (2.0, 2.0, 3.0)
    assert voxels(third.tumor).sum() == 64


def test_the_sequences_follow_the_order_that_dataset_json_states(tmp_path):
    folder = write_msd(tmp_path, "msd-brain", ("BRATS_001",))
    document = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    document["modality"] = {"0": "T2w", "1": "FLAIR", "2": "T1w", "3": "T1GD"}
    (folder / "dataset.json").write_text(json.dumps(document))
    assert [case.sequence for case in read_dataset(folder).cases] == ["t2", "flair", "t1", "t1c"]


def test_a_task_in_a_renamed_folder_is_known_by_its_dataset_json(tmp_path):
    renamed = write_msd(tmp_path, "msd-colon", ("colon_001",)).rename(tmp_path / "mine")
    assert read_dataset(renamed).name == "MSD Task10 colon tumor"


def test_a_task_that_is_not_supported_is_refused(tmp_path):
    folder = write_msd(tmp_path, "msd-lung", ("a",)).rename(tmp_path / "Task02_Heart")
    with pytest.raises(BadDataSet, match="Task02_Heart"):
        read_dataset(folder)


@pytest.mark.parametrize("inner", ["", "dataset"])
def test_kits_counts_tumors_alone_and_the_kidney_with_all_in_it(tmp_path, inner):
    write_kits(tmp_path / inner)
    found = read_dataset(tmp_path)
    assert [case.name for case in found.cases] == ["case_00000", "case_00001"]
    mask = labels("kits23")
    mask[8:9] = np.where(mask[8:9] == 1, 3, mask[8:9])  # a cyst is no tumor
    write(mask, found.cases[0].mask)
    volumes = found.cases[0].read()
    assert voxels(volumes.tumor).sum() == 64
    assert voxels(volumes.organ).sum() == 8 * 8 * 10


def test_brats_yields_a_case_a_sequence_and_the_whole_tumor(tmp_path):
    cases = read_dataset(write_brats(tmp_path)).cases
    assert [(case.name, case.sequence) for case in cases] == [
        (f"BraTS-GLI-00002-000_{s}", s) for s in ("t1", "t1c", "t2", "flair")]
    assert {case.patient for case in cases} == {"BraTS-GLI-00002"}
    assert voxels(cases[3].read().tumor).sum() == 64
    assert cases[3].group_name == "brain tumor, FLAIR"


def test_a_folder_of_published_folders_is_one_data_set(tmp_path):
    write_msd(tmp_path, "msd-liver", ("liver_0",))
    write_msd(tmp_path, "msd-lung", ("lung_001",))
    found = read_dataset(tmp_path)
    assert [case.name for case in found.cases] == ["liver_0", "lung_001"]
    assert found.licence == "CC BY-SA 4.0"


def test_a_list_of_cases_is_read_relative_to_its_folder(tmp_path, one):
    write((labels("brats23") >= 0).astype(np.uint8), tmp_path / "head.nii.gz")
    path = write_cases(tmp_path, one | {"organ": "head.nii.gz", "labels": [1], "patient": "p"})
    (case,) = read_dataset(path).cases
    volumes = case.read()
    assert voxels(volumes.tumor).sum() == 32
    assert voxels(volumes.organ).sum() == np.prod(SIZE)
    assert (volumes.modality, case.patient, case.group_name) == ("MR", "p", "glioma")
    assert read_dataset(tmp_path).cases == (case,)


def test_without_a_mask_there_is_no_tumor(tmp_path, one):
    (case,) = read_dataset(write_cases(tmp_path, one | {"mask": None})).cases
    assert voxels(case.read().tumor).sum() == 0


@pytest.mark.parametrize(("entry", "words"), [
    ({"mask": "m"}, "case 1"), ({"image": 3}, "case 1, “image”"), ({"labels": [0]}, "“labels”"),
    ({"masks": "m"}, "masks"),
])
def test_a_list_of_another_form_is_refused_with_the_position(tmp_path, one, entry, words):
    wrong = {"image": "i", **entry} if "mask" in entry else one | entry
    with pytest.raises(BadDataSet, match=words):
        read_dataset(write_cases(tmp_path, wrong))


def test_all_that_is_wrong_with_a_list_is_reported_at_once(tmp_path, one):
    wrong = [one | {"name": "a", "image": 3}, one | {"name": "b"}, {"name": "c"}]
    with pytest.raises(BadDataSet, match=r"case 1, “image”.*; case 3: ") as refused:
        read_dataset(write_cases(tmp_path, *wrong))
    assert "case 2" not in str(refused.value)
    with pytest.raises(BadDataSet, match=r"case 10: [^;]*; and 3 more"):
        read_dataset(write_cases(tmp_path, *[{"image": "i", "mask": None, "name": "a"}] * 13))


def test_a_name_used_twice_is_refused(tmp_path, one):
    with pytest.raises(BadDataSet, match="twice: one"):
        read_dataset(write_cases(tmp_path, one, one))


@pytest.mark.parametrize("text", ["[]", "{}", "no json"])
def test_a_list_without_cases_is_refused(tmp_path, text):
    (tmp_path / "CASES.json").write_text(text)
    with pytest.raises(BadDataSet):
        read_dataset(tmp_path)


def test_an_unknown_layout_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(BadDataSet, match="layout of no supported data set"):
        read_dataset(tmp_path)
    with pytest.raises(BadDataSet, match="does not exist"):
        read_dataset(tmp_path / "none")


def test_a_mask_on_another_grid_is_refused(tmp_path, one):
    (case,) = read_dataset(write_cases(tmp_path, one)).cases
    write(labels("brats23"), case.mask, shift_mm=1.0)
    with pytest.raises(BadDataSet, match=r"another grid.*1\.0 mm"):
        case.read()
    write(labels("brats23")[1:], case.mask)
    with pytest.raises(BadDataSet, match="16 x 14 x 11 voxels instead of 16 x 14 x 12"):
        case.read()


def test_a_mask_that_is_rounded_in_its_header_is_accepted(tmp_path, one):
    (case,) = read_dataset(write_cases(tmp_path, one)).cases
    write(labels("brats23"), case.mask, shift_mm=0.01)
    assert case.read().tumor.GetOrigin() == case.read().image.GetOrigin()


def test_masks_with_unknown_values_are_refused(tmp_path):
    (case, _) = read_dataset(write_kits(tmp_path)).cases
    mask = labels("kits23")
    mask[0, 0, 0] = 7
    write(mask, case.mask)
    with pytest.raises(BadDataSet, match="without a meaning here: 7"):
        case.read()
    write(labels("kits23") * 0.3, case.mask)
    with pytest.raises(BadDataSet, match="whole numbers"):
        case.read()


def test_missing_damaged_and_4d_files_are_distinguished(tmp_path, one):
    (case,) = read_dataset(write_cases(tmp_path, one)).cases
    case.mask.write_bytes(case.mask.read_bytes()[:-20])
    with pytest.raises(UnreadableImage, match="voxels are missing"):
        case.read()
    case.mask.unlink()
    with pytest.raises(UnreadableImage, match="does not exist"):
        case.read()
    write(scan("MR", 2), case.image)
    with pytest.raises(NotAScalarVolume):
        case.read()


def test_a_4d_scan_with_too_few_volumes_is_refused(tmp_path):
    folder = write_msd(tmp_path, "msd-brain", ("BRATS_001",))
    write(scan("MR", 3), folder / "imagesTr" / "BRATS_001.nii.gz")
    *_, last = read_dataset(folder).cases
    with pytest.raises(BadDataSet, match="4 volumes"):
        last.read()
