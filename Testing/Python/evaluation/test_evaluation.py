"""`diffugts evaluate`: scores, resuming, failures, zero-shot, tables and the report."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from support.scored_cases import InProcessScorer
from support.tiny_model import PROMPT, ball_scan, write_tiny_model
from typer.testing import CliRunner

from DiffuGTSLib.cli.app import app
from DiffuGTSLib.datasets.case import LabelledCase
from DiffuGTSLib.datasets.folder import read_dataset
from DiffuGTSLib.errors import BadDataSet, ModelDamaged, NotZeroShot
from DiffuGTSLib.evaluation.child_process import CaseFailure
from DiffuGTSLib.evaluation.evaluate import check_zero_shot, choose, evaluate, model_fingerprint
from DiffuGTSLib.evaluation.report import write_report
from DiffuGTSLib.evaluation.scoring import (
    CaseScores,
    EvaluationSettings,
    Scorer,
    ablated,
    file_name,
)
from DiffuGTSLib.evaluation.tables import summarise, write_tables
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.scan.file_checks import scan_mark


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


def evaluated(data, folder, settings, *only, on_outcome=None):
    chosen = choose(read_dataset(data), only)
    scorer = InProcessScorer(settings, folder)
    return evaluate(chosen, folder, settings, on_outcome=on_outcome, scorer=scorer)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tumor, the same scan with a wrong-organ prompt, a scan without tumor, a damaged one."""
    folder = tmp_path_factory.mktemp("data")
    image, ball = ball_scan()
    sitk.WriteImage(image, str(folder / "ball.nii.gz"))
    mask = sitk.GetImageFromArray(ball.astype(np.uint8))
    mask.CopyInformation(image)
    sitk.WriteImage(mask, str(folder / "mask.nii.gz"))
    healthy = sitk.GetImageFromArray(
        np.where(ball, 60, sitk.GetArrayFromImage(image)).astype(np.int16))
    healthy.CopyInformation(image)
    sitk.WriteImage(healthy, str(folder / "healthy.nii.gz"))
    (folder / "damaged.nii.gz").write_bytes(b"no image")
    entries = [
        {"name": "ball", "image": "ball.nii.gz", "mask": "mask.nii.gz", "prompt": PROMPT},
        {"name": "wrong", "image": "ball.nii.gz", "mask": "mask.nii.gz", "prompt": "liver tumor",
         "wrong_organ": True, "patient": "ball"},
        {"name": "a/b ü", "image": "healthy.nii.gz", "mask": None, "prompt": PROMPT},
        {"name": "damaged", "image": "damaged.nii.gz", "mask": None, "prompt": PROMPT},
    ]
    entries = [entry | {"modality": "MR"} for entry in entries]
    (folder / "CASES.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def settings(model):
    return EvaluationSettings(Options(model, "cpu"), ablation=True, baselines=True)


@pytest.fixture(scope="module")
def done(data, settings, tmp_path_factory):
    """A complete evaluation, and its outcomes as they were reported."""
    folder, reported = tmp_path_factory.mktemp("out"), []
    evaluation = evaluated(data, folder, settings, on_outcome=lambda *o: reported.append(o))
    return evaluation, folder, reported


def by_name(evaluation) -> dict[str, CaseScores]:
    return {case.name: case for case in evaluation.cases}


def test_a_found_tumor_is_scored(done):
    ball = by_name(done[0])["ball"]
    assert ball.kind == "tumor"
    assert ball.found
    assert ball.measures.dsc > 0.3
    assert ball.measures.reference_ml == pytest.approx(7.2, abs=0.3)
    assert 0 < ball.seconds < 300
    assert 0.1 < ball.peak_gb < 20


def test_a_wrong_organ_is_scored_as_what_must_not_be_found(done):
    wrong = by_name(done[0])["wrong"]
    assert wrong.kind == "wrong organ"
    assert wrong.measures.reference_ml == 0
    assert wrong.measures.dsc is None
    assert 0 <= wrong.wrong_organ_dsc <= 1
    assert wrong.baselines is None


def test_a_scan_without_tumor_counts_in_ml(done):
    healthy = by_name(done[0])["a/b ü"]
    assert healthy.kind == "no tumor"
    assert healthy.measures.dsc is None
    assert healthy.found == (healthy.measures.lesions_segmented > 0)


def test_a_bad_case_is_reported_and_the_others_are_scored(done):
    evaluation, _, reported = done
    assert [(f.case, f.code) for f in evaluation.failures] == [("damaged", "unreadable-image")]
    assert [number for number, *_ in reported] == [1, 2, 3, 4]
    assert len(evaluation.cases) == 3


def test_the_ablation_covers_the_fusions_that_the_model_has(done):
    ball = by_name(done[0])["ball"]
    assert list(ball.ablation) == ["map", "attention", "both"]
    # The tiny model's fusions have equal weights, and no crumbs lie outside its candidates.
    assert ball.ablation["both"].dsc == pytest.approx(ball.measures.dsc)
    assert ball.ablation["attention"] == ball.ablation["both"]


def test_finished_cases_are_kept_and_failures_are_retried(done, data, settings):
    _, folder, _ = done
    records = {p.name: p.stat().st_mtime_ns for p in (folder / "cases").iterdir()}
    reported, kept = [], []
    again = evaluated(data, folder, settings,
                      on_outcome=lambda *o: (reported.append(o[2]), kept.append(o[3])))
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "cases").iterdir()} == records
    assert again.cases == done[0].cases
    assert isinstance(reported[3], CaseFailure)
    assert kept == [True, True, True, False]
    assert not any(scored_before for *_, scored_before in done[2])


