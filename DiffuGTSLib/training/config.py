"""Configuration files of `diffugts train`: TOML or JSON, checked against a schema."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import relevance

from DiffuGTSLib.datasets.check import shortened
from DiffuGTSLib.errors import BadConfiguration, TrainingImpossible
from DiffuGTSLib.files import resource, sha256, write_json
from DiffuGTSLib.models.store import INDEX
from DiffuGTSLib.training.loop import CHECKPOINT, SINGLE_PROCESS, LoopConfig, Ranks

SCHEMA = "Training/training.schema.json"
SETTINGS = "settings.json"
BEGUN_WITH = "begun_with.json"  # of the model and the scans that a training began with
NEW_RUN = "Choose another folder for runs, or delete that one to start again."
# Settings that a resumed training may change, as they do not affect the curve.
CHANGEABLE = frozenset(("output", "name", "licence", "workers", "calibrate", "steps", "samples",
                  "training.device", "training.tensorboard"))

RANDOM = "random"  # weights that an attention starts from; else "package", those of the model's own


@dataclass(frozen=True)
class Data:
    """A folder of scans and its share of the training windows."""

    folder: Path
    share: float = 1.0


@dataclass(frozen=True)
class Training:
    """Length and speed of a training; see LoopConfig."""

    steps: int
    learning_rate: float
    warmup: int
    clip: float
    save_every: int
    weight_decay: float = 1e-4
    average: float = 0.999
    log_every: int = 50
    seed: int = 0
    device: str = "auto"
    precision: str = "bf16"
    tensorboard: bool = False

    def loop(
        self, folder: Path, ranks: Ranks = SINGLE_PROCESS, device: str = "cpu",
        log: Callable[[str], None] | None = None,
    ) -> LoopConfig:
        """The settings of the loop, with what is known only at its start."""
        entries = asdict(self)
        bfloat16 = entries.pop("precision") == "bf16"
        return LoopConfig(**entries | {"folder": folder, "device": device, "ranks": ranks,
                                       "bfloat16": bfloat16, "log": log})


# Of the embedded model.
AUTOENCODER = Training(2000, 4e-4, warmup=100, clip=0.3, save_every=400)
DENOISER = Training(5000, 6e-4, warmup=200, clip=1.0, save_every=500)
ATTENTION = Training(22_000, 8e-4, warmup=150, clip=1.0, save_every=500, average=0.998)
DEFAULTS = {"attention": ATTENTION, "autoencoder": AUTOENCODER, "denoiser": DENOISER}


@dataclass(frozen=True)
class AttentionConfig:
    """`diffugts train attention`; each entry is described in the schema."""

    model: str
    output: Path
    runs: Path
    data: tuple[Data, ...]
    name: str = ""
    start: str = RANDOM
    training: Training = ATTENTION
    left_out: tuple[str, ...] = ()
    synthetic: bool = True
    held_out: float = 0.1
    largest_window: int = 64
    workers: int = 0
    calibrate: int = 4
    network: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AutoencoderConfig:
    """`diffugts train autoencoder`; each entry is described in the schema."""

    output: Path
    runs: Path
    data: tuple[Data, ...]
    training: Training = AUTOENCODER
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    modalities: tuple[str, ...] = ("CT", "MR")
    held_out: float = 0.1
    network: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DenoiserConfig:
    """`diffugts train denoiser`; each entry is described in the schema."""

    autoencoder: Path
    output: Path
    runs: Path
    data: tuple[Data, ...]
    name: str = ""
    licence: str = "not stated"
    training: Training = DENOISER
    left_out: tuple[str, ...] = ()
    held_out: float = 0.1
    copies: int = 5
    steps: int = 12
    samples: int = 2
    network: dict[str, Any] = field(default_factory=dict)


Config = TypeVar("Config", AttentionConfig, AutoencoderConfig, DenoiserConfig)
PARTS: Mapping[str, type] = {
    "attention": AttentionConfig, "autoencoder": AutoencoderConfig, "denoiser": DenoiserConfig,
}


def read_config(
    path: Path, kind: type[Config], overrides: Mapping[str, Any] | None = None
) -> Config:
    """The configuration in a .toml or .json file; folders in it are relative to the file.

    Args:
        overrides: entries that replace those of the file.

    Raises:
        BadConfiguration: it cannot be read, or an entry, which is named, is unknown, missing or
            wrong.
    """
    part = next(name for name, of in PARTS.items() if of is kind)
    entries = _document(path) | dict(overrides or {})
    _check(entries, part, path.name)
    base = path.absolute().parent
    for name in ("output", "runs", "autoencoder"):
        if name in entries:
            entries[name] = base / entries[name]
    # A folder without an index may hold the files that the model of this name was converted from.
    beside = base / entries.get("model", "")
    if "model" in entries and "model" not in (overrides or {}) and (beside / INDEX).is_file():
        entries["model"] = str(beside)
    entries["data"] = tuple(
        Data(base / d["folder"], float(d.get("share", 1.0))) for d in entries["data"]
    )
    for name in ("left_out", "spacing_mm", "modalities"):
        if name in entries:
            entries[name] = tuple(entries[name])
    entries["training"] = _training(DEFAULTS[part], entries.get("training", {}))
    return kind(**entries)


def record_settings(folder: Path, config: Config) -> None:
    """Writes the settings into the folder of a run; a resumed run needs the same ones.

    Raises:
        TrainingImpossible: the folder holds a training with other settings; one is named.
    """
    flat = dict(_flat(asdict(config)))
    now: dict[str, Any] = json.loads(json.dumps(flat, default=str))
    path = folder / SETTINGS
    if path.exists() and (folder / CHECKPOINT).exists():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted({*now, *before}):
            if name not in CHANGEABLE and now.get(name) != before.get(name):
                raise TrainingImpossible(
                    f"The folder {folder.name} holds a training with another {name}: "
                    f"{before.get(name)} instead of {now.get(name)}.",
                    NEW_RUN,
                )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def record_origin(folder: Path, origin: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes what a training begins with into its folder; a resumed training needs the same.

    Of a training from before there was this record, nothing is known that could differ.

    Args:
        origin: fingerprints by name ("autoencoder", a scan, ...), by kind ("model", ...).

    Raises:
        TrainingImpossible: the folder holds a training that began with something else, which is
            named.
    """
    path = folder / BEGUN_WITH
    now: dict[str, dict[str, Any]] = json.loads(json.dumps(origin))
    before: dict[str, dict[str, Any]] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})
    differences = [f"{kind}: {_difference(before[kind], now[kind])}" for kind in now
                   if before.get(kind, now[kind]) != now[kind]]
    if differences and (folder / CHECKPOINT).exists():
        raise TrainingImpossible(
            f"The folder {folder.name} holds a training that began with something else "
            f"({'; '.join(differences)}).", NEW_RUN)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, before | now)


