"""`diffugts train`: from a configuration to a package that segments."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from support.tiny_model import PROMPT, ball_scan, write_tiny_model
from support.training_material import attention_config, start, write_cases, write_config
from typer.testing import CliRunner

from DiffuGTSLib.cli.app import app
from DiffuGTSLib.datasets import LabelledCase
from DiffuGTSLib.errors import (
    AttentionMissing,
    BadConfiguration,
    NotZeroShot,
    OutputNotWritten,
    TrainingImpossible,
)
from DiffuGTSLib.evaluation.evaluate import check_zero_shot
from DiffuGTSLib.models import store
from DiffuGTSLib.models.card import Card, Measured
from DiffuGTSLib.models.package import ATTENTION_ALONE, load, load_foundation
from DiffuGTSLib.networks.text_encoder import TextEncoder
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.prompt.lesion_classes import reliability
from DiffuGTSLib.scan.file_checks import scan_mark
from DiffuGTSLib.training import commands
from DiffuGTSLib.training.attention_trainer import PromptTexts, gate_loss
from DiffuGTSLib.training.commands import train_attention, train_autoencoder, train_denoiser
from DiffuGTSLib.training.config import (
    AttentionConfig,
    AutoencoderConfig,
    DenoiserConfig,
    read_config,
)
from DiffuGTSLib.training.data.windows import ORGANS, Window, WindowLoader
from DiffuGTSLib.training.loop import LoopConfig, read_curve

# What is trained here is compared with what the commands train.
pytestmark = pytest.mark.usefixtures("one_thread", "one_encoder")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny package and scans of three organs."""
    folder = tmp_path_factory.mktemp("bench")
    write_tiny_model(folder / "tiny")
    write_cases(folder / "cases", {"liver": "CT", "brain": "MR"})
    return folder


@pytest.fixture(scope="module")
def whole(bench: Path) -> Path:
    """A package trained in one go."""
    path = attention_config(bench / "whole.json", output="whole", runs="runs-whole")
    config = replace(read_config(path, AttentionConfig), left_out=("HCC",))
    document = train_attention(config).document
    assert document["output"] == str(bench / "whole")
    return bench / "whole"


def weights(package: Path) -> dict[str, torch.Tensor]:
    return load_file(package / "aova" / store.WEIGHTS)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_trained_package_loads_and_segments(whole: Path) -> None:
    image, _ = ball_scan()
    result = Segmenter.from_pretrained(whole, "cpu").segment(
        Segmenter.from_pretrained(whole, "cpu").encode(image, "MR"), PROMPT)
    assert result.mask.GetSize() == image.GetSize()


def test_only_the_attention_is_new_in_the_package(whole: Path, bench: Path) -> None:
    before, after = Card.read(bench / "tiny"), Card.read(whole)
    changed = {name for name, sha in after.files.items() if before.files.get(name) != sha}
    assert changed == {"aova/config.json", "aova/" + store.WEIGHTS}
    assert not same(weights(whole), weights(bench / "tiny"))
    assert not [p.name for p in bench.iterdir() if p.name.startswith(".")]


def test_the_card_says_what_was_trained_on_and_left_out(whole: Path) -> None:
    card = Card.read(whole)
    # The tiny package does not say what its frozen networks have seen.
    assert card.trained_classes == {"real": ["brain tumor"], "frozen": None,
                                    "synthetic": ["brain tumor"]}
    assert card.left_out == ("liver tumor",)
    assert "1 scan of CASES.json" in card.trained_on
    assert card.fusion["CT"] == ATTENTION_ALONE
    assert "liver tumor" in (whole / "README.md").read_text(encoding="utf-8")


def test_what_was_measured_or_fitted_with_the_old_attention_does_not_count_for_the_new(
    bench: Path
) -> None:
    of_old = Card.read(write_tiny_model(bench / "measured"))
    of_old = replace(of_old, open_gates=("brain/MR",), calibration={"brain/MR": 1.0},
                     calibrated_on="4 examples of held-out scans.",
                     validation=(Measured("glioma", "brain", "MR", "flair", 3, 0.7),))
    of_old.write(bench / "measured")
    config = attention_config(bench / "again.json", model="measured", output="again",
                              runs="runs-again", training={"steps": 1})
    train_attention(read_config(config, AttentionConfig))
    card = Card.read(bench / "again")
    assert (card.open_gates, card.calibration, card.validation) == ((), {}, ())
    assert card.calibrated_on == "Nothing."
    assert "not validated" in reliability(card, "brain", "MR", "flair")


