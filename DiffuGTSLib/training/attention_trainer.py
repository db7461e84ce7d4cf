"""Training of the anomaly-aware attention over the frozen autoencoder (METHOD.md 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
FINDINGS = ("tumor", "cancer", "metastasis", "mass", "lesion")
SIMILARITY_WEIGHT = 0.1
IMAGE_WEIGHT = 0.1
GATE_WEIGHT = 1.0
# The gate losses of absent organs are summed and divided by this; those of present organs averaged.
ABSENT_ORGANS = 4
WINDOWS_PER_STEP = 1
FALSE_POSITIVE_VOXELS = 200.0  # marked in a window without a lesion, these cost half of fp_weight


@dataclass(frozen=True)
class LossWeights:
    """Weight of lesions against everything else in the loss of the map.

    Attributes:
        balance: largest weight of a lesion voxel, in the first three fifths of the training and in
            the rest: large, so that lesions are found at all; then smaller, for fewer false
            positives.
        fp_weight: weight of false positives in windows without a lesion.
    """

    balance: tuple[float, float] = (20.0, 5.0)
    fp_weight: float = 0.0


SENSITIVE = LossWeights()
SPECIFIC = LossWeights((8.0, 3.0), 0.5)


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


def texts_of_organ(texts: Texts, index: int) -> Texts:
    """The texts of one organ, (1, E) each."""
    row = slice(index, index + 1)
    return Texts(texts.normal[row], texts.abnormal[row], texts.gate[row])


def map_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, balance: float = 40.0,
    fp_weight: float = 0.0,
) -> torch.Tensor:
    """Balanced cross-entropy and Dice over the map itself (L_dice); all (X, Y, Z).

    Dice alone converges to an empty map, where its gradient vanishes. So lesion voxels together
    have the weight of all others (one at most `balance`), and Dice counts only where there is a
    lesion. In windows without one, the sum of the map, p, costs `fp_weight` times
    p / (p + FALSE_POSITIVE_VOXELS).

    Args:
        weight: 0 for voxels that do not count.
    """
    positive = float((target * weight).sum())
    negative = float(weight.sum()) - positive
    share = float(np.clip(negative / max(positive, 1.0), 1.0, balance))
    balanced = weight * (1 + (share - 1) * target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (entropy * balanced).sum() / balanced.sum().clamp_min(1)
    p = torch.sigmoid(logits) * weight
    if positive < 8:
        return loss + fp_weight * p.sum() / (p.sum() + FALSE_POSITIVE_VOXELS) if fp_weight else loss
    dice = 1 - 2 * (p * target).sum() / (p.sum() + positive)
    return loss + 0.5 * dice


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


def image_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L_ano: whether there is an anomaly, by the mean logit of the highest 0.1 % of voxels."""
    count = max(20, logits.numel() // 1000)
    highest = logits.flatten().topk(count).values.mean()
    present = (target.sum() > 30).float()
    return F.binary_cross_entropy_with_logits(highest, present)


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
    """The attention before training, with the statistics of texts and features; freezes the
    autoencoder."""
    torch.manual_seed(config.seed)
    autoencoder.requires_grad_(False).eval().to(memory_format=torch.channels_last_3d)
    autoencoder.to(config.device)
    model = AnomalyAttention(
        feature_channels=tuple(autoencoder.config.num_channels),
        text_dim=prompts.gate.shape[1], **network,
    ).to(config.device)
    if config.ranks.first and not (config.folder / CHECKPOINT).exists():
        generator = np.random.default_rng([config.seed, 0xA0A])
        windows = [loader.sampler.draw(generator).to(config.device)
                   for _ in range(min(40, config.steps))]
        model.set_statistics(prompts.all(), *feature_statistics(autoencoder, windows))
    return model.to(memory_format=torch.channels_last_3d)


def train(
    autoencoder: Autoencoder, loader: WindowLoader, held_out: Sequence[Window],
    config: LoopConfig, prompts: PromptTexts, network: Mapping[str, Any] | None = None,
    start: AnomalyAttention | None = None, weights: LossWeights = SENSITIVE,
) -> AnomalyAttention:
    """Trains the attention; the autoencoder stays frozen and outside the optimizer.

    Args:
        held_out: windows of patients that are not trained on; their Dice is logged.
        network: arguments of AnomalyAttention beyond those that follow from the frozen parts.
        start: a trained attention of the same configuration to continue from.
    """
    model = _initialised(autoencoder, loader, config, prompts, network or {})
    if start is not None:
        model.load_state_dict(start.state_dict())

    def window_losses(window: Window, texts: Texts, balance: float) -> dict[str, torch.Tensor]:
        with config.autocast():
            features = window_features(autoencoder, window.image)
            modality = torch.tensor([window.modality], device=config.device)
            concatenated, gate_queries = model.visual(features, modality)
            prompt = texts_of_organ(texts, window.organ)
            maps = model.attend(concatenated, gate_queries, prompt)
            gates = model.gates(gate_queries, texts)[0]
        logits = maps.anomaly[0, 0].float()
        return {
            "map": map_loss(logits, window.lesion, window.weight, balance, weights.fp_weight),
            "gate": GATE_WEIGHT * gate_loss(gates.float(), window),
            "image": IMAGE_WEIGHT * image_loss(logits, window.lesion),
            "similarity": SIMILARITY_WEIGHT * similarity_loss(model, concatenated, window, texts),
        }

    def loss(step: int, generator: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        balance = weights.balance[int(step >= 0.6 * config.steps)]
        losses = [window_losses(window.to(config.device), prompts.draw(generator), balance)
                  for window in loader.windows(step, config)]
        parts = {k: torch.stack([of[k] for of in losses]).mean() for k in losses[0]}
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
    """Mean Dice at 0.5 of the gated map, by organ and modality, over windows with a lesion."""
    scores: dict[str, list[float]] = {}
    texts = prompts.draw(np.random.default_rng(0))
    for window in (w.to(str(model.device)) for w in windows):
        maps = window_maps(autoencoder, model, window, texts_of_organ(texts, window.organ))
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
        return model(features, modality, texts)
