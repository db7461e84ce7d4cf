"""`diffugts data check`: what it finds, what it says, how it ends."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.published_layouts import (
    TUMOR_ML,
    labels,
    scan,
    write,
    write_brats,
    write_kits,
    write_msd,
)
from typer.testing import CliRunner

from DiffuGTSLib.cli.app import app
from DiffuGTSLib.datasets.check import check, lines
from DiffuGTSLib.datasets.folder import read_dataset
from DiffuGTSLib.errors import BadDataSet


def found(folder):
    return [(f.level, f.case, f.message) for f in check(read_dataset(folder)).findings]


def test_a_good_folder_has_no_findings_and_is_counted(tmp_path):
    report = check(read_dataset(write_msd(tmp_path, "msd-liver", ("liver_0", "liver_1"))))
    assert report.findings == []
    assert report.usable
    (group,) = report.as_dict()["groups"]
    assert (group["name"], group["cases"], group["with_organ"]) == ("liver tumor", 2, 2)
    assert group["median_tumor_ml"] == pytest.approx(TUMOR_ML)
    assert group["min_spacing_mm"] == [2.0, 2.0, 3.0]


def test_patients_are_counted_once_over_their_sequences(tmp_path):
    report = check(read_dataset(write_brats(tmp_path)))
    assert [group.as_dict()["patients"] for group in report.groups.values()] == [1, 1, 1, 1]
    assert "brain tumor, FLAIR" in report.groups


def test_missing_files_are_errors(tmp_path):
    write_kits(tmp_path)
    (tmp_path / "case_00000" / "imaging.nii.gz").unlink()
    (tmp_path / "case_00001" / "segmentation.nii.gz").unlink()
    assert found(tmp_path) == [
        ("error", "case_00000", "The scan imaging.nii.gz does not exist."),
        ("error", "case_00001", "The mask segmentation.nii.gz does not exist."),
    ]


def test_another_grid_and_unknown_values_are_errors(tmp_path):
    write_kits(tmp_path)
    unknown = labels("kits23")
    unknown[0, 0, 0] = 9
    write(unknown, tmp_path / "case_00000" / "segmentation.nii.gz", shift_mm=6)
    messages = [message for _, _, message in found(tmp_path)]
    assert messages == [
        "segmentation.nii.gz lies on another grid than its scan: its corners lie up to 6.0 mm "
        "away.",
        "segmentation.nii.gz holds unknown values: 9.",
    ]


def test_empty_masks_and_scans_that_are_not_listed_are_warnings(tmp_path):
    folder = write_msd(tmp_path, "msd-pancreas", ("pancreas_001",))
    write(np.zeros_like(labels("msd-pancreas")), folder / "labelsTr" / "pancreas_001.nii.gz")
    write(scan("CT"), folder / "imagesTr" / "pancreas_777.nii.gz")
    (folder / "imagesTr" / "._pancreas_778.nii.gz").touch()  # left behind by macOS
    assert found(folder) == [
        ("warning", "pancreas_777", "is not listed in dataset.json"),
        ("warning", "pancreas_001", "pancreas_001.nii.gz holds no tumor."),
        ("warning", "pancreas_001", "pancreas_001.nii.gz holds no organ."),
    ]
    assert check(read_dataset(folder)).as_dict()["groups"][0]["without_tumor"] == 1


def test_values_of_a_mask_that_may_be_an_organ_are_named(tmp_path):
    write(scan("CT"), tmp_path / "a.nii.gz")
    write(labels("msd-pancreas"), tmp_path / "mask.nii.gz")  # 1 organ, 2 tumor
    case = {"image": "a.nii.gz", "mask": "mask.nii.gz", "prompt": "pancreatic tumor"}
    cases = [case | {"name": "all"}, case | {"name": "tumor", "labels": [2]},
             case | {"name": "none", "labels": [5]}]
    (tmp_path / "CASES.json").write_text(json.dumps(cases))
    assert found(tmp_path) == [
        ("warning", "all", "mask.nii.gz holds the values 1, 2, and all count as tumor. If they do "
         'not, state those that do: "labels".'),
        ("warning", "none", "mask.nii.gz holds no tumor (label 5); it holds 1, 2."),
    ]
    group, = check(read_dataset(tmp_path)).as_dict()["groups"]
    assert (group["with_tumor"], group["without_tumor"]) == (2, 1)


def test_a_comma_too_many_is_found_by_its_line(tmp_path):
    (tmp_path / "CASES.json").write_text('[\n{"image": "a.nii.gz",}\n]')
    with pytest.raises(BadDataSet, match="line 2"):
        read_dataset(tmp_path)


def test_a_truncated_scan_is_an_error(tmp_path):
    path = write_kits(tmp_path, (0,)) / "case_00000" / "imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:-500])
    assert found(tmp_path) == [("error", "case_00000",
                                "imaging.nii.gz is damaged: voxels are missing at its end.")]


def test_a_prompt_that_means_nothing_is_an_error(tmp_path):
    write(scan("CT"), tmp_path / "a.nii.gz")
    (tmp_path / "CASES.json").write_text(json.dumps(
        [{"image": "a.nii.gz", "mask": None, "prompt": "weather", "name": "a"}]))
    ((level, case, message),) = found(tmp_path)
    assert (level, case) == ("error", "a")
    assert "names no tumor" in message


def test_what_can_be_scored_but_not_trained_on_is_a_warning(tmp_path):
    write(scan("CT"), tmp_path / "a.nii.gz")
    case = {"image": "a.nii.gz", "mask": None, "prompt": "tumor"}
    (tmp_path / "CASES.json").write_text(json.dumps(
        [case | {"name": "a"}, case | {"name": "b", "class": "liver tumor"}]))
    assert found(tmp_path) == [
        ("warning", "a", "“tumor” names no organ: it can be scored, but not trained on.")]


def test_what_to_do_about_an_error_is_said(tmp_path):
    write(scan("CT"), tmp_path / "a.nii.gz")
    (tmp_path / "CASES.json").write_text(json.dumps(
        [{"image": "a.nii.gz", "mask": None, "prompt": "weather", "name": "a"}]))
    report = check(read_dataset(tmp_path))
    (finding,) = report.findings
    assert finding.hint
    assert f"{finding.message} {finding.hint}" in "\n".join(lines(report))
    assert report.as_dict()["findings"][0]["hint"] == finding.hint


def test_many_findings_are_shortened_on_the_terminal(tmp_path):
    write_kits(tmp_path)
    for path in tmp_path.rglob("imaging.nii.gz"):
        path.unlink()
    text = "\n".join(lines(check(read_dataset(tmp_path)), max_findings=1))
    assert "and 1 more" in text
    assert "2 errors, 0 warnings" in text


def test_progress_is_written_to_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr("DiffuGTSLib.cli.evaluate._SECONDS_BETWEEN_LINES", -1.0)
    done = CliRunner().invoke(app, ["data", "check", str(write_kits(tmp_path))])
    assert done.stderr.splitlines() == [f"{n} of 2 cases" for n in range(3)]
    assert "of 2 cases" not in done.stdout


def test_the_command_reports_what_is_there(tmp_path):
    done = CliRunner().invoke(app, ["data", "check", str(write_kits(tmp_path))])
    assert done.exit_code == 0
    assert "KiTS23 kidney tumor: 2 cases (CC BY-NC-SA 4.0)" in done.output
    assert "2 with tumor (median 0.8 ml)" in done.output


def test_the_command_ends_with_1_where_a_case_is_unusable(tmp_path, capfd):
    (write_kits(tmp_path) / "case_00001" / "imaging.nii.gz").unlink()
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path), "--json"])
    assert done.exit_code == 1
    document = json.loads(capfd.readouterr().out or done.stdout)
    assert document["usable"] is False
    assert document["findings"][0]["case"] == "case_00001"


def write_manifest(folder):
    """Two scans of one patient, one of them with a tumor; and a scan whose mask is missing."""
    entries = [{"case": name, "group": "sarcoma", "modality": "MR", "masks": masks, "licence": "CC"}
               for name, masks in (("sts_001_t1", {"tumor": 1}), ("sts_001_t2", {}),
                                   ("sts_033_t1", {"tumor": 1}))]
    for entry in entries:
        write(scan("MR"), folder / "sarcoma" / entry["case"] / "image.nii.gz")
    write(labels("kits23"), folder / "sarcoma" / "sts_001_t1" / "tumor.nii.gz")
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder


def test_a_training_folder_is_reported_by_group_and_split(tmp_path, capfd):
    done = CliRunner().invoke(app, ["data", "check", str(write_manifest(tmp_path)), "--json"])
    document = json.loads(capfd.readouterr().out or done.stdout)
    assert (done.exit_code, document["usable"], document["licence"]) == (1, False, "CC")
    training, validation = document["groups"]
    assert (training["name"], training["cases"], training["patients"], training["with_tumor"]) == (
        "sarcoma MR, training", 2, 1, 1)
    assert validation["name"] == "sarcoma MR, validation"
    assert [(f["case"], f["message"]) for f in document["findings"]] == [
        ("sts_033_t1", "The mask tumor.nii.gz does not exist.")]


def test_a_damaged_manifest_and_an_evaluation_of_one_are_refused_in_words(tmp_path):
    done = CliRunner().invoke(app, ["evaluate", str(write_manifest(tmp_path)), "-o", "out"])
    assert "list them in a CASES.json" in done.output
    (tmp_path / "manifest.json").write_text("{")
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert done.exit_code == 1
    assert "no manifest.json that lists its scans" in done.output


def test_a_folder_of_no_known_layout_fails_in_one_sentence(tmp_path):
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert done.exit_code == 1
    assert "layout of no supported data set" in done.output
