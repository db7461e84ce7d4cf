"""From trained parts to the embedded model package, and its calibration."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin

from DiffuGTSLib import models
from DiffuGTSLib.attention import AnomalyAttention
from DiffuGTSLib.foundation.autoencoder import Autoencoder
from DiffuGTSLib.foundation.configurations import RECTIFIED_FLOW_SCHEDULER
from DiffuGTSLib.foundation.denoiser import Denoiser
from DiffuGTSLib.segmenter import Segmenter
from DiffuGTSLib.training import denoiser, fusion
from DiffuGTSLib.training.data import SPACING_MM
from DiffuGTSLib.training.loop import CHECKPOINT

# Painted over healthy tissue, two samples of 4 steps come as near to it as of 12 in CT (mean error
# 0.052 against 0.053), nearer in MR (0.134 against 0.140), and are as bright; four samples come
# nearer still (0.050 and 0.130), at twice the time (Testing/Benchmarks/candidates.py painting).
STEPS = 4
SAMPLES = 2
# With scans seen mirrored along x and y as well, maps of the committed attention were worth 0.54 on
# average of anatomies and modalities, without 0.53 (Testing/Benchmarks/candidates.py mirrors).
MIRRORS = (0, 1)
CLASSES = "classes.json"  # beside the attention's checkpoint: what it was trained on
# Of worth, by leaving a gate open. A gate has to prove itself: where it keeps nothing out, it can
# only hide lesions.
MEANINGFUL_GAIN = 0.01
# Below this no threshold finds the lesions, and the best one would call everything a lesion.
MEANINGFUL_DICE = 0.1
FEWEST_EXAMPLES = 4  # for a fusion of an anatomy's own, or a calibration of a sequence's own
TRAINED_ON = (
    "Soft-tissue-Sarcoma (TCIA) patients 001-028, NSCLC Radiogenomics r01-001, TotalSegmentator "
    "test data (abdomen, liver slab, two mediastinum crops), open_ms_data p07 and p19, FNNDSC "
    "volunteers, Colin27 (MRIcron), pyradiomics breast1; synthetic lesions in them."
)
CALIBRATED_ON = (
    "Sarcoma patients 029-032, healthy training scans, and new lesions grown in them. Seen neither "
    "by this nor by the training: lung1, lidc0314, brain1, fg-6692, sarcoma 033-040."
)


def _part(runs: Path, name: str, blank: ModelMixin) -> ModelMixin:
    """A finished part, or the last checkpoint of one still in training."""
    finished = runs / name / "model"
    if finished.is_dir():
        return type(blank).from_pretrained(
            finished, low_cpu_mem_usage=False)
    state = torch.load(runs / name / CHECKPOINT, weights_only=True, map_location="cpu")
    averaged = {k.removeprefix("module."): v for k, v in state["averaged"].items()}
    averaged.pop("n_averaged")
    blank.load_state_dict(averaged)
    return blank


def trained_attention(runs: Path) -> AnomalyAttention:
    """The attention of a folder of runs."""
    made = _part(runs, "aova", AnomalyAttention(mirrors=MIRRORS))
    assert isinstance(made, AnomalyAttention)
    return made


def write_package(runs: Path, output: Path) -> None:
    """Writes the package into `output`, with the attention alone as its fusion until calibrated."""
    scale = json.loads((runs / "vae" / "scale_factor.json").read_text())
    seen = runs / "aova" / CLASSES
    card = models.Card(
        name=models.EMBEDDED, licence="Apache-2.0; training data: see NOTICE.txt",
        modalities=("CT", "MR"), spacing_mm=SPACING_MM, scale_factor=scale,
        class_labels={"CT": denoiser.CLASS_LABELS[0], "MR": denoiser.CLASS_LABELS[1]},
        threshold=0.5, steps=STEPS, samples=SAMPLES, resamplings=1,
        fusion={"CT": models.ATTENTION_ALONE, "MR": models.ATTENTION_ALONE},
        trained_on=TRAINED_ON, calibrated_on=CALIBRATED_ON,
        trained_classes=json.loads(seen.read_text()) if seen.exists() else None,
    )
    models.save(
        output, card,
        _part(runs, "vae", Autoencoder()),
        _part(runs, "unet", Denoiser(**denoiser.EMBEDDED_CONFIG)),
        trained_attention(runs),
        FlowMatchEulerDiscreteScheduler(**RECTIFIED_FLOW_SCHEDULER),
    )


def calibrate(
    folder: Path, examples: Sequence[fusion.Example], log: Path | None = None, device: str = "cpu",
    tell: Callable[[str], None] = print,
) -> None:
    """Fits the calibration by anatomy, and by MR sequence where that can be, and the fusion by
    modality, and by anatomy where that can be; both go into the card.

    A gate that makes the examples worth less than they are without it is left open. A modality of
    which no example has candidates keeps its fusion.
    """
    keys = tuple(dict.fromkeys(e.key for e in examples))
    package = models.load(folder)
    card = replace(package.card, calibration={}, open_gates=())
    segmenters = [Segmenter(replace(package, card=replace(card, open_gates=gates)), device)
                  for gates in ((), keys)]
    gated, open_wide = zip(*(fusion.attentions(segmenters, e) for e in examples), strict=True)
    shifts: dict[str, float] = {}
    open_gates = []
    for key in keys:
        of_key = [i for i, e in enumerate(examples) if e.key == key]
        made, said = gated, ""
        worth, without = (fusion.best_shift([maps[i] for i in of_key]).worth
                          for maps in (gated, open_wide))
        if without > worth + MEANINGFUL_GAIN:
            made, said = open_wide, f", gate open (with it {worth:.3f})"
            open_gates.append(key)
        groups = {key: of_key} | _by_sequence(key, of_key, examples, made)
        for name, members in groups.items():
            best = fusion.best_shift([made[i] for i in members])
            if best.dice >= MEANINGFUL_DICE:
                shifts[name] = best.shift
            tell(f"{name}: {len(members)} examples, shift {best.shift:.2f}, worth "
                 f"{best.worth:.3f}, Dice {best.dice:.3f}{said}")
    card = replace(card, calibration=shifts, open_gates=tuple(open_gates))
    segmenter = Segmenter(replace(package, card=card), device)
    full = [fusion.measure(segmenter, e) for e in examples]
    fitted = dict(card.fusion)
    for key in (*card.modalities, *(k for k in keys if k in shifts)):
        anatomy, modality = key.rpartition("/")[::2]
        usable = [m for e, m in zip(examples, full, strict=True)
                  if e.key == key or (not anatomy and m.modality == modality)]
        healthy = sum(bool((m.inside & ~m.truth).any()) for m in usable)
        if healthy >= (FEWEST_EXAMPLES if anatomy else 1):
            fitted[key] = fusion.fit(usable)
            tell(f"{key}: the final mask takes {fitted[key].used}")
    replace(card, fusion=fitted).write(folder)
    if log is not None:
        entries = {m: f.__dict__ for m, f in fitted.items()}
        document = {"calibration": shifts, "open_gates": open_gates, "fusion": entries}
        log.write_text(json.dumps(document, indent=1) + "\n")


def _by_sequence(
    key: str, of_key: Sequence[int], examples: Sequence[fusion.Example],
    made: Sequence[fusion.Measured],
) -> dict[str, list[int]]:
    """The examples of each MR sequence that has enough with a lesion, by "anatomy/MR/sequence"."""
    groups: dict[str, list[int]] = {}
    for i in of_key:
        if examples[i].sequence:
            groups.setdefault(f"{key}/{examples[i].sequence}", []).append(i)
    return {name: members for name, members in groups.items()
            if sum(bool(made[i].truth.any()) for i in members) >= FEWEST_EXAMPLES}