def test_a_training_starts_from_the_packages_attention_where_that_is_wanted(bench: Path) -> None:
    entries = {"network": {}, "training": {"steps": 1, "learning_rate": 1e-9}}
    weights_of = {}
    for begin in ("random", "package"):
        config = attention_config(bench / f"{begin}.json", output=begin, runs=f"runs-{begin}",
                                  start=begin, **entries)
        train_attention(read_config(config, AttentionConfig))
        weights_of[begin] = weights(bench / begin)
    before = weights(bench / "tiny")
    for name, values in weights_of["package"].items():
        torch.testing.assert_close(values, before[name], atol=1e-6, rtol=1e-3, msg=name)
    assert not any(torch.equal(weights_of["random"][name], before[name])
                   for name in before if name.startswith("queries"))
    path = attention_config(bench / "r.json", output="r", runs="runs-random", start="package",
                            **entries)
    other = read_config(path, AttentionConfig)
    with pytest.raises(TrainingImpossible, match="another start: random instead of package"):
        train_attention(other)


def test_what_the_attention_had_learned_from_stays_in_the_card(bench: Path) -> None:
    card = replace(Card.read(bench / "tiny"), trained_on="scans of before",
                   trained_classes={"real": ["lung tumor"], "synthetic": []})
    write_tiny_model(bench / "lungs")
    card.write(bench / "lungs")
    common = {"model": "lungs", "network": {}, "start": "package", "training": {"steps": 1}}
    config = attention_config(bench / "on.json", output="on", runs="runs-on", **common)
    train_attention(read_config(config, AttentionConfig))
    made = Card.read(bench / "on")
    assert made.trained_classes is not None
    assert set(made.trained_classes["real"]) == {"brain tumor", "liver tumor", "lung tumor"}
    assert "the attention that this one started from: those of the model" in made.trained_on
    assert made.trained_on.endswith("scans of before")


@pytest.mark.parametrize(("entries", "message"), [
    ({"left_out": ["lung cancer"]}, "may have learned from what is to be left out: lung tumor"),
    ({"network": {"gate_channels": 8}}, "network does not go with start"),
])
def test_what_a_packages_attention_cannot_be_is_refused(
    entries: dict[str, Any], message: str, bench: Path, tmp_path: Path
) -> None:
    config = attention_config(bench / "not.json", output="not", runs=str(tmp_path / "runs"),
                              **{"network": {}, "start": "package", **entries})
    with pytest.raises(BadConfiguration, match=message):
        train_attention(read_config(config, AttentionConfig))
    assert not (tmp_path / "runs").exists()


def test_the_scans_that_were_held_out_are_named(whole: Path, bench: Path) -> None:
    names = json.loads((bench / "runs-whole" / "split.json").read_text(encoding="utf-8"))
    assert {split: len(of) for split, of in names.items()} == {"training": 1, "tuning": 1}
    assert set(names["training"] + names["tuning"]) == {"brain_0", "brain_1"}


def marks(bench: Path, split: str, runs: str) -> list[str]:
    """Of the scans of a split, from their files."""
    names = json.loads((bench / runs / "split.json").read_text(encoding="utf-8"))[split]
    entries = json.loads((bench / "cases" / "CASES.json").read_text(encoding="utf-8"))
    return sorted(scan_mark(bench / "cases" / entry["image"]) for entry in entries
                  if entry["name"] in names)


def test_the_card_tells_the_scans_it_was_made_with(whole: Path, bench: Path) -> None:
    seen = Card.read(whole).seen_scans
    assert seen == {"training": marks(bench, "training", "runs-whole"), "tuning": []}
    assert seen["training"]


def test_masks_behind_frozen_networks_are_handed_on() -> None:
    card = Card("m", "l", ("CT",), (2.0, 2.0, 2.0), 1.0, {"CT": 1}, 0.5, 1, 1, 1, {})
    whole = replace(card, trained_classes={"real": ["liver tumor"], "synthetic": []})
    assert whole.frozen_classes == ["liver tumor"]
    of_it = {"real": ["lung tumor"], "frozen": whole.frozen_classes, "synthetic": []}
    assert replace(card, trained_classes=of_it).frozen_classes == ["liver tumor"]
    assert replace(card, trained_classes={"real": [], "frozen": None}).frozen_classes is None


