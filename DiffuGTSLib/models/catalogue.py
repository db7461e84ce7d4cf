"""The catalogue of models: Resources/Models/catalogue.json, read and checked; no torch needed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from DiffuGTSLib.errors import BadConfiguration, ModelMissing, plain_values
from DiffuGTSLib.files import resource

CATALOGUE_VARIABLE = "DIFFUGTS_CATALOGUE"
HUB = "https://huggingface.co"
EMBEDDED = "embedded"
Triple = tuple[float, float, float]
Part = Literal["autoencoder", "denoiser", "text encoder"]


@dataclass(frozen=True)
class Licence:
    """A licence, its text's address, and what it allows in one sentence."""

    name: str
    url: str
    commercial: bool
    summary: str


@dataclass(frozen=True)
class SourceFile:
    """A file of a repository on the model hub.

    Attributes:
        part: what it holds.
        repository: "owner/name".
        path: in the repository.
        megabytes: as the hub lists it; None where that was not seen.
    """

    part: Part
    repository: str
    path: str
    megabytes: float | None

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.rpartition("/")[2]

    @property
    def page(self) -> str:
        """The repository's page, where a licence may have to be accepted."""
        return f"{HUB}/{self.repository}"

    @property
    def url(self) -> str:
        """Where a browser fetches the file."""
        return f"{self.page}/resolve/main/{self.path}"


@dataclass(frozen=True)
class TextEncoderEntry:
    """A frozen text encoder.

    Attributes:
        files: none where it is installed with the program.
        dimensions: of a text's vector.
        pooling: "mean" of the tokens' vectors, or the "first" token's.
    """

    name: str
    title: str
    repository: str
    files: tuple[SourceFile, ...]
    licence: Licence
    dimensions: int
    parameters: int
    pooling: Literal["mean", "first"]
    lower_case: bool


@dataclass(frozen=True)
class Network:
    """A network's configuration by its name in `convert.NETWORKS`, with changes."""

    configuration: str
    parameters: int
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """What a foundation model was made for.

    Attributes:
        min_spacing, max_spacing: X, Y, Z in mm.
        min_voxels, max_voxels: X, Y, Z; None for no limit.
        multiple: what each axis has to be a multiple of.
    """

    min_spacing: Triple
    max_spacing: Triple
    min_voxels: tuple[int | None, ...]
    max_voxels: tuple[int | None, ...]
    multiple: int


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue.

    Attributes:
        files: what the hub holds of it; none where it is bundled.
        networks: "autoencoder" and "denoiser"; none where it is bundled.
        schedule, steps: "rectified-flow" or "ddim", and how many denoising steps.
        class_labels: as `Card.class_labels`.
        guidance: of classifier-free guidance; 0 for none.
        least_crop: voxels, X, Y, Z; the smallest crop to inpaint, where the scan is larger.
        attention: whether a trained AOVA head exists: "trained" or "none".
    """

    name: str
    title: str
    purpose: str
    bundled: bool
    files: tuple[SourceFile, ...]
    licence: Licence
    modalities: tuple[str, ...]
    spacing_mm: Triple
    limits: Limits
    networks: dict[str, Network]
    schedule: str
    steps: int
    class_labels: dict[str, int]
    guidance: float
    least_crop: tuple[int, int, int]
    text_encoder: TextEncoderEntry
    attention: Literal["trained", "none"]
    trained_on: str

    @property
    def parameters(self) -> int:
        """Of both networks; 0 where the catalogue does not say."""
        return sum(network.parameters for network in self.networks.values())

    @property
    def expected_bytes(self) -> int | None:
        """Of the converted package, computed: 4 bytes a parameter, the text encoder's too."""
        if not self.networks:
            return None
        texts = self.text_encoder.parameters if self.text_encoder.files else 0
        return 4 * (self.parameters + texts)


def catalogue() -> dict[str, Entry]:
    """All models by name; DIFFUGTS_CATALOGUE names another file than the program's own.

    Raises:
        BadConfiguration: that file cannot be read or does not fit catalogue.schema.json; the
            schema itself is checked only where jsonschema is installed.
    """
    named = os.environ.get(CATALOGUE_VARIABLE)
    path = Path(named) if named else _own_file()
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


