"""The three trainings of `diffugts train`, each from its configuration to what it writes.

A trained attention into a copy of its model package, whole or not at all.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from DiffuGTSLib.errors import BadConfiguration, OutputNotWritten, TrainingImpossible
from DiffuGTSLib.files import atomic_folder, write_json
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.package import Foundation, add_attention, load_foundation, save
from DiffuGTSLib.networks.attention import AnomalyAttention
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.networks.device import choose_device
from DiffuGTSLib.networks.schedules import RECTIFIED_FLOW_SCHEDULER
from DiffuGTSLib.training import (
    attention_trainer,
    autoencoder_trainer,
    calibration,
    denoiser_trainer,
)
from DiffuGTSLib.training.config import (
    AttentionConfig,
    AutoencoderConfig,
    Config,
    DenoiserConfig,
    remember,
)
from DiffuGTSLib.training.data.corpus import SPLITS, Corpus, classes_named, find_folders, prepare
from DiffuGTSLib.training.data.examples import Example
from DiffuGTSLib.training.data.project_folder import Wanted
from DiffuGTSLib.training.data.windows import Feed
from DiffuGTSLib.training.loop import Ranks, joined, read_curve

Tell = Callable[[str], None]
ABOUT = "autoencoder.json"
SPLIT = "split.json"  # in the folder of the runs
SCORE = "mean Dice of the attention map at 0.5, in windows kept out of training"


@dataclass(frozen=True)
class Finished:
    """What a training came to.

    Attributes:
        first: whether this process is the one that writes.
        document: for people and programs: output, steps, last figures.
    """

    first: bool
    document: dict[str, Any]


def train_attention(config: AttentionConfig, tell: Tell | None = None) -> Finished:
    """Trains the attention of a package over its frozen features; writes a copy of the package.

    Raises:
        DiffuGTSError: the package, the data, the output or the checkpoint do not fit.
    """
    refuse_existing(config.output)
    left_out = classes_named(config.left_out)
    with joined(choose_device(config.training.device)) as (ranks, device):
        foundation = load_foundation(config.model)
        card, network = foundation.card, _attention_network(config, foundation.autoencoder)
        wanted = Wanted(card.spacing_mm, card.modalities, left_out, config.synthetic,
                        config.largest_window, config.held_out)
        corpus = _corpus(config, wanted, ranks, tell)
        prompts = attention_trainer.PromptTexts(foundation.texts(), corpus.organs, device)
        feed = Feed(corpus.sampler(), attention_trainer.WINDOWS, config.workers)
        loop = config.training.loop(config.runs, ranks, device, tell if ranks.first else None)
        held_out = corpus.held_out() if ranks.first else []
        trained = attention_trainer.train(
            foundation.autoencoder, feed, held_out, loop, prompts, network)
    if ranks.first:
        examples = corpus.examples(config.calibrate)
        about = _about_head(config, card, corpus)
        about["calibrated_on"] = f"{len(examples)} held-out scans." if examples else "Nothing."
        written = write_trained(foundation, trained.to("cpu"), config.output, about, examples,
                                device, tell or print)
        classes = {"trained_classes": written.trained_classes, "left_out": list(written.left_out)}
    return Finished(ranks.first, _document(config, "attention") | (classes if ranks.first else {}))


def train_autoencoder(config: AutoencoderConfig, tell: Tell | None = None) -> Finished:
    """Trains an autoencoder, as the embedded one; writes it with what the denoiser has to know.

    Raises:
        DiffuGTSError: the data, the output or the checkpoint do not fit.
    """
    refuse_existing(config.output)
    with joined(choose_device(config.training.device)) as (ranks, device):
        wanted = Wanted(config.spacing_mm, config.modalities, held_out=config.held_out)
        corpus = _corpus(config, wanted, ranks, tell)
        loop = config.training.loop(config.runs, ranks, device, tell if ranks.first else None)
        samples = corpus.samples("training")
        if not samples:
            raise TrainingImpossible("There is no scan to train on.", "Add data.")
        network = autoencoder_trainer.EMBEDDED_CONFIG | config.network
        model = autoencoder_trainer.train(samples, corpus.samples("tuning"), loop, network,
                                  corpus.groups())
    if ranks.first:
        model.requires_grad_(False).eval()
        scale = denoiser_trainer.centre_latents(model, corpus.sources("training"))
        about = {"scale_factor": scale, "spacing_mm": list(config.spacing_mm),
                 "modalities": list(config.modalities),
                 "trained_on": f"{len(samples)} scans"}
        with atomic_folder(config.output) as staging:
            model.to("cpu").save_pretrained(staging / "vae")
            write_json(staging / ABOUT, about)
    return Finished(ranks.first, _document(config, "autoencoder"))


def train_denoiser(config: DenoiserConfig, tell: Tell | None = None) -> Finished:
    """Trains a denoiser on an autoencoder's latents; writes a model package without attention.

    Raises:
        DiffuGTSError: the autoencoder, the data, the output or the checkpoint do not fit.
    """
    refuse_existing(config.output)
    left_out = classes_named(config.left_out)
    frozen, about = _autoencoder(config.autoencoder)
    network = _denoiser_network(config, frozen)
    with joined(choose_device(config.training.device)) as (ranks, device):
        spacing, modalities = tuple(about["spacing_mm"]), tuple(about["modalities"])
        wanted = Wanted(spacing, modalities, left_out, False, held_out=config.held_out)
        corpus = _corpus(config, wanted, ranks, tell)
        loop = config.training.loop(config.runs, ranks, device, tell if ranks.first else None)
        scans = denoiser_trainer.encode_copies(
            frozen.to(device), corpus.sources("training"), about["scale_factor"], config.copies,
            config.training.seed,
        )
        if not scans:
            raise TrainingImpossible("There is no scan to train on.", "Leave out fewer classes.")
        model = denoiser_trainer.train(scans, loop, network, corpus.kinds())
    if ranks.first:
        card = Card(
            name=config.name or config.output.name, licence=config.licence, modalities=modalities,
            spacing_mm=spacing, scale_factor=about["scale_factor"],
            class_labels={
                m: denoiser_trainer.CLASS_LABELS[("CT", "MR").index(m)] for m in modalities
            },
            threshold=0.5, steps=config.steps, samples=config.samples, resamplings=1, fusion={},
            trained_on=f"Autoencoder: {about['trained_on']}. Denoiser: {corpus.describe()}.",
            # Its loss leaves out what their masks outline.
            trained_classes={"real": [], "frozen": corpus.trained_classes()["real"],
                             "synthetic": []},
            left_out=tuple(sorted(left_out)),
        )
        with atomic_folder(config.output) as staging:
            save(staging, card, frozen.to("cpu"), model.to("cpu"), None,
                        FlowMatchEulerDiscreteScheduler(**RECTIFIED_FLOW_SCHEDULER))
    return Finished(ranks.first, _document(config, "denoiser"))


def _corpus(config: Config, wanted: Wanted, ranks: Ranks, tell: Tell | None) -> Corpus:
    """The data on the model's grid; refused before anything is resampled if the folder of the
    runs holds a training with other settings.

    Raises:
        TrainingImpossible, BadDataSet: the folders or the runs do not fit.
    """
    corpus = find_folders(config.data, config.runs / "cache", wanted)
    if ranks.first:
        remember(config.runs, config)
        _tell_split(config, corpus, tell or print)
    prepare(corpus, ranks, tell)
    return corpus


def _tell_split(config: Config, corpus: Corpus, tell: Tell) -> None:
    """Which scans are trained on and which are held out: how many here, their names in a file."""
    names = {split: corpus.names(split) for split in SPLITS}
    write_json(config.runs / SPLIT, names)
    if corpus.wanted.left_out:
        tell(f"left out: {', '.join(sorted(corpus.wanted.left_out))}")
    tell(f"{len(names['training'])} scans to train on, {len(names['tuning'])} held out; "
         f"{config.runs.name}/{SPLIT} names them")
    training = config.training
    if training.warmup >= training.steps:
        tell(f"the rate rises for {training.warmup} steps (warmup), so that {training.steps} steps "
             "never reach learning_rate")


def _attention_network(config: AttentionConfig, frozen: Autoencoder) -> dict[str, Any]:
    """The arguments of AnomalyAttention beyond those that the frozen parts settle.

    Raises:
        BadConfiguration: they do not fit the autoencoder.
    """
    last = frozen.config.num_channels[-1]
    # As the embedded model's, 64, 96, 128; not wider than a large autoencoder needs.
    widths = (last, min(3 * last // 2, 192), min(2 * last, 256))
    network: dict[str, Any] = {"context_channels": widths} | config.network
    first, *_, coarsest = network["context_channels"]
    if first != last or coarsest % 4:
        raise BadConfiguration(
            f"The entry network.context_channels does not fit the model: the first has to be "
            f"{last}, the third a multiple of 4.", "Leave it out to take the usual ones.",
        )
    return network


def _about_head(config: AttentionConfig, card: Card, corpus: Corpus) -> dict[str, Any]:
    """What the new package's card says of its attention."""
    validations = [e["figures"] for e in read_curve(config.runs) if e["kind"] == "validation"]
    last = validations[-1] if validations else {}
    measured = {name: round(value, 3) for name, value in last.items() if math.isfinite(value)}
    classes = corpus.trained_classes()
    synthetic = " Synthetic lesions, too." if classes["synthetic"] else ""
    before = f": {card.trained_on}" if card.trained_on else "."
    return {
        "name": config.name or config.output.name,
        "trained_on": f"Attention: {config.training.steps} steps on {corpus.describe()}."
                      f"{synthetic} Frozen networks: those of the model {card.name}{before}",
        "trained_classes": classes | {"frozen": card.frozen_classes},
        "left_out": tuple(sorted(corpus.wanted.left_out)),
        "scores": {"measure": SCORE} | measured if measured else {},
    }


