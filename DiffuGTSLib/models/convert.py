"""Conversion of MAISI's published weights into a model package.

Checkpoints are read as weights and plain values only (weights_only=True): nothing in them is
executed. They are compared key by key with the network that the catalogue names, whose sizes are
here as data (METHOD.md 1): `Denoiser(**MAISI_RFLOW)` is the network.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import BertWordPieceTokenizer
from torch import nn
from torch.serialization import safe_globals
from transformers import BertConfig, BertModel

from DiffuGTSLib.errors import ModelDamaged
from DiffuGTSLib.files import sha256
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.catalogue import Entry, TextEncoderEntry
from DiffuGTSLib.models.package import save
from DiffuGTSLib.networks import Autoencoder, Denoiser
from DiffuGTSLib.networks.denoiser_blocks import Attention
from DiffuGTSLib.networks.schedules import (
    DDIM_SCHEDULER,
    RECTIFIED_FLOW_SCHEDULER,
    TRAINING_STEPS,
)
from DiffuGTSLib.networks.text_encoder import UNUSED_WEIGHTS

STATE = "unet_state_dict"  # under this name also in a file of the autoencoder
FETCH_AGAIN = "Fetch the file again; if that does not help, its layout is not the known one."
Notify = Callable[[str], None]
MAISI_AUTOENCODER: Final[dict[str, Any]] = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": (64, 128, 256),
    "num_res_blocks": (2, 2, 2),
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "use_convtranspose": False,
}
"""autoencoder_v1 and _v2, 20.9 M parameters."""
_MAISI_DENOISER: Final[dict[str, Any]] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_channels": (64, 128, 256, 512),
    "attention_levels": (False, False, True, True),
    "num_head_channels": 32,
    "num_res_blocks": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "include_spacing_input": True,
}
MAISI_RFLOW: Final[dict[str, Any]] = _MAISI_DENOISER | {
    "num_class_embeds": 128,
    "include_fc": True,
    "resblock_updown": True,
    "include_top_region_index_input": False,
    "include_bottom_region_index_input": False,
}
"""rflow-ct, rflow-mr, rflow-mr-brain, 180 M parameters."""
MAISI_DDPM: Final[dict[str, Any]] = _MAISI_DENOISER | {
    "num_class_embeds": None,
    "include_fc": False,
    "resblock_updown": False,
    "include_top_region_index_input": True,
    "include_bottom_region_index_input": True,
}
"""ddpm-ct, 169 M parameters."""
NETWORKS: Final[dict[str, dict[str, Any]]] = {
    "maisi": MAISI_AUTOENCODER,
    "maisi-rflow": MAISI_RFLOW,
    "maisi-ddpm": MAISI_DDPM,
}
"""By the names that the catalogue uses."""


def convert(
    entry: Entry, autoencoder_file: Path, denoiser_file: Path, text_folder: Path | None,
    folder: Path, notify: Notify,
) -> None:
    """Writes the model package of a catalogue entry, without an attention, into `folder`.

    Args:
        autoencoder_file, denoiser_file: the published checkpoints, .pt.
        text_folder: holds the files of the entry's text encoder; None takes the installed one.
        folder: there, and empty.
        notify: called with each step, in words.

    Raises:
        ModelDamaged: a file is no checkpoint, or a key is missing, unexpected or misshapen; the
            message names it.
    """
    networks = {part: NETWORKS[n.configuration] | n.changes for part, n in entry.networks.items()}
    notify(f"reading {autoencoder_file.name}")
    autoencoder = Autoencoder(**networks["autoencoder"])
    fill(autoencoder, bare_state(read_checkpoint(autoencoder_file)), autoencoder_file.name)
    notify(f"reading {denoiser_file.name}")
    denoiser = Denoiser(**networks["denoiser"])
    checkpoint = read_checkpoint(denoiser_file)
    fill(denoiser, denoiser_state(checkpoint, denoiser_file.name), denoiser_file.name,
         unused=unused_projections(denoiser))
    scale = scale_factor(checkpoint, denoiser_file.name)
    del checkpoint
    if text_folder is not None:
        notify(f"reading the text encoder {entry.text_encoder.title}")
        convert_text_encoder(entry.text_encoder, text_folder, folder)
    notify("writing the model package")
    sources = tuple(
        {"repository": source.repository, "file": source.path, "sha256": sha256(path)}
        for source, path in zip(
            sorted(entry.files, key=lambda f: f.part), (autoencoder_file, denoiser_file),
            strict=True,
        )
    )
    card = _card(entry, scale, sources)
    save(folder, card, autoencoder, denoiser, None, _scheduler(entry), torch.float32)


def bare_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The autoencoder's weights: bare, or wrapped under `unet_state_dict`."""
    inner = checkpoint.get(STATE)
    return inner if isinstance(inner, dict) else checkpoint


