"""A MAISI model from its published files to a segmentation, narrow and on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.maisi_files import WORDS, write_catalogue, write_text_encoder, write_weights
from support.tiny_model import PROMPT, _calibrate, ball_scan
from support.training_material import attention_config, write_cases

from DiffuGTSLib.errors import AttentionMissing, ModalityMismatch, SequenceUnknown
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.catalogue import entry
from DiffuGTSLib.models.install import Fetched, install
from DiffuGTSLib.models.package import add_attention, load_foundation
from DiffuGTSLib.networks.attention import AnomalyAttention
from DiffuGTSLib.networks.denoiser import Conditioning
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.scan.volume import from_image
from DiffuGTSLib.training.commands import train_attention
from DiffuGTSLib.training.config import AttentionConfig, read_config

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("maisi")


@pytest.fixture(scope="module", autouse=True)
def environment(place: Path) -> dict[str, str]:
    """A narrow catalogue and a store of this test's own."""
    variables = {"DIFFUGTS_CATALOGUE": str(write_catalogue(place / "catalogue.json")),
                 "DIFFUGTS_MODELS": str(place / "store")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables


def installed(name: str, place: Path) -> Path:
    files = Fetched(*write_weights(place / name, name), write_text_encoder(place / "texts"))
    return install(entry(name), files, None, lambda _: None)


def attention_for(folder: Path, text_dim: int) -> AnomalyAttention:
    """An attention whose gates are open, written rather than trained."""
    torch.manual_seed(3)
    widths = json.loads((folder / "vae" / "config.json").read_text("utf-8"))["num_channels"]
    head = AnomalyAttention(feature_channels=widths, context_channels=(16, 16, 16),
                            gate_channels=8, text_dim=text_dim, text_rank=len(WORDS))
    head.gate_bias.data.fill_(20.0)
    return head


@pytest.fixture(scope="module")
def brain(place: Path) -> Path:
    """maisi-mr-brain, installed, with an attention that finds the bright ball."""
    folder = installed("maisi-mr-brain", place)
    shutil.copytree(folder, place / "untrained")
    head = attention_for(folder, load_foundation(folder).texts().width)
    card = Card.read(folder)
    add_attention(folder, head, class_labels={"MR": 9}, least_crop=(0, 0, 0))
    _calibrate(folder, head)
    add_attention(folder, head, class_labels=card.class_labels, threshold=0.5)
    return folder


@pytest.fixture(scope="module")
def segmenter(brain: Path) -> Segmenter:
    return Segmenter.from_pretrained("maisi-mr-brain", "cpu")


def diffugts(
    environment: dict[str, str], *arguments: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "DiffuGTSLib.cli", *map(str, arguments)], env=environment,
        capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
    )


def test_without_attention_it_refuses_and_names_the_command(brain: Path, place: Path) -> None:
    with pytest.raises(AttentionMissing, match="maisi-mr-brain") as caught:
        Segmenter.from_pretrained(place / "untrained", "cpu")
    assert "diffugts train attention" in caught.value.hint


