"""A package made of trained parts, and its calibration by anatomy and by MR sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from support.tiny_model import PROMPT, ball_scan, write_tiny_model
from typer.testing import CliRunner

from DiffuGTSLib.cli.embedded import app
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.package import load
from DiffuGTSLib.networks.attention import AnomalyAttention
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.training.calibration import calibrate
from DiffuGTSLib.training.data.examples import Example
from DiffuGTSLib.training.denoiser_trainer import EMBEDDED_CONFIG
from DiffuGTSLib.training.embedded.build import MIRRORS, trained_attention, write_package


def example(seed: int, sequence: str, larger: int) -> Example:
    """The ball in noise; its outline is larger by so many voxels than what is bright."""
    image, ball = ball_scan()
    noise = np.random.default_rng(seed).normal(0, 4, ball.shape)
    noisy = sitk.GetImageFromArray(sitk.GetArrayFromImage(image) + noise)
    truth = ndimage.binary_dilation(ball, iterations=larger) if larger else ball
    outline = sitk.GetImageFromArray(truth.astype(np.uint8))
    for made in (noisy, outline):
        made.CopyInformation(image)
    return Example(noisy, outline, PROMPT, "MR", sequence)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Card, list[str], Path]:
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    examples = [example(i, "t1", 0) for i in range(4)]
    examples += [example(i, "flair", 2) for i in range(4, 8)]
    examples += [example(i, "t2", 4) for i in range(8, 10)]  # too few for a calibration of its own
    said: list[str] = []
    log = folder.parent / "fusion.json"
    calibrate(folder, examples, log, tell=said.append)
    return Card.read(folder), said, log


def test_each_sequence_with_enough_examples_has_its_own_threshold(calibrated) -> None:
    shifts = calibrated[0].calibration
    assert set(shifts) == {"brain/MR", "brain/MR/t1", "brain/MR/flair"}
    # What is outlined beyond the bright ball asks for a lower threshold, so for a higher shift.
    assert shifts["brain/MR/t1"] < shifts["brain/MR"] <= shifts["brain/MR/flair"]


def test_what_was_found_is_said_and_kept(calibrated) -> None:
    card, said, log = calibrated
    assert [line.split(":")[0] for line in said[:3]] == list(card.calibration)
    assert "4 examples" in said[1]
    kept = json.loads(log.read_text())
    assert kept["calibration"] == card.calibration
    assert set(kept["fusion"]) == set(card.fusion) == {"CT", "MR", "brain/MR"}


def test_a_package_of_finished_parts_sees_scans_mirrored(tmp_path: Path) -> None:
    parts = {"vae": Autoencoder(), "unet": Denoiser(**EMBEDDED_CONFIG),
             "aova": AnomalyAttention(mirrors=MIRRORS)}
    for name, network in parts.items():
        network.save_pretrained(tmp_path / "runs" / name / "model")
    (tmp_path / "runs" / "vae" / "scale_factor.json").write_text("1.5")
    write_package(tmp_path / "runs", tmp_path / "package")
    package = load(tmp_path / "package")
    assert tuple(package.attention.config.mirrors) == MIRRORS
    assert package.card.scale_factor == 1.5
    key = "reducers.0.layers.0.weight"
    torch.testing.assert_close(package.attention.state_dict()[key],
                               parts["aova"].state_dict()[key].half().float())


def test_the_weights_of_two_runs_are_averaged(tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        made.append(AnomalyAttention(mirrors=MIRRORS))
        made[-1].save_pretrained(tmp_path / name / "aova" / "model")
    command = ["average", "--runs", str(tmp_path / "second"), "--before", str(tmp_path / "first"),
               "--share", "0.75"]
    assert CliRunner().invoke(app, command).exit_code == 0
    found = trained_attention(tmp_path / "second")
    assert tuple(found.config.mirrors) == MIRRORS
    first, second = (network.state_dict() for network in made)
    for key, value in found.state_dict().items():
        torch.testing.assert_close(value, 0.25 * first[key] + 0.75 * second[key])
    untouched = trained_attention(tmp_path / "first").state_dict()
    assert all(torch.equal(untouched[key], value) for key, value in first.items())