def _autoencoder(folder: Path) -> tuple[Autoencoder, dict[str, Any]]:
    """What `train autoencoder` wrote.

    Raises:
        BadConfiguration: the folder holds no such thing.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        frozen = Autoencoder.from_pretrained(folder / "vae", low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise BadConfiguration(f"The folder {folder.name} holds no autoencoder.",
                               "Make it first: diffugts train autoencoder --config FILE",
                               ) from error
    frozen.requires_grad_(False).eval()
    return frozen.to(memory_format=torch.channels_last_3d), about


def _denoiser_network(config: DenoiserConfig, frozen: Autoencoder) -> dict[str, Any]:
    """The arguments of Denoiser.

    Raises:
        BadConfiguration: they do not fit each other.
    """
    latent = frozen.config.latent_channels
    network = denoiser_trainer.EMBEDDED_CONFIG | {"in_channels": latent + 1, "out_channels": latent}
    network |= config.network
    try:
        Denoiser(**network)
    except ValueError as error:
        raise BadConfiguration(f"The entry “network” is wrong: {error}.") from error
    return network


def _document(
    config: AttentionConfig | AutoencoderConfig | DenoiserConfig, part: str
) -> dict[str, Any]:
    curve = read_curve(config.runs)
    return {"part": part, "output": str(config.output), "runs": str(config.runs),
            "steps": config.training.steps,
            "figures": {e["kind"]: _finite(e["figures"]) for e in curve}}


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def refuse_existing(output: Path) -> None:
    """Nothing that is there is overwritten; asked before a training begins, not after it.

    Raises:
        OutputNotWritten: the folder exists and is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputNotWritten(f"The folder {output.name} exists already.",
                               "Choose another folder for output, or delete that one.")