def denoiser_state(checkpoint: dict[str, Any], name: str) -> dict[str, Any]:
    """The denoiser's weights.

    Raises:
        ModelDamaged: they are not there, or were trained with other than 1000 noise levels.
    """
    inner = checkpoint.get(STATE)
    if not isinstance(inner, dict):
        raise ModelDamaged(f"{name} has no entry {STATE}, so it holds no denoiser.",
                           "Is it the right file? The autoencoder's is another one.")
    steps = checkpoint.get("num_train_timesteps", TRAINING_STEPS)
    if int(steps) != TRAINING_STEPS:
        raise ModelDamaged(f"{name} was trained with {int(steps)} noise levels, not 1000.",
                           FETCH_AGAIN)
    return inner


def scale_factor(checkpoint: dict[str, Any], name: str) -> float:
    """What the latents are multiplied by, from the denoiser's file; never assumed.

    Raises:
        ModelDamaged: it is absent, or no positive number.
    """
    value = checkpoint.get("scale_factor")
    if value is None:
        raise ModelDamaged(f"{name} has no entry scale_factor.", FETCH_AGAIN)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, float | int) or not 0 < value < float("inf"):
        raise ModelDamaged(f"The scale_factor in {name} is no positive number.", FETCH_AGAIN)
    return float(value)


def unused_projections(denoiser: Denoiser) -> frozenset[str]:
    """Keys that a DDPM checkpoint carries though its network has no such layers.

    With `include_fc` they belong to the network; to switch that on instead would change its output.
    """
    if denoiser.config.include_fc:
        return frozenset()
    names = [name for name, module in denoiser.named_modules() if isinstance(module, Attention)]
    return frozenset(f"{name}.out_proj.{kind}" for name in names for kind in ("weight", "bias"))


def fill(
    network: nn.Module, state: Mapping[str, Any], name: str,
    unused: frozenset[str] = frozenset(),
) -> None:
    """Copies the weights of a file into a network, or says which key does not fit.

    Args:
        unused: keys that the file may have and the network has not.

    Raises:
        ModelDamaged: a key is missing, unexpected or misshapen.
    """
    own = network.state_dict()
    for key, value in state.items():
        if key in unused:
            continue
        if key not in own:
            raise ModelDamaged(f"{name} has an unexpected key: {key}.", FETCH_AGAIN)
        if not isinstance(value, torch.Tensor) or value.shape != own[key].shape:
            there = list(getattr(value, "shape", ()))
            raise ModelDamaged(
                f"{name} has a misshapen key: {key} is {there}, {list(own[key].shape)} is needed.",
                FETCH_AGAIN,
            )
        if not torch.isfinite(value).all():
            raise ModelDamaged(f"{name} has a key with values that are no numbers: {key}.",
                               "Fetch the file again.")
    missing = [key for key in own if key not in state]
    if missing:
        raise ModelDamaged(f"{name} lacks the key {missing[0]}.", FETCH_AGAIN)
    network.load_state_dict({key: state[key] for key in own})


def convert_text_encoder(entry: TextEncoderEntry, source: Path, package: Path) -> None:
    """Writes a BERT text encoder into a package: text_encoder/ and tokenizer/.

    Args:
        source: holds config.json, vocab.txt and model.safetensors (or pytorch_model.bin).

    Raises:
        ModelDamaged: a file is absent, or does not fit.
    """
    config = _bert_config(entry, source)
    model = BertModel(config, add_pooling_layer=False)
    name, state = _bert_state(source)
    fill(model, state, name, unused=frozenset(UNUSED_WEIGHTS))
    vocabulary = source / "vocab.txt"
    if not vocabulary.is_file():
        raise ModelDamaged("The text encoder's file vocab.txt is not there.", FETCH_AGAIN)
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=entry.lower_case)
    if tokenizer.get_vocab_size() != config.vocab_size:
        raise ModelDamaged(
            f"vocab.txt has {tokenizer.get_vocab_size()} words, the text encoder knows "
            f"{config.vocab_size}.", FETCH_AGAIN,
        )
    for part in ("text_encoder", "tokenizer"):
        (package / part).mkdir(parents=True, exist_ok=True)
    weights = {key: value.float().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, package / "text_encoder" / "model.safetensors", {"format": "pt"})
    stated = {"_name_or_path": entry.repository, "dimensions": entry.dimensions}
    described = config.to_diff_dict() | stated | {"pooling": entry.pooling}
    _write(package / "text_encoder" / "config.json", described)
    tokenizer.save(str(package / "tokenizer" / "tokenizer.json"))
    _write(package / "tokenizer" / "config.json", stated)


