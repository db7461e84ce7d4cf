"""Which scans the inputs of a batch mean, their prompts, and how they are named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pydicom
import pytest
from support.dicom_files import write_enhanced, write_series
from support.tiny_model import ball_scan

from DiffuGTSLib.batch.case import Case
from DiffuGTSLib.batch.find_scans import find
from DiffuGTSLib.batch.input_table import BadTable, read_table
from DiffuGTSLib.batch.inputs import (
    MAX_NAME_BYTES,
    InputMissing,
    LeftOut,
    assign,
    gather,
    name_cases,
    safe,
)
from DiffuGTSLib.errors import PromptNotUnderstood
from DiffuGTSLib.scan.region import RegionFile

NOWHERE = Path("nowhere")
LUNG, LIVER = "lung tumor", "liver tumor"


def touch(folder: Path, *names: str) -> Path:
    """Files that look like scans by their names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def found(source: Path | str, avoid: Path = NOWHERE) -> list[str]:
    return [scan.image.name for scan in find(source, avoid).scans]


def left_out(*inputs: Path | str, avoid: Path = NOWHERE) -> LeftOut:
    return gather(inputs, (LUNG,), avoid).left_out


def cases(*inputs: Path, prompts: tuple[str, ...] = (LUNG,)):
    return [entry.case for entry in name_cases(gather(inputs, prompts, NOWHERE).requests, {})]


def test_a_folder_is_searched_with_those_below_it(tmp_path):
    touch(tmp_path, "b.nii.gz", "a.nrrd", "deep/er/c.mha", "notes.txt", "photo.png", ".hidden.nii")
    assert found(tmp_path) == ["a.nrrd", "b.nii.gz", "c.mha"]


def test_segmentations_and_the_runs_own_outputs_are_no_scans(tmp_path):
    touch(tmp_path, "a.nii", "a.seg.nrrd", "out/maps/a/attention.nii.gz")
    assert found(tmp_path, avoid=tmp_path / "out") == ["a.nii"]


@pytest.mark.parametrize("source", ["", "**/*.nii.gz", "*/*/*"])
def test_results_of_any_batch_are_no_scans(tmp_path, source):
    scans = touch(tmp_path / "scans", "deep/er/p.nii.gz", "out/maps/a/residual.nii.gz",
                  "old/segmentations/a.nii.gz", "old/records/a.json", "old/run.json")
    assert found(f"{scans}/{source}", avoid=scans / "out") == ["p.nii.gz"]
    ignored = left_out(f"{scans}/{source}", avoid=scans / "out")
    assert ignored.examples == ("old (results of a batch)",)
    assert found(scans / "old" / "segmentations") == ["a.nii.gz"]


def test_results_may_go_into_the_folder_of_the_scans(tmp_path):
    touch(tmp_path, "a.nii", "maps/a/attention.nii.gz", "run.json", "records/a.json", "cases.csv")
    assert found(tmp_path, avoid=tmp_path) == ["a.nii"]
    assert left_out(tmp_path, avoid=tmp_path) == LeftOut()


def test_files_that_are_no_scans_are_counted_and_named(tmp_path):
    touch(tmp_path, "a.nii", "b.hdr", "b.img", "DICOMDIR", "d/a.seg.nrrd", "d/notes.txt", "z.csv",
          *(f"{number}.png" for number in range(4)), ".hidden")
    ignored = left_out(tmp_path, tmp_path)
    assert ignored == LeftOut(7, ("0.png", "1.png", "2.png", "3.png", "z.csv"))
    assert ignored.sentence.endswith("no scans: 7 (0.png, 1.png, 2.png, 3.png, z.csv, …).")


def test_what_another_input_names_is_not_left_out(tmp_path):
    touch(tmp_path, "a.nii", "b.xyz")
    (tmp_path / "t.csv").write_text("image\na.nii\n")
    assert left_out(tmp_path, tmp_path / "t.csv", tmp_path / "b.xyz") == LeftOut()


def test_a_link_back_to_a_folder_does_not_go_round_for_ever(tmp_path):
    touch(tmp_path, "in/a.nii")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    assert found(tmp_path) == ["a.nii"]


def test_a_pattern_matches_files_at_any_depth(tmp_path):
    touch(tmp_path, "p1/image.nii.gz", "p1/mask.nii.gz", "p2/image.nii.gz")
    assert found(f"{tmp_path}/**/image.nii.gz") == ["image.nii.gz"] * 2


