"""A folder with a manifest.json: its cache follows the files; what is trained on is named so."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.tiny_model import write_tiny_model
from support.training_material import attention_config

from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.training.commands import train_attention
from DiffuGTSLib.training.config import AttentionConfig, Data, read_config
from DiffuGTSLib.training.data.cases import load_volume, read_cases
from DiffuGTSLib.training.data.corpus import find_folders
from DiffuGTSLib.training.data.examples import (
    HEALTHY,
    HELD_OUT,
    SYNTHETIC,
    TRAINING,
    WRONG_ORGAN,
    count_sources,
)
from DiffuGTSLib.training.data.project_folder import DataSelection, ProjectFolder
from DiffuGTSLib.training.data.windows import ORGANS, label_volume
from DiffuGTSLib.training.embedded.build import EmbeddedBuild

SIZE = 40


def write_livers(root: Path, radius: int = 5, count: int = 1, healthy: int = -1) -> Path:
    """Scans of 8 cm with a liver and a brighter ball in it.

    Two patients are kept for the calibration, as the table of scans says.

    Args:
        healthy: number of the scan of which no tumor is outlined.
    """
    offsets = np.indices((SIZE,) * 3) - SIZE // 2
    liver, tumor = ((offsets**2).sum(0) < r**2 for r in (17, radius))
    values = np.where(tumor, 130, np.where(liver, 50, -1000))
    arrays = {"image": values.astype(np.int16), "liver": liver.astype(np.uint8),
              "tumor": tumor.astype(np.uint8)}
    entries = []
    for number in range(count):
        masks = ["liver"] if number == healthy else ["liver", "tumor"]
        folder = root / "liver_tumor" / f"liver_{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("image", *masks):
            image = sitk.GetImageFromArray(arrays[name])
            image.SetSpacing((2.0, 2.0, 2.0))
            sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
        entries.append({"case": folder.name, "group": "liver_tumor", "modality": "CT",
                        "masks": masks})
    (root / "manifest.json").write_text(json.dumps(entries))
    return root


def tumor_voxels(root: Path, cache: Path | None) -> int:
    return int(load_volume(read_cases(root)[0], cache).masks["tumor"].sum())


def liver_voxels(root: Path, cache: Path) -> int:
    labelled = label_volume(load_volume(read_cases(root)[0], cache), cache)
    return int((labelled.stack[1] == ORGANS.index("liver") + 1).sum())


def test_corrected_outlines_are_read_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = tumor_voxels(write_livers(tmp_path / "a", 4), cache)
    after = tumor_voxels(write_livers(tmp_path / "a", 9), cache)
    assert after == tumor_voxels(tmp_path / "a", None) > 5 * before


def test_a_changed_scan_is_read_anew(tmp_path: Path) -> None:
    write_livers(tmp_path)
    (case,) = read_cases(tmp_path)
    before = load_volume(case, tmp_path / "cache").image
    scan = sitk.ReadImage(str(case.folder / "image.nii.gz"))
    sitk.WriteImage(scan + 100, str(case.folder / "image.nii.gz"))
    assert not np.array_equal(load_volume(case, tmp_path / "cache").image, before)


def test_organs_are_found_anew_where_their_outline_was_corrected(tmp_path: Path) -> None:
    write_livers(tmp_path / "a")
    before = liver_voxels(tmp_path / "a", tmp_path / "cache")
    outline = tmp_path / "a" / "liver_tumor" / "liver_0" / "liver.nii.gz"
    sitk.WriteImage(sitk.BinaryErode(sitk.ReadImage(str(outline)), (4, 4, 4)), str(outline))
    assert liver_voxels(tmp_path / "a", tmp_path / "cache") < 0.7 * before


def test_what_has_not_changed_is_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tumor_voxels(write_livers(tmp_path / "a"), tmp_path / "cache")
    liver = liver_voxels(tmp_path / "a", tmp_path / "cache")
    for name in ("cases._on_grid", "windows.organ_masks"):
        monkeypatch.delattr(f"DiffuGTSLib.training.data.{name}")
    assert tumor_voxels(tmp_path / "a", tmp_path / "cache") == before
    assert liver_voxels(tmp_path / "a", tmp_path / "cache") == liver


def test_scans_of_one_name_in_two_folders_are_two_scans(tmp_path: Path) -> None:
    folders = [write_livers(tmp_path / "a", 4), write_livers(tmp_path / "b", 9)]
    selection = DataSelection(synthetic=False)
    corpus = find_folders([Data(folder) for folder in folders], tmp_path / "cache", selection)
    split = "tuning"
    assert corpus.names(split) == ["liver_0", "liver_0"]
    own = [tumor_voxels(folder, None) for folder in folders]
    assert [int(v.masks["tumor"].sum()) for v in corpus.volumes(split)] == own
    assert [int(v.stack[2].sum()) for v in corpus.labelled_volumes(split)] == own
    assert len(set(corpus.fingerprints(split)["liver_0"])) == 2


@pytest.fixture(scope="module")
def livers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_livers(tmp_path_factory.mktemp("livers") / "livers", count=4, healthy=1)


def test_examples_and_windows_say_what_they_are_made_from(livers: Path, tmp_path: Path) -> None:
    folder = ProjectFolder(livers, tmp_path, DataSelection(largest=48))
    counts = Counter(example.source for example in folder.examples(99))
    assert [len(folder.names(split)) for split in ("tuning", "training")] == [2, 2]
    assert counts == {HELD_OUT: 2, TRAINING: 1, SYNTHETIC: 2, HEALTHY: 1, WRONG_ORGAN: 2}
    windows = Counter(window.source for window in folder.held_out(ORGANS))
    assert windows == {HELD_OUT: 16, SYNTHETIC: 16}


def test_sources_are_counted_in_words() -> None:
    assert count_sources("window", [HELD_OUT]) == "1 window of held-out scans"
    assert count_sources("example", [HELD_OUT, SYNTHETIC, HELD_OUT, HEALTHY]) == (
        "2 examples of held-out scans, 1 of training scans with synthetic lesions and "
        "1 of training scans without lesions")
    assert count_sources("example", []) == "0 examples"


@pytest.mark.usefixtures("one_thread")
def test_the_card_calls_no_training_scan_held_out(livers: Path, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    config = attention_config(tmp_path / "a.json", data=[{"folder": str(livers)}], calibrate=9,
                              training={"steps": 1})
    train_attention(read_config(config, AttentionConfig))
    card = Card.read(tmp_path / "made")
    assert card.calibrated_on == (
        "2 examples of held-out scans, 1 of training scans, 2 of training scans with synthetic "
        "lesions, 1 of training scans without lesions and 2 of held-out scans prompted for an "
        "organ that is not in them.")
    assert card.scores["measure"] == (
        "mean Dice of the attention map before calibration, at 0.5, in 16 windows of held-out "
        "scans and 16 of training scans with synthetic lesions")


def test_a_part_of_the_embedded_model_continues_only_what_it_began(tmp_path: Path) -> None:
    data = write_livers(tmp_path / "data", 4, count=3)
    build = EmbeddedBuild([data], tmp_path / "runs", log=lambda line: None, quick=1)
    build.vae()
    assert (build.runs / "vae" / "scale_factor.json").is_file()
    build.vae()  # finished; it is written again
    with pytest.raises(TrainingImpossible, match="settings: steps changed"):
        replace(build, quick=2).vae()
    write_livers(data, 9, count=3)
    with pytest.raises(TrainingImpossible, match="liver_1 changed"):
        build.vae()
