"""Training of the anomaly-aware attention over the frozen autoencoder (METHOD.md 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from DiffuGTSLib import ensembles
from DiffuGTSLib.attention import AnomalyAttention, Maps, Texts
from DiffuGTSLib.foundation.autoencoder import Autoencoder
from DiffuGTSLib.text import TextEncoder
from DiffuGTSLib.training.loop import Loop, LoopConfig
from DiffuGTSLib.training.windows import ORGANS, Window, WindowSampler

# How each anatomy is asked for in training; the ensembles of templates come from the vocabulary.
FINDINGS = ("tumor", "cancer", "metastasis", "mass", "lesion")
SIMILARITY_WEIGHT = 0.1
IMAGE_WEIGHT = 0.1
GATE_WEIGHT = 0.5
WINDOWS = 1  # a step
# Lesions first weigh up to 40 voxels for one, so that they are found at all; in the last quarter
# of the training 4, so that what is not one is let go.
BALANCE = (40.0, 4.0)


class PromptTexts:
    """Embeddings of every organ's prompts, encoded once.

    Attributes:
        normal, abnormal: (len(ORGANS), len(FINDINGS), E).
        gate: (len(ORGANS), E).
    """

    def __init__(self, encoder: TextEncoder) -> None:
        names = [organ.replace("_", " ") for organ in ORGANS]
        encode = encoder.encode_ensemble
        normal = torch.stack([encode(ensembles.normal(n)) for n in names])
        self.normal = normal[:, None].expand(-1, len(FINDINGS), -1)
        self.abnormal = torch.stack([
            torch.stack([encode(ensembles.abnormal(n, f)) for f in FINDINGS]) for n in names
        ])
        self.gate = torch.stack([encode(ensembles.gate(n)) for n in names])

    def all(self) -> torch.Tensor:
        """(N, E): every text once, for centring and whitening."""
        return torch.cat([self.normal.flatten(0, 1), self.abnormal.flatten(0, 1), self.gate])

    def draw(self, generator: np.random.Generator) -> Texts:
        """All organs, one finding for all of them: (len(ORGANS), E) each."""
        finding = int(generator.integers(len(FINDINGS)))
        return Texts(self.normal[:, finding], self.abnormal[:, finding], self.gate)


def pick(texts: Texts, index: int) -> Texts:
    """The texts of one organ, (1, E) each."""
    row = slice(index, index + 1)
    return Texts(texts.normal[row], texts.abnormal[row], texts.gate[row])


def map_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, balance: float = 40.0
) -> torch.Tensor:
    """Balanced cross-entropy and Dice over the map itself (L_dice); all (X, Y, Z).

    Dice alone settles at "nothing anywhere", where its gradient is gone. So lesions weigh as much
    as all the rest (up to `balance` voxels for one), and Dice counts only where there is a lesion.
    """
    positive = float((target * weight).sum())
    negative = float(weight.sum()) - positive
    share = float(np.clip(negative / max(positive, 1.0), 1.0, balance))
    balanced = weight * (1 + (share - 1) * target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (entropy * balanced).sum() / balanced.sum().clamp_min(1)
    if positive < 8:
        return loss
    p = torch.sigmoid(logits) * weight
    dice = 1 - 2 * (p * target).sum() / (p.sum() + positive)
    return loss + 0.5 * dice


def gate_loss(gates: torch.Tensor, window: Window) -> torch.Tensor:
    """Balanced cross-entropy and Dice of all known organs' gates; gates (O, X, Y, Z) logits."""
    losses = []
    for organ in torch.nonzero(window.known)[:, 0].tolist():
        target = (window.organs[::2, ::2, ::2] == organ + 1).float()
        logits = gates[organ]
        present = target.sum()
        entropy = F.binary_cross_entropy_with_logits(logits, target)
        p = torch.sigmoid(logits)
        dice = 1 - (2 * (p * target).sum() + 20.0) / (p.sum() + present + 20.0)
        losses.append(entropy * 2 + dice * (1.0 if present > 20 else 0.3))
    return torch.stack(losses).mean()