def test_a_file_whose_name_looks_like_a_pattern_is_taken_as_it_is(tmp_path):
    touch(tmp_path, "scan[1].nii", "scan1.nii")
    assert found(tmp_path / "scan[1].nii") == ["scan[1].nii"]


@pytest.mark.parametrize(("name", "word"), [
    ("missing.nii", "exist"), ("*.nii", "matches"), ("empty", "no scans"),
])
def test_what_is_not_there_is_a_problem_of_its_own_case(tmp_path, name, word):
    (tmp_path / "empty").mkdir()
    (scan,) = find(tmp_path / name, NOWHERE).scans
    assert word in scan.problem.message


def test_each_series_in_a_dicom_folder_is_a_scan_and_a_localiser_is_skipped(tmp_path):
    image = ball_scan()[0]
    for number, part, modality in ((3, image, "MR"), (5, image, "MR"), (7, image[:, :, :2], "MR"),
                                   (9, image, "PT")):
        write_series(tmp_path / "study", part, number, modality)
    scans = find(tmp_path, NOWHERE).scans
    assert [scan.name for scan in scans] == ["study-3", "study-5", "study-7", "study-9"]
    assert [scan.skipped for scan in scans] == [False, False, True, True]
    assert len({scan.series for scan in scans}) == 4


def test_a_series_over_several_folders_is_one_scan(tmp_path):
    folder = write_series(tmp_path / "disk", ball_scan()[0])
    for number, path in enumerate(sorted(folder.iterdir())):
        (folder / f"{number % 3}").mkdir(exist_ok=True)
        path.rename(folder / f"{number % 3}" / path.stem)
    (scan,) = find(tmp_path, NOWHERE).scans
    assert (scan.image.name, scan.name) == ("disk", "disk")


def test_a_multi_frame_file_is_a_scan_of_its_own(tmp_path):
    write_enhanced(tmp_path / "study" / "IM1", ball_scan()[0])
    write_enhanced(tmp_path / "study" / "IM2", ball_scan()[0])
    assert [scan.name for scan in find(tmp_path, NOWHERE).scans] == ["IM1", "IM2"]


def test_dicom_files_without_an_image_are_named_and_skipped(tmp_path):
    write_series(tmp_path, ball_scan()[0])
    (tmp_path / "report.dcm").write_bytes(b"\0" * 128 + b"DICM nothing")
    assert sorted(scan.skipped for scan in find(tmp_path, NOWHERE).scans) == [False, True]


@pytest.mark.parametrize("content", [
    "image,prompt,name\na.nii,lung tumor; liver tumor,first\nb.nii,,\n",
    '\ufeffName;IMAGE;Prompt;remark\nfirst;a.nii;"lung tumor\nliver tumor";x\n\n;b.nii;;\n',
    "image\tprompt\tname\na.nii\tlung tumor;liver tumor\tfirst\nb.nii\n",
])
def test_a_table_gives_image_prompts_and_name(tmp_path, content):
    path = tmp_path / "scans.csv"
    path.write_text(content, encoding="utf-8")
    first, second = read_table(path)
    assert (first.image, first.prompts, first.name) == (tmp_path / "a.nii", (LUNG, LIVER), "first")
    assert (second.image, second.prompts, second.name) == (tmp_path / "b.nii", (), "")


def test_a_json_table_may_list_prompts_and_hold_more_fields(tmp_path):
    entries = [{"image": "a.nii", "prompt": [LUNG, LIVER], "mask": "m.nii"}]
    path = tmp_path / "scans.json"
    path.write_text(json.dumps(entries))
    assert read_table(path)[0].prompts == (LUNG, LIVER)


@pytest.mark.parametrize("content", [
    "", "scan,prompt\na.nii,x\n", "image\n", "image,prompt\n,lung tumor\n", '{"image": 1}',
    '[{"image": 5}]', "[1]", "[" * 100_000, "\0\0\0", "image,sequence\na.nii,t9\n",
])
@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_table_that_says_too_little_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"scans{suffix}"
    path.write_text(content)
    with pytest.raises(BadTable):
        read_table(path)


def test_a_table_may_give_the_mr_sequence_of_each_scan(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    (tmp_path / "t.csv").write_text("image,sequence\na.nii, T1C\nb.nii,\na.nii,\n")
    assert [case.sequence for case in cases(tmp_path / "t.csv")] == ["t1c", ""]


def test_a_table_may_name_the_mask_to_search_in(tmp_path):
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).touch()
    (tmp_path / "t.csv").write_text("image,within\na.nii,masks/liver.nii.gz\nb.nii,\n")
    found = cases(tmp_path / "t.csv")
    assert [case.within for case in found] == [tmp_path / "masks" / "liver.nii.gz", None]
    assert [Case.from_dict(case.as_dict()) for case in found] == list(found)


