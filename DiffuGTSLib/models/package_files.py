"""The files of a model package: what has to be there, and whether it is what it was.

Needs neither torch nor the networks: listing and checking models has to answer at once.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import ModelDamaged

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "model_index.json"
CARD = "card.json"
HEAD = "aova"
REINSTALL = "Install the model again."


def read_card(folder: Path) -> dict[str, Any]:
    """The entries of a package's card.json.

    Raises:
        ModelDamaged: it cannot be read.
    """
    try:
        entries = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelDamaged(
            f"The model package is damaged: {CARD} cannot be read.", REINSTALL
        ) from error
    if not isinstance(entries, dict) or not isinstance(entries.get("files", {}), dict):
        raise ModelDamaged(f"The model package is damaged: {CARD} is no card.", REINSTALL)
    return entries


def verify(folder: Path) -> None:
    """Checks every file of a package against the SHA-256 in its card.

    Raises:
        ModelDamaged: a file is absent or not what it was; the message names it.
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


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
