"""Tables, pictures and report of a batch, from records alone."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from support.batch_runs import table

from DiffuGTSLib.batch.case import BatchFailure, Case, Outcome
from DiffuGTSLib.batch.output_folder import CaseRow, write_tables
from DiffuGTSLib.batch.report import CASES_A_PAGE, duration, page_name, write_report
from DiffuGTSLib.output.thumbnail import GAP, PANELS, SIDE, strip
from DiffuGTSLib.pipeline.lesions import find_lesions

RUN = {
    "model": "tiny", "model_sha256": "0" * 64, "version": "1.0", "options": {"seed": 0},
    "parts": [{"started": "2026-01-01T10:00:00+00:00", "ended": None, "state": "running",
               "torch": "2", "device": "cpu"}],
}
LESION = {
    "number": 1, "volume_ml": 2.5, "longest_diameter_mm": 20.0, "perpendicular_mm": 10.0,
    "feret_3d_mm": 21.0, "centroid_ras_mm": [1.0, -2.0, 3.0], "mean_score": 0.75,
    "max_score": 0.9, "slice_range": [4, 9],
}


def done(name: str, lesions: int = 1, files: dict | None = None) -> CaseRow:
    result = {"title": "lung tumor", "highest_score": 0.9, "threshold": 0.5,
              "lesions": [LESION | {"number": n + 1} for n in range(lesions)],
              "labels": list(range(1, lesions + 1)), "notes": ["a note"]}
    outcome = Outcome(name, "done", 3.0, 2.0, None, "CT", [result],
                      files or {"segmentation": f"segmentations/{name}.seg.nrrd"})
    return CaseRow(Case(name, Path("/scans") / name, ("lung tumor",)), "done", outcome)


def failed(name: str, message: str) -> CaseRow:
    return CaseRow(Case(name, Path("/scans") / name, ("lung tumor",)), "failed",
               Outcome(name, "failed"), BatchFailure("no-content", message, "a hint"))


def test_the_table_has_notes_and_reasons_and_no_control_characters(tmp_path: Path) -> None:
    row = done("a")
    outcome = replace(row.outcome, modality_reason="as given", notes=["another one"])
    case = replace(row.case, image=Path("/scans/\x1b[31mred.nii"))
    write_tables(tmp_path, [replace(row, outcome=outcome, case=case)])
    (written,) = table(tmp_path / "cases.csv")
    assert (written["modality_reason"], written["notes"]) == ("as given", "another one a note")
    assert written["image"] == r"/scans/\x1b[31mred.nii"


def waiting(name: str) -> CaseRow:
    return CaseRow(Case(name, Path("/scans") / name, ("lung tumor",)), "waiting")


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects texts and ids."""

    EMPTY = ("meta", "img", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.tags.append(tag)
        entries = dict(attrs)
        self.attributes |= set(entries)
        self.ids |= {entries["id"]} if "id" in entries else set()
        self.links |= {entries["href"]} if "href" in entries else set()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def report(folder: Path, *rows: CaseRow, run: dict = RUN) -> Tags:
    write_report(folder, rows, run)
    return Tags((folder / "report.html").read_text(encoding="utf-8"))


def test_a_lesion_is_a_row_with_all_its_measures(tmp_path):
    write_tables(tmp_path, [done("a", 2), failed("b", "no"), waiting("c")])
    rows = table(tmp_path / "lesions.csv")
    assert [(row["case"], row["lesion"], row["label"]) for row in rows] == [
        ("a", "1", "1"), ("a", "2", "2")]
    assert (rows[0]["volume_ml"], rows[0]["centroid_a_mm"], rows[0]["last_slice"]) == (
        "2.500", "-2.00", "9")


def test_every_case_is_a_row_whatever_became_of_it(tmp_path):
    write_tables(tmp_path, [done("a"), failed("b", 'no, "none"'), waiting("c\udcff")])
    rows = table(tmp_path / "cases.csv")
    assert [row["status"] for row in rows] == ["done", "failed", "waiting"]
    assert (rows[0]["lesions"], rows[0]["volume_ml"]) == ("1", "2.500")
    assert (rows[1]["error_code"], rows[1]["error"]) == ("no-content", 'no, "none"')


def test_tables_and_report_name_the_mask_and_not_its_folder(tmp_path):
    row = done("a")
    within = replace(row, case=replace(row.case, within=Path("/secret/organs.seg.nrrd"),
                                       segment="liver"))
    write_tables(tmp_path, [within, done("b")])
    assert [each["within"] for each in table(tmp_path / "cases.csv")] == [
        "organs.seg.nrrd: liver", ""]
    page = report(tmp_path, within)
    assert "searched only in organs.seg.nrrd: liver" in page.text
    assert "secret" not in page.text


def test_the_report_is_sound_and_names_every_case(tmp_path):
    page = report(tmp_path, done("a"), done("none", 0), failed("b", "It is empty."), waiting("c"))
    assert {"c1", "c2", "c3", "c4"} <= page.ids
    assert "1 lesion, 2.50 ml in all" in page.text
    assert "no tumor found" in page.text
    assert "the model may have missed a lesion" in page.text
    assert page.text.count("It is empty.") == 2  # in the table of all cases, and below
    assert "not for clinical decisions" in page.text


def test_the_report_lists_all_parts_of_the_run_and_their_time(tmp_path):
    ends = [("10:00", "10:05", "broken off", 2), ("11:00", "11:30", "finished", 3)]
    parts = [RUN["parts"][0] | {
        "started": f"2026-01-01T{start}:00+00:00", "ended": f"2026-01-01T{end}:00+00:00",
        "state": state, "done": done} for start, end, state, done in ends]
    page = report(tmp_path, waiting("c"), run=RUN | {"parts": parts})
    assert ("Started 2026-01-01 10:00 UTC, broken off 2026-01-01 10:05 UTC (5 min): 2 done"
            "Resumed 2026-01-01 11:00 UTC, finished 2026-01-01 11:30 UTC (30 min): 3 done"
            "35 min in all") in page.text
    assert "running" in report(tmp_path, waiting("c")).text


def test_a_duration_is_given_in_its_largest_units():
    assert [duration(s) for s in (0, 89, 90, 3569, 3570, 12000)] == [
        "0 s", "89 s", "2 min", "59 min", "1 h 0 min", "3 h 20 min"]


def test_a_table_holds_nothing_that_a_spreadsheet_computes(tmp_path):
    write_tables(tmp_path, [failed("b", "=cmd() cannot be read.")])
    assert table(tmp_path / "cases.csv")[0]["error"] == " =cmd() cannot be read."


ODD = """<script>alert(1)</script>"><b onclick="alert(2)">' &amp;"""


def test_text_of_others_cannot_bring_markup_into_the_report(tmp_path):
    """Names, prompts, messages, and the record of another run, whatever it holds."""
    Image.new("RGB", (50, 10)).save(tmp_path / "a.jpg")
    plain = done("a", files={"segmentation": ODD, "thumbnails": ["a.jpg"]})
    prompts = [plain.outcome.prompts[0] | {
        "title": ODD, "notes": [ODD], "lesions": [LESION | {"number": ODD}]}]
    outcome = replace(plain.outcome, modality=ODD, prompts=prompts, notes=[ODD])
    rows = [replace(plain, case=replace(plain.case, name=ODD, prompts=(ODD,)), outcome=outcome),
            CaseRow(Case(ODD, Path("/s"), (ODD,)), "failed", Outcome(ODD, "failed"),
                BatchFailure("code", ODD, ODD))]
    part = RUN["parts"][0] | {"prompts": [ODD], "device": ODD, "state": ODD,
                              "left_out": {"count": 1, "examples": [ODD]}}
    page = report(tmp_path, *rows, run=RUN | {"model": ODD, "options": {ODD: ODD}, "parts": [part]})
    assert page.tags.count("script") == 1
    assert "b" not in page.tags[page.tags.index("table"):]  # the tiles above have some
    assert "onclick" not in page.attributes
    # Seven lines on the run; in the table of cases, two names and a message; in the cards, two
    # names, message and hint, modality, file, two notes, title and lesion.
    assert page.text.count(ODD) == 7 + 3 + 10


def test_a_file_name_that_is_no_text_is_shown_in_escapes(tmp_path):
    assert "c\\udcff" in report(tmp_path, waiting("c\udcff")).text


def test_many_cases_are_divided_over_pages_and_old_pages_go(tmp_path):
    rows = [waiting(f"case {number}") for number in range(CASES_A_PAGE + 1)]
    first = report(tmp_path, *rows)
    second = Tags((tmp_path / page_name(2)).read_text(encoding="utf-8"))
    assert "report-2.html" in first.links
    assert f"case {CASES_A_PAGE}" in second.text
    report(tmp_path, *rows[:3])
    assert not (tmp_path / page_name(2)).exists()


def test_the_pictures_are_inside_the_page(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (50, 10), "red").save(content, "JPEG")
    (tmp_path / "a.jpg").write_bytes(content.getvalue())
    report(tmp_path, done("a", files={"thumbnails": ["a.jpg"], "segmentation": "s"}))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (inside,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert base64.b64decode(inside) == content.getvalue()
    assert re.findall(r"<span>([^<]+)</span>", page) == list(PANELS)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """The five pictures of a scan with one bright lesion at the patient's right, anterior."""
    scan = np.full((20, 200, 200), 40.0)
    scan[8:12, 50:60, 30:40] = 100
    image = sitk.GetImageFromArray(scan.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 3.0))
    mask = sitk.Cast(image > 60, sitk.sitkUInt8)
    score = sitk.Cast(mask, sitk.sitkFloat32)
    result = SimpleNamespace(attention=score, pseudo_healthy=image * 0 + 40, residual=score * 3,
                             mask=mask, lesions=find_lesions(mask, score))
    whole = np.asarray(strip(result, image, "CT")).astype(int)
    return [whole[:, index * (SIDE + GAP) :][:, :SIDE] for index in range(len(PANELS))]


def test_the_whole_slice_is_shown_with_a_frame_around_what_is_magnified(pictures):
    white = np.argwhere((pictures[0] > 250).all(axis=2))
    low, high = white.min(axis=0), white.max(axis=0)
    assert (high - low + 1).tolist() == pytest.approx([SIDE * 120 / 400] * 2, abs=2)
    centre = (low + high) / 2 / SIDE * 400  # mm
    assert centre.tolist() == pytest.approx([2 * 55, 2 * 35], abs=15)


def test_the_outline_goes_around_the_lesion_and_is_magnified(pictures):
    yellow = np.argwhere((pictures[1][..., 0] - pictures[1][..., 2]) > 120)
    size = (yellow.max(axis=0) - yellow.min(axis=0)) / SIDE * 120
    assert size.tolist() == pytest.approx([20, 20], abs=2.5)


def test_colours_lie_over_the_lesion_and_the_healthy_scan_has_none(pictures):
    colourful = [(picture.max(axis=2) - picture.min(axis=2) > 40).mean() for picture in pictures]
    assert colourful[2] > 0.01
    assert colourful[4] > 0.01
    assert (colourful[0], colourful[3]) == (0, 0)
    assert np.ptp(pictures[3]) <= 1