def test_a_table_may_name_a_segment_of_the_mask(tmp_path):
    (tmp_path / "a.nii").touch()
    (tmp_path / "t.csv").write_text("image,within,segment\na.nii,all.seg.nrrd,liver\n")
    (tmp_path / "t.json").write_text('[{"image": "a.nii", "within": "all.nii", "segment": 5}]')
    named, numbered = cases(tmp_path / "t.csv")[0], cases(tmp_path / "t.json")[0]
    assert named.region == RegionFile(tmp_path / "all.seg.nrrd", "liver")
    assert (named.searched_in, numbered.segment) == ("all.seg.nrrd: liver", "5")
    assert Case.from_dict(named.as_dict()) == named


def test_a_segment_without_a_mask_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("image,segment\na.nii,liver\n")
    with pytest.raises(BadTable, match="names a segment, but no mask"):
        cases(tmp_path / "t.csv")


@pytest.mark.parametrize(("rows", "words"), [
    ("a.nii,x.nii,\na.nii,y.nii,", "in two different masks"),
    ("a.nii,x.nii,1\na.nii,x.nii,2", "in two different segments of one mask"),
    ("a.nii,x.nii,\na.nii,,", "in a mask, and in another row without one"),
])
def test_two_regions_for_one_scan_are_refused(rows, words, tmp_path):
    (tmp_path / "a.nii").touch()
    (tmp_path / "t.csv").write_text(f"image,within,segment\n{rows}\n")
    with pytest.raises(BadTable, match=rf"a\.nii is to be searched {words}"):
        cases(tmp_path / "t.csv")


def test_two_sequences_for_one_scan_are_refused(tmp_path):
    touch(tmp_path, "a.nii")
    (tmp_path / "t.csv").write_text("image,sequence\na.nii,t1\na.nii,t2\n")
    with pytest.raises(BadTable, match=r"a\.nii has two different MR sequences: t1 and t2"):
        cases(tmp_path / "t.csv")