def fingerprint(*folders: Path) -> str:
    """SHA-256 of all weights and configurations in these folders, of a package for instance."""
    files = sorted(path for folder in folders for path in folder.rglob("*")
                   if path.suffix in (".json", ".safetensors"))
    states = [(path.name, sha256(path)) for path in files]
    return hashlib.sha256(repr(states).encode()).hexdigest()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The names whose fingerprints differ: "liver_0 missing, brain_0 and brain_1 changed"."""
    groups = {"missing": [name for name in before if name not in now],
              "new": [name for name in now if name not in before],
              "changed": [name for name in now if name in before and before[name] != now[name]]}
    return ", ".join(f"{shortened(names)} {how}" for how, names in groups.items() if names)


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadConfiguration(f"The configuration {path.name} cannot be read.",
                               "Give a .toml or .json file; Resources/Training has examples.",
                               ) from None
    try:
        entries = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise BadConfiguration(f"The configuration {path.name} is no {kind}: {error}.") from None
    if not isinstance(entries, dict):
        raise BadConfiguration(f"The configuration {path.name} holds no entries.")
    entries.pop("$schema", None)
    return entries


def _check(entries: Mapping[str, Any], part: str, name: str) -> None:
    schema = json.loads(resource(SCHEMA).read_text(encoding="utf-8"))
    validator = Draft202012Validator({"$ref": f"#/$defs/{part}", "$defs": schema["$defs"]})
    found = sorted(validator.iter_errors(entries), key=relevance, reverse=True)
    for key, value in _flat(entries):
        if isinstance(value, float) and not math.isfinite(value):
            raise BadConfiguration(f"{name}: {key} is {value}, which is no usable number.")
    if found:
        raise _explained(found[0], name)


def _explained(error: ValidationError, name: str) -> BadConfiguration:
    """A message that names the entry that is unknown, missing or wrong."""
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)[1:]
    table = f" in {key}" if key else ""
    if error.validator == "additionalProperties":
        known = sorted(error.schema["properties"])
        unknown = sorted(set(error.instance) - set(known))[0]
        closest = get_close_matches(unknown, known, 1)
        hint = f"Did you mean “{closest[0]}”?" if closest else f"Known are: {', '.join(known)}."
        return BadConfiguration(f"{name}: the entry “{unknown}”{table} is not known.", hint)
    if error.validator == "required":
        missing = sorted(set(error.validator_value) - set(error.instance))[0]
        return BadConfiguration(f"{name}: the entry “{missing}”{table} is missing.",
                                error.schema["properties"][missing].get("description", ""))
    meaning = error.schema.get("description", "")
    if error.validator == "type" and error.validator_value == "array":
        meaning = f"Write a list: [{json.dumps(error.instance, ensure_ascii=False)}]."
    return BadConfiguration(f"{name}: {key} is wrong: {error.message}.", meaning)


def _flat(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its key, as "training.steps"."""
    for name, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            for number, item in enumerate(value):
                yield from _flat(item, f"{prefix}{name}[{number}].")
        else:
            yield f"{prefix}{name}", value


def _training(default: Training, overrides: Mapping[str, Any]) -> Training:
    entries = asdict(default) | dict(overrides)
    for name in ("steps", "warmup", "save_every", "log_every", "seed"):
        entries[name] = int(entries[name])  # the schema takes 1e3 for an integer, range() does not
    return Training(**entries)
