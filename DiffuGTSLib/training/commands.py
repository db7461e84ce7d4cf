"""The three trainings of `diffugts train`, from the configuration to what they write."""

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

from DiffuGTSLib.datasets.check import counted
from DiffuGTSLib.errors import BadConfiguration, OutputNotWritten, TrainingImpossible
from DiffuGTSLib.files import atomic_folder, write_json
from DiffuGTSLib.models import Card, Foundation, load, load_foundation, save
from DiffuGTSLib.models.package import add_attention
from DiffuGTSLib.models.store import HEAD
from DiffuGTSLib.networks import AnomalyAttention, Autoencoder, Denoiser, choose_device
from DiffuGTSLib.networks.schedules import RECTIFIED_FLOW_SCHEDULER
from DiffuGTSLib.training import (
    attention_trainer,
    autoencoder_trainer,
    calibration,
    denoiser_trainer,
)
from DiffuGTSLib.training.config import (
    RANDOM,
    AttentionConfig,
    AutoencoderConfig,
    Config,
    DenoiserConfig,
    fingerprint,
    record_origin,
    record_settings,
)
from DiffuGTSLib.training.data.corpus import SPLITS, Corpus, classes_named, find_folders, prepare
from DiffuGTSLib.training.data.examples import CalibrationExample, count_sources
from DiffuGTSLib.training.data.project_folder import DataSelection
from DiffuGTSLib.training.data.windows import Window, WindowLoader
from DiffuGTSLib.training.loop import Ranks, process_group, read_curve