def image_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L_ano: is there an anomaly at all; the mean of the highest 0.1 % of voxels decides."""
    count = max(20, logits.numel() // 1000)
    highest = logits.flatten().topk(count).values.mean()
    present = torch.tensor(float(target.sum() > 30))
    return F.binary_cross_entropy_with_logits(highest, present)


def similarity_loss(
    model: AnomalyAttention, joined: Sequence[torch.Tensor], window: Window, texts: Texts
) -> torch.Tensor:
    """L_sim: map-pooled visual embeddings against the normal and abnormal texts, each level.

    The pooled lesion should be nearest to its organ's abnormal text among all organs' normal and
    abnormal ones, the pooled healthy organ nearest to its normal text.
    """
    losses = []
    for level, features in enumerate(joined):
        step = 2**level
        lesion = window.lesion[::step, ::step, ::step] > 0.5
        organ = (window.organs[::step, ::step, ::step] == window.organ + 1) & ~lesion
        normal, abnormal = model.keys_of_level(texts, level)
        keys = F.normalize(torch.cat([normal, abnormal]), dim=-1)
        for region, answer in ((lesion, window.organ + len(ORGANS)), (organ, window.organ)):
            if region.sum() < 10:
                continue
            pooled = features[0, :, region].float().mean(1)
            query = model.queries[level].get_parameter("weight").flatten(1) @ pooled
            scores = keys @ F.normalize(query, dim=0) / 0.1
            losses.append(F.cross_entropy(scores[None], torch.tensor([answer])))
    return torch.stack(losses).mean() if losses else torch.zeros(())


def window_features(
    autoencoder: Autoencoder, image: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The frozen features of a window, without gradients."""
    with torch.no_grad():
        x = image.contiguous(memory_format=torch.channels_last_3d)
        return autoencoder.encode_with_features(x)[1]


def feature_statistics(
    autoencoder: Autoencoder, windows: Sequence[Window]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Mean and standard deviation of each level's channels over some windows."""
    features = [window_features(autoencoder, w.image) for w in windows]
    means, deviations = [], []
    for level in zip(*features, strict=True):
        voxels = torch.cat([f[0].float().flatten(1) for f in level], 1)
        means.append(voxels.mean(1))
        deviations.append(voxels.std(1))
    return means, deviations


def train(
    autoencoder: Autoencoder, sampler: WindowSampler, held_out: Sequence[Window],
    config: LoopConfig, encoder: TextEncoder,
) -> AnomalyAttention:
    """Trains the attention; the autoencoder stays frozen and outside the optimizer.

    Args:
        held_out: windows of patients that are not trained on; their Dice goes into the log.
    """
    torch.manual_seed(config.seed)
    autoencoder.requires_grad_(False).eval().to(memory_format=torch.channels_last_3d)
    model, prompts = AnomalyAttention(), PromptTexts(encoder)
    first = np.random.default_rng([config.seed, 0xA0A])
    statistics = feature_statistics(autoencoder, [sampler.draw(first) for _ in range(40)])
    model.set_statistics(prompts.all(), *statistics)
    model.to(memory_format=torch.channels_last_3d)

    def one(window: Window, texts: Texts, balance: float) -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = window_features(autoencoder, window.image)
            joined, gate_queries = model.visual(features, torch.tensor([window.modality]))
            asked = pick(texts, window.organ)
            maps = model.attend(joined, gate_queries, asked)
            gates = model.gates(gate_queries, texts)[0]
        logits = maps.anomaly[0, 0].float()
        return {
            "map": map_loss(logits, window.lesion, window.weight, balance),
            "gate": GATE_WEIGHT * gate_loss(gates.float(), window),
            "image": IMAGE_WEIGHT * image_loss(logits, window.lesion),
            "similarity": SIMILARITY_WEIGHT * similarity_loss(model, joined, window, texts),
        }

    def loss(step: int, generator: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        balance = BALANCE[int(step >= 0.75 * config.steps)]
        drawn = [one(sampler.draw(generator), prompts.draw(generator), balance)
                 for _ in range(WINDOWS)]
        parts = {k: torch.stack([d[k] for d in drawn]).mean() for k in drawn[0]}
        return torch.stack(list(parts.values())).sum(), {
            k: float(v.detach()) for k, v in parts.items()
        }

    def validate() -> dict[str, float]:
        return held_out_dice(autoencoder, model, held_out, prompts)

    Loop(config, model, loss, validate).run()
    return model


def held_out_dice(
    autoencoder: Autoencoder, model: AnomalyAttention, windows: Sequence[Window],
    prompts: PromptTexts,
) -> dict[str, float]:
    """Mean Dice at 0.5 of the gated map, by organ and modality, over windows with a lesion."""
    scores: dict[str, list[float]] = {}
    texts = prompts.draw(np.random.default_rng(0))
    for window in windows:
        maps = window_maps(autoencoder, model, window, pick(texts, window.organ))
        p = maps.probability()[0, 0] > 0.5
        target = window.lesion > 0.5
        dice = 2 * (p & target).sum() / (p.sum() + target.sum()).clamp_min(1)
        name = f"{ORGANS[window.organ]}_{'CT' if window.modality == 0 else 'MR'}"
        scores.setdefault(name, []).append(float(dice))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def window_maps(
    autoencoder: Autoencoder, model: AnomalyAttention, window: Window, texts: Texts
) -> Maps:
    """The maps of a window, without gradients."""
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        features = window_features(autoencoder, window.image)
        return model(features, torch.tensor([window.modality]), texts)
