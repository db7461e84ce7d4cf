"""Calibration of a whole package: what goes into its card, by anatomy and by MR sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.card import Card
from DiffuGTSLib.training.fusion import Example
from DiffuGTSLib.training.packaging import calibrate


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