Log = Callable[[str], None]
AUTOENCODER_FILE = "autoencoder.json"
SPLIT = "split.json"  # in the folder of the runs


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        first: whether this is the process that writes.
        document: output, steps, last figures.
    """

    first: bool
    document: dict[str, Any]


def train_attention(config: AttentionConfig, log: Log | None = None) -> TrainingResult:
    """Trains the attention of a package over its frozen features; writes a copy of the package.

    Raises:
        DiffuGTSError: the package, the data, the output or the checkpoint do not fit.
    """
    refuse_existing(config.output)
    left_out = classes_named(config.left_out)
    with process_group(choose_device(config.training.device)) as (ranks, device):
        foundation, start = _starting_point(config, left_out)
        card, network = foundation.card, _attention_network(config, foundation)
        selection = DataSelection(card.spacing_mm, card.modalities, left_out, config.synthetic,
                        config.largest_window, config.held_out)
        origin = _attention_origin(foundation, config.start)
        corpus = _corpus(config, selection, ranks, log, {"model": origin})
        classes = _recorded_classes(config, corpus, ranks)
        prompts = attention_trainer.PromptTexts(foundation.texts(), corpus.organs, device)
        loader = WindowLoader(
            corpus.sampler(), attention_trainer.WINDOWS_PER_STEP, config.workers)
        loop = config.training.loop(config.runs, ranks, device, log if ranks.first else None)
        held_out = corpus.held_out() if ranks.first else []
        seen = _seen_scans(config, corpus, card) if ranks.first else {}
        trained = attention_trainer.train(
            foundation.autoencoder, loader, held_out, loop, prompts, start or network)
    if ranks.first:
        examples = corpus.examples(config.calibrate)
        if config.calibrate and not examples:
            (log or print)("nothing is held out: the model is not calibrated")
        about = _card_entries(config, card, corpus, classes, held_out) | {"seen_scans": seen}
        written = write_trained(foundation, trained.to("cpu"), config.output, about, examples,
                                device, log or print)
    document = _document(config, "attention")
    if ranks.first:
        document |= {"left_out": list(written.left_out),
                     "trained_classes": written.trained_classes}
    return TrainingResult(ranks.first, document)


def train_autoencoder(config: AutoencoderConfig, log: Log | None = None) -> TrainingResult:
    """Trains an autoencoder like the embedded one; writes it with its scale factor and grid.

    Raises:
        DiffuGTSError: the data, the output or the checkpoint do not fit.
    """
    refuse_existing(config.output)
    with process_group(choose_device(config.training.device)) as (ranks, device):
        selection = DataSelection(config.spacing_mm, config.modalities, held_out=config.held_out)
        corpus = _corpus(config, selection, ranks, log, {})
        loop = config.training.loop(config.runs, ranks, device, log if ranks.first else None)
        volumes = corpus.volumes("training")
        if not volumes:
            raise TrainingImpossible("There is no scan to train on.", "Add data.")
        network = autoencoder_trainer.EMBEDDED_CONFIG | config.network
        model = autoencoder_trainer.train(volumes, corpus.volumes("tuning"), loop, network,
                                          corpus.groups())
    if ranks.first:
        model.requires_grad_(False).eval()
        scale = denoiser_trainer.centre_latents(model, corpus.labelled_volumes("training"))
        about = {"scale_factor": scale, "spacing_mm": list(config.spacing_mm),
                 "modalities": list(config.modalities),
                 "trained_on": f"{len(volumes)} scans"}
        with atomic_folder(config.output) as staging:
            model.to("cpu").save_pretrained(staging / "vae")
            write_json(staging / AUTOENCODER_FILE, about)
    return TrainingResult(ranks.first, _document(config, "autoencoder"))


def train_denoiser(config: DenoiserConfig, log: Log | None = None) -> TrainingResult:
    """Trains a denoiser on an autoencoder's latents; writes a model package without attention.

    Raises:
        DiffuGTSError: the autoencoder, the data, the output or the checkpoint do not fit.
    """
    refuse_existing(config.output)
    left_out = classes_named(config.left_out)
    frozen, about = _autoencoder(config.autoencoder)
    network = _denoiser_network(config, frozen)
    with process_group(choose_device(config.training.device)) as (ranks, device):
        spacing, modalities = tuple(about["spacing_mm"]), tuple(about["modalities"])
        selection = DataSelection(spacing, modalities, left_out, False, held_out=config.held_out)
        origin = {"weights": fingerprint(config.autoencoder / "vae"),
                  "scale factor": about["scale_factor"], "grid": [spacing, modalities]}
        corpus = _corpus(config, selection, ranks, log, {"autoencoder": origin})
        classes = _recorded_classes(config, corpus, ranks)
        loop = config.training.loop(config.runs, ranks, device, log if ranks.first else None)
        scans = denoiser_trainer.encode_copies(
            frozen.to(device), corpus.labelled_volumes("training"), about["scale_factor"],
            config.copies, config.training.seed,
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
            # The masks of the tumors were used, to leave these out of the loss.
            trained_classes={"real": [], "frozen": classes["real"], "synthetic": []},
            left_out=tuple(sorted(left_out)),
        )
        with atomic_folder(config.output) as staging:
            save(staging, card, frozen.to("cpu"), model.to("cpu"), None,
                 FlowMatchEulerDiscreteScheduler(**RECTIFIED_FLOW_SCHEDULER))
    return TrainingResult(ranks.first, _document(config, "denoiser"))


def _corpus(
    config: Config, selection: DataSelection, ranks: Ranks, log: Log | None,
    networks: Mapping[str, Mapping[str, Any]],
) -> Corpus:
    """The data on the model's grid; settings are checked before anything is resampled.

    Args:
        networks: fingerprints of those that the training begins with; see `record_origin`.

    Raises:
        TrainingImpossible, BadDataSet: a folder has no usable data, or the runs began with other
            settings, networks or scans.
    """
    corpus = find_folders(config.data, config.runs / "cache", selection)
    if ranks.first:
        record_settings(config.runs, config)
        record_origin(config.runs, {
            **networks, "training scans": corpus.fingerprints("training"),
            "held-out scans": corpus.fingerprints("tuning")})
        _log_split(config, corpus, log or print)
    prepare(corpus, ranks, log)
    return corpus


def _recorded_classes(config: Config, corpus: Corpus, ranks: Ranks) -> dict[str, list[str]]:
    """The classes of lesions in the training data; {} in all processes but the first.

    Raises:
        TrainingImpossible: the training in the folder of the runs began with others.
    """
    if not ranks.first:
        return {}
    classes = corpus.trained_classes()
    record_origin(config.runs, {f"classes of {kind} lesions": dict.fromkeys(names, True)
                                for kind, names in classes.items()})
    return classes


def _attention_origin(foundation: Foundation, start: str) -> dict[str, Any]:
    """Fingerprints of what an attention is trained upon, and of the one that it starts from."""
    folder, card = foundation.folder, foundation.card
    origin = {"autoencoder": fingerprint(folder / "vae"),
              "text encoder": fingerprint(folder / "text_encoder", folder / "tokenizer"),
              "grid": [card.spacing_mm, card.modalities]}
    return origin if start == RANDOM else origin | {"attention": fingerprint(folder / HEAD)}


def _log_split(config: Config, corpus: Corpus, log: Log) -> None:
    """Logs the numbers of training and held-out scans, and writes their names into SPLIT."""
    names = {split: corpus.names(split) for split in SPLITS}
    write_json(config.runs / SPLIT, names)
    if corpus.selection.left_out:
        log(f"left out: {', '.join(sorted(corpus.selection.left_out))}")
    log(f"{counted(len(names['training']), 'scan')} to train on, {len(names['tuning'])} held out; "
        f"{config.runs.name}/{SPLIT} names them")
    training = config.training
    if training.warmup >= training.steps:
        log(f"warmup takes {training.warmup} steps, so that {training.steps} steps never reach "
            "learning_rate")


def _starting_point(
    config: AttentionConfig, left_out: frozenset[str]
) -> tuple[Foundation, AnomalyAttention | None]:
    """The package that is trained upon, and its attention where the new one starts from that.

    Raises:
        AttentionMissing: the package has none.
        BadConfiguration: it cannot be what the configuration asks for.
    """
    if config.start == RANDOM:
        return load_foundation(config.model), None
    package = load(config.model)
    if config.network:
        raise BadConfiguration(
            "The entry network does not go with start = \"package\": the attention keeps its form.",
            "Leave one of the two out.")
    seen = package.card.trained_classes
    known = left_out if seen is None else left_out & {
        name for names in seen.values() for name in names or ()}
    if known:
        raise BadConfiguration(
            f"The attention of the model {package.card.name} may have learned from what is to be "
            f"left out: {', '.join(sorted(known))}.", "Start from random weights (start).")
    return package, package.attention


def _attention_network(config: AttentionConfig, foundation: Foundation) -> dict[str, Any]:
    """The arguments of AnomalyAttention beyond those that follow from the frozen parts.

    What the package's own attention sees of the image, the new one sees, too: that depends on what
    the frozen features lack.

    Raises:
        BadConfiguration: they do not fit the autoencoder.
    """
    last = foundation.autoencoder.config.num_channels[-1]
    # In the proportions of the embedded model (64, 96, 128), with an upper limit.
    widths = (last, min(3 * last // 2, 192), min(2 * last, 256))
    network: dict[str, Any] = {"context_channels": widths} | _image_path(foundation.folder)
    network |= config.network
    first, *_, coarsest = network["context_channels"]
    if first != last or coarsest % 4:
        raise BadConfiguration(
            f"The entry network.context_channels does not fit the model: the first has to be "
            f"{last}, the third a multiple of 4.", "Leave it out to take the usual ones.",
        )
    return network


def _image_path(folder: Path) -> dict[str, Any]:
    """The entries about the image path of a package's own attention, if it has one."""
    path = folder / "aova" / "config.json"
    own = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: own[name] for name in ("image_channels", "tile") if own.get("image_channels")}


