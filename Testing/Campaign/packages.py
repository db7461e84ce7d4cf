"""Damaged model packages: refused in a sentence, or loaded because nothing that counts changed."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tally import Tally

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.pipeline import Segmenter

ODD: tuple[Any, ...] = (None, True, -1, 1e308, "", "a", [], {}, [1], float("nan"))
TRIES_OF_JSON = 12  # of each file


def damages(model: Path, seed: int) -> Iterator[tuple[str, Path, bytes | None]]:
    """What is done, to which file, and its new content; None removes it."""
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        content, name = path.read_bytes(), path.relative_to(model)
        yield f"{name} removed", path, None
        yield f"{name} emptied", path, b""
        yield f"{name} cut", path, content[: len(content) // 2]
        yield f"{name} of noise", path, random.Random(seed).randbytes(len(content))
        if path.suffix == ".json":
            document = json.loads(content)
            if not isinstance(document, dict) or not document:
                continue
            for number in range(TRIES_OF_JSON):
                chance = random.Random(f"{seed} {name} {number}")
                key, value = chance.choice(sorted(document)), chance.choice(ODD)
                changed = json.dumps(document | {key: value}).encode()
                yield f"{name}: {key} = {value!r}", path, changed


def campaign(folder: Path, model: Path, seed: int = 1) -> Tally:
    """Loads each damaged copy."""
    tally = Tally("damaged model packages")
    copy = folder / "model"
    shutil.copytree(model, copy)
    Segmenter.from_pretrained(copy, "cpu")  # whole, it loads
    for what, path, content in damages(copy, seed):
        before = path.read_bytes()
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        try:
            Segmenter.from_pretrained(copy, "cpu")
        except DiffuGTSError as error:
            tally.check(bool(error.message) and error.code != "internal", f"{what}: {error.code}")
        except BaseException as error:
            tally.check(False, f"{what}: {error!r}"[:300])
        else:
            # Only what the card does not vouch for may change unseen: the card and the readme.
            tally.check(path.name in ("card.json", "README.md"), f"{what}: loaded all the same")
        path.write_bytes(before)
    return tally