def test_with_one_the_command_segments_by_the_sequence_in_the_files_name(
    brain: Path, place: Path, environment: dict[str, str]
) -> None:
    image, ball = ball_scan()
    sitk.WriteImage(image, str(place / "patient_t1.nrrd"))
    done = diffugts(environment, "segment", place / "patient_t1.nrrd", "--prompt", PROMPT,
                    "--model", "maisi-mr-brain", "--output", place / "seg.nii.gz", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "maisi-mr-brain"
    mask = sitk.GetArrayFromImage(sitk.ReadImage(place / "seg.nii.gz")) > 0
    assert (mask & ball).sum() > 0.5 * ball.sum()
    assert mask.mean() < 0.1


@pytest.mark.parametrize(
    ("sequence", "stripped", "label"), [("t1", None, 9), ("flair", True, 31), ("other", None, 8)]
)
def test_what_the_caller_says_of_the_scan_chooses_the_class(
    segmenter: Segmenter, sequence: str, stripped: bool | None, label: int
) -> None:
    scan = segmenter.encode(ball_scan()[0], "MR", sequence=sequence, skull_stripped=stripped)
    assert scan.class_label == label


def test_without_a_word_on_the_sequence_the_scan_is_refused_before_it_is_encoded(
    segmenter: Segmenter
) -> None:
    with pytest.raises(SequenceUnknown):
        segmenter.prepare(from_image(ball_scan()[0], "MR", "patient"))
    stripped = segmenter.prepare(from_image(ball_scan()[0], "MR", "patient_t2_bet"))
    assert (stripped.scan.sequence, stripped.scan.skull_stripped) == ("t2", True)


def test_a_ct_has_no_sequence_and_does_not_fit(segmenter: Segmenter) -> None:
    image = sitk.Cast(ball_scan()[0], sitk.sitkInt16) - 1000
    with pytest.raises(ModalityMismatch, match="no MR sequence"):
        segmenter.encode(image, "CT", sequence="t1")


def test_the_grid_and_the_crops_are_multiples_of_what_the_denoiser_needs(
    segmenter: Segmenter
) -> None:
    scan = segmenter.encode(ball_scan()[0], "MR", sequence="t1")
    assert segmenter.limits.multiple == 32
    assert all(n % 32 == 0 for n in scan.canonical.tensor.shape[2:])
    assert segmenter.segment(scan, PROMPT).found


def test_the_denoiser_is_told_class_spacing_and_guidance(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Conditioning] = []
    predict = Conditioning.predict
    monkeypatch.setattr(Conditioning, "predict", lambda told, *arguments: (
        seen.append(told), predict(told, *arguments))[1])
    segmenter.segment(segmenter.encode(ball_scan()[0], "MR", sequence="flair"), PROMPT)
    assert set(seen) == {Conditioning(11, (2.0, 2.0, 2.0), (0, 0), 10.0)}


def test_a_prompt_is_put_into_vectors_by_the_models_own_encoder(segmenter: Segmenter) -> None:
    assert segmenter.text_encoder.width == 384
    assert segmenter.package.texts().width == 32
    assert segmenter.package.attention.config.text_dim == 32


def test_a_trained_attention_makes_the_model_segment(place: Path) -> None:
    untrained = installed("maisi-mr", place)
    write_cases(place / "cases", {"brain": "MR"})
    config = attention_config(
        place / "attention.json", model=str(untrained), training={"steps": 2},
        network={"context_channels": [16, 8, 8], "gate_channels": 8, "text_rank": 8},
    )
    train_attention(read_config(config, AttentionConfig), lambda _: None)
    segmenter = Segmenter.from_pretrained(place / "made", "cpu")
    assert segmenter.package.card.guidance == 10
    scan = segmenter.encode(ball_scan()[0], "MR")
    assert segmenter.segment(scan, PROMPT).highest_score > 0


def test_an_attention_for_other_features_is_refused(brain: Path, place: Path) -> None:
    with pytest.raises(ValueError, match="channels"):
        add_attention(place / "untrained", AnomalyAttention(feature_channels=(4, 4, 4)))


def test_the_ddpm_model_segments_a_ct_with_its_body_regions(place: Path) -> None:
    folder = installed("maisi-ct-ddpm", place)
    head = attention_for(folder, 32)
    head.anomaly_bias.data.fill_(20.0)  # everything is a candidate
    add_attention(folder, head)
    segmenter = Segmenter.from_pretrained(folder, "cpu")
    voxels = np.full((24, 24, 24), 40, np.int16)
    voxels[:6] = -1000
    voxels[12:16, 12:16, 12:16] = 90
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((2.0, 2.0, 2.0))
    result = segmenter.segment(segmenter.encode(image, "CT"), "liver tumor")
    painted = sitk.GetArrayFromImage(result.pseudo_healthy)
    assert np.isfinite(painted).all()
    assert np.abs(painted - voxels).max() > 1
    assert segmenter.package.card == replace(segmenter.package.card, class_labels={})