def _card_entries(
    config: AttentionConfig, card: Card, corpus: Corpus, classes: Mapping[str, Sequence[str]],
    held_out: Sequence[Window],
) -> dict[str, Any]:
    """Entries of the new package's card about its attention.

    Args:
        card: of the package that it was trained upon.
        classes: of lesions in the training data.
        held_out: the windows of the validation during the training.
    """
    validations = [e["figures"] for e in read_curve(config.runs) if e["kind"] == "validation"]
    last = validations[-1] if validations else {}
    measured = {name: round(value, 3) for name, value in last.items() if math.isfinite(value)}
    synthetic = " Synthetic lesions, too." if classes["synthetic"] else ""
    before = f": {card.trained_on}" if card.trained_on else "."
    networks = "Frozen networks: those"
    if config.start != RANDOM:
        networks = "Frozen networks, and the attention that this one started from: those"
    return {
        "name": config.name or config.output.name,
        "licence": f"Not stated; of the model {card.name}: {card.licence}",
        "trained_on": f"Attention: {config.training.steps} steps on {corpus.describe()}."
                      f"{synthetic} {networks} of the model {card.name}{before}",
        "trained_classes": _trained_classes(classes, card, config.start),
        "left_out": tuple(sorted(corpus.selection.left_out)),
        "scores": {"measure": _measure(held_out)} | measured if measured else {},
    }


