"""Batches as a user starts them: real processes, good and bad scans, and what they leave behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.batch_runs import batch, statuses, table, voxels, write_scan
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.pipeline.lesions import labelled
from DiffuGTSLib.pipeline.segmenter import Segmenter

GOOD = ("one", "two words", "Bärbel's 'scan' 患者", "_quoted_")
# Root reads everything, unless it gives that right away first.
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Good scans among a corrupt file, a 2D image, an empty and an unreadable folder."""
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate((*GOOD[:3], '"quoted"')):
        write_scan(folder / "good" / f"{name}.nrrd", seed)
    (folder / "good" / "corrupt.nii.gz").write_bytes(os.urandom(500))
    sitk.WriteImage(ball_scan()[0][:, :, 9], str(folder / "good" / "flat.nrrd"))
    (folder / "empty").mkdir()
    (folder / "good" / "notes.txt").write_text("no image")
    write_scan(folder / "closed" / "unseen.nrrd")
    (folder / "closed").chmod(0)
    yield folder
    (folder / "closed").chmod(0o700)


@pytest.fixture(scope="module")
def ran(model, inputs, tmp_path_factory):
    """A batch over all of them: the finished process and the output folder."""
    output = tmp_path_factory.mktemp("out") / "results"
    powerless = POWERLESS if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
    if powerless and not shutil.which("setpriv"):
        pytest.skip("root can read every folder, and setpriv is not here to prevent that")
    parts = [inputs / name for name in ("good", "empty", "closed")]
    done = batch([*parts, inputs / "missing.nii"], output, model, "--json", before=powerless)
    return done, output


def test_bad_cases_are_reported_and_do_not_stop_the_others(ran):
    done, output = ran
    expected = dict.fromkeys(GOOD, "done") | dict.fromkeys(
        ("corrupt", "flat", "empty", "closed", "missing"), "failed")
    assert statuses(output) == expected
    assert done.returncode == 1


def test_each_bad_case_says_in_the_table_what_is_wrong_with_it(ran):
    errors = {row["case"]: row["error"] for row in table(ran[1] / "cases.csv")}
    words = {"corrupt": "cannot be read", "flat": "2 dimensions", "empty": "no scans",
             "closed": "cannot be opened", "missing": "does not exist"}
    assert all(word in errors[case] for case, word in words.items())


def test_the_json_document_is_all_that_is_printed(ran):
    done, output = ran
    document = json.loads(done.stdout)
    assert (document["done"], document["failed"]) == (4, 5)
    assert document["report"] == str(output / "report.html")
    assert {case["status"] for case in document["cases"]} == {"done", "failed"}


def test_a_batch_finds_what_the_segmenter_finds(one_thread, ran, inputs, model):
    segmenter = Segmenter.from_pretrained(model, "cpu")
    scan = segmenter.encode(inputs / "good" / "two words.nrrd")
    labels = sitk.GetArrayFromImage(labelled(segmenter.segment(scan, PROMPT).mask))
    assert np.array_equal(voxels(ran[1], "two words"), labels)


def test_every_lesion_is_a_row_with_its_label_in_the_segmentation(ran):
    rows = [row for row in table(ran[1] / "lesions.csv") if row["case"] == "one"]
    labels = voxels(ran[1], "one")
    voxel_ml = 2 * 2 * 3 / 1000
    assert sorted(int(row["label"]) for row in rows) == sorted(set(np.unique(labels)) - {0})
    for row in rows:
        volume = (labels == int(row["label"])).sum() * voxel_ml
        assert float(row["volume_ml"]) == pytest.approx(volume, abs=1e-3)


def test_the_segmentation_opens_with_names_and_on_the_scans_grid(ran, inputs):
    image = sitk.ReadImage(str(ran[1] / "segmentations" / "one.seg.nrrd"))
    scan = sitk.ReadImage(str(inputs / "good" / "one.nrrd"))
    assert image.GetMetaData("Segment0_Name") == "brain tumor 1"
    assert (image.GetSize(), image.GetOrigin()) == (scan.GetSize(), scan.GetOrigin())


def test_nothing_but_results_is_left(ran):
    left = {path.relative_to(ran[1]).parts[0] for path in ran[1].rglob("*") if path.is_file()}
    assert left == {"run.json", "cases.csv", "lesions.csv", "report.html", "segmentations",
                    "records", "thumbnails"}
    hidden = [path.name for path in ran[1].rglob(".*")]
    assert hidden == [".lock"]  # of the records; see output_folder.py
    assert len(list((ran[1] / "segmentations").iterdir())) == len(GOOD)


def test_the_run_says_what_it_was_made_with(ran, model):
    run = json.loads((ran[1] / "run.json").read_text(encoding="utf-8"))
    expected = subprocess.run(["sha256sum", model / "card.json"], capture_output=True, text=True,
                              check=True).stdout.split()[0]
    assert (run["model"], run["model_sha256"]) == ("tiny", expected)
    assert run["options"]["seed"] == 0
    (part,) = run["parts"]
    assert (part["state"], part["prompts"], part["cases"]) == ("finished", [PROMPT], 9)
    assert (part["done"], part["failed"]) == (4, 5)
    assert {"version", "python", "torch", "device", "simpleitk", "platform"} <= set(part)


def test_a_file_that_is_no_image_is_named_everywhere(ran):
    done, output = ran
    left_out = {"count": 1, "examples": ["notes.txt"]}
    assert json.loads(done.stdout)["left_out"] == left_out
    assert json.loads((output / "run.json").read_text("utf-8"))["parts"][0]["left_out"] == left_out
    assert "no scans: 1 (notes.txt)" in (output / "report.html").read_text(encoding="utf-8")


def test_the_report_needs_no_other_file(ran):
    page = (ran[1] / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == len(GOOD)
    assert "http" not in page
    assert "src=\"data:" in page
    assert "Bärbel&#39;s" in page


def test_an_earlier_run_is_not_written_over(ran, inputs, model):
    again = batch([inputs / "good"], ran[1], model)
    assert again.returncode == 1
    assert "--resume" in again.stderr
    assert statuses(ran[1])["one"] == "done"


@pytest.mark.parametrize(("arguments", "code", "word"), [
    (("--prompt", "why?"), 1, "not"), ((), 1, "prompt"), (("--jobs", "0"), 2, "jobs"),
])
def test_wrong_usage_makes_no_folder(tmp_path, model, arguments, code, word):
    write_scan(tmp_path / "a.nrrd")
    done = batch([tmp_path / "a.nrrd"], tmp_path / "out", model, *arguments, prompt="")
    assert done.returncode == code
    assert word in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_model_is_one_plain_sentence(tmp_path):
    write_scan(tmp_path / "a.nrrd")
    done = batch([tmp_path / "a.nrrd"], tmp_path / "out", tmp_path / "none")
    assert done.returncode == 1
    assert "There is no model" in done.stderr
    assert "Traceback" not in done.stderr
