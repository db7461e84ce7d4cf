"""The command line, as a real process: what it writes, prints, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib import __version__
from DiffuGTSLib.cli.common import plain_errors
from DiffuGTSLib.scan.phantom import make_phantom

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "in" / "scan.nrrd"
    path.parent.mkdir()
    sitk.WriteImage(ball_scan()[0], str(path))
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def environment(**more):
    return os.environ | {"PYTHONPATH": str(REPOSITORY)} | more


def diffugts(*arguments, **more):
    """Runs the command; `more` goes into its environment."""
    return subprocess.run(
        [sys.executable, "-m", "DiffuGTSLib.cli", *map(str, arguments)], capture_output=True,
        text=True, env=environment(**more), timeout=300, check=False,
    )


def segment(scan, model, output, *more, prompts=(PROMPT,)):
    named = [part for prompt in prompts for part in ("--prompt", prompt)]
    return diffugts("segment", scan, *named, "--output", output, "--model", model, *more)


def failed_plainly(done, *words, code=""):
    """One sentence and perhaps a hint on stderr, no traceback, nothing on stdout.

    With a `code`, stdout is the same as one JSON document.
    """
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1
    if code:
        error = json.loads(done.stdout)["error"]
        assert (error["code"], error["message"]) == (code, lines[0])
        assert error["hint"] in done.stderr
    else:
        assert done.stdout == ""
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("Hint: "))
    assert all(word in done.stderr for word in words), done.stderr
    return True


def test_help_needs_no_heavy_package():
    heavy = ("torch", "numpy", "SimpleITK", "matplotlib", "diffusers", "rich")
    code = f"import sys, DiffuGTSLib.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=environment(), check=True)
    assert done.stdout.strip() == "[]"
    assert "segment" in diffugts("--help").stdout


def test_the_version_is_printed():
    done = diffugts("--version")
    assert (done.returncode, done.stdout) == (0, f"diffugts {__version__}\n")


def test_a_segmentation_is_written_and_the_lesions_are_listed(scan, model, out):
    done = segment(scan, model, out / "seg.nii.gz")
    assert done.returncode == 0, done.stderr
    labels = sitk.ReadImage(out / "seg.nii.gz")
    assert labels.GetSize() == (48, 48, 32)
    assert sitk.GetArrayFromImage(labels).max() == 1
    assert "brain tumor: 1 lesion," in done.stdout
    assert "brain tumor 1" in done.stdout
    assert os.listdir(out) == ["seg.nii.gz"]


@pytest.fixture(scope="module")
def document(model, tmp_path_factory):
    """The JSON document of one run with all maps and the figure."""
    folder = tmp_path_factory.mktemp("one")
    return json_of(folder, model, "--maps", folder / "maps", "--figure", folder / "f.png",
                   "--seed", 7)


@pytest.fixture(scope="module")
def three_prompts(model, tmp_path_factory):
    """The JSON document of one run with three prompts, two of them in one text."""
    return json_of(tmp_path_factory.mktemp("three"), model,
                   prompts=(PROMPT, "brain metastasis; kidney tumor"))


def json_of(folder, model, *more, **options):
    sitk.WriteImage(ball_scan()[0], str(folder / "scan.nrrd"))
    done = segment(folder / "scan.nrrd", model, folder / "s.seg.nrrd", "--json", *more, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_json_is_one_document_that_fits_the_files(document):
    (entry,) = document["prompts"]
    assert (document["modality"], document["seed"], document["model"]) == ("MR", 7, "tiny")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(document["segmentation"]))
    voxels = (labels == entry["labels"][0]).sum()
    assert entry["lesions"][0]["volume_ml"] == pytest.approx(voxels * 0.012)
    attention = sitk.ReadImage(entry["maps"]["attention"])
    assert attention.GetSpacing() == (2.0, 2.0, 3.0)
    assert Path(entry["figure"]).read_bytes().startswith(b"\x89PNG")


def test_a_slicer_segmentation_has_a_named_segment_a_lesion(document):
    header = sitk.ImageFileReader()
    header.SetFileName(document["segmentation"])
    header.ReadImageInformation()
    assert header.GetMetaData("Segment0_Name") == "brain tumor 1"
    assert "TerminologyEntry" in header.GetMetaData("Segment0_Tags")


def test_labels_go_on_from_prompt_to_prompt(three_prompts):
    first, second, third = three_prompts["prompts"]
    labels = first["labels"] + second["labels"] + third["labels"]
    assert labels == list(range(1, len(labels) + 1))
    assert first["names"][0] == "brain tumor 1"
    assert all(name.startswith("brain metastasis") for name in second["names"])
    mask = sitk.GetArrayFromImage(sitk.ReadImage(three_prompts["segmentation"]))
    present = set(np.unique(mask))
    assert present <= {0, *labels}


def test_prompts_divided_by_a_semicolon_are_several(three_prompts):
    titles = [entry["title"] for entry in three_prompts["prompts"]]
    assert titles == ["brain tumor", "brain metastasis", "kidney tumor"]


def test_no_tumor_is_said_plainly_and_an_empty_mask_is_written(scan, model, out):
    done = segment(scan, model, out / "seg.nrrd", "--threshold", 1)
    assert done.returncode == 0
    assert done.stdout.startswith('No tumor found for "brain tumor" (highest score ')
    assert sitk.GetArrayFromImage(sitk.ReadImage(out / "seg.nrrd")).max() == 0


def test_a_missing_scan_fails_in_one_sentence(model, out):
    assert failed_plainly(segment("none.nii.gz", model, out / "seg.nrrd"), "none.nii.gz")
    assert os.listdir(out) == []


def test_a_damaged_scan_fails_in_one_sentence(scan, model, out):
    scan.write_bytes(scan.read_bytes()[:300])
    assert failed_plainly(segment(scan, model, out / "seg.nrrd"), "scan.nrrd")


def test_an_output_of_unknown_kind_fails_before_the_run(scan, model, out):
    assert failed_plainly(segment(scan, model, out / "seg.txt"), ".seg.nrrd")


def test_a_figure_in_a_missing_folder_fails_before_the_run(scan, model, out):
    done = segment(scan, model, out / "seg.nrrd", "--figure", out / "none" / "f.png")
    assert failed_plainly(done, "f.png")
    assert os.listdir(out) == []


def test_a_prompt_that_names_only_a_place_gets_the_closest(scan, model, out):
    done = segment(scan, model, out / "seg.nrrd", prompts=("liver",))
    assert failed_plainly(done, "Nearest:", "liver tumor")


def test_a_prompt_without_meaning_is_refused_before_the_scan_is_looked_for(model, out):
    done = segment("none.nii.gz", model, out / "seg.nrrd", "--json", prompts=("weather in Paris",))
    assert failed_plainly(done, "Known places:", code="prompt-not-understood")
    assert "Nearest" not in done.stderr


def test_a_failure_is_a_json_document_too(scan, model, out):
    done = segment("none.nii.gz", model, out / "seg.nrrd", "--json")
    assert failed_plainly(done, "none.nii.gz", code="unreadable-image")
    done = segment(scan, "no-such-model", out / "seg.nrrd", "--json")
    assert failed_plainly(done, "no-such-model", code="model-missing")


@pytest.mark.parametrize(("raised", "code"), [
    (MemoryError(), "out-of-memory"), (ImportError("x", name="ray.core"), "package-missing"),
    (ZeroDivisionError(), "internal"), (KeyboardInterrupt(), "cancelled"),
])
def test_every_kind_of_failure_has_its_code(raised, code, capfd):
    def command(as_json: bool = False) -> None:
        raise raised

    with pytest.raises(typer.Exit) as ended:
        plain_errors(command)(as_json=True)
    assert ended.value.exit_code == (130 if code == "cancelled" else 1)
    said = capfd.readouterr()
    error = json.loads(said.out)["error"]
    assert error["code"] == code
    assert error["message"] in said.err


def test_a_missing_model_fails_in_one_sentence(scan, out):
    assert failed_plainly(segment(scan, "no-such-model", out / "seg.nrrd"), "no-such-model")


def test_a_device_that_is_not_there_fails_in_one_sentence(scan, model, out):
    assert failed_plainly(segment(scan, model, out / "seg.nrrd", "--device", "cuda:99"), "cuda:99")


@pytest.mark.parametrize("arguments", [
    (), ("segment",), ("segment", "a.nrrd", "--prompt", "x"), ("nonsense",),
    ("segment", "a", "--prompt", "x", "--output", "b.nrrd", "--threshold", "3"),
    ("segment", "a", "--prompt", "x", "--output", "b.nrrd", "--threshold", "nan"),
    ("segment", "a", "--prompt", "x", "--output", "b.nrrd", "--modality", "PET"),
])
def test_wrong_usage_ends_with_2(arguments):
    done = diffugts(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_the_middle_ends_with_130_and_leaves_nothing(scan, model, out, sent):
    import pty

    asked = False
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "DiffuGTSLib.cli", "segment", scan, "--prompt", PROMPT, "--model",
         model, "--output", out / "seg.nrrd", "--samples", "100", "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=theirs, env=environment(TERM="xterm", COLUMNS="100"),
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while part := os.read(ours, 4096):
            shown += part
            if b"painting" in shown and not asked:
                asked = True
                process.send_signal(sent)
    assert process.wait(timeout=120) == 130, shown
    assert b"The run was cancelled." in shown
    assert b"Traceback" not in shown
    assert os.listdir(out) == []


def test_a_phantom_is_written_with_its_truth(tmp_path):
    done = diffugts("phantom", "--kind", "brain", "--seed", 2, "--output", tmp_path / "new" / "p")
    assert done.returncode == 0
    mask = sitk.ReadImage(tmp_path / "new" / "p" / "mask.nii.gz")
    truth = make_phantom("brain", 2).mask
    assert np.array_equal(*(sitk.GetArrayViewFromImage(image) for image in (mask, truth)))
    assert '"brain tumor"' in done.stdout


def test_a_phantom_that_cannot_be_written_fails_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    assert failed_plainly(diffugts("phantom", "--output", tmp_path / "file"), "file")


@pytest.fixture
def halves(tmp_path):
    """A label map of the ball's halves; where label 2 is."""
    image, ball = ball_scan()
    inside = ball.copy()
    inside[:, :, : int(np.median(np.nonzero(ball)[2]))] = False
    labels = sitk.GetImageFromArray((ball.astype(np.uint8) + inside).astype(np.uint8))
    labels.CopyInformation(image)
    sitk.WriteImage(labels, str(tmp_path / "halves.nii.gz"))
    return inside


