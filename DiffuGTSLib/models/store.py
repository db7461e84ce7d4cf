"""Where installed models are kept, and what is there; no torch needed.

What a MAISI model needs and how fast it could be at best: computed, not measured.

From the costs of METHOD.md 1. What a machine really does, the benchmark measures.

    python -m DiffuGTSLib.expectations 8 12 24 80     the largest cubes without tiling, by GB
"""

from __future__ import annotations

import math
import shutil
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import AttentionMissing, ModelDamaged, ModelMissing, OutputNotWritten
from DiffuGTSLib.files import resource, store_folder
from DiffuGTSLib.models.catalogue import Entry, catalogue, entry, nearest
from DiffuGTSLib.models.package_files import INDEX, has_attention, read_card, size

ENCODE_MFLOP = 1.51  # a voxel of the scan
DECODE_MFLOP = 3.24
STEP_MFLOP = 9.04  # a voxel of the latent, all but the products of self-attention
# FLOP a latent voxel, times the latent's voxels: 5 attentions of 256 channels at 1/4 of the
# latent's resolution and 6 of 512 at 1/8, each 4 C N^2 for N tokens.
ATTENTION_FLOP = 5 * 4 * 256 / 64**2 + 6 * 4 * 512 / 512**2
REFERENCE_TFLOPS = 790.0  # bfloat16, as measured on the GPU that METHOD.md's floors are for
DOWNSCALE = 4
# Untiled encoding at its widest: three maps of 64 channels at full size, in bfloat16, beside the
# features that are kept (64 at full size, 128 at half, 256 at a quarter), in bfloat16 too.
WORKING_BYTES = 3 * 64 * 2
FEATURE_BYTES = (64 + 128 / 8 + 256 / 64) * 2
CONTEXT_BYTES = 0.8e9  # of CUDA itself and its libraries, about
SIZES = ((256, 256, 256), (512, 512, 256), (512, 512, 512))


def find(name_or_folder: str | Path) -> Path:
    """The folder of a model: a package's own folder, an installed model, or a bundled one.

    Raises:
        ModelMissing: there is none; where the catalogue knows it, the hint says how to get it.
    """
    folder = Path(name_or_folder)
    name = str(name_or_folder)
    for place in (folder, store_folder() / name, resource("Models") / name):
        if (place / INDEX).is_file():
            return place
    if name in catalogue():
        raise ModelMissing(
            f"The model “{name}” is not installed.",
            f"Install it: diffugts models download {name}, or diffugts models convert for files "
            "that were fetched by hand.",
        )
    near = "" if folder.parent.name else nearest(name, [*catalogue(), *installed()])
    raise ModelMissing(
        f"There is no model called “{folder.name}”.",
        near or "Use “embedded”, or the folder of a model package (it holds model_index.json).",
    )


def ready_to_segment(name_or_folder: str | Path) -> Path:
    """The folder of a model whose attention has been trained.

    Raises:
        ModelMissing, ModelDamaged: there is no such model, or its card cannot be read.
        AttentionMissing: nobody has trained its attention yet.
    """
    folder = find(name_or_folder)
    if not has_attention(folder):
        name = str(read_card(folder).get("name", folder.name))
        raise AttentionMissing(name, str(name_or_folder))
    return folder


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
                           nearest(name, installed()) or "See: diffugts models list")
    folder = store_folder() / name
    # Renamed first, so that nobody loads what is half gone.
    leaving = folder.with_name(f".leaving-{uuid.uuid4().hex}")
    try:
        folder.replace(leaving)
        shutil.rmtree(leaving)
    except OSError:
        raise OutputNotWritten(f"The model {name} cannot be removed.",
                               "Close the programs that use it.") from None


def check_free(folder: Path) -> None:
    """Raises OutputNotWritten where there is something at a package's place already."""
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
    place = (resource("Models") if bundled else store_folder()) / name
    folder = place if (place / INDEX).is_file() else None
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
                "expected_bytes": None, "text_encoder": None, "expected": None}
    encoder = entry.text_encoder
    return {
        "name": name, "title": entry.title, "purpose": entry.purpose,
        "modalities": list(entry.modalities), "trained_on": entry.trained_on,
        "spacing_mm": list(entry.spacing_mm), "licence": asdict(entry.licence),
        "expected_bytes": entry.expected_bytes,
        "text_encoder": {"name": encoder.name, "title": encoder.title,
                         "licence": asdict(encoder.licence)},
        "expected": expected(entry),
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


def step_flop(latent_voxels: int) -> float:
    """Of one pass of the denoiser over a latent."""
    return latent_voxels * (STEP_MFLOP * 1e6 + ATTENTION_FLOP * latent_voxels)


def expected(model: Entry, sizes: Sequence[Sequence[int]] = SIZES) -> dict[str, Any] | None:
    """Floors of time and the memory of an untiled run, as plain values; None if not known.

    `weights_gb`: of the networks in float32. `sizes`: for each, in seconds at 790 TFLOP/s,
    encoding, decoding and one denoising step of the whole (two passes where the model is guided);
    and GB without tiling.
    """
    if not model.networks:
        return None
    passes = 2 if model.guidance > 0 else 1
    weights = 4 * model.parameters
    rows = []
    for shape in sizes:
        voxels = math.prod(shape)
        latent = voxels // DOWNSCALE**3
        rows.append({
            "voxels": list(shape),
            "encode_s": _seconds(voxels * ENCODE_MFLOP * 1e6),
            "decode_s": _seconds(voxels * DECODE_MFLOP * 1e6),
            "step_s": _seconds(passes * step_flop(latent)),
            "untiled_gb": round(
                (weights + voxels * (WORKING_BYTES + FEATURE_BYTES)) / 1e9, 1),
        })
    return {"weights_gb": round(weights / 1e9, 2), "sizes": rows}


def _seconds(flop: float) -> float:
    return round(flop / (REFERENCE_TFLOPS * 1e12), 5)


def largest_cube(model: Entry, gigabytes: float) -> int:
    """Voxels an axis of the largest scan that is encoded without tiling on such a GPU."""
    room = gigabytes * 1e9 - CONTEXT_BYTES - 4 * model.parameters
    side = (max(room, 0.0) / (WORKING_BYTES + FEATURE_BYTES)) ** (1 / 3)
    return int(side) // model.limits.multiple * model.limits.multiple


def main(arguments: Sequence[str]) -> None:
    """Prints, for GPUs of so many GB, the largest cube without tiling; as a Markdown table."""
    model = entry("maisi-ct")
    print("| GPU | largest scan without tiling | as a cube at 1.5 mm |")
    print("|---|---|---|")
    for gigabytes in map(float, arguments):
        side = largest_cube(model, gigabytes)
        print(f"| {gigabytes:g} GB | {side} x {side} x {side} | {side * 0.15:.0f} cm |")


if __name__ == "__main__":
    main(sys.argv[1:])
