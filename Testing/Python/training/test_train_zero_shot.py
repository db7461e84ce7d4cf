"""Classes of lesions: what one is, and that a class left out is never used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_material import part_of, training_case, write_cases

from DiffuGTSLib.errors import PromptNotUnderstood, TrainingImpossible
from DiffuGTSLib.models import store
from DiffuGTSLib.models.card import Card, Measured
from DiffuGTSLib.prompt.lesion_classes import Exposure, exposure, lesion_class, reliability
from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.training.config import Data
from DiffuGTSLib.training.data import project_folder
from DiffuGTSLib.training.data.cases import TrainingVolume
from DiffuGTSLib.training.data.corpus import Corpus, classes_named, gather
from DiffuGTSLib.training.data.project_folder import DataSelection, ProjectFolder
from DiffuGTSLib.training.data.scan_table import scan_table
from DiffuGTSLib.training.data.windows import (
    ORGANS,
    LabelledVolume,
    WindowSampler,
    label_volume,
)


@pytest.mark.parametrize(("text", "name"), [
    ("HCC", "liver tumor"), ("liver metastasis", "liver tumor"),
    ("hepatic vessel tumor", "liver tumor"), ("pancreas cancer", "pancreatic tumor"),
])
def test_a_class_is_all_that_grows_in_an_organ(text: str, name: str) -> None:
    assert lesion_class(text) == name


def test_a_text_without_an_organ_is_no_class() -> None:
    with pytest.raises(PromptNotUnderstood, match="names no organ"):
        lesion_class("sarcoma")


def test_only_what_no_mask_was_seen_of_is_unseen() -> None:
    seen = {"real": ["liver tumor"], "synthetic": ["lung tumor"]}
    assert exposure(seen, "hepatic vessel tumor") is Exposure.REAL
    assert exposure(seen, "lung nodule") is Exposure.SYNTHETIC
    assert exposure(seen, "brain tumor") is Exposure.UNSEEN
    assert exposure(None, "brain tumor") is Exposure.UNKNOWN
    frozen = {"real": [], "frozen": ["liver tumor"], "synthetic": ["liver tumor"]}
    assert exposure(frozen, "HCC") is Exposure.FROZEN


def card(**entries) -> Card:
    """Of a model that was measured on FLAIR and in chests."""
    measured = (Measured("glioma FLAIR", "brain", "MR", "flair", 3, 0.71),
                Measured("lung cancer, cube CT", "lung", "CT", "", 14, 0.6),
                Measured("lung, chest CT", "lung", "CT", "", 1, 0.4))
    classes = {"real": ["brain tumor"], "synthetic": ["pancreatic tumor"]}
    return replace(Card.read(store.find("embedded")),
                   **{"validation": measured, "trained_classes": classes} | entries)


@pytest.mark.parametrize(("place", "sentence"), [
    (("brain", "MR", "flair"), "here: glioma FLAIR, DSC 0.71 on 3 patients."),
    (("brain", "MR", ""), "here: glioma FLAIR, DSC 0.71 on 3 patients."),
    (("brain", "MR", "t2"), "not known: trained on outlined tumors of this organ, not validated on "
     "this sequence (on others: glioma FLAIR, DSC 0.71 on 3 patients)."),
    (("lung", "CT", ""), "here: lung cancer, cube CT, DSC 0.60 on 14 patients; lung, chest CT, "
     "DSC 0.40 on 1 patient."),
    (("pancreas", "CT", ""), "trained on synthetic lesions of this organ only, not validated."),
    (("prostate", "MR", ""), "never trained on lesions of this organ, not validated."),
    (("", "CT", ""), "not validated where no organ is named."),
])
def test_how_good_a_model_is_for_an_organ_is_said(place: tuple[str, ...], sentence: str) -> None:
    assert reliability(card(), *place).endswith(sentence)


def test_scores_are_not_those_of_a_search_in_a_given_mask() -> None:
    said = "That was measured without a mask to search in."
    assert reliability(card(), "brain", "MR", "flair", within=True).endswith(said)
    assert said not in reliability(card(), "brain", "MR", "flair")
    assert said not in reliability(card(), "pancreas", "CT", "", within=True)  # not measured


def test_scores_of_tumors_in_an_organ_are_not_cited_for_its_border() -> None:
    prompt = understand("mesothelioma")
    assert prompt.at_border
    said = reliability(card(), prompt.anatomy, "CT", "", at_border=prompt.at_border)
    assert said == ("How good this model is at the border of this organ is not known (in the "
                    "organ: lung cancer, cube CT, DSC 0.60 on 14 patients; lung, chest CT, "
                    "DSC 0.40 on 1 patient).")
    nowhere = reliability(card(), "pancreas", "CT", "", at_border=True)
    assert nowhere == reliability(card(), "pancreas", "CT", "")


def test_frozen_networks_of_which_nothing_is_stated_are_not_taken_for_unseen() -> None:
    classes = {"real": ["brain tumor"], "frozen": None, "synthetic": ["lung tumor"]}
    assert exposure(classes, "brain tumor") is Exposure.REAL
    assert exposure(classes, "lung tumor") is exposure(classes, "HCC") is Exposure.UNKNOWN
    unstated = card(validation=(), trained_classes=classes)
    assert reliability(unstated, "lung", "CT", "") == (
        "How good this model is here is not known: not validated.")


def test_a_card_that_states_nothing_says_nothing() -> None:
    silent = card(validation=(), trained_classes=None)
    assert reliability(silent, "liver", "CT", "") == ""
    assert reliability(silent, "", "CT", "") == ""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("material") / "cases")


def corpus(cases: Path, tmp_path: Path, *left_out: str, synthetic: bool = True) -> Corpus:
    selection = DataSelection(left_out=classes_named(left_out), synthetic=synthetic, largest=32,
                    held_out=0.4)
    return gather([Data(cases)], tmp_path, selection)


def drawn(sampler, count: int = 40) -> list:
    return [sampler.draw(np.random.default_rng(i)) for i in range(count)]


def test_a_class_left_out_of_public_data_is_never_drawn(cases: Path, tmp_path: Path) -> None:
    without = corpus(cases, tmp_path, "HCC")
    prompted = {ORGANS[w.organ] for w in [*drawn(without.sampler()), *without.held_out()]}
    assert {"lung", "brain"} <= prompted
    assert "liver" not in prompted
    classes = without.trained_classes()
    assert classes == {"real": ["brain tumor", "lung tumor"],
                       "synthetic": ["brain tumor", "lung tumor"]}
    assert all("liver" not in example.prompt for example in without.examples(9))


def test_without_synthetic_lesions_none_is_added(cases: Path, tmp_path: Path) -> None:
    plain = corpus(cases, tmp_path, synthetic=False)
    assert plain.trained_classes()["synthetic"] == []
    volumes = [int(w.lesion.sum()) for w in drawn(plain.sampler(), 25)]
    assert max(volumes) < 2.5 * 523  # the one ball of 5 voxels' radius, stretched
    assert np.median(volumes) > 100


def test_the_names_of_both_splits_are_those_of_their_scans(cases: Path, tmp_path: Path) -> None:
    without = corpus(cases, tmp_path, "HCC")
    (folder, _), = without.folders
    for split in ("training", "tuning"):
        assert without.names(split) == [c.name for c in folder.cached(split)]
        assert not any("liver" in name for name in without.names(split))


def test_held_out_patients_are_not_trained_on(cases: Path, tmp_path: Path) -> None:
    (folder, _), = corpus(cases, tmp_path).folders
    trained = {c.patient for c in folder.cached("training")}
    held = {c.patient for c in folder.cached("tuning")}
    assert len(trained) == len(held) == 3
    assert not trained & held


def test_organs_of_the_trunk_are_known_to_be_absent_from_a_head(
    cases: Path, tmp_path: Path
) -> None:
    sampler = corpus(cases, tmp_path, "liver tumor", "lung tumor").sampler()
    window = sampler.draw(np.random.default_rng(0))
    known = {ORGANS[i] for i in np.flatnonzero(window.known.numpy())}
    assert {"brain", "liver", "lung", "kidney"} <= known
    assert "bone" not in known


def abdomen() -> LabelledVolume:
    image, masks = np.full((64, 64, 64), 0.52, np.float16), {}
    for number, organ in enumerate(("liver", "kidney_left", "pancreas")):
        masks[organ] = np.zeros(image.shape, bool)
        masks[organ][8:56, 8:56, 4 + 20 * number : 20 + 20 * number] = True
    case = training_case("abdomen_3mm", "abdomen", "CT")
    return label_volume(TrainingVolume(case, image, masks))


def test_an_organ_left_out_gets_no_lesion_and_no_prompt() -> None:
    organs = [o for o in ORGANS if o != "liver"]
    sampler = WindowSampler([abdomen()], 48, organs, organs)
    for window in drawn(sampler, 30):
        assert ORGANS[window.organ] != "liver"
        assert not (window.lesion[window.organs == ORGANS.index("liver") + 1] > 0).any()


def test_the_liver_gets_lesions_where_it_is_not_left_out() -> None:
    windows = drawn(WindowSampler([abdomen()], 48), 12)
    assert any((w.lesion[w.organs == ORGANS.index("liver") + 1] > 0).any() for w in windows)


def test_phantoms_of_a_class_left_out_are_not_used(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]")
    phantoms = [
        LabelledVolume(kind, torch.ones(4, 8, 8, 8), np.array(kind.known_organs),
                       int(kind.phantom == "brain"))
        for kind in scan_table().kinds.values() if kind.phantom]
    # The real ones take seconds each to draw.
    monkeypatch.setattr(project_folder, "phantom_volumes", lambda: phantoms)
    selection = DataSelection(left_out=classes_named(["HCC"]))
    folder = ProjectFolder(tmp_path, tmp_path / "cache", selection)
    assert sorted(s.kind.name for s in folder.training) == ["phantom_brain", "phantom_lung"]
    assert folder.classes() == (set(), {"lung tumor", "brain tumor"})


def test_leaving_everything_out_is_refused(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingImpossible, match="no case to train on"):
        corpus(cases, tmp_path, "liver tumor", "lung tumor", "brain tumor").sampler()


def test_an_unknown_group_of_scans_is_named(tmp_path: Path) -> None:
    entry = '[{"case": "a", "group": "knee", "modality": "MR", "masks": {}}]'
    (tmp_path / "manifest.json").write_text(entry)
    with pytest.raises(TrainingImpossible, match="knee"):
        ProjectFolder(tmp_path, tmp_path, DataSelection())


def test_soft_tissue_left_out_takes_the_sarcomas_away(shared_data: Path, tmp_path: Path) -> None:
    names = ("sts_001_ct", "sts_029_t1", "sts_030_ct", "mediastinum_b", "breast1", "ms_p07_t1")
    root = part_of(shared_data, names, tmp_path / "data")
    folder = ProjectFolder(root, tmp_path, DataSelection())
    assert any(name.startswith("sts_") for name in folder.names("training"))
    without = DataSelection(left_out=classes_named(["soft tissue sarcoma"]))
    left_out = ProjectFolder(root, tmp_path, without)
    for split in ("training", "tuning"):
        assert left_out.names(split) == [
            name for name in folder.names(split) if not name.startswith("sts_")]
    assert len(list(left_out.labelled_volumes("training"))) == len(left_out.names("training"))
    # Not even as negative examples of the calibration.
    assert folder._tuning_cases()
    assert not left_out._tuning_cases()