def test_the_search_can_be_limited_to_one_label_of_a_mask(scan, model, halves, tmp_path):
    inside, ball = halves, ball_scan()[1]
    done = segment(scan, model, tmp_path / "m.nii.gz", "--within", tmp_path / "halves.nii.gz",
                   "--segment", "2")
    assert done.returncode == 0, done.stderr
    assert "Note: Searched only in label 2 of halves.nii.gz (" in " ".join(done.stdout.split())
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "m.nii.gz"))) > 0
    assert found[inside].mean() > 0.5
    assert found[ball & ~inside].mean() < 0.2


def test_the_json_names_what_was_searched_and_not_where_it_lies(scan, model, halves, tmp_path):
    done = segment(scan, model, tmp_path / "m.nii.gz", "--within", tmp_path / "halves.nii.gz",
                   "--json")
    document = json.loads(done.stdout)
    assert document["within"] == "the 2 labels of halves.nii.gz"
    assert document["prompts"][0]["within"] == document["within"]


def test_a_label_that_is_not_there_or_has_no_mask_is_refused(scan, model, halves, tmp_path):
    failed_plainly(segment(scan, model, tmp_path / "m.nii.gz", "--within",
                           tmp_path / "halves.nii.gz", "--segment", "9"), "Its labels: 1, 2.")
    done = segment(scan, model, tmp_path / "m.nii.gz", "--segment", "2")
    assert done.returncode == 2
    assert "--within" in done.stderr