def claims(card: Card, text: str) -> str:
    """Why scores of the text cannot be called zero-shot; "" where they can."""
    case = LabelledCase("a", "a", Path("a"), text)
    try:
        check_zero_shot(card, [case])
    except NotZeroShot as error:
        return error.message
    return ""


def test_what_a_package_does_not_say_its_successor_does_not_claim(
    whole: Path, bench: Path
) -> None:
    frozen = "Masks of real lesions behind the frozen networks"
    on_random = Card.read(whole)
    assert on_random.statements()[frozen] == "not stated"
    assert "trained on masks of brain tumor" in claims(on_random, "brain tumor")
    assert "does not say" in claims(on_random, "kidney tumor")
    config = attention_config(bench / "unstated.json", output="unstated", runs="runs-unstated",
                              start="package", network={}, training={"steps": 1})
    document = train_attention(read_config(config, AttentionConfig)).document
    on_package = Card.read(bench / "unstated")
    assert on_package.trained_classes is None
    assert document["trained_classes"] is None
    assert on_package.statements()["Masks of real lesions in training"] == "not stated"
    assert "does not say" in claims(on_package, "brain tumor")


def test_attention_over_a_converted_foundation_model_can_be_zero_shot() -> None:
    card = Card("m", "l", ("CT",), (2.0, 2.0, 2.0), 1.0, {"CT": 1}, 0.5, 1, 1, 1, {},
                sources=({"repository": "a/b", "file": "c", "sha256": "d"},))
    assert "does not say" in claims(card, "liver tumor")  # of an attention, nothing is known
    classes = commands._trained_classes(
        {"real": ["lung tumor"], "synthetic": []}, card, commands.RANDOM)
    trained = replace(card, trained_classes=classes)
    assert claims(trained, "liver tumor") == ""
    assert "trained on masks of lung tumor" in claims(trained, "lung tumor")


def test_the_card_claims_only_what_was_done(whole: Path, bench: Path) -> None:
    lines: list[str] = []
    config = attention_config(bench / "bare.json", output="bare", runs="runs-bare", held_out=0,
                              synthetic=False, training={"steps": 1, "save_every": 1})
    train_attention(read_config(config, AttentionConfig), lines.append)
    assert lines[0] == "4 scans to train on, 0 held out; runs-bare/split.json names them"
    assert "never reach learning_rate" in lines[1]
    assert lines[2] == "preparing scan 1 of 4"
    card, about = Card.read(bench / "bare"), (bench / "bare" / "README.md").read_text("utf-8")
    assert card.scores == {}
    assert card.trained_on.startswith("Attention: 1 steps on 4 scans")
    assert "ynthetic lesions, too" not in card.trained_on
    for line in ("Synthetic lesions in training**: none", "Scores**: not measured",
                 "Calibrated for**: nothing"):
        assert line in about
    whole_card = Card.read(whole)
    assert "Synthetic lesions, too." in whole_card.trained_on
    assert set(whole_card.scores) == {"measure", "brain_MR"}
    assert (f"at 0.5, in 2 windows of held-out scans: brain_MR {whole_card.scores['brain_MR']}\n"
            in (whole / "README.md").read_text(encoding="utf-8"))


def test_other_data_in_the_same_runs_are_refused_before_they_are_resampled(
    whole: Path, bench: Path
) -> None:
    write_cases(bench / "other", {"lung": "CT"})
    config = attention_config(bench / "o.json", output="other-out", runs="runs-whole",
                              data=[{"folder": "other"}], left_out=["HCC"])
    before, lines = sorted((bench / "runs-whole" / "cache").iterdir()), list[str]()
    with pytest.raises(TrainingImpossible, match=r"another data\[0\].folder"):
        train_attention(read_config(config, AttentionConfig), lines.append)
    assert sorted((bench / "runs-whole" / "cache").iterdir()) == before
    assert lines == []


