"""Training of the anomaly-aware attention over the frozen autoencoder (METHOD.md 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from DiffuGTSLib.networks import AnomalyAttention, Autoencoder, TextEncoder, Texts
from DiffuGTSLib.networks.attention import Maps
from DiffuGTSLib.prompt import parsing
from DiffuGTSLib.prompt.vocabulary import vocabulary
from DiffuGTSLib.training.data.windows import ORGANS, Window, WindowLoader
from DiffuGTSLib.training.loop import CHECKPOINT, Loop, LoopConfig

# Findings in the training prompts; the ensembles of templates come from the vocabulary.
# A word that the training did not have found a tenth of the nodules that "tumor" found.
FINDINGS = ("tumor", "cancer", "metastasis", "mass", "lesion", "nodule", "carcinoma", "sarcoma",
            "glioma", "neoplasm")
SIMILARITY_WEIGHT = 0.1
GATE_WEIGHT = 0.3
OTHER_ORGAN_WEIGHT = 0.25  # of the map of an organ without a lesion, where nothing is right
# Largest weight of a lesion voxel, at first, so that lesions are found at all, and in the last
# part of the training, for fewer false positives.
BALANCE, LATER_BALANCE, LATER = 8.0, 3.0, 0.8
DICE_WEIGHT, SPILL_WEIGHT = 0.7, 0.7
# The gate losses of absent organs are summed and divided by this; those of present organs averaged.
ABSENT_ORGANS = 4
WINDOWS_PER_STEP = 2
FALSE_POSITIVE_VOXELS = 200.0  # marked in a window without a lesion, cost half of SPILL_WEIGHT


class PromptTexts:
    """Embeddings of every organ's prompts, encoded once.

    Attributes:
        organs: what `Window.organ` is an index of; ORGANS come first.
        normal, abnormal: (len(organs), len(FINDINGS), E).
        gate: (len(organs), E).
    """

    def __init__(
        self, encoder: TextEncoder, organs: Sequence[str] = ORGANS, device: str = "cpu"
    ) -> None:
        self.organs = tuple(organs)
        names = [vocabulary().anatomies[organ].name for organ in organs]
        encode = encoder.encode_ensemble
        normal = torch.stack([encode(parsing.normal(n)) for n in names]).to(device)
        self.normal = normal[:, None].expand(-1, len(FINDINGS), -1)
        self.abnormal = torch.stack([
            torch.stack([encode(parsing.abnormal(n, f)) for f in FINDINGS]) for n in names
        ]).to(device)
        self.gate = torch.stack([encode(parsing.gate(n)) for n in names]).to(device)

    def all(self) -> torch.Tensor:
        """(N, E): all embeddings, for centring and whitening."""
        return torch.cat([self.normal.flatten(0, 1), self.abnormal.flatten(0, 1), self.gate])

    def draw(self, generator: np.random.Generator) -> Texts:
        """The texts of all organs with one random finding: (len(organs), E) each."""
        finding = int(generator.integers(len(FINDINGS)))
        return Texts(self.normal[:, finding], self.abnormal[:, finding], self.gate)


def texts_of(texts: Texts, rows: Sequence[int]) -> Texts:
    """The texts of some organs, (len(rows), E) each."""
    chosen = list(rows)
    return Texts(texts.normal[chosen], texts.abnormal[chosen], texts.gate[chosen])


def map_loss(
    anomaly: torch.Tensor, gate: torch.Tensor, target: torch.Tensor, weight: torch.Tensor,
    balance: float = BALANCE,
) -> torch.Tensor:
    """Balanced cross-entropy and Dice over the AOVA map itself (L_dice); all (X, Y, Z).

    Dice alone converges to an empty map, where its gradient vanishes. So lesion voxels together
    have the weight of all others (one at most `balance`), and Dice counts only where there is a
    lesion. Where there is none, the sum of the map, p, costs SPILL_WEIGHT times
    p / (p + FALSE_POSITIVE_VOXELS): whether there is an anomaly at all (L_ano).

    Args:
        anomaly, gate: logits, whose sigmoids multiplied are the map.
        weight: 0 for voxels that do not count.
    """
    log_p = F.logsigmoid(anomaly) + F.logsigmoid(gate)
    p = log_p.exp()
    entropy = -(target * log_p + (1 - target) * torch.log1p(-p.clamp(max=1 - 1e-6)))
    positive = float((target * weight).sum())
    negative = float(weight.sum()) - positive
    share = float(np.clip(negative / max(positive, 1.0), 1.0, balance))
    balanced = weight * (1 + (share - 1) * target)
    loss = (entropy * balanced).sum() / balanced.sum().clamp_min(1)
    p = p * weight
    if positive < 8:
        return loss + SPILL_WEIGHT * p.sum() / (p.sum() + FALSE_POSITIVE_VOXELS)
    dice = 1 - 2 * (p * target).sum() / (p.sum() + positive)
    return loss + DICE_WEIGHT * dice


def gate_loss(gates: torch.Tensor, window: Window) -> torch.Tensor:
    """Balanced cross-entropy and Dice of all known organs' gates; gates (O, X, Y, Z) logits.

    Organs that are in the window and organs that are not are weighted separately: in one average
    over a dozen organs a present one hardly counted, and air around a patient was taken for lung.
    """
    present: list[torch.Tensor] = []
    absent: list[torch.Tensor] = []
    # unbind, as indexing would allocate a gradient of all organs for each of them.
    by_organ = gates.unbind(0)
    for organ in torch.nonzero(window.known)[:, 0].tolist():
        target = (window.organs[::2, ::2, ::2] == organ + 1).float()
        logits, p = by_organ[organ], torch.sigmoid(by_organ[organ])
        size = target.sum()
        entropy = F.binary_cross_entropy_with_logits(logits, target)
        dice = 1 - (2 * (p * target).sum() + 20.0) / (p.sum() + size + 20.0)
        if size > 20:
            present.append(entropy * 2 + dice)
        else:
            absent.append(entropy * 2 + 0.3 * dice)
    lesion = window.lesion[::2, ::2, ::2] > 0.5
    if not window.known[window.organ] and lesion.any():
        # The organ has no outline, but where its lesion is, the organ is, too.
        present.append(2 * F.softplus(-by_organ[window.organ][lesion]).mean())
    parts = [torch.stack(present).mean()] if present else []
    parts += [torch.stack(absent).sum() / ABSENT_ORGANS] if absent else []
    return torch.stack(parts).sum() if parts else gates.sum() * 0.0


def similarity_loss(
    model: AnomalyAttention, features: Sequence[torch.Tensor], window: Window, texts: Texts
) -> torch.Tensor:
    """L_sim: mask-pooled visual embeddings against the normal and abnormal texts, at each level.

    Among the normal and abnormal texts of all organs, the pooled lesion should be closest to the
    abnormal text of its organ, the pooled healthy organ closest to its normal text.

    Args:
        features: concatenated features of each level, as `AnomalyAttention.visual` returns them.
    """
    losses = []
    for level, of_level in enumerate(features):
        step = 2**level
        lesion = window.lesion[::step, ::step, ::step] > 0.5
        organ = (window.organs[::step, ::step, ::step] == window.organ + 1) & ~lesion
        normal, abnormal = model.keys_of_level(texts, level)
        keys = F.normalize(torch.cat([normal, abnormal]), dim=-1)
        for region, target in ((lesion, window.organ + len(normal)), (organ, window.organ)):
            if region.sum() < 10:
                continue
            share = (region / region.sum()).flatten().to(of_level.dtype)
            pooled = torch.mv(of_level[0].flatten(1), share).float()
            query = model.queries[level].get_parameter("weight").flatten(1) @ pooled
            scores = keys @ F.normalize(query, dim=0) / 0.1
            losses.append(F.cross_entropy(scores[None], scores.new_tensor([target]).long()))
    return torch.stack(losses).mean() if losses else window.lesion.new_zeros(())


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


def _initialised(
    autoencoder: Autoencoder, loader: WindowLoader, config: LoopConfig, prompts: PromptTexts,
    network: Mapping[str, Any],
) -> AnomalyAttention:
    """An attention of random weights, with the statistics of texts and features."""
    torch.manual_seed(config.seed)
    model = AnomalyAttention(
        feature_channels=tuple(autoencoder.config.num_channels),
        text_dim=prompts.gate.shape[1], **network,
    ).to(config.device)
    if config.ranks.first and not (config.folder / CHECKPOINT).exists():
        generator = np.random.default_rng([config.seed, 0xA0A])
        windows = [loader.sampler.draw(generator).to(config.device)
                   for _ in range(min(40, config.steps))]
        model.set_statistics(prompts.all(), *feature_statistics(autoencoder, windows))
    return model


@dataclass(frozen=True)
class Batch:
    """Windows of one size, side by side.

    Attributes:
        image: (N, 1, X, Y, Z).
        modality: (N,).
        organs: indices of what is prompted for in any of them.
    """

    windows: Sequence[Window]
    image: torch.Tensor
    modality: torch.Tensor
    organs: tuple[int, ...]

    @classmethod
    def of(cls, windows: Sequence[Window], device: str) -> Batch:
        """The batch on a device."""
        moved = [window.to(device) for window in windows]
        return cls(
            moved, torch.cat([window.image for window in moved]),
            torch.tensor([window.modality for window in moved], device=device),
            tuple(sorted({organ for w in moved for organ in (w.organ, *w.others)})),
        )


def batch_losses(
    autoencoder: Autoencoder, model: AnomalyAttention, batch: Batch, texts: Texts, balance: float,
    autocast: Callable[[], AbstractContextManager[object]],
) -> dict[str, torch.Tensor]:
    """The parts of the loss, each averaged over the windows."""
    with autocast():
        features = window_features(autoencoder, batch.image)
        concatenated, gate_queries = model.visual(features, batch.modality, batch.image)
        maps = model.attend(concatenated, gate_queries, texts_of(texts, batch.organs))
        gates = model.gates(gate_queries, texts)
    parts: dict[str, list[torch.Tensor]] = {"map": [], "gate": [], "similarity": []}
    for n, window in enumerate(batch.windows):
        anomaly, gate = (logits[n].float().unbind(0) for logits in (maps.anomaly, maps.gate))
        own = batch.organs.index(window.organ)
        loss = map_loss(anomaly[own], gate[own], window.lesion, window.weight, balance)
        nothing = torch.zeros_like(window.lesion)
        for row in map(batch.organs.index, window.others):
            loss = loss + OTHER_ORGAN_WEIGHT * map_loss(
                anomaly[row], gate[row], nothing, window.inside, balance)
        parts["map"].append(loss)
        parts["gate"].append(GATE_WEIGHT * gate_loss(gates[n].float(), window))
        own_features = [level[n : n + 1] for level in concatenated]
        parts["similarity"].append(
            SIMILARITY_WEIGHT * similarity_loss(model, own_features, window, texts))
    return {name: torch.stack(losses).mean() for name, losses in parts.items()}


def train(
    autoencoder: Autoencoder, loader: WindowLoader, held_out: Sequence[Window],
    config: LoopConfig, prompts: PromptTexts,
    start: AnomalyAttention | Mapping[str, Any] | None = None,
) -> AnomalyAttention:
    """Trains the attention; the autoencoder stays frozen and outside the optimizer.

    Args:
        held_out: windows whose Dice is logged.
        start: an attention over this autoencoder, which is trained on; or, for one of random
            weights, arguments of AnomalyAttention beyond those that follow from the frozen parts.
    """
    autoencoder.requires_grad_(False).eval().to(memory_format=torch.channels_last_3d)
    autoencoder.to(config.device)
    model = start if isinstance(start, AnomalyAttention) else _initialised(
        autoencoder, loader, config, prompts, start or {})
    model.requires_grad_(True).train().to(config.device, memory_format=torch.channels_last_3d)

    def loss(step: int, generator: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        balance = LATER_BALANCE if step >= LATER * config.steps else BALANCE
        batch = Batch.of(loader.windows(step, config), config.device)
        parts = batch_losses(
            autoencoder, model, batch, prompts.draw(generator), balance, config.autocast)
        return torch.stack(list(parts.values())).sum(), {
            k: float(v.detach()) for k, v in parts.items()
        }

    def validate() -> dict[str, float]:
        with config.autocast():
            return held_out_dice(autoencoder, model, held_out, prompts)

    Loop(config, model, loss, validate).run()
    return model


def held_out_dice(
    autoencoder: Autoencoder, model: AnomalyAttention, windows: Sequence[Window],
    prompts: PromptTexts,
) -> dict[str, float]:
    """Mean Dice at 0.5 of the gated map, by organ and modality; 0 where there is no lesion."""
    scores: dict[str, list[float]] = {}
    texts = prompts.draw(np.random.default_rng(0))
    for window in (w.to(str(model.device)) for w in windows):
        maps = window_maps(autoencoder, model, window, texts_of(texts, [window.organ]))
        p = maps.probability()[0, 0] > 0.5
        target = window.lesion > 0.5
        dice = 2 * (p & target).sum() / (p.sum() + target.sum()).clamp_min(1)
        name = f"{prompts.organs[window.organ]}_{'CT' if window.modality == 0 else 'MR'}"
        scores.setdefault(name, []).append(float(dice))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def window_maps(
    autoencoder: Autoencoder, model: AnomalyAttention, window: Window, texts: Texts
) -> Maps:
    """The maps of a window, without gradients."""
    with torch.no_grad():
        features = window_features(autoencoder, window.image)
        modality = torch.tensor([window.modality], device=window.image.device)
        return model(features, modality, window.image, texts)
