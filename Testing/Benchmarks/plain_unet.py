"""What a plain network of the same cost reaches: no text, no frozen features, no inpainting.

    python Testing/Benchmarks/plain_unet.py --data DIR --data DIR2 --runs RUNS [--steps N]

Trains a U-Net on the windows that the attention is trained on, one output an organ, and scores it
on the validation patients at 0.5: the table to hold docs/validation.md against. Started again, it
goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.inferers import sliding_window_inference
from rich.console import Console
from rich.table import Table
from torch import nn

from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.networks.attention_blocks import VIEWS, ContextBlock, Unit, upsample, views_of
from DiffuGTSLib.prompt import understand
from DiffuGTSLib.scan import to_canonical
from DiffuGTSLib.scan.canonical import mask_on_grid
from DiffuGTSLib.training.attention_trainer import (
    BALANCE,
    LATER,
    LATER_BALANCE,
    OTHER_ORGAN_WEIGHT,
    WINDOWS_PER_STEP,
    Batch,
    map_loss,
)
from DiffuGTSLib.training.config import ATTENTION
from DiffuGTSLib.training.data.cases import SPACING_MM, TrainingCase, read_cases
from DiffuGTSLib.training.data.scan_table import ORGANS
from DiffuGTSLib.training.data.windows import WindowLoader
from DiffuGTSLib.training.embedded.build import WINDOW, EmbeddedBuild
from DiffuGTSLib.training.embedded.validation import tasks
from DiffuGTSLib.training.loop import Loop


class PlainUNet(nn.Module):
    """A thin branch at 2 mm, all else from 4 mm on; an output an organ, as logits."""

    def __init__(self, widths: Sequence[int] = (8, 32, 64, 128)) -> None:
        super().__init__()
        w2, w4, w8, w16 = widths
        self.thin = Unit(VIEWS, w2)
        self.down4, self.block4 = Unit(w2, w4, stride=2), ContextBlock(w4)
        self.down8, self.block8 = Unit(w4, w8, stride=2), ContextBlock(w8)
        self.down16 = Unit(w8, w16, stride=2)
        self.block16 = nn.Sequential(ContextBlock(w16), ContextBlock(w16))
        self.join8, self.join4 = Unit(w16 + w8, w8), Unit(w8 + w4, w4)
        self.narrow = nn.Conv3d(w4, w2, 1)
        self.join2 = Unit(2 * w2, w2)
        self.out = nn.Conv3d(w2, len(ORGANS), 1)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, -3.0)

    def forward(self, image: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
        """Image (N, 1, X, Y, Z), modality (N,) -> logits (N, organs, X, Y, Z)."""
        x2 = self.thin(views_of(image, modality))
        x4 = self.block4(self.down4(x2))
        x8 = self.block8(self.down8(x4))
        x16 = self.block16(self.down16(x8))
        x8 = self.join8(torch.cat([upsample(x16, x8), x8], 1))
        x4 = self.join4(torch.cat([upsample(x8, x4), x4], 1))
        x2 = self.join2(torch.cat([upsample(self.narrow(x4), x2), x2], 1))
        return self.out(x2)


def train(data: list[Path], runs: Path, steps: int) -> PlainUNet:
    """The trained network."""
    corpus = EmbeddedBuild(data, runs).corpus
    loader = WindowLoader(corpus.sampler(), WINDOWS_PER_STEP, workers=1)
    config = replace(ATTENTION, steps=steps).loop(runs / "plain", log=print)
    torch.manual_seed(0)
    model = PlainUNet()
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    open_gate = torch.full((WINDOW,) * 3, 30.0)
    nothing = torch.zeros((WINDOW,) * 3)

    def loss(step: int, generator: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        batch = Batch.of(loader.windows(step, config), "cpu")
        balance = LATER_BALANCE if step >= LATER * steps else BALANCE
        with config.autocast():
            x = batch.image.contiguous(memory_format=torch.channels_last_3d)
            logits = model(x, batch.modality)
        losses = []
        for n, window in enumerate(batch.windows):
            by_organ = logits[n].float().unbind(0)
            own = map_loss(by_organ[window.organ], open_gate, window.lesion, window.weight, balance)
            losses.append(own + OTHER_ORGAN_WEIGHT * sum(
                map_loss(by_organ[o], open_gate, nothing, window.inside, balance)
                for o in window.others))
        return torch.stack(losses).mean(), {}

    Loop(config, model, loss).run()
    return model.eval()


@torch.inference_mode()
def score(model: PlainUNet, data: list[Path]) -> dict[str, list[float]]:
    """Dice at 0.5 of each validation scan, by group; in windows of the training's size."""
    listed = tasks([case for root in data for case in read_cases(root)])
    scores: dict[str, list[float]] = {}
    for task in (t for t in listed if t.labelled.mask and not t.wrong_organ):
        scores.setdefault(task.group, []).append(_dice(model, task.scan, task.prompt))
    return scores


def _dice(model: PlainUNet, case: TrainingCase, prompt: str) -> float:
    image = sitk.ReadImage(str(case.folder / "image.nii.gz"))
    canonical = to_canonical(image, case.modality, SPACING_MM, 16, WINDOW)
    modality = torch.tensor([int(case.modality == "MR")])
    organ = ORGANS.index(understand(prompt).anatomy)

    def logits(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x, modality.expand(len(x)))[:, organ : organ + 1].float()

    found = sliding_window_inference(canonical.tensor, (WINDOW,) * 3, 2, logits, overlap=0.5,
                                     mode="gaussian")
    assert isinstance(found, torch.Tensor)
    outline = sitk.ReadImage(str(case.folder / f"{case.lesion_mask}.nii.gz"))
    truth = mask_on_grid(outline, canonical.geometry)
    x, y, z = truth.shape
    return dice(found[0, 0, :x, :y, :z].numpy() > 0, truth)


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=ATTENTION.steps)
    chosen = parser.parse_args()
    scores = score(train(chosen.data, chosen.runs, chosen.steps), chosen.data)
    table = Table("group", "scans", "mean DSC")
    for group, values in scores.items():
        table.add_row(group, str(len(values)), f"{np.mean(values):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