def test_a_training_killed_by_force_continues_to_the_same_weights(
    whole: Path, bench: Path
) -> None:
    config = attention_config(bench / "killed.json", output="killed", runs="runs-killed",
                              left_out=["liver tumor"])
    process = start("train", "attention", "--config", str(config))
    assert process.stdout is not None
    while not process.stdout.readline().lstrip().startswith("3 "):
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (bench / "killed").exists()
    train_attention(read_config(config, AttentionConfig))
    assert same(weights(bench / "killed"), weights(whole))
    assert read_curve(bench / "runs-killed") == read_curve(bench / "runs-whole")


def test_two_processes_train_one_package_by_the_command(bench: Path) -> None:
    config = attention_config(bench / "two.json", output="two", runs="runs-two", synthetic=False,
                              training={"steps": 2, "save_every": 2})
    process = start("--standalone", "--nproc-per-node", "2", "-m", "DiffuGTSLib.cli", "train",
                    "attention", "--config", str(config), "--leave-out", "HCC", "--json",
                    module="torch.distributed.run")
    out, err = process.communicate()
    assert process.returncode == 0, err
    document = json.loads(out)  # one, though two processes ran
    assert document["left_out"] == ["liver tumor"]
    assert set(document["figures"]["train"]) >= {"loss", "map", "gate", "similarity"}
    assert load(bench / "two").card.trained_classes == {
        "real": ["brain tumor"], "frozen": None, "synthetic": []}


def test_calibration_takes_held_out_scans(bench: Path) -> None:
    config = attention_config(bench / "fitted.json", output="fitted", runs="runs-fitted",
                              calibrate=1, training={"steps": 1})
    lines: list[str] = []
    train_attention(read_config(config, AttentionConfig), lines.append)
    assert sum("1 examples" in line for line in lines) == 2
    card = load(bench / "fitted").card
    assert card.calibrated_on == "2 examples of held-out scans."
    assert card.seen_scans["tuning"] == marks(bench, "tuning", "runs-fitted") != []


def test_a_model_of_ones_own_is_made_part_by_part(bench: Path) -> None:
    short = {"steps": 1, "save_every": 1}
    small = {"num_channels": [8, 8, 8], "num_res_blocks": [1, 1, 1], "latent_channels": 4}
    first = write_config(bench / "1.json", output="own-vae", runs="runs-1", training=short,
                         network=small)
    train_autoencoder(read_config(first, AutoencoderConfig))
    tiny = {"num_channels": [16, 16], "attention_levels": [False, False], "norm_num_groups": 8}
    second = write_config(bench / "2.json", autoencoder="own-vae", output="own", runs="runs-2",
                          training=short, network=tiny, copies=1)
    train_denoiser(read_config(second, DenoiserConfig))
    with pytest.raises(AttentionMissing):
        load(bench / "own")
    path = attention_config(bench / "on_it.json", model="own", network={}, start="package")
    with pytest.raises(AttentionMissing):
        train_attention(read_config(path, AttentionConfig))
    third = attention_config(bench / "3.json", model="own", output="own-trained", runs="runs-3",
                             training=short, network={})
    train_attention(read_config(third, AttentionConfig))
    assert load(bench / "own-trained").card.scale_factor > 0


