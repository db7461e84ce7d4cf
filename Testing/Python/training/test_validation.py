"""The prompts of the validation scans, and the tables of the docs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.scored_cases import InProcessScorer, scored
from support.tiny_model import write_tiny_model

from DiffuGTSLib.datasets.check import check
from DiffuGTSLib.datasets.folder import DataSet
from DiffuGTSLib.errors import BadDataSet, InvalidOption
from DiffuGTSLib.evaluation.evaluate import Evaluation, model_fingerprint
from DiffuGTSLib.evaluation.measures import Measures
from DiffuGTSLib.evaluation.scoring import EvaluationSettings
from DiffuGTSLib.evaluation.tables import summarise, write_tables
from DiffuGTSLib.models.card import Card, Measured
from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.prompt.parsing import understand
from DiffuGTSLib.training.data.cases import read_cases
from DiffuGTSLib.training.embedded.validation import (
    DATASET,
    ValidationRow,
    markdown,
    record,
    run,
    tasks,
)


@pytest.fixture(scope="module")
def listed(shared_data):
    return tasks(read_cases(shared_data))


def test_every_case_has_a_name_of_its_own_and_a_prompt_that_is_understood(listed):
    names = [task.name for task in listed]
    assert len(set(names)) == len(names)
    assert all(understand(prompt).known for prompt in {task.prompt for task in listed})


def test_scans_without_a_tumor_get_prompts_for_what_is_not_there(listed):
    absent = {task.scan.name for task in listed if task.labelled.mask is None}
    assert absent == {"abdomen_3mm", "volunteer_t1", "volunteer_t2", "volunteer2_t1", "colin27_t1",
                      "mediastinum_a", "mediastinum_b"}
    assert ("lung1", "brain tumor") in {(t.scan.name, t.prompt) for t in listed if t.wrong_organ}


def test_every_scored_tumor_is_in_the_validation_split_and_every_scan_of_it_is_scored(
    listed, shared_data
):
    splits = {scan.name: scan.split for scan in read_cases(shared_data)}
    scored = {task.scan.name for task in listed if task.labelled.mask}
    assert scored == {name for name, split in splits.items() if split == "validation"}


def test_groups_tell_sequences_and_whole_heads_apart(listed):
    groups = {t.scan.name: t.group for t in listed if not t.wrong_organ}
    assert groups["brain1"] == "brain T1 Gd, whole head"
    assert groups["fg-6692_fla"] == "brain FLAIR"
    assert groups["sts_033_t1"] == "sarcoma MR"
    assert groups["lung1"] == "lung, chest CT"


def test_the_other_folder_has_its_groups(shared_tumors):
    groups = {t.group for t in tasks(read_cases(shared_tumors)) if not t.wrong_organ}
    assert groups == {"glioma FLAIR", "glioma T1", "glioma T1 Gd", "glioma T2", "liver tumor CT",
                      "lung cancer, cube CT", "lung nodule, crop CT"}


def test_sequences_of_a_patient_share_the_patient(listed):
    cases = [task.labelled for task in listed if not task.wrong_organ]
    patients = {case.image.parent.name: case.patient for case in cases}
    assert patients["sts_033_ct"] == patients["sts_033_t1"] == "sts_033"
    assert patients["fg-6692_fla"] == patients["fg-6692_t1c"] == "fg-6692"
    assert {c.sequence for c in cases if c.patient == "fg-6692"} == {"t1", "t1c", "t2", "flair"}


def test_the_scans_and_masks_can_be_used(listed):
    names = ("brain1", "sts_033_ct", "fg-6692_fla", "mediastinum_a")
    few = tuple(task.labelled for task in listed if task.scan.name in names)
    assert check(DataSet("few", "", few)).findings == []


@pytest.fixture
def table():
    parts = {kind: Measures(0.4, None, 10.0, 8.0, 1, 1, 1) for kind in ("map", "attention")}
    parts["both"] = Measures(0.5, None, 10.0, 9.0, 1, 1, 1)
    tumor = scored(0, 0.5, ablation=parts, group="lung CT")
    wrong = scored(1, None, kind="wrong organ", wrong_organ_dsc=0.25, prompt="brain tumor",
                 group="wrong organ")
    healthy = scored(2, None, found=False, group="no tumor: abdomen")
    rows = [ValidationRow("lung1", "validation", tumor),
            ValidationRow("lung1", "validation", wrong),
            ValidationRow("abdomen_3mm", "training", healthy)]
    return markdown(rows, summarise([row.scores for row in rows]))


def test_a_scan_has_one_row_with_its_ablation_and_its_wrong_organs(table):
    (row,) = [line for line in table.splitlines() if line.startswith("| lung1 | liver tumor")]
    assert "| 0.50 | 0.40 | 0.40 |" in row
    assert "brain tumor: 2.00 ml, DSC 0.25" in row


def test_the_gain_of_the_residuals_is_said(table):
    assert "by +0.100" in table


def test_false_alarms_name_the_split(table):
    assert "| abdomen_3mm | liver tumor | training | 2.00 |" in table
    assert "Nothing found, as it should be: 1 of 1. Mean: 2.0 ml" in table


def test_one_scan_is_validated_from_end_to_end(shared_data, tmp_path):
    model, docs = str(write_tiny_model(tmp_path / "tiny")), tmp_path / "docs"
    docs.mkdir()
    (docs / "mediastinum_b_lung_tumor.png").touch()
    (docs / "other.png").touch()
    settings = EvaluationSettings(Options(model, "cpu"), ablation=True, baselines=True)
    run([shared_data], tmp_path / "out", model, ["mediastinum_b"], docs=docs,
        scorer=InProcessScorer(settings, tmp_path / "out"))
    assert "| mediastinum_b | lung tumor | training |" in (docs / "table.md").read_text("utf-8")
    assert (docs / "mediastinum_b_lung_tumor.png").stat().st_size > 10_000
    assert (docs / "other.png").stat().st_size == 0
    scores = tmp_path / "out" / "scores.json"
    groups = json.loads(scores.read_text(encoding="utf-8"))["groups"]
    assert [group["name"] for group in groups] == ["no tumor: lung, chest"]
    with pytest.raises(InvalidOption, match=f"of all scans, not of “1 of .* {DATASET}"):
        record(scores, tmp_path / "tiny")


def test_a_scan_without_a_prompt_is_named(shared_data, tmp_path):
    with pytest.raises(BadDataSet, match="No scan is called lung1_lung_tumor"):
        run([shared_data], tmp_path, "embedded", ["lung1_lung_tumor"])


@pytest.fixture
def validated(tmp_path):
    """A model, and scores.json of a validation of it: three scans with a tumor, one wrong organ."""
    model = write_tiny_model(tmp_path / "tiny")
    cases = [scored(n, dsc, patient=patient, group="glioma FLAIR", prompt="brain tumor",
                    modality="MR", sequence="flair")
             for n, (patient, dsc) in enumerate((("a", 0.5), ("a", 0.7), ("b", 0.9)))]
    cases.append(scored(3, None, kind="wrong organ", group="wrong organ", wrong_organ_dsc=0.0))
    settings = EvaluationSettings(Options(str(model), "cpu"), ablation=True, baselines=True,
                                  threads=1)
    done = Evaluation(DataSet(DATASET, "", ()), Card.read(model), model_fingerprint(model),
                      settings, False, tuple(cases), ())
    write_tables(done, summarise(done.cases), tmp_path)
    return model, tmp_path / "scores.json"


def test_the_scores_of_each_group_get_into_the_card(validated):
    model, scores = validated
    record(scores, model)
    record(scores, model)  # what it writes is no other model
    card = Card.read(model)
    assert card.validation == (Measured("glioma FLAIR", "brain", "MR", "flair", 2, 0.7),)
    assert card.scores["glioma FLAIR"] == 0.7


def test_the_scores_of_other_thresholds_do_not_get_into_the_card(validated):
    model, scores = validated
    replace(Card.read(model), threshold=0.4).write(model)
    before = (model / "card.json").read_bytes()
    with pytest.raises(InvalidOption, match="not of other weights or thresholds"):
        record(scores, model)
    with pytest.raises(InvalidOption, match="a folder that validate wrote"):
        record(scores.parent / "none" / "scores.json", model)
    assert (model / "card.json").read_bytes() == before


@pytest.mark.parametrize(("changes", "message"), [
    ({"settings": {"threshold": 0.05}}, "settings of validate; others are threshold"),
    ({"settings": {"samples": 1, "seed": 3}}, "others are seed, samples"),
    ({"dataset": "CASES.json"}, "not of “CASES.json”"),
    ({"dataset": f"3 of 148 {DATASET}"}, f"not of “3 of 148 {DATASET}”"),
    ({"version": "0.0.1"}, "not by 0.0.1"),
    ({"failures": [{"case": "worst"}]}, "no scan failed, as worst did"),
    ({"failures": None}, "a folder that validate wrote"),
])
def test_what_is_no_whole_validation_does_not_get_into_the_card(validated, changes, message):
    model, scores = validated
    before = (model / "card.json").read_bytes()
    document = json.loads(scores.read_text(encoding="utf-8"))
    for name, value in changes.items():
        document[name] = document[name] | value if isinstance(value, dict) else value
    scores.write_text(json.dumps(document))
    with pytest.raises(InvalidOption, match=message):
        record(scores, model)
    assert (model / "card.json").read_bytes() == before


def test_every_scan_of_the_data_has_to_be_scored(validated, shared_data):
    model, scores = validated
    with pytest.raises(InvalidOption, match=r"of all scans; \d+ are missing"):
        record(scores, model, [shared_data])