def write_trained(
    foundation: Foundation, attention: AnomalyAttention, output: Path,
    changes: Mapping[str, Any], examples: Sequence[Example], device: str,
    tell: Callable[[str], None],
) -> Card:
    """Writes a copy of the package with the attention, calibrated on `examples`.

    Args:
        changes: to the card: name, trained_on, trained_classes, left_out, scores.

    Returns:
        The card as it is written.

    Raises:
        OutputNotWritten: `output` exists, or there is no room.
    """
    refuse_existing(output)
    with atomic_folder(output) as staging:
        leave = shutil.ignore_patterns("aova", "README.md", ".*")
        shutil.copytree(foundation.folder, staging, ignore=leave, dirs_exist_ok=True)
        # The old attention's calibration and fusion say nothing about the new one.
        fresh = {"calibration": {}, "fusion": {}, "threshold": 0.5}
        add_attention(staging, attention, **fresh | dict(changes))
        if examples:
            calibration.calibrate(staging, examples, device=device, tell=tell)
        card = Card.read(staging)
        (staging / "README.md").write_text(_about(card), encoding="utf-8")
    return card


def _about(card: Card) -> str:
    lines = "".join(f"- **{name}**: {text}\n" for name, text in card.statements().items())
    return (f"# Model card: {card.name}\n\n"
            f"**Research use only, not for clinical decisions.**\n\n{lines}")
