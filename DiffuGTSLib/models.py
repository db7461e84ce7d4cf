"""Model packages: folders in diffusers' layout, checked file by file and loaded whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from DiffuGTSLib.attention import AnomalyAttention
from DiffuGTSLib.errors import ModelDamaged, ModelMissing
from DiffuGTSLib.foundation.autoencoder import Autoencoder
from DiffuGTSLib.foundation.denoiser import Denoiser
from DiffuGTSLib.foundation.schedules import Schedule, load_schedule
from DiffuGTSLib.residual import Fusion
from DiffuGTSLib.resources import resource

EMBEDDED = "embedded"
PARTS = {"vae": Autoencoder, "unet": Denoiser, "aova": AnomalyAttention}
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "model_index.json"
CARD = "card.json"


@dataclass(frozen=True)
class Card:
    """What a package states of itself (card.json).

    Attributes:
        name, licence: for people.
        modalities: of "CT", "MR".
        spacing_mm: of the canonical grid, (X, Y, Z).
        scale_factor: the denoiser's latents are the autoencoder's times this.
        class_labels: modality to the denoiser's class.
        threshold: of the refined score.
        steps, samples, resamplings: of the inpainting, unless told otherwise.
        calibration: what is added to the logit of the gated AOVA map so that 0.5 is the best
            threshold, by anatomy and modality ("lung/CT"); 0 where it is not listed.
        fusion: by modality.
        files: SHA-256 of every file but this one, by its path in the package.
        trained_on, scores: for people.
    """

    name: str
    licence: str
    modalities: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    scale_factor: float
    class_labels: dict[str, int]
    threshold: float
    steps: int
    samples: int
    resamplings: int
    fusion: dict[str, Fusion]
    calibration: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    trained_on: str = ""
    scores: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a package.

        Raises:
            ModelDamaged: it is no card.
        """
        try:
            entries = json.loads((folder / CARD).read_text(encoding="utf-8"))
            fusion = {
                modality: Fusion(
                    {k: tuple(w) for k, w in f["weights"].items()},
                    f["pixel_floor"], f["feature_floor"],
                )
                for modality, f in entries.pop("fusion").items()
            }
            entries["spacing_mm"] = tuple(entries["spacing_mm"])
            entries["modalities"] = tuple(entries["modalities"])
            return cls(fusion=fusion, **entries)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelDamaged(
                f"The model package is damaged: {CARD} cannot be read.", "Install the model again."
            ) from error

    def write(self, folder: Path) -> None:
        """Writes the card into `folder`."""
        entries = {k: v for k, v in self.__dict__.items() if k != "fusion"}
        entries["fusion"] = {m: f.__dict__ for m, f in self.fusion.items()}
        (folder / CARD).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Package:
    """A loaded model package: frozen networks, the schedule and the card."""

    folder: Path
    card: Card
    autoencoder: Autoencoder
    denoiser: Denoiser
    attention: AnomalyAttention
    schedule: Callable[[int, int], Schedule]


def find(name_or_folder: str | Path) -> Path:
    """The folder of a model: a catalogue name, or a folder that holds a package.

    Raises:
        ModelMissing: there is none.
    """
    bundled = resource("Models") / str(name_or_folder)
    folder = Path(name_or_folder)
    for place in (folder, bundled):
        if (place / INDEX).is_file():
            return place
    raise ModelMissing(
        f"There is no model called “{folder.name}”.",
        "Use “embedded”, or the folder of a model package (it holds model_index.json).",
    )


def verify(folder: Path) -> None:
    """Checks every file of a package against the SHA-256 in its card.

    Raises:
        ModelDamaged: a file is absent or not what it was; the message names it.
    """
    for name, expected in Card.read(folder).files.items():
        path = folder / name
        if not path.is_file():
            raise ModelDamaged(
                f"The model package is damaged: {name} is missing.", "Install the model again."
            )
        if sha256(path) != expected:
            raise ModelDamaged(
                f"The model package is damaged: {name} is not the file it should be.",
                "Install the model again.",
            )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load(name_or_folder: str | Path = EMBEDDED, device: str = "cpu") -> Package:
    """Loads a package for inference: verified, float32, no gradients.

    Raises:
        ModelMissing, ModelDamaged: see `find` and `verify`.
    """
    folder = find(name_or_folder)
    verify(folder)
    parts = {}
    for part, kind in PARTS.items():
        try:
            model, keys = kind.from_pretrained(
                folder / part, torch_dtype=torch.float32, low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelDamaged(
                f"The model package is damaged: {part} cannot be loaded.",
                "Install the model again.",
            ) from error
        strange = [*keys["missing_keys"], *keys["unexpected_keys"], *keys["mismatched_keys"]]
        if strange:
            raise ModelDamaged(
                f"The model package is damaged: {part} does not fit this version ({strange[0]}).",
                "Install the model again, or the version of DiffuGTS that it was made with.",
            )
        model.requires_grad_(False).eval()
        parts[part] = model.to(device=device, memory_format=torch.channels_last_3d)
    return Package(folder, Card.read(folder), parts["vae"], parts["unet"], parts["aova"],
                   load_schedule(folder / "scheduler"))


def _forget_origin(config: Path) -> None:
    """Takes the path out of a configuration from which diffusers had loaded the model."""
    entries = json.loads(config.read_text(encoding="utf-8"))
    entries.pop("_name_or_path", None)
    config.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def save(
    folder: Path, card: Card, autoencoder: Autoencoder, denoiser: Denoiser,
    attention: AnomalyAttention, scheduler: Any,
) -> None:
    """Writes a package: float16 weights, the scheduler's configuration, index and card.

    The text encoder is not copied: `text_encoder/config.json` says which one it is.
    """
    models: dict[str, Any] = {"vae": autoencoder, "unet": denoiser, "aova": attention}
    for part, model in models.items():
        half = type(model).from_config(model.config)
        half.load_state_dict(model.state_dict())
        half.half().save_pretrained(folder / part)
        _forget_origin(folder / part / "config.json")
    scheduler.save_pretrained(folder / "scheduler")
    reference = {"_name_or_path": "sentence-transformers/all-MiniLM-L6-v2", "dimensions": 384}
    for part in ("text_encoder", "tokenizer"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(reference, indent=1) + "\n")
    index = {
        "_class_name": "DiffuGTS",
        "vae": ["DiffuGTSLib.foundation.autoencoder", "Autoencoder"],
        "unet": ["DiffuGTSLib.foundation.denoiser", "Denoiser"],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "text_encoder": ["transformers", "BertModel"],
        "tokenizer": ["tokenizers", "Tokenizer"],
        "aova": ["DiffuGTSLib.attention", "AnomalyAttention"],
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_file() and relative != CARD and path.suffix in (".json", ".safetensors"):
            card.files[relative] = sha256(path)
    card.write(folder)
