"""Model packages, folders in diffusers' layout: verified and loaded, or written with a card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from DiffuGTSLib.errors import ModelDamaged
from DiffuGTSLib.files import remove_unfinished, sha256, temporary_path, write_json
from DiffuGTSLib.models.card import FUSIONS, Card, Fusion
from DiffuGTSLib.models.catalogue import EMBEDDED
from DiffuGTSLib.models.store import CARD, HEAD, INDEX, REINSTALL, find, ready_to_segment, verify
from DiffuGTSLib.networks import AnomalyAttention, Autoencoder, Denoiser, TextEncoder, load_schedule
from DiffuGTSLib.networks.device import storage_dtype
from DiffuGTSLib.networks.schedules import Schedule
from DiffuGTSLib.networks.text_encoder import encoder_of

# Until a fusion is fitted: the refined score is the AOVA map.
ATTENTION_ALONE = Fusion(dict.fromkeys(FUSIONS, (0.0, 1.0, 0.0, 0.0)), 0.01, 0.01)


@dataclass(frozen=True)
class Foundation:
    """The frozen part of a model package: networks, schedule, card.

    Attributes:
        text_encoder: the package's own; None where it takes the installed one.
    """

    folder: Path
    card: Card
    autoencoder: Autoencoder
    denoiser: Denoiser
    schedule: Callable[[int, int], Schedule]
    text_encoder: TextEncoder | None

    def texts(self) -> TextEncoder:
        """The attention's text encoder; its `width` is the attention's text_dim.

        Raises:
            ModelMissing, ModelDamaged: of the installed text encoder.
        """
        return self.text_encoder or TextEncoder.from_package()


@dataclass(frozen=True)
class Package(Foundation):
    """A loaded model package: the foundation and the trained attention."""

    attention: AnomalyAttention

    @property
    def networks(self) -> tuple[Autoencoder, Denoiser, AnomalyAttention]:
        """Those that a run moves from device to device."""
        return self.autoencoder, self.denoiser, self.attention

    def place(self, device: str) -> None:
        """Moves the networks to a device, in the type that they are stored in there."""
        for network in self.networks:
            # Not ModelMixin's own `to`: it warns of layers that other models keep in float32.
            torch.nn.Module.to(network, device, storage_dtype(device))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the card, which holds those of all other files: one model, one value."""
        return sha256(self.folder / CARD)


def load_foundation(name_or_folder: str | Path, device: str = "cpu") -> Foundation:
    """Loads what an attention is trained upon: verified, float32, no gradients.

    Raises:
        ModelMissing, ModelDamaged: see `find` and `verify`.
    """
    folder = find(name_or_folder)
    verify(folder)
    card = Card.read(folder)
    denoiser = _load_part(folder, "unet", Denoiser, device)
    classes = denoiser.config.num_class_embeds
    if classes and not all(0 <= label < classes for label in card.class_labels.values()):
        raise ModelDamaged(f"The model package is damaged: {CARD} names a class that the denoiser "
                           "does not have.", REINSTALL)
    return Foundation(
        folder, card, _load_part(folder, "vae", Autoencoder, device), denoiser,
        load_schedule(folder / "scheduler"), encoder_of(folder),
    )


def load(name_or_folder: str | Path = EMBEDDED, device: str = "cpu") -> Package:
    """Loads a package for inference: verified, float32, no gradients.

    Raises:
        ModelMissing, ModelDamaged: see `find` and `verify`.
        AttentionMissing: its attention has not been trained.
    """
    folder = ready_to_segment(name_or_folder)
    foundation = load_foundation(folder, device)
    if not set(foundation.card.modalities) <= set(foundation.card.fusion):
        raise ModelDamaged(f"The model package is damaged: {CARD} holds no fusion for one of its "
                           "modalities.", REINSTALL)
    attention = _load_part(folder, HEAD, AnomalyAttention, device)
    return Package(**foundation.__dict__, attention=attention)