def test_other_settings_are_scored_anew(done, data, settings, tmp_path):
    shutil.copytree(done[1], tmp_path, dirs_exist_ok=True)
    other = replace(settings, options=replace(settings.options, threshold=1.0))
    (case,) = evaluated(data, tmp_path, other, "ball").cases
    assert not case.found
    assert case.measures.dsc == 0


def test_a_case_that_was_changed_is_scored_anew(model, data, tmp_path):
    settings = EvaluationSettings(Options(model, "cpu"), figures=False)
    evaluated(data, tmp_path, settings, "ball")
    record = tmp_path / "cases" / "ball.json"
    before = json.loads(record.read_text(encoding="utf-8"))["fingerprint"]
    kept = (data / "mask.nii.gz").stat()
    os.utime(data / "mask.nii.gz", (1, 1))
    evaluated(data, tmp_path, settings, "ball")
    os.utime(data / "mask.nii.gz", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert json.loads(record.read_text(encoding="utf-8"))["fingerprint"] != before


def test_a_model_that_changes_meanwhile_gives_no_scores(model, data, tmp_path):
    folder = shutil.copytree(model, tmp_path / "changing")
    settings = EvaluationSettings(Options(str(folder), "cpu"))

    def recalibrate(*_outcome):
        replace(Card.read(folder), calibration={"brain/MR": 1.0}).write(folder)

    with pytest.raises(ModelDamaged, match="changed while it was scored"):
        evaluated(data, tmp_path / "out", settings, "ball", "wrong", on_outcome=recalibrate)
    assert [path.stem for path in (tmp_path / "out" / "cases").iterdir()] == ["ball"]
    again = evaluated(data, tmp_path / "out", settings, "ball")
    assert set(by_name(again)) == {"ball"}
    assert again.model_sha256 == model_fingerprint(folder)


def test_the_full_fusion_gives_the_methods_own_score(model, tmp_path):
    scorer = Scorer(EvaluationSettings(Options(model, "cpu")), tmp_path)
    image, _ = ball_scan()
    result = scorer.segmenter.segment(scorer.segmenter.encode(image, "MR"), PROMPT)
    fusion = scorer.segmenter.package.card.fusion["MR"]
    again = ablated(result, fusion, "both")
    assert np.allclose(again.evidence.score, result.evidence.score, atol=1e-6)
    sharp = replace(result, half_contrast=True)
    assert not any(ablated(sharp, fusion, kind).half_contrast for kind in ("map", *fusion.weights))
    attention = ablated(result, fusion, "map")
    assert np.array_equal(attention.evidence.score, result.evidence.attention)


def test_two_prompts_on_one_scan_encode_it_once(model, data, tmp_path):
    scorer = Scorer(EvaluationSettings(Options(model, "cpu"), figures=False), tmp_path)
    encoded = []
    original = scorer.segmenter.encode
    scorer.segmenter.encode = lambda *a, **k: encoded.append(1) or original(*a, **k)
    for case in choose(read_dataset(data), ["ball", "wrong"]).cases:
        scorer.score(case)
    assert len(encoded) == 1


def test_a_scan_that_is_read_in_another_way_is_encoded_anew(model, data, tmp_path):
    scorer = Scorer(EvaluationSettings(Options(model, "cpu"), figures=False), tmp_path)
    (case,) = choose(read_dataset(data), ["ball"]).cases
    first = scorer.score(case)
    of_t2 = scorer.score(replace(case, sequence="t2"))
    assert (first.sequence, of_t2.sequence) == ("", "t2")
    assert scorer._last[1].sequence == "t2"


def test_what_a_score_may_not_be_taken_for_is_said(tmp_path, data):
    folder = write_tiny_model(tmp_path / "model")
    mark = scan_mark(data / "ball.nii.gz")
    replace(Card.read(folder), seen_scans={"training": [mark], "tuning": []}).write(folder)
    settings = EvaluationSettings(Options(str(folder), "cpu"), figures=False)
    evaluation = evaluated(data, tmp_path / "out", settings, "ball", "a*")
    cases, trained = by_name(evaluation), "The model was trained on this scan"
    assert any(note.startswith(trained) for note in cases["ball"].notes)
    assert not any(note.startswith(trained) for note in cases["a/b ü"].notes)
    summary = summarise(evaluation.cases)
    write_tables(evaluation, summary, tmp_path / "out")
    report = write_report(evaluation, summary, tmp_path / "out").read_text(encoding="utf-8")
    assert f"ball: {trained}" in report
    rows = list(csv.DictReader((tmp_path / "out" / "cases.csv").open(encoding="utf-8")))
    assert [trained in row["notes"] for row in rows] == [True, False]
    tuned = replace(Card.read(folder), seen_scans={"tuning": [mark]})
    tuned.write(folder)
    (case,) = evaluated(data, tmp_path / "again", settings, "ball").cases
    assert any("kept for the calibration" in note for note in case.notes)


def test_scores_survive_their_file(done):
    for case in done[0].cases:
        assert CaseScores.from_dict(json.loads(json.dumps(case.as_dict()))) == case


def test_file_names_are_safe_and_different():
    assert file_name("liver_12") == "liver_12"
    assert re.fullmatch(r"[\w.-]+", file_name("../a b"))
    assert file_name("a b") != file_name("a_b")


def test_cases_are_chosen_by_name_and_number(data):
    assert [c.name for c in choose(read_dataset(data), ["b*", "w*"]).cases] == ["ball", "wrong"]
    assert len(choose(read_dataset(data), limit=1).cases) == 2  # two groups
    with pytest.raises(BadDataSet) as caught:
        choose(read_dataset(data), ["none"])
    assert "ball" in caught.value.hint


def zero_shot(trained, *prompts, **more):
    card = replace(_card(), trained_classes=trained)
    check_zero_shot(card, [LabelledCase("n", "p", "i", prompt, **more) for prompt in prompts])
    return True


def _card() -> Card:
    return Card("m", "l", ("CT",), (2.0, 2.0, 2.0), 1.0, {"CT": 1}, 0.5, 1, 1, 1, {})


def test_a_class_without_masks_in_training_may_be_called_zero_shot():
    assert zero_shot({"real": ["kidney tumor"], "synthetic": ["liver tumor"]}, "liver tumor")


@pytest.mark.parametrize("prompt", ["liver tumor", "HCC", "hepatic vessel tumor"])
def test_a_class_that_was_trained_on_may_not(prompt):
    with pytest.raises(NotZeroShot, match="trained on masks of"):
        zero_shot({"real": ["liver tumor"]}, "kidney tumor", prompt)


def test_a_class_whose_masks_the_frozen_networks_had_may_not():
    with pytest.raises(NotZeroShot, match="used for the frozen networks") as caught:
        zero_shot({"real": [], "frozen": ["liver tumor"], "synthetic": []}, "liver tumor")
    assert "train the denoiser with --leave-out" in caught.value.hint


def test_a_model_that_does_not_say_may_not():
    with pytest.raises(NotZeroShot, match="does not say"):
        zero_shot(None, "liver tumor")


def test_a_prompt_without_an_organ_may_not():
    with pytest.raises(NotZeroShot, match="names no organ"):
        zero_shot({"real": []}, "tumor")


def test_prompts_for_a_wrong_organ_do_not_forbid_it():
    assert zero_shot({"real": ["liver tumor"]}, "liver tumor", wrong_organ=True)


def test_the_command_refuses_before_the_first_case(model, data, tmp_path):
    done = CliRunner().invoke(app, ["evaluate", str(data), "--output", str(tmp_path / "out"),
                                    "--model", model, "--zero-shot"])
    assert done.exit_code == 1
    assert "does not say which classes it was trained on" in done.output
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def written(done, data, model):
    """The command over the finished cases: tables and report, without scoring again."""
    folder = done[1]
    ran = CliRunner().invoke(app, [
        "evaluate", str(data), "--output", str(folder), "--model", model, "--device", "cpu",
        "--ablation", "--baselines"])
    return ran, folder


def test_the_command_writes_tables_and_report_and_ends_with_1_for_the_bad_case(written):
    ran, folder = written
    assert ran.exit_code == 1
    assert "1 of 4 cases could not be scored" in ran.output
    assert ran.output.count("(scored by an earlier run)") == 3
    names = {path.name for path in folder.iterdir()}
    assert names == {"cases", "figures", "cases.csv", "groups.csv", "scores.json", "report.html"}


def test_the_csv_has_a_row_a_case(written):
    with (written[1] / "cases.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["ball", "wrong", "a/b ü"]
    assert float(rows["ball"]["dsc_attention"]) == pytest.approx(float(rows["ball"]["dsc"]))
    assert rows["wrong"]["dsc"] == ""


def test_the_json_is_valid_and_says_what_it_is(written):
    document = json.loads((written[1] / "scores.json").read_text(encoding="utf-8"))
    assert document["zero_shot"] is None
    assert "not for clinical decisions" in document["note"]
    assert [group["name"] for group in document["groups"]] == [PROMPT, "liver tumor"]
    assert document["failures"][0]["case"] == "damaged"


def test_scores_with_other_settings_are_not_overwritten(written, data, model):
    before = (written[1] / "cases.csv").read_bytes()
    done = CliRunner().invoke(app, ["evaluate", str(data), "--output", str(written[1]), "--model",
                                    model, "--device", "cpu", "--threshold", "0.9"])
    assert done.exit_code == 1
    assert "holds scores with other settings (threshold, ablation, baselines)" in done.output
    assert (written[1] / "cases.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["cases.csv", "report.html", "scores.json"])
def test_tables_of_others_are_not_overwritten(tmp_path, data, model, name):
    (tmp_path / name).write_text("a study of ours")
    done = CliRunner().invoke(app, ["evaluate", str(data), "--output", str(tmp_path), "--model",
                                    model, "--device", "cpu"])
    assert done.exit_code == 1
    assert f"holds a {name} that this program did not write" in done.output
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_report_needs_no_other_file(written):
    page = (written[1] / "report.html").read_text(encoding="utf-8")
    assert "not for clinical decisions" in page
    assert page.count('src="data:image/') >= 4
    assert not re.search(r"(?:src|href)=['\"]?(?!data:)[\w/.]", page)
    assert "<script" not in page
    assert "damaged.nii.gz" in page


def test_the_paper_stands_beside_its_data_set_in_the_report(done, tmp_path):
    liver = replace(done[0].cases[0], dataset="msd-liver", figure="")
    evaluation = replace(done[0], cases=(liver,))
    page = write_report(evaluation, summarise(evaluation.cases), tmp_path).read_text("utf-8")
    assert "Compared with the paper" in page
    assert "<td>63.23</td>" in page


def test_text_of_others_cannot_bring_markup_into_the_report(done, tmp_path):
    odd = """<script>alert(1)</script>"' onerror='alert(2)"""
    evaluation = done[0]
    case = replace(evaluation.cases[0], name=odd, prompt=odd, group=odd, figure="figure.png")
    Image.new("RGB", (20, 10)).save(tmp_path / "figure.png")
    evaluation = replace(
        evaluation, cases=(case,), failures=(CaseFailure(odd, "code", odd, odd),),
        card=replace(evaluation.card, name=odd, trained_on=odd))
    page = write_report(evaluation, summarise(evaluation.cases), tmp_path).read_text("utf-8")
    assert "<script" not in page
    assert not re.search(r"""["'] onerror""", page)
    # Title twice; model, what it was trained on; failure; in the tables; a picture and its caption.
    assert page.count("&lt;script&gt;alert(1)") >= 12


def test_json_is_one_document_on_stdout(written, data, model, tmp_path, capfd):
    shutil.copytree(written[1], tmp_path, dirs_exist_ok=True)
    CliRunner().invoke(app, [
        "evaluate", str(data), "--output", str(tmp_path), "--model", model, "--device", "cpu",
        "--ablation", "--baselines", "--only", "ball", "--json"])
    document = json.loads(capfd.readouterr().out)
    assert document["all"]["cases"] == 1
    assert document["report"] == str(tmp_path / "report.html")