def _seen_scans(config: AttentionConfig, corpus: Corpus, card: Card) -> dict[str, list[str]]:
    """The marks of the scans of a training and its calibration, and of those that the attention
    which it started from had seen."""
    marks = {"training": corpus.marks("training"),
             "tuning": corpus.marks("tuning") if config.calibrate else []}
    before = {} if config.start == RANDOM else card.seen_scans
    return {split: sorted({*own, *before.get(split, ())}) for split, own in marks.items()}


def _measure(held_out: Sequence[Window]) -> str:
    """What the scores of the validation during the training are."""
    windows = count_sources("window", [window.source for window in held_out])
    return f"{calibration.BEFORE_CALIBRATION}, in {windows}"


def _trained_classes(
    classes: Mapping[str, Sequence[str]], card: Card, start: str
) -> dict[str, list[str] | None] | None:
    """The classes that a new attention and the networks under it have seen, for its card.

    What the card of the package does not state stays so: where the attention starts from one of
    which nothing is known, nothing is known of the new one.
    """
    seen: Mapping[str, Sequence[str] | None] = {}
    if start != RANDOM:
        if card.trained_classes is None:
            return None
        seen = card.trained_classes
    merged: dict[str, list[str] | None] = {
        kind: sorted({*names, *(seen.get(kind) or ())}) for kind, names in classes.items()}
    return merged | {"frozen": card.frozen_classes}


def _autoencoder(folder: Path) -> tuple[Autoencoder, dict[str, Any]]:
    """The autoencoder and its description, as `train autoencoder` wrote them.

    Raises:
        BadConfiguration: the folder holds no autoencoder.
    """
    try:
        about = json.loads((folder / AUTOENCODER_FILE).read_text(encoding="utf-8"))
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
    network = denoiser_trainer.EMBEDDED_CONFIG | {
        "in_channels": 2 * latent + 1, "out_channels": latent}
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
    """None instead of NaN, which JSON does not have."""
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def refuse_existing(output: Path) -> None:
    """Refuses to overwrite `output`; called before a training begins.

    Raises:
        OutputNotWritten: the folder exists and is not empty.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputNotWritten(f"The folder {output.name} exists already.",
                               "Choose another folder for output, or delete that one.")


def write_trained(
    foundation: Foundation, attention: AnomalyAttention, output: Path,
    changes: Mapping[str, Any], examples: Sequence[CalibrationExample], device: str,
    log: Callable[[str], None],
) -> Card:
    """Writes a copy of the package with the attention, calibrated on `examples`.

    Args:
        changes: of the card: name, trained_on, trained_classes, left_out; scores that were
            measured before the calibration.

    Returns:
        The card that was written.

    Raises:
        OutputNotWritten: `output` exists, or the disk is full.
    """
    refuse_existing(output)
    with atomic_folder(output) as staging:
        ignored = shutil.ignore_patterns("aova", "README.md", ".*")
        shutil.copytree(foundation.folder, staging, ignore=ignored, dirs_exist_ok=True)
        # What was fitted to the old attention, or measured with it, does not hold for the new one.
        uncalibrated = {"calibration": {}, "open_gates": (), "fusion": {}, "threshold": 0.5,
                        "validation": (), "scores": {}, "calibrated_on": calibration.NOTHING}
        add_attention(staging, attention, **uncalibrated | dict(changes))
        if examples:
            calibration.calibrate(staging, examples, device=device, log=log)
        card = Card.read(staging)
        (staging / "README.md").write_text(_model_card(card), encoding="utf-8")
    return card


def _model_card(card: Card) -> str:
    lines = "".join(f"- **{name}**: {text}\n" for name, text in card.statements().items())
    return (f"# Model card: {card.name}\n\n"
            f"**Research use only, not for clinical decisions.**\n\n{lines}")
