"""What every trainer shares: the step loop, learning rate, checkpoints that survive a kill, log."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from DiffuGTSLib.errors import TrainingImpossible
from DiffuGTSLib.training.curves import Curves
from DiffuGTSLib.training.ranks import ALONE, Ranks

CHECKPOINT = "checkpoint.pt"


@dataclass
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps in all.
        learning_rate: peak; cosine from there to a hundredth after `warmup` linear steps.
        seed: of weights and samples; the same seed gives the same curve on one machine.
        folder: checkpoint.pt, log.txt and the curves go here.
        save_every: steps between checkpoints and validations.
        average: decay of the weights' running mean, which is what comes out of the training.
        log_every: steps whose mean is one point of the curve.
        tensorboard: whether to write live curves for TensorBoard, too.
        device: of the network and of what it is shown.
        bfloat16: whether networks run in bfloat16 where that is safe (mixed precision).
        ranks: the processes that train together.
        tell: is given each line of the log.
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
    log_every: int = 50
    tensorboard: bool = False
    device: str = "cpu"
    bfloat16: bool = True
    ranks: Ranks = ALONE
    tell: Callable[[str], None] | None = None

    def autocast(self) -> AbstractContextManager[object]:
        """The precision in which the networks run."""
        kind = self.device.split(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.bfloat16)


@contextmanager
def _in_place_of(network: nn.Module, other: nn.Module) -> Iterator[None]:
    """Inside the block `network` has the weights of `other`."""
    own = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(other.state_dict())
    try:
        yield
    finally:
        network.load_state_dict(own)


def step_generator(seed: int, step: int, rank: int, *purpose: int) -> np.random.Generator:
    """One generator a step: a resumed run draws what the uninterrupted one would have."""
    return np.random.default_rng([seed, step, rank, *purpose])


@dataclass
class Loop:
    """Runs `loss` until `config.steps`, resuming from the folder's checkpoint where there is one.

    Several processes (see ranks.py) each run it on examples of their own, average the gradients
    and so hold the same weights; the first one writes.

    Args:
        network: what is saved and resumed; only its parameters that need gradients are trained.
        loss: (step, numpy generator) -> scalar tensor and figures for the log.
        validate: called at each checkpoint; its figures are logged.

    Raises:
        TrainingImpossible: the folder's checkpoint is damaged or of another network.
    """

    config: LoopConfig
    network: nn.Module
    loss: Callable[[int, np.random.Generator], tuple[torch.Tensor, dict[str, float]]]
    validate: Callable[[], dict[str, float]] | None = None
    _seconds: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Trains. A killed run started again continues from its last checkpoint."""
        config, ranks = self.config, self.config.ranks
        config.folder.mkdir(parents=True, exist_ok=True)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        ranks.share(self.network)
        optimizer = torch.optim.AdamW(
            trained, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(config.average))
        first = self._resume(optimizer, averaged)
        curves = Curves(config.folder, first, self._seconds, config.tensorboard,
                        config.tell) if ranks.first else None
        if first and curves is not None and config.tell is not None:
            config.tell(f"goes on after step {first} of {config.steps}")
        figures: dict[str, list[float]] = {}
        for step in range(first, config.steps):
            for name, value in self._step(step, trained, optimizer, averaged).items():
                figures.setdefault(name, []).append(value)
            saves = (step + 1) % config.save_every == 0 or step + 1 == config.steps
            if saves or (step + 1) % config.log_every == 0:
                means = ranks.average({k: float(np.mean(v)) for k, v in figures.items()},
                                      trained[0].device)
                figures = {}
                if curves is not None:
                    curves.add(step + 1, means)
            if saves and curves is not None:
                self._validate(step + 1, averaged, curves)
                self._save(step + 1, optimizer, averaged, curves.seconds)
        if curves is not None:
            curves.close()
        ranks.wait()
        self.network.load_state_dict(averaged.module.state_dict())

    def _step(
        self, step: int, trained: list[nn.Parameter], optimizer: torch.optim.Optimizer,
        averaged: AveragedModel,
    ) -> dict[str, float]:
        """One optimizer step; its figures."""
        config, ranks = self.config, self.config.ranks
        torch.manual_seed(config.seed * 1_000_003 + step + ranks.rank * 1_000_000_000_039)
        for group in optimizer.param_groups:
            group["lr"] = self._rate(step)
        loss, noted = self.loss(step, step_generator(config.seed, step, ranks.rank))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, config.clip)
        if torch.isfinite(norm):  # one overflow in bfloat16 must not undo hours
            optimizer.step()
        # Early on the mean forgets faster, or it would be the untrained weights for long.
        averaged.multi_avg_fn = get_ema_multi_avg_fn(min(config.average, step / (step + 10)))
        averaged.update_parameters(self.network)
        return {"loss": float(loss.detach()), **noted, "gradient": float(norm)}

    def _validate(self, step: int, averaged: AveragedModel, curves: Curves) -> None:
        if self.validate is not None:
            with _in_place_of(self.network, averaged.module):
                curves.add(step, self.validate(), "validation")

    def _rate(self, step: int) -> float:
        config = self.config
        if step < config.warmup:
            return config.learning_rate * (step + 1) / config.warmup
        done = (step - config.warmup) / max(1, config.steps - config.warmup)
        return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, done))))

    def _resume(self, optimizer: torch.optim.Optimizer, averaged: AveragedModel) -> int:
        path = self.config.folder / CHECKPOINT
        if not path.exists():
            return 0
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            self.network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            averaged.load_state_dict(state["averaged"])
        except (OSError, EOFError, KeyError, ValueError, RuntimeError,
                pickle.UnpicklingError) as error:
            raise TrainingImpossible(
                f"The checkpoint in {path.parent.name} is damaged or of another network.",
                "Delete that folder to start anew, or choose another.",
            ) from error
        self._seconds = float(state.get("seconds", 0.0))
        return int(state["step"])

    def _save(
        self, step: int, optimizer: torch.optim.Optimizer, averaged: AveragedModel, seconds: float
    ) -> None:
        path = self.config.folder / CHECKPOINT
        state = {"network": self.network.state_dict(), "averaged": averaged.state_dict(),
                 "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
