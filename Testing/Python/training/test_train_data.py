"""Training data: public cases on the model's grid, other spacings, caches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.training_material import write_cases

from DiffuGTSLib.datasets.folder import read_dataset
from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.training.config import Data
from DiffuGTSLib.training.data.case_windows import ORGAN, TUMOR, CaseSampler, cached_case
from DiffuGTSLib.training.data.cases import read_cases, write_cached
from DiffuGTSLib.training.data.corpus import gather
from DiffuGTSLib.training.data.project_folder import DataSelection, ProjectFolder
from DiffuGTSLib.training.data.windows import ORGANS

COARSE = (4.0, 4.0, 4.0)


def liver(tmp_path: Path, spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)):
    cases = write_cases(tmp_path / "cases", {"liver": "CT"}, 1)
    return cached_case(read_dataset(cases).cases[0], tmp_path / "cache", spacing)


@pytest.mark.parametrize(("spacing", "voxels"), [((2.0, 2.0, 2.0), 515), (COARSE, 64)])
def test_a_case_is_stored_on_the_models_grid(tmp_path: Path, spacing, voxels: int) -> None:
    case = liver(tmp_path, spacing)
    tumor = (np.asarray(case.labels) & TUMOR) > 0
    assert tumor.sum() == pytest.approx(voxels, rel=0.1)
    assert case.image.shape == case.labels.shape == (80 / spacing[0],) * 3
    # 130 HU is 0.565 of the window.
    assert np.asarray(case.image)[tumor].mean() == pytest.approx(0.565, abs=0.02)
    assert not (tumor & ~((np.asarray(case.labels) & ORGAN) > 0)).any()


def test_a_case_is_resampled_once_and_again_when_its_file_changes(tmp_path: Path) -> None:
    first = liver(tmp_path)
    dataset = read_dataset(tmp_path / "cases")
    assert cached_case(dataset.cases[0], tmp_path / "cache", (2.0, 2.0, 2.0)).files == first.files
    mask = tmp_path / "cases" / "liver_0_tumor.nii.gz"
    image = sitk.ReadImage(str(mask))
    sitk.WriteImage(image * 0, str(mask))
    again = cached_case(dataset.cases[0], tmp_path / "cache", (2.0, 2.0, 2.0))
    assert not (np.asarray(again.labels) & TUMOR).any()


def test_windows_show_lesion_organ_and_intensity_in_one_place(tmp_path: Path) -> None:
    sampler = CaseSampler([liver(tmp_path)], ORGANS)
    seen = [w for w in (sampler.draw(np.random.default_rng(i)) for i in range(8))
            if w.lesion.sum() > 200]
    assert len(seen) > 4
    for window in seen:
        image, lesion = window.image[0, 0], window.lesion > 0.5
        organ = (window.organs == ORGANS.index("liver") + 1) & ~lesion
        assert image[lesion].median() - image[organ].median() > 0.02
        assert (window.organs[lesion] == ORGANS.index("liver") + 1).all()


def test_the_organs_of_a_scan_lie_in_place_on_a_finer_grid(
    shared_data: Path, tmp_path: Path
) -> None:
    folders = [ProjectFolder(shared_data, tmp_path, DataSelection(spacing_mm=s))
               for s in ((2.0, 2.0, 2.0), (1.5, 1.5, 3.0))]
    case = next(c for c in folders[0].cases("training") if c.name == "sts_001_ct")
    coarse, fine = (f._label(case).stack for f in folders)
    for channel in (1, 2):
        volumes = [(s[channel] > 0).sum() * mm3 for s, mm3 in ((coarse, 8.0), (fine, 6.75))]
        assert float(volumes[0] / volumes[1]) == pytest.approx(1, abs=0.03)
    body, inside = fine[1] > 0, fine[0] > 0.4
    assert (body & inside).sum() / body.sum() > 0.9


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingImpossible, match="nowhere"):
        gather([Data(tmp_path / "nowhere")], tmp_path, DataSelection())


@pytest.mark.parametrize("text", ["{", '[{"case": "a"}]', None])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(TrainingImpossible, match=r"manifest\.json"):
        read_cases(tmp_path)


def test_a_scan_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    entry = {"case": "sts_001_ct", "group": "sarcoma", "modality": "CT", "masks": {}}
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    with pytest.raises(TrainingImpossible, match="sts_001_ct"):
        ProjectFolder(tmp_path, tmp_path / "cache", DataSelection()).volumes("training")


def test_a_file_of_the_cache_is_whole_or_not_there(tmp_path: Path) -> None:
    def broken(stream) -> None:
        stream.write(b"half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_cached(tmp_path / "a.npy", broken)
    assert list(tmp_path.iterdir()) == []
    write_cached(tmp_path / "a.npy", lambda stream: np.save(stream, np.arange(3)))
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "a.npy")), torch.arange(3))
