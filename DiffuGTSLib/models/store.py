"""Installed model packages: where they are, what each holds, and whether its files are intact.

Needs neither torch nor the networks: listing and checking models has to answer at once.
"""

from __future__ import annotations

import json
import shutil
import uuid
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import (
    AttentionMissing,
    ModelDamaged,
    ModelMissing,
    OutputNotWritten,
    plain_values,
)
from DiffuGTSLib.files import resource, sha256, store_folder
from DiffuGTSLib.models.catalogue import Entry, catalogue, closest_matches

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "model_index.json"
CARD = "card.json"
HEAD = "aova"
REINSTALL = "Install the model again."


def find(name_or_folder: str | Path) -> Path:
    """The folder of a model: a bundled one, an installed one, or a package's own folder.

    A name alone is that of the model which `describe_models` describes, if there is one.

    Raises:
        ModelMissing: there is none; where the catalogue knows it, the hint says how to get it.
    """
    folder = Path(name_or_folder)
    name = str(name_or_folder)
    named = (resource("Models") / name, store_folder() / name) if folder.name == name else ()
    with suppress(OSError, ValueError):  # a name that no folder can have
        for candidate in (*named, folder):
            if (candidate / INDEX).is_file():
                return candidate
    if name in catalogue():
        raise ModelMissing(
            f"The model “{name}” is not installed.",
            f"Install it: diffugts models download {name}, or diffugts models convert for files "
            "that were fetched by hand.",
        )
    hint = "" if folder.parent.name else closest_matches(name, [*catalogue(), *installed()])
    raise ModelMissing(
        f"There is no model called “{folder.name}”.",
        hint or "Use “embedded”, or the folder of a model package (it holds model_index.json).",
    )


def ready_to_segment(name_or_folder: str | Path) -> Path:
    """The folder of a model whose attention has been trained.

    Raises:
        ModelMissing, ModelDamaged: there is no such model, or its card cannot be read.
        AttentionMissing: its attention has not been trained.
    """
    folder = find(name_or_folder)
    if not has_attention(folder):
        name = str(read_card(folder).get("name", folder.name))
        raise AttentionMissing(name, str(name_or_folder))
    return folder


