"""What every trainer shares: the step loop, learning rate, checkpoints that survive a kill, log."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


@dataclass
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps in all.
        learning_rate: peak; cosine from there to a hundredth after `warmup` linear steps.
        seed: of weights and samples; the same seed gives the same curve on one machine.
        folder: checkpoint.pt and log.txt go here.
        save_every: steps between checkpoints and validations.
        average: decay of the weights' running mean, which is what comes out of the training.
    """

    steps: int
    learning_rate: float
    folder: Path
    seed: int = 0
    warmup: int = 100
    save_every: int = 500
    weight_decay: float = 1e-4
    clip: float = 0.3
    average: float = 0.999


@contextmanager
def _in_place_of(network: nn.Module, other: nn.Module) -> Iterator[None]:
    """Inside the block `network` has the weights of `other`."""
    own = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(other.state_dict())
    try:
        yield
    finally:
        network.load_state_dict(own)


@dataclass
class Loop:
    """Runs `loss` until `config.steps`, resuming from the folder's checkpoint where there is one.

    Args:
        network: what is saved and resumed; only its parameters that need gradients are trained.
        loss: (step, numpy generator) -> scalar tensor and figures for the log.
        validate: called at each checkpoint; its figures are logged.
    """

    config: LoopConfig
    network: nn.Module
    loss: Callable[[int, np.random.Generator], tuple[torch.Tensor, dict[str, float]]]
    validate: Callable[[], dict[str, float]] | None = None
    started: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Trains. A killed run started again continues from its last checkpoint."""
        config = self.config
        config.folder.mkdir(parents=True, exist_ok=True)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(config.average))
        first = self._resume(optimizer, averaged)
        figures: dict[str, list[float]] = {}
        for step in range(first, config.steps):
            # One generator a step: a resumed run draws what the uninterrupted one would have.
            generator = np.random.default_rng([config.seed, step])
            torch.manual_seed(config.seed * 1_000_003 + step)
            for group in optimizer.param_groups:
                group["lr"] = self._rate(step)
            loss, noted = self.loss(step, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, config.clip)
            noted["gradient"] = float(norm)
            if torch.isfinite(norm):  # one overflow in bfloat16 must not undo hours
                optimizer.step()
            # Early on the mean forgets faster, or it would be the untrained weights for long.
            averaged.multi_avg_fn = get_ema_multi_avg_fn(min(config.average, step / (step + 10)))
            averaged.update_parameters(self.network)
            for name, value in {"loss": float(loss.detach()), **noted}.items():
                figures.setdefault(name, []).append(value)
            if (step + 1) % 50 == 0:
                self._log(step + 1, {k: float(np.mean(v)) for k, v in figures.items()})
                figures = {}
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                self._save(step + 1, optimizer, averaged)
                if self.validate is not None:
                    with _in_place_of(self.network, averaged.module):
                        self._log(step + 1, self.validate(), "validation")
        self.network.load_state_dict(averaged.module.state_dict())

    def _rate(self, step: int) -> float:
        config = self.config
        if step < config.warmup:
            return config.learning_rate * (step + 1) / config.warmup
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
        return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, done))))

    def _resume(self, optimizer: torch.optim.Optimizer, averaged: AveragedModel) -> int:
        path = self.config.folder / "checkpoint.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        averaged.load_state_dict(state["averaged"])
        return int(state["step"])

    def _save(
        self, step: int, optimizer: torch.optim.Optimizer, averaged: AveragedModel
    ) -> None:
        path = self.config.folder / "checkpoint.pt"
        state = {"network": self.network.state_dict(), "averaged": averaged.state_dict(),
                 "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def _log(self, step: int, figures: dict[str, float], kind: str = "train") -> None:
        minutes = (time.monotonic() - self.started) / 60
        values = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        with (self.config.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{step:6d} {minutes:7.1f} min  {kind:10s} {values}\n")