def test_prompts_for_one_scan_share_a_case(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    rows = [{"image": "a.nii", "prompt": LUNG}, {"image": "b.nii"}, {"image": "a.nii",
            "prompt": LIVER}]
    (tmp_path / "scans.json").write_text(json.dumps(rows))
    first, second = cases(tmp_path / "scans.json", prompts=("brain tumor",))
    assert (first.prompts, second.prompts) == ((LUNG, LIVER), ("brain tumor",))


def test_a_scan_that_two_inputs_name_is_one_case(tmp_path):
    touch(tmp_path, "a.nii")
    assert len(cases(tmp_path, tmp_path / "a.nii", tmp_path / "x" / ".." / "a.nii")) == 1


def test_a_prompt_that_nobody_understands_is_refused_before_anything_runs(tmp_path):
    touch(tmp_path, "a.nii")
    with pytest.raises(PromptNotUnderstood):
        cases(tmp_path, prompts=("what is the weather",))


def test_a_bad_prompt_in_a_table_is_the_problem_of_its_row(tmp_path):
    touch(tmp_path, "a.nii", "b.nii")
    (tmp_path / "t.csv").write_text(f"image,prompt\na.nii,why?\nb.nii,{LUNG}\n")
    bad, good = name_cases(gather([tmp_path / "t.csv"], (), NOWHERE).requests, {})
    assert (bad.problem.code, good.problem) == ("prompt-not-understood", None)


def test_a_scan_without_any_prompt_is_refused(tmp_path):
    with pytest.raises(InputMissing):
        cases(touch(tmp_path, "a.nii"), prompts=())


@pytest.mark.parametrize(("text", "name"), [
    ("../../etc/passwd", "_.._etc_passwd"), ("..", "case"), ("", "case"), ("a/b\\c:d", "a_b_c_d"),
    ("con", "_con"), ("=cmd()", "_=cmd()"), ("-rf", "_-rf"), ("Bärbel O'Hara 2", "Bärbel O'Hara 2"),
    ("tab\tand\nline", "tab and line"), ("dot. ", "dot"), ("\udcff", "_"), ("患者", "患者"),
    ("u\u0308", "ü"), ("right\u202eleft", "right_left"),
])
def test_names_are_fit_for_files(text, name):
    assert safe(text) == name


def test_long_names_are_cut_and_stay_apart(tmp_path):
    one, other = safe("ä" * 300 + "1"), safe("ä" * 300 + "2")
    assert one != other
    assert max(len(one.encode()), len(other.encode())) <= MAX_NAME_BYTES


def test_equal_names_are_distinguished_by_the_folders_above():
    paths = [Path("/d/p1/image.nii"), Path("/d/p2/image.nii"), Path("/d/p1/other.nii")]
    names = assign([("image", paths[0]), ("image", paths[1]), ("other", paths[2])])
    assert names == ["p1_image", "p2_image", "other"]


def test_names_that_only_a_disk_confuses_are_distinguished():
    same = Path("/d/x.nii")
    assert assign([("Scan", same), ("scan", same), ("scan_2", same)], ["SCAN"]) == [
        "Scan_2", "scan_3", "scan_2_2"]


def test_a_case_of_an_earlier_run_keeps_its_name(tmp_path):
    touch(tmp_path, "p1/image.nii", "p2/image.nii")
    requests = gather([tmp_path], (LUNG,), NOWHERE).requests
    known = {(str(tmp_path / "p2" / "image.nii"), ""): "image"}
    assert [entry.case.name for entry in name_cases(requests, known)] == ["image_2", "image"]


@pytest.mark.skipif(os.name == "nt", reason="file names are always text there")
def test_a_file_name_that_is_no_text_is_found(tmp_path):
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff\xfe.nii", os.O_CREAT | os.O_WRONLY))
    (case,) = cases(tmp_path)
    assert case.name == "__"
    assert case.image.exists()


@pytest.mark.parametrize("content", [
    b"sep=;\r\nimage;prompt\r\na.nii;lung tumor\r\n",
    b'\xef\xbb\xbf"sep=;"\nimage;prompt\na.nii;lung tumor\n',
    b"\xff\xfe" + "image\tprompt\r\na.nii\tlung tumor\r\n".encode("utf-16-le"),
    b"\xfe\xff" + "image;prompt\na.nii;lung tumor\n".encode("utf-16-be"),
    b"\xff\xfe" + "sep=;\nimage;prompt\na.nii;lung tumor\n".encode("utf-16-le"),
])
def test_tables_as_excel_saves_them_are_read(tmp_path, content):
    path = tmp_path / "scans.csv"
    path.write_bytes(content)
    (row,) = read_table(path)
    assert (row.image, row.prompts) == (tmp_path / "a.nii", (LUNG,))


@pytest.mark.parametrize("image", ["a\\u0000b", "\\ud800"])
def test_a_name_that_no_file_can_have_is_refused_with_its_row(tmp_path, image):
    path = tmp_path / "scans.json"
    path.write_text(f'[{{"image": "{image}"}}]')
    with pytest.raises(BadTable, match=r"Row 1 of scans\.json"):
        read_table(path)


def test_a_folder_with_a_name_that_is_not_utf_8_is_one_failed_case(tmp_path):
    folder = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(folder)
    for path in write_series(tmp_path / "good", ball_scan()[0]).iterdir():
        with open(folder + b"/" + os.fsencode(path.name), "wb") as copy:
            copy.write(path.read_bytes())
    finds = find(tmp_path, NOWHERE)
    assert [(scan.name == "good", bool(scan.problem)) for scan in finds.scans] == [
        (False, True), (True, False)]
    assert "not UTF-8" in finds.scans[0].problem.message


def test_pipes_are_passed_over_and_named(tmp_path):
    touch(tmp_path, "a.nii.gz")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "b.nii.gz")
    assert found(tmp_path) == ["a.nii.gz"]
    assert left_out(tmp_path).count == 2


def test_dicom_without_preamble_is_a_scan(tmp_path):
    slices = sorted(write_series(tmp_path / "new", ball_scan()[0]).iterdir())
    for number, path in enumerate(slices):
        data = pydicom.dcmread(path)
        data.file_meta = pydicom.dataset.FileMetaDataset()
        path.unlink()
        data.save_as(tmp_path / "new" / f"IM{number:06d}", implicit_vr=True, little_endian=True,
                     enforce_file_format=False)
    (scan,) = find(tmp_path, NOWHERE).scans
    assert (scan.name, scan.problem) == ("new", None)
    assert left_out(tmp_path).count == 0