def _load_part(folder: Path, part: str, kind: Any, device: str) -> Any:
    """A network of a package, frozen.

    Raises:
        ModelDamaged: its files are absent or do not fit the network.
    """
    try:
        model, keys = kind.from_pretrained(
            folder / part, torch_dtype=torch.float32, low_cpu_mem_usage=False,
            output_loading_info=True, local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelDamaged(
            f"The model package is damaged: {part} cannot be loaded.", "Install the model again."
        ) from error
    strange = [*keys["missing_keys"], *keys["unexpected_keys"], *keys["mismatched_keys"]]
    if strange:
        raise ModelDamaged(
            f"The model package is damaged: {part} does not fit this version ({strange[0]}).",
            "Install the model again, or the version of DiffuGTS that it was made with.",
        )
    model.requires_grad_(False).eval()
    return model.to(device=device, memory_format=torch.channels_last_3d)


def _forget_origin(config: Path) -> None:
    """Takes the path out of a configuration from which diffusers had loaded the model."""
    entries = json.loads(config.read_text(encoding="utf-8"))
    entries.pop("_name_or_path", None)
    config.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _share(folder: Path) -> None:
    """Gives files the rights that new ones have: safetensors keeps its own from all other users."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def save_part(
    folder: Path, part: str, model: Any, dtype: torch.dtype = torch.float16
) -> None:
    """Writes one network of a package in `dtype`; `model` itself stays as it is."""
    if model.dtype != dtype:
        copy = type(model).from_config(model.config)
        copy.load_state_dict(model.state_dict())
        model = torch.nn.Module.to(copy, dtype)  # diffusers' own warns, for no reason
    model.save_pretrained(folder / part)
    _share(folder / part)
    _forget_origin(folder / part / "config.json")


def write_checksums(folder: Path, card: Card) -> None:
    """Writes the card with the SHA-256 of every file that the package holds now."""
    card.files.clear()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and relative != CARD and path.suffix in (".json", ".safetensors"):
            card.files[relative] = sha256(path)
    card.write(folder)


def save(
    folder: Path, card: Card, autoencoder: Autoencoder, denoiser: Denoiser,
    attention: AnomalyAttention | None, scheduler: Any, dtype: torch.dtype = torch.float16,
) -> None:
    """Writes a package: weights, the scheduler's configuration, index and card.

    A text encoder that lies in `folder` already is the package's own; else
    `text_encoder/config.json` says that it is the installed one.

    Args:
        attention: None where it has not been trained.
    """
    save_part(folder, "vae", autoencoder, dtype)
    save_part(folder, "unet", denoiser, dtype)
    if attention is not None:
        save_part(folder, HEAD, attention, dtype)
    scheduler.save_pretrained(folder / "scheduler")
    reference = {"_name_or_path": "sentence-transformers/all-MiniLM-L6-v2", "dimensions": 384}
    for part in ("text_encoder", "tokenizer"):
        if not (folder / part / "config.json").is_file():
            (folder / part).mkdir(parents=True, exist_ok=True)
            (folder / part / "config.json").write_text(json.dumps(reference, indent=1) + "\n")
    index = {
        "_class_name": "DiffuGTS",
        "vae": ["DiffuGTSLib.networks.autoencoder", "Autoencoder"],
        "unet": ["DiffuGTSLib.networks.denoiser", "Denoiser"],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["tokenizers", "Tokenizer"],
    }
    _write_index(folder, index, attention is not None)
    write_checksums(folder, card)


def add_attention(folder: Path, attention: AnomalyAttention, **changes: Any) -> None:
    """Puts a trained attention into a package, in place of the one that is there, if any.

    Args:
        folder: of the package.
        attention: fits the package's features and text encoder.
        changes: to the card: `fusion`, `calibration`, `threshold`, `scores`, ... Without a
            `fusion` for one of the modalities, the attention alone counts there.

    Raises:
        ModelDamaged: the package's card or index cannot be read.
        ValueError: the attention was made for other features.
    """
    card = replace(Card.read(folder), **changes)
    widths = json.loads((folder / "vae" / "config.json").read_text())["num_channels"]
    if list(attention.config.feature_channels) != list(widths):
        raise ValueError(f"the attention takes features of {attention.config.feature_channels} "
                         f"channels, the autoencoder gives {widths}")
    for modality in card.modalities:
        card.fusion.setdefault(modality, ATTENTION_ALONE)
    remove_unfinished(folder)
    building = temporary_path(folder / HEAD)
    save_part(building, HEAD, attention)
    shutil.rmtree(folder / HEAD, ignore_errors=True)
    (building / HEAD).replace(folder / HEAD)
    building.rmdir()
    _write_index(folder, json.loads((folder / INDEX).read_text(encoding="utf-8")), True)
    write_checksums(folder, card)


def _write_index(folder: Path, index: dict[str, Any], with_attention: bool) -> None:
    if with_attention:
        index = index | {HEAD: ["DiffuGTSLib.networks.attention", "AnomalyAttention"]}
    write_json(folder / INDEX, index)
