"""A package of trained parts, and its calibration by anatomy and by MR sequence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.files import resource
from DiffuGTSLib.models.card import Card, Measured
from DiffuGTSLib.models.package import ATTENTION_ALONE, load
from DiffuGTSLib.networks.attention import AnomalyAttention
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.prompt.lesion_classes import reliability
from DiffuGTSLib.training.calibration import (
    BEFORE_CALIBRATION,
    ExampleMaps,
    best_shift,
    calibrate,
)
from DiffuGTSLib.training.data.examples import CalibrationExample
from DiffuGTSLib.training.denoiser_trainer import EMBEDDED_CONFIG
from DiffuGTSLib.training.embedded.build import NETWORK, EmbeddedBuild, write_package


def example(seed: int, sequence: str, larger: int) -> CalibrationExample:
    """The ball in noise; its outline is `larger` voxels wider than the bright ball."""
    image, ball = ball_scan()
    noise = np.random.default_rng(seed).normal(0, 4, ball.shape)
    noisy = sitk.GetImageFromArray(sitk.GetArrayFromImage(image) + noise)
    truth = ndimage.binary_dilation(ball, iterations=larger) if larger else ball
    outline = sitk.GetImageFromArray(truth.astype(np.uint8))
    for written in (noisy, outline):
        written.CopyInformation(image)
    return CalibrationExample(noisy, outline, PROMPT, "MR", sequence)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Card, list[str], Path]:
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    _earlier(Card.read(folder)).write(folder)
    examples = [example(i, "t1", 0) for i in range(4)]
    examples += [example(i, "flair", 2) for i in range(4, 8)]
    examples += [example(i, "t2", 4) for i in range(8, 10)]  # too few for a calibration of its own
    lines: list[str] = []
    report = folder.parent / "fusion.json"
    calibrate(folder, examples, report, log=lines.append)
    return Card.read(folder), lines, report


def _earlier(card: Card) -> Card:
    """The card with what an earlier calibration leaves in it."""
    liver = replace(ATTENTION_ALONE, used="attention", weights={"attention": (3.0, 2.0, 0.0, 0.0)})
    return replace(
        card, calibration={"liver/CT": 0.5, "brain/MR": 0.2}, open_gates=("liver/CT",),
        fusion=card.fusion | {"liver/CT": liver}, calibrated_on="Other scans.",
        validation=(Measured("glioma", "brain", "MR", "t1", 3, 0.65),),
        scores={"measure": "mean Dice of the final mask, validation patients", "glioma": 0.65})


def test_what_belongs_to_an_earlier_calibration_goes(calibrated) -> None:
    card = calibrated[0]
    assert (card.validation, card.scores, card.open_gates) == ((), {}, ())
    assert card.fusion_of("liver", "CT") == card.fusion["CT"]
    assert card.calibrated_on == "10 examples of scans."
    assert "not validated" in reliability(replace(card, trained_classes={}), "brain", "MR", "t1")


def test_scores_of_the_map_before_the_calibration_stay(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    scores = {"measure": f"{BEFORE_CALIBRATION}, in 2 windows of held-out scans", "brain_MR": 0.5}
    replace(_earlier(Card.read(folder)), scores=scores).write(folder)
    calibrate(folder, [example(0, "t1", 0)], log=lambda line: None)
    card = Card.read(folder)
    assert (card.scores, card.validation) == (scores, ())


def test_the_embedded_build_says_what_it_calibrated_on_once_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    corpus = SimpleNamespace(examples=lambda limit: [example(0, "t1", 0)])
    monkeypatch.setattr(EmbeddedBuild, "corpus", corpus)
    EmbeddedBuild((), tmp_path, log=lambda line: None).fuse(folder)
    stated = Card.read(resource("Models") / "embedded").calibrated_on
    assert Card.read(folder).calibrated_on == stated


def test_each_sequence_with_enough_examples_has_its_own_threshold(calibrated) -> None:
    shifts = calibrated[0].calibration
    assert set(shifts) == {"brain/MR", "brain/MR/t1", "brain/MR/flair"}
    # An outline larger than the bright ball needs a lower threshold, so a higher shift. The
    # widest are t2's, which count as much as the others where the sequence is unknown.
    assert shifts["brain/MR/t1"] < shifts["brain/MR/flair"] < shifts["brain/MR"]


def test_a_frequent_sequence_does_not_outvote_a_rare_one() -> None:
    narrow, wide = maps(0.9), maps(0.2)
    assert best_shift([narrow, narrow, narrow, wide]).shift == best_shift([narrow]).shift
    weighted = best_shift([narrow, narrow, narrow, wide], [1 / 3, 1 / 3, 1 / 3, 1])
    assert weighted == best_shift([narrow, wide])
    assert weighted.shift > best_shift([narrow]).shift


def maps(score: float) -> ExampleMaps:
    """A lesion of 8 voxels at `score`; at 0.8, above or below that, 8 outside it."""
    truth = np.zeros((8, 8, 8), bool)
    truth[2:4, 2:4, 2:4] = True
    attention = np.where(truth, score, 0.0).astype(np.float32)
    attention[6, 6] = 0.8
    blank = np.zeros_like(attention)
    return ExampleMaps("MR", attention, truth, truth, blank, blank)


def test_what_was_fitted_is_logged_and_reported(calibrated) -> None:
    card, lines, report = calibrated
    assert [line.split(":")[0] for line in lines[:3]] == list(card.calibration)
    assert "4 examples" in lines[1]
    written = json.loads(report.read_text(encoding="utf-8"))
    assert written["calibration"] == card.calibration
    assert set(written["fusion"]) == set(card.fusion) == {"CT", "MR", "brain/MR"}
    assert not card.fusion["MR"].half_contrast  # that is for an anatomy to have


def test_a_package_of_finished_parts_sees_scans_mirrored(tmp_path: Path) -> None:
    parts = {"vae": Autoencoder(), "unet": Denoiser(**EMBEDDED_CONFIG),
             "aova": AnomalyAttention(**NETWORK)}
    for name, network in parts.items():
        network.save_pretrained(tmp_path / "runs" / name / "model")
    (tmp_path / "runs" / "vae" / "scale_factor.json").write_text("1.5")
    write_package(tmp_path / "runs", tmp_path / "package")
    package = load(tmp_path / "package")
    assert tuple(package.attention.config.image_channels) == NETWORK["image_channels"]
    assert package.card.scale_factor == 1.5
    assert package.card.calibrated_on == "Nothing."
    key = "reducers.0.layers.0.weight"
    torch.testing.assert_close(package.attention.state_dict()[key],
                               parts["aova"].state_dict()[key].half().float())