def _bert_config(entry: TextEncoderEntry, source: Path) -> BertConfig:
    try:
        config = BertConfig.from_json_file(source / "config.json")
    except (OSError, ValueError) as error:
        raise ModelDamaged("The text encoder's config.json cannot be read.", FETCH_AGAIN) from error
    if config.hidden_size != entry.dimensions:
        raise ModelDamaged(
            f"The text encoder gives vectors of length {config.hidden_size}; {entry.title} gives "
            f"{entry.dimensions}.", "Pass the folder of the text encoder that the model names.",
        )
    return config


def _bert_state(source: Path) -> tuple[str, dict[str, Any]]:
    """The file's name and its weights; files of a model with a head name them `bert.*`."""
    path = source / "model.safetensors"
    if path.is_file():
        try:
            state: dict[str, Any] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelDamaged(f"{path.name} is damaged.", "Fetch the file again.") from error
    else:
        path = source / "pytorch_model.bin"
        state = read_checkpoint(path)
    if all(key.startswith("bert.") for key in state):
        state = {re.sub(r"^bert\.", "", key): value for key, value in state.items()}
    return path.name, state


def _scheduler(entry: Entry) -> FlowMatchEulerDiscreteScheduler | DDIMScheduler:
    if entry.schedule == "ddim":
        return DDIMScheduler(**DDIM_SCHEDULER)
    return FlowMatchEulerDiscreteScheduler(**RECTIFIED_FLOW_SCHEDULER)


def _card(entry: Entry, scale: float, sources: tuple[dict[str, str], ...]) -> Card:
    return Card(
        name=entry.name, licence=entry.licence.name, licence_url=entry.licence.url,
        modalities=entry.modalities, spacing_mm=entry.spacing_mm, scale_factor=scale,
        class_labels=entry.class_labels, threshold=0.5, steps=entry.steps, samples=1,
        resamplings=1, fusion={}, trained_on=entry.trained_on, sources=sources,
        guidance=entry.guidance, least_crop=entry.least_crop,
    )


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


class _PlainTensor(torch.Tensor):
    """Stands in for MONAI's MetaTensor: its values, without the meaning of its meta data."""


class _Ignored:
    """Stands in for an object that is not needed; ignores whatever is done to it."""

    def __new__(cls, *_: Any) -> _Ignored:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __hash__(self) -> int:
        return 0


# MAISI's trainer computes the scale factor from a MetaTensor, which drags these names along.
_STAND_INS: dict[str, type] = {"monai.data.meta_tensor.MetaTensor": _PlainTensor} | {
    f"{module}.{name}": type(name, (_Ignored,), {})
    for module, names in {
        "monai.utils.enums": ("MetaKeys", "SpaceKeys", "TraceKeys"),
        "numpy": ("dtype", "ndarray"),
        "numpy.core.multiarray": ("scalar", "_reconstruct"),
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
    }.items()
    for name in names
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What torch.save wrote, read with weights_only=True.

    Raises:
        ModelDamaged: the file is absent, truncated, no checkpoint, or holds other objects.
    """
    try:
        with safe_globals([(stand_in, name) for name, stand_in in _STAND_INS.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelDamaged(
            f"{path.name} holds more than weights, or is no checkpoint; it was not read.",
            "Fetch it again from where its publisher keeps it.",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ModelDamaged(
            f"{path.name} is damaged or no checkpoint of torch.", "Fetch the file again."
        ) from error
    if not isinstance(content, dict):
        raise ModelDamaged(f"{path.name} holds no weights by name.", "Is it the right file?")
    return content