def entry(name: str) -> Entry:
    """The model of that name.

    Raises:
        ModelMissing: it is not in the catalogue.
    """
    models = catalogue()
    if name not in models:
        raise ModelMissing(
            f"There is no model called “{name}” in the catalogue.",
            closest_matches(name, list(models)) or f"There are: {', '.join(models)}.",
        )
    return models[name]


def closest_matches(name: str, known: Sequence[str]) -> str:
    """A hint with the known names closest to a mistyped one; "" where none is close."""
    close = get_close_matches(name.lower(), dict.fromkeys(known), 4, 0.5)
    if not close:
        return ""
    others = f"{', '.join(close[:-1])} or " if close[1:] else ""
    return f"Did you mean {others}{close[-1]}?"


@lru_cache(maxsize=4)
def _read(path: Path, modified_ns: int) -> dict[str, Entry]:
    """With `modified_ns` as a key of the cache, a changed file is read again."""
    try:
        document = plain_values(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise BadConfiguration(f"The catalogue {path.name} cannot be read.",
                               f"Check what {CATALOGUE_VARIABLE} names.") from error
    # The program's own file is checked by the tests: Slicer's process has no jsonschema.
    problem = "" if path == _own_file() else _schema_error(document)
    try:
        if problem:
            raise ValueError(problem)
        licences = {item["name"]: Licence(**item) for item in document["licences"]}
        encoders = {item["name"]: _text_encoder(item, licences)
                    for item in document["text_encoders"]}
        return {item["name"]: _entry(item, licences, encoders) for item in document["models"]}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"{error} is not defined" if isinstance(error, KeyError) else str(error)
        raise BadConfiguration(f"The catalogue {path.name} is wrong: {what[:160]}.",
                               "Compare it with catalogue.schema.json.") from error


def _own_file() -> Path:
    return resource("Models") / "catalogue.json"


def _schema_error(document: object) -> str:
    """What of a catalogue violates the schema; "" for nothing, and where jsonschema is absent."""
    try:
        import jsonschema
    except ImportError:
        return ""
    schema = json.loads((resource("Models") / "catalogue.schema.json").read_text("utf-8"))
    try:
        jsonschema.validate(document, schema)
    except jsonschema.ValidationError as error:
        return str(error.message)
    return ""


def _text_encoder(item: dict[str, Any], licences: dict[str, Licence]) -> TextEncoderEntry:
    files = tuple(
        SourceFile("text encoder", item["repository"], f["path"], f["megabytes"])
        for f in item["files"]
    )
    return TextEncoderEntry(**(item | {"files": files, "licence": licences[item["licence"]]}))


def _entry(
    item: dict[str, Any], licences: dict[str, Licence], encoders: dict[str, TextEncoderEntry]
) -> Entry:
    spacing, voxels = item["limits"]["spacing_mm"], item["limits"]["voxels"]
    schedule = item.get("schedule", {"kind": "", "steps": 0})
    crop = item.get("least_crop", [0, 0, 0])
    return Entry(
        name=item["name"], title=item["title"], purpose=item["purpose"], bundled=item["bundled"],
        files=tuple(SourceFile(**file) for file in item["files"]),
        licence=licences[item["licence"]], modalities=tuple(item["modalities"]),
        spacing_mm=_triple(item["spacing_mm"]),
        limits=Limits(_triple(spacing[0]), _triple(spacing[1]), tuple(voxels[0]),
                      tuple(voxels[1]), item["limits"]["multiple"]),
        networks={part: Network(**network) for part, network in item.get("networks", {}).items()},
        schedule=schedule["kind"], steps=schedule["steps"],
        class_labels=item.get("class_labels", {}), guidance=item.get("guidance", 0),
        least_crop=(crop[0], crop[1], crop[2]),
        text_encoder=encoders[item["text_encoder"]], attention=item["attention"],
        trained_on=item["trained_on"],
    )


def _triple(values: list[float]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
