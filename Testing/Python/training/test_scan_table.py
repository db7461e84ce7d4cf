"""The table of training scans: what it states, and that nothing else names a scan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
from support.training_material import training_case

from DiffuGTSLib.files import resource
from DiffuGTSLib.prompt.vocabulary import vocabulary
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.cases import TrainingVolume, read_cases
from DiffuGTSLib.training.data.organs import organ_masks
from DiffuGTSLib.training.data.scan_table import ORGANS, scan_table, window_shares
from DiffuGTSLib.training.data.windows import WindowSampler, label_volume

LIBRARY = Path(__file__).resolve().parents[3] / "DiffuGTSLib"


def test_the_table_follows_its_schema() -> None:
    document, schema = (json.loads(resource(f"Training/{name}.json").read_text(encoding="utf-8"))
                        for name in ("scans", "scans.schema"))
    jsonschema.validate(document, schema)
    assert {r["kind"] for r in document["rules"] if "kind" in r} <= set(document["kinds"])


def test_organs_are_those_of_the_vocabulary() -> None:
    named = {o for kind in scan_table().kinds.values()
             for o in (*(kind.known or ()), *kind.unknown, *kind.synthetic, *kind.synthetic_copies)}
    assert named | set(ORGANS) <= set(vocabulary().anatomies)
    assert set(scan_table().organ_masks) <= set(ORGANS)


def test_every_prompt_of_the_table_names_an_organ_that_the_gate_learns() -> None:
    kinds = scan_table().kinds.values()
    assert {k.prompted_organ for k in kinds if k.prompt} <= set(ORGANS)
    assert all(k.synthetic or k.prompt for k in kinds)
    assert sum(window_shares().values()) > 0


def test_the_library_names_no_scan_and_no_group_in_its_code() -> None:
    named = re.compile(
        r"[\"'](sarcoma|glioma|chest|lung_nodule|lung_tumor|liver_tumor|liver_slab|abdomen_3mm)[\"']")
    hits = [path.name for path in (LIBRARY / "training" / "data").rglob("*.py")
            if named.search(path.read_text(encoding="utf-8"))]
    assert hits == []


def test_a_later_rule_and_the_manifest_win() -> None:
    assert training_case("liver_slab", "abdomen", "CT").kind.name == "slab"
    entry = {"case": "sts_033_ct", "group": "sarcoma", "modality": "CT", "masks": []}
    table = scan_table()
    assert table.describe(entry)["split"] == "validation"
    stated = table.describe(entry | {"split": "training", "patient": "p", "asks": "leg tumor"})
    assert (stated["split"], stated["patient"], stated["prompt"]) == ("training", "p", "leg tumor")


def test_patients_are_read_from_the_names_where_the_manifest_states_none() -> None:
    assert training_case("sts_001_ct", "sarcoma", "CT").patient == "sts_001"
    assert training_case("fg-6692_fla", "brain", "MR").patient == "fg-6692"
    assert training_case("fg-6692_fla", "brain", "MR").sequence == "flair"
    assert training_case("ms_p07_t1", "brain", "MR").skull_stripped


def test_real_tumors_keep_the_split_of_their_manifest(shared_tumors: Path) -> None:
    cases = read_cases(shared_tumors)
    manifest = json.loads((shared_tumors / "manifest.json").read_text("utf-8"))
    entries = {entry["case"]: entry for entry in manifest}
    assert len(cases) == 693
    for case in cases:
        stated = entries[case.name]["split"]
        assert case.split == stated or (stated, case.split) == ("training", "tuning")
        assert case.lesion_mask == "tumor"
        assert case.kind.prompted_organ in ORGANS


def test_tuning_patients_are_whole_patients_of_each_kind(shared_tumors: Path) -> None:
    cases = read_cases(shared_tumors)
    tuning = {(c.kind.name, c.patient) for c in cases if c.split == "tuning"}
    counts = {name: sum(kind == name for kind, _ in tuning) for name, _ in tuning}
    assert counts == {"glioma": 1, "lung_tumor": 8, "lung_nodule": 20, "liver_tumor": 2}
    others = {(c.kind.name, c.patient) for c in cases if c.split != "tuning"}
    assert tuning.isdisjoint(others)


def test_lungs_are_found_in_a_crop_smaller_than_a_chest() -> None:
    image = np.full((36, 36, 12), 0.52, np.float16)  # soft tissue
    image[4:30, 4:30, :] = 0.08
    image[14:20, 14:20, 3:9] = 0.52
    case = training_case("lidc0001_n0", "lung_nodule", "CT", ("tumor",))
    tumor = np.zeros(image.shape, bool)
    tumor[14:20, 14:20, 3:9] = True
    lung = organ_masks(TrainingVolume(case, image, {"tumor": tumor}))["lung"]
    assert lung[6:28, 6:28].mean() > 0.9


def test_the_liver_gets_real_lesions_and_now_and_then_synthetic_ones() -> None:
    shape = (110, 110, 110)
    liver, tumor = np.zeros(shape, bool), np.zeros(shape, bool)
    liver[8:102, 8:102, 8:102], tumor[28:36, 28:36, 28:36] = True, True
    image = np.full(shape, 0.55, np.float16)
    case = training_case("liver_000", "liver_tumor", "CT", ("liver", "tumor"))
    labelled = label_volume(TrainingVolume(case, image, {"liver": liver, "tumor": tumor}))
    sampler = WindowSampler([labelled], 48)
    windows = [sampler.draw(np.random.default_rng(n)) for n in range(30)]
    # The scan is even: what is not is a synthetic lesion.
    uneven = [float(w.image[0, 0][w.lesion > 0].std()) > 0.01 for w in windows if w.lesion.any()]
    assert 0.5 < len(uneven) / 30 < 1
    assert 0 < sum(uneven) < len(uneven) / 2
    assert {ORGANS[w.organ] for w in windows} == {"liver"}
    assert len({ORGANS[o] for w in windows for o in w.others}) >= 2  # nothing is right for these


def test_a_ct_is_clipped_as_the_published_livers_are() -> None:
    hu = np.array([-1000.0, -150.0, -30.0, 100.0, 700.0])
    clipped = augment.clip_as_published(((hu + 1000) / 2000).astype(np.float32), (-40, 160))
    assert np.round(clipped * 2000 - 1000).tolist() == [-1000, -100, -30, 100, 160]