def test_a_mask_to_search_in_is_checked_before_the_run_and_never_replaced(scan, model, tmp_path):
    gone = segment(scan, model, tmp_path / "m.nii.gz", "--within", tmp_path / "gone.nii.gz")
    failed_plainly(gone, "gone.nii.gz")
    mask = tmp_path / "mask.nii.gz"
    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(mask))
    before = mask.read_bytes()
    failed_plainly(segment(scan, model, mask, "--within", mask), "mask.nii.gz")
    assert mask.read_bytes() == before


def test_the_demo_segments_two_real_scans_without_network(tmp_path, model):
    done = diffugts("demo", "--output", tmp_path / "demo", "--model", model,
                    DIFFUGTS_CACHE=str(tmp_path / "cache"), https_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    for name in ("lung_cancer", "glioma_flair_stripped"):
        assert (tmp_path / "demo" / f"{name}.png").stat().st_size > 50_000
        assert (tmp_path / "demo" / f"{name}.seg.nrrd").stat().st_size > 1000
    assert done.stdout.count("(1: the same voxels)") == 2
    assert "CC BY 3.0" in done.stdout


def test_the_demo_with_a_phantom_prints_its_truth_and_the_dsc(tmp_path, model):
    done = diffugts("demo", "--output", tmp_path / "demo", "--phantom", "--kind", "brain",
                    "--model", model)
    assert done.returncode == 0, done.stderr
    truth = sitk.GetArrayFromImage(make_phantom("brain").mask) > 0
    labels = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "demo" / "phantom_brain.seg.nrrd"))
    dsc = 2 * (truth & (labels > 0)).sum() / (truth.sum() + (labels > 0).sum())
    assert f"DSC {dsc:.2f}" in done.stdout
    assert f"there is 1 tumor, {truth.sum() * 0.008:.2f} ml; found " in done.stdout


def test_the_demos_json_is_one_document(tmp_path, model):
    done = diffugts("demo", "--phantom", "--kind", "brain", "--json", "--output", tmp_path / "demo",
                    "--model", model)
    (document,) = json.loads(done.stdout)["scans"]
    assert document["scan"] == "phantom brain"
    assert 0 <= document["dsc"] <= 1
    assert document["truth"]["tumors"] == 1
    assert document["truth"]["volume_ml"] > 1


def test_the_worker_command_is_the_worker(model):
    done = subprocess.run(
        [sys.executable, "-m", "DiffuGTSLib.cli", "worker", "--model", model, "--device", "cpu"],
        input=b'{"type": "quit"}\n', capture_output=True, env=environment(), timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[0])["type"] == "ready"
