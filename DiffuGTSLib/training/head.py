"""A trained attention into a copy of its model package, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from DiffuGTSLib.attention import AnomalyAttention
from DiffuGTSLib.card import Card
from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.models import Foundation, add_attention
from DiffuGTSLib.training import fusion, packaging
from DiffuGTSLib.whole_folder import whole_folder


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
    changes: Mapping[str, Any], examples: Sequence[fusion.Example], device: str,
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
    with whole_folder(output) as staging:
        leave = shutil.ignore_patterns("aova", "README.md", ".*")
        shutil.copytree(foundation.folder, staging, ignore=leave, dirs_exist_ok=True)
        # The old attention's calibration and fusion say nothing about the new one.
        fresh = {"calibration": {}, "fusion": {}, "threshold": 0.5}
        add_attention(staging, attention, **fresh | dict(changes))
        if examples:
            packaging.calibrate(staging, examples, device=device, tell=tell)
        card = Card.read(staging)
        (staging / "README.md").write_text(_about(card), encoding="utf-8")
    return card


def _about(card: Card) -> str:
    lines = "".join(f"- **{name}**: {text}\n" for name, text in card.statements().items())
    return (f"# Model card: {card.name}\n\n"
            f"**Research use only, not for clinical decisions.**\n\n{lines}")
