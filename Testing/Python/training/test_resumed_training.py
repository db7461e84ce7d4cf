"""A training is continued only with the model and the scans that it began with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from support.tiny_model import write_tiny_model
from support.training_material import attention_config, write_cases, write_config

from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.models import store
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.package import load, save_part, write_checksums
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.training.commands import train_attention, train_autoencoder, train_denoiser
from DiffuGTSLib.training.config import (
    BEGUN_WITH,
    AttentionConfig,
    AutoencoderConfig,
    DenoiserConfig,
    read_config,
)
from DiffuGTSLib.training.data.corpus import Corpus

pytestmark = pytest.mark.usefixtures("one_thread", "one_encoder")
SHORT = {"steps": 1, "save_every": 1}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings that are finished: from random weights, and from the package's attention."""
    folder = tmp_path_factory.mktemp("bench")
    write_tiny_model(folder / "tiny")
    write_cases(folder / "cases", {"liver": "CT", "brain": "MR"})
    for start in ("random", "package"):
        train(folder, start, start)
    return folder


def train(bench: Path, output: str, start: str = "random") -> None:
    path = attention_config(bench / f"{output}.json", output=output, runs=f"runs-{start}",
                            start=start, network={}, training=SHORT)
    train_attention(read_config(path, AttentionConfig))


@contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """Files and folders become again what they were, with their times."""
    for path in paths:
        copy = path.with_name(f"{path.name}.kept")
        shutil.copytree(path, copy) if path.is_dir() else shutil.copy2(path, copy)
    try:
        yield
    finally:
        for path in paths:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            os.replace(path.with_name(f"{path.name}.kept"), path)


def refusal(bench: Path, start: str = "random") -> str:
    """The message for a training that continues in the same runs."""
    split = bench / f"runs-{start}" / "split.json"
    before = split.read_bytes()
    with pytest.raises(TrainingImpossible) as caught:
        train(bench, "refused", start)
    assert not (bench / "refused").exists()
    assert split.read_bytes() == before
    assert "another folder for runs" in caught.value.hint
    return caught.value.message


def change(package: Path, part: str) -> None:
    """Other weights in a part of a package, in good order."""
    network = {"vae": load(package).autoencoder, "aova": load(package).attention}[part]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    save_part(package, part, network)
    write_checksums(package, Card.read(package))


def test_over_another_autoencoder_it_is_refused(bench: Path) -> None:
    with kept(bench / "tiny"):
        change(bench / "tiny", "vae")
        assert refusal(bench) == ("The folder runs-random holds a training that began with "
                                  "something else (model: autoencoder changed).")
        assert "(model: autoencoder changed)" in refusal(bench, "package")


def test_another_attention_matters_only_where_it_was_started_from(bench: Path) -> None:
    with kept(bench / "tiny"):
        change(bench / "tiny", "aova")
        train(bench, "on-another")
        assert "(model: attention changed)" in refusal(bench, "package")


def test_a_class_cannot_leave_the_card_with_its_scans(bench: Path) -> None:
    listed = bench / "cases" / "CASES.json"
    with kept(listed):
        cases = json.loads(listed.read_text())
        listed.write_text(json.dumps([c for c in cases if c["name"].startswith("brain")]))
        message = refusal(bench)
    names = json.loads((bench / "runs-random" / "split.json").read_text())
    of_liver = {s: next(n for n in names[s] if n.startswith("liver")) for s in names}
    assert f"training scans: {of_liver['training']} missing" in message
    assert f"held-out scans: {of_liver['tuning']} missing" in message


def test_a_corrected_outline_is_named(bench: Path) -> None:
    outline = bench / "cases" / "brain_0_tumor.nii.gz"
    with kept(outline):
        mask = sitk.ReadImage(str(outline))
        sitk.WriteImage(sitk.BinaryDilate(mask, (1, 1, 1)), str(outline))
        assert "scans: brain_0 changed" in refusal(bench)


def test_other_classes_of_the_same_scans_are_named(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"real": ["brain tumor"], "synthetic": ["brain tumor", "liver tumor"]}
    monkeypatch.setattr(Corpus, "trained_classes", lambda self: known)
    assert "(classes of real lesions: liver tumor missing)" in refusal(bench)


def test_a_finished_training_writes_another_output_of_the_same(bench: Path) -> None:
    train(bench, "again")
    weights = [load_file(bench / name / "aova" / store.WEIGHTS) for name in ("random", "again")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_runs_from_before_there_was_a_record_can_be_resumed(bench: Path) -> None:
    record = bench / "runs-random" / BEGUN_WITH
    before = json.loads(record.read_text())
    record.unlink()
    train(bench, "old")
    assert json.loads(record.read_text()) == before


def test_a_denoiser_is_continued_only_over_its_autoencoder(bench: Path) -> None:
    small = {"num_channels": [8, 8, 8], "num_res_blocks": [1, 1, 1], "latent_channels": 4}
    path = write_config(bench / "v.json", output="vae", runs="runs-vae", training=SHORT,
                        network=small)
    train_autoencoder(read_config(path, AutoencoderConfig))
    tiny = {"num_channels": [16, 16], "attention_levels": [False, False], "norm_num_groups": 8}
    entries = {"autoencoder": "vae", "runs": "runs-unet", "training": SHORT, "network": tiny,
               "copies": 1}

    def denoiser(output: str) -> None:
        config = write_config(bench / f"{output}.json", output=output, **entries)
        train_denoiser(read_config(config, DenoiserConfig))

    denoiser("first")
    denoiser("second")  # nothing has changed
    network = Autoencoder.from_pretrained(bench / "vae" / "vae", low_cpu_mem_usage=False)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    network.save_pretrained(bench / "vae" / "vae")
    with pytest.raises(TrainingImpossible, match=r"\(autoencoder: weights changed\)"):
        denoiser("third")