def test_a_case_that_cannot_be_trained_on_is_named(bench: Path, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", {"liver": "CT"})
    entries = json.loads((cases / "CASES.json").read_text())
    shutil.copy(bench / "cases" / "brain_0_tumor.nii.gz", cases / "liver_1_tumor.nii.gz")
    moved = sitk.ReadImage(str(cases / "liver_1_tumor.nii.gz"))
    moved.SetOrigin((20.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(cases / "liver_1_tumor.nii.gz"))
    for change, said in (({}, "The case liver_1 cannot be trained on: liver_1_tumor.nii.gz lies"),
                         ({"prompt": "tumor"}, "The case liver_1 cannot be trained on: “tumor”")):
        (cases / "CASES.json").write_text(json.dumps([entries[0], entries[1] | change]))
        config = attention_config(bench / "bad.json", output="bad", runs=str(tmp_path / "runs"),
                                  data=[{"folder": str(cases)}])
        with pytest.raises(TrainingImpossible) as caught:
            train_attention(read_config(config, AttentionConfig))
        assert caught.value.message.startswith(said)


def test_a_scan_read_against_its_values_is_remarked_upon(bench: Path, tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "cases", {"liver": "CT"})
    entries = json.loads((cases / "CASES.json").read_text())
    (cases / "CASES.json").write_text(json.dumps([e | {"modality": "MR"} for e in entries]))
    config = attention_config(bench / "said.json", output="said", runs=str(tmp_path / "runs"),
                              data=[{"folder": str(cases)}], training={"steps": 1}, calibrate=0)
    said = list[str]()
    train_attention(read_config(config, AttentionConfig), said.append)
    (line,) = (line for line in said if "state CT" in line)
    assert line.startswith("liver_")


def test_parts_that_do_not_fit_are_refused_before_training(bench: Path, tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path / "a.json", autoencoder="nothing"), DenoiserConfig)
    with pytest.raises(BadConfiguration, match="holds no autoencoder"):
        train_denoiser(config)


def test_a_network_that_does_not_fit_the_model_is_named(bench: Path) -> None:
    path = attention_config(bench / "d.json", network={"context_channels": [8, 8, 8]})
    with pytest.raises(BadConfiguration, match="the first has to be 16"):
        train_attention(read_config(path, AttentionConfig))


def test_an_existing_output_is_never_overwritten(bench: Path) -> None:
    config = read_config(attention_config(bench / "b.json", output="tiny"), AttentionConfig)
    with pytest.raises(OutputNotWritten, match="tiny exists already"):
        train_attention(config)


def test_an_unknown_model_is_named_in_a_sentence(bench: Path) -> None:
    config = attention_config(bench / "c.json")
    result = CliRunner().invoke(app, ["train", "attention", "--config", str(config),
                                    "--model", "none-such"])
    assert result.exit_code == 1
    assert "none-such" in result.stderr


class NoiseSampler:
    """Windows that show which generator drew them."""

    def draw(self, generator: np.random.Generator) -> Window:
        value = torch.from_numpy(generator.standard_normal((1, 1, 2, 2, 2)))
        blank = torch.zeros(2, 2, 2)
        return Window(value, blank, blank, blank.byte(), torch.zeros(3, dtype=torch.bool), 0, 0,
                      blank)


def test_workers_draw_the_windows_that_one_process_draws(tmp_path: Path) -> None:
    config = LoopConfig(5, 1e-3, tmp_path, seed=3)
    alone, ahead = WindowLoader(NoiseSampler(), 2), WindowLoader(NoiseSampler(), 2, workers=1)
    for step in (1, 2, 3):
        pairs = zip(alone.windows(step, config), ahead.windows(step, config), strict=True)
        assert all(torch.equal(a.image, b.image) for a, b in pairs)


def test_each_process_draws_windows_of_its_own(tmp_path: Path) -> None:
    config = LoopConfig(5, 1e-3, tmp_path)
    other = replace(config, ranks=replace(config.ranks, rank=1, size=2))
    first, second = (WindowLoader(NoiseSampler()).windows(0, c)[0].image for c in (config, other))
    assert not torch.equal(first, second)


def test_a_lesion_opens_the_gate_of_an_organ_without_outline() -> None:
    lesion, known = torch.zeros(8, 8, 8), torch.zeros(len(ORGANS), dtype=torch.bool)
    blank = torch.zeros(8, 8, 8)
    window = Window(blank[None, None], lesion, blank, blank.byte(), known, 2, 0, blank + 1)
    closed = torch.full((len(ORGANS), 4, 4, 4), -4.0)
    assert gate_loss(closed, window) == 0
    lesion[2:6, 2:6, 2:6] = 1
    assert gate_loss(closed, window) > gate_loss(-closed, window)


def test_prompts_of_organs_beyond_the_usual_ones_are_encoded() -> None:
    encoder = TextEncoder.from_package()
    prompts = PromptTexts(encoder, (*ORGANS, "prostate"))
    assert prompts.gate.shape == (len(ORGANS) + 1, 384)
    assert torch.equal(prompts.gate[:-1], PromptTexts(encoder).gate)


def test_what_the_packages_attention_sees_of_the_image_the_new_one_sees_too() -> None:
    config = AttentionConfig("embedded", Path(), Path(), ())
    foundation = load_foundation("embedded")
    network = commands._attention_network(config, foundation)
    package = load("embedded").attention.config
    assert tuple(network["image_channels"]) == tuple(package.image_channels)
    assert network["tile"] == package.tile
    changed = replace(config, network={"image_channels": [], "tile": 24})
    assert commands._attention_network(changed, foundation) == network | changed.network