def read_card(folder: Path) -> dict[str, Any]:
    """The entries of a package's card.json.

    Raises:
        ModelDamaged: it cannot be read.
    """
    try:
        entries = plain_values(json.loads((folder / CARD).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelDamaged(
            f"The model package is damaged: {CARD} cannot be read.", REINSTALL
        ) from error
    if not isinstance(entries, dict) or not isinstance(entries.get("files", {}), dict):
        raise ModelDamaged(f"The model package is damaged: {CARD} is no card.", REINSTALL)
    return entries


def verify(folder: Path) -> None:
    """Checks every file of a package against the SHA-256 in its card.

    Raises:
        ModelDamaged: a file is absent or was changed; the message names it.
    """
    for name, expected in read_card(folder).get("files", {}).items():
        path = folder / name
        if not path.is_file():
            raise ModelDamaged(
                f"The model package is damaged: {name} is missing.", REINSTALL
            )
        if sha256(path) != expected:
            raise ModelDamaged(
                f"The model package is damaged: {name} is not the file it should be.", REINSTALL
            )


def has_attention(folder: Path) -> bool:
    """Whether the package holds a trained attention (AOVA head), by its index."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and HEAD in index


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def installed() -> list[str]:
    """Names of the packages in the store, sorted."""
    folder = store_folder()
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir()
                  if not p.name.startswith(".") and (p / INDEX).is_file())


def remove(name: str) -> None:
    """Deletes an installed model.

    Raises:
        ModelMissing: it is not installed, or comes with the program.
        OutputNotWritten: it cannot be deleted.
    """
    if name not in installed():
        known = catalogue().get(name)
        if known is not None and known.bundled:
            raise ModelMissing(f"The model “{name}” comes with the program and stays.", "")
        raise ModelMissing(f"The model “{name}” is not installed.",
                           closest_matches(name, installed()) or "See: diffugts models list")
    folder = store_folder() / name
    # Renamed first, so that nobody loads a package of which half is deleted.
    leaving = folder.with_name(f".leaving-{uuid.uuid4().hex}")
    try:
        folder.replace(leaving)
        shutil.rmtree(leaving)
    except OSError:
        raise OutputNotWritten(f"The model {name} cannot be removed.",
                               "Close the programs that use it.") from None


def check_free(folder: Path) -> None:
    """Raises OutputNotWritten where the folder of a new package exists already."""
    if folder.exists():
        raise OutputNotWritten(
            f"There is a model at {folder.name} already.",
            f"Remove it first: diffugts models remove {folder.name}",
        )


def describe_models() -> dict[str, Any]:
    """The store and every model of the catalogue or the store, as plain values."""
    known = catalogue()
    others = [name for name in installed() if name not in known]
    models = [_describe(name, entry) for name, entry in known.items()]
    return {"folder": str(store_folder().absolute()),
            "models": models + [_describe(name, None) for name in others]}


def _describe(name: str, entry: Entry | None) -> dict[str, Any]:
    bundled = entry is not None and entry.bundled
    expected = (resource("Models") if bundled else store_folder()) / name
    folder = expected if (expected / INDEX).is_file() else None
    card, damage = _card(folder)
    trained = folder is not None and has_attention(folder)
    state = _state(folder, damage, trained)
    return _facts_of(name, entry, card) | {
        "installed": folder is not None,
        "bundled": bundled,
        "folder": str(folder.absolute()) if folder else None,
        "bytes": size(folder) if folder else None,
        "attention": "trained" if trained else "none",
        "ready": state == "ready",
        "state": state,
        "message": damage or _message(name, state),
        "actions": _actions(folder, bundled),
        "scores": card.get("scores", {}),
        "catalogue": entry is not None,
    }


def _card(folder: Path | None) -> tuple[dict[str, Any], str]:
    """The card's entries, and what is wrong with it."""
    if folder is None:
        return {}, ""
    try:
        return read_card(folder), ""
    except ModelDamaged as error:
        return {}, error.message


def _facts_of(name: str, entry: Entry | None, card: dict[str, Any]) -> dict[str, Any]:
    """What the catalogue says of a model; of one that it does not know, what the card says."""
    if entry is None:
        licence = {"name": str(card.get("licence", "")), "url": str(card.get("licence_url", "")),
                   "commercial": None, "summary": ""}
        return {"name": name, "title": str(card.get("name", name)), "purpose": "",
                "modalities": list(card.get("modalities", [])),
                "trained_on": str(card.get("trained_on", "")),
                "spacing_mm": list(card.get("spacing_mm", [])), "licence": licence,
                "expected_bytes": None, "text_encoder": None}
    encoder = entry.text_encoder
    return {
        "name": name, "title": entry.title, "purpose": entry.purpose,
        "modalities": list(entry.modalities), "trained_on": entry.trained_on,
        "spacing_mm": list(entry.spacing_mm), "licence": asdict(entry.licence),
        "expected_bytes": entry.expected_bytes,
        "text_encoder": {"name": encoder.name, "title": encoder.title,
                         "licence": asdict(encoder.licence)},
    }


def _state(folder: Path | None, damage: str, trained: bool) -> str:
    if folder is None:
        return "not-installed"
    if damage:
        return "damaged"
    return "ready" if trained else "needs-training"


def _message(name: str, state: str) -> str:
    return {
        "ready": "Ready to segment.",
        "needs-training": "Installed; its attention has to be trained before it can segment.",
        "not-installed": f"Not installed: diffugts models download {name}",
    }[state]


def _actions(folder: Path | None, bundled: bool) -> list[str]:
    if folder is None:
        return [] if bundled else ["download"]
    return ["verify"] if bundled else ["verify", "remove"]
