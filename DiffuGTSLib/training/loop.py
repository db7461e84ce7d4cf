"""What every trainer shares: the step loop, learning rate, checkpoints that survive a kill, curves.

One process or several (torchrun): gradients are averaged, so that all hold the same weights.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from DiffuGTSLib.errors import PackageMissing, TrainingImpossible
from DiffuGTSLib.files import write_atomically

CHECKPOINT = "checkpoint.pt"
CURVE = "curve.jsonl"
EVENTS = "tensorboard"
# The other ranks wait while the first one validates or resamples the data.
EXCHANGE_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that train together.

    Attributes:
        rank: 0 to size - 1; rank 0 writes checkpoints, curves and package.
        size: number of processes; with 1 nothing is exchanged.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """A barrier: returns when all processes have called it."""
        if self.size > 1:
            distributed.barrier()

    def broadcast(self, network: nn.Module) -> None:
        """Copies the first process's parameters and buffers to all."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, 0)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over the processes.

        A parameter that a process did not use counts as 0 there; one that none used keeps no
        gradient, as in a single process.
        """
        if self.size == 1:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters],
                            device=parameters[0].device)
        pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        # One all-reduce for all: hundreds of small ones would take longer than the step.
        flat = torch.cat([used, *pieces])
        distributed.all_reduce(flat)
        means = flat[len(parameters):] / self.size
        pieces = list(means.split([p.numel() for p in parameters]))
        for p, piece, users in zip(parameters, pieces, flat[: len(parameters)], strict=True):
            p.grad = piece.view_as(p) if users > 0 else None

    def average(self, figures: dict[str, float], device: torch.device) -> dict[str, float]:
        """Each figure's mean over the processes; all need the same figures."""
        if self.size == 1 or not figures:
            return figures
        values = torch.tensor(list(figures.values()), dtype=torch.float32, device=device)
        distributed.all_reduce(values)
        return dict(zip(figures, (values / self.size).tolist(), strict=True))


SINGLE_PROCESS = Ranks()


@dataclass
class LoopConfig:
    """Settings of a training loop.

    Attributes:
        steps: optimizer steps in total.
        learning_rate: peak; cosine from there to a hundredth after `warmup` linear steps.
        seed: of weights and data; the same seed gives the same curve on one machine.
        folder: for checkpoint.pt, curve.jsonl and tensorboard/.
        save_every: steps between checkpoints and validations.
        average: decay of the exponential moving average of the weights, which is the result.
        log_every: steps whose mean is one point of the curve.
        tensorboard: whether to write live curves for TensorBoard, too.
        device: of the network and its inputs.
        bfloat16: whether networks run in bfloat16 where that is safe (mixed precision).
        ranks: the processes that train together.
        log: receives each line of progress.
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
    ranks: Ranks = SINGLE_PROCESS
    log: Callable[[str], None] | None = None

    def autocast(self) -> AbstractContextManager[object]:
        """The precision in which the networks run."""
        kind = self.device.split(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.bfloat16)


@contextmanager
def _weights_of(network: nn.Module, other: nn.Module) -> Iterator[None]:
    """Inside the block `network` has the weights of `other`."""
    own = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(other.state_dict())
    try:
        yield
    finally:
        network.load_state_dict(own)


def step_generator(seed: int, step: int, rank: int, *purpose: int) -> np.random.Generator:
    """A generator per step, so that a resumed run draws what an uninterrupted one would have."""
    return np.random.default_rng([seed, step, rank, *purpose])


@dataclass
class Loop:
    """Runs `loss` until `config.steps`, resuming from the folder's checkpoint where there is one.

    Several processes (see Ranks) each run it on examples of their own, average the gradients and so
    hold the same weights; the first one writes.

    Args:
        network: saved and resumed; only its parameters that need gradients are trained.
        loss: (step, numpy generator) -> scalar tensor and figures for the curve.
        validate: called at each checkpoint, with the averaged weights; gives figures.

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
        ranks.broadcast(self.network)
        optimizer = torch.optim.AdamW(
            trained, config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(config.average))
        first = self._resume(optimizer, averaged)
        curve = CurveWriter(config.folder, first, self._seconds, config.tensorboard,
                            config.log) if ranks.first else None
        if first and curve is not None and config.log is not None:
            config.log(f"continues after step {first} of {config.steps}")
        figures: dict[str, list[float]] = {}
        for step in range(first, config.steps):
            for name, value in self._step(step, trained, optimizer, averaged).items():
                figures.setdefault(name, []).append(value)
            saves = (step + 1) % config.save_every == 0 or step + 1 == config.steps
            if saves or (step + 1) % config.log_every == 0:
                means = ranks.average({k: float(np.mean(v)) for k, v in figures.items()},
                                      trained[0].device)
                figures = {}
                if curve is not None:
                    curve.add(step + 1, means)
            if saves and curve is not None:
                self._validate(step + 1, averaged, curve)
                self._save(step + 1, optimizer, averaged, curve.seconds)
        if curve is not None:
            curve.close()
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
        loss, figures = self.loss(step, step_generator(config.seed, step, ranks.rank))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.average_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, config.clip)
        if torch.isfinite(norm):  # one overflow in bfloat16 must not undo hours
            optimizer.step()
        # A shorter average at first, or the untrained weights would dominate it for long.
        averaged.multi_avg_fn = get_ema_multi_avg_fn(min(config.average, step / (step + 10)))
        averaged.update_parameters(self.network)
        return {"loss": float(loss.detach()), **figures, "gradient": float(norm)}

    def _validate(self, step: int, averaged: AveragedModel, curve: CurveWriter) -> None:
        if self.validate is not None:
            with _weights_of(self.network, averaged.module):
                curve.add(step, self.validate(), "validation")

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
                "Delete that folder to start again, or choose another.",
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


class CurveWriter:
    """Writes figures by step: curve.jsonl, TensorBoard where wanted, and a line for people.

    Args:
        folder: for curve.jsonl and tensorboard/.
        step: where the training (re)starts; what a killed run wrote beyond is dropped.
        seconds: of training up to there.
        tensorboard: whether to write live curves for TensorBoard.
        log: receives a readable line per entry.

    Raises:
        PackageMissing: TensorBoard is wanted, but not installed.
    """

    def __init__(
        self, folder: Path, step: int = 0, seconds: float = 0.0, tensorboard: bool = False,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.path = folder / CURVE
        self._started = time.monotonic() - seconds
        self._log = log
        self._events = _tensorboard(folder / EVENTS, step) if tensorboard else None
        kept = [json.dumps(entry) + "\n" for entry in read_curve(folder) if entry["step"] <= step]
        if self.path.exists():
            write_atomically(self.path, "".join(kept).encode())

    @property
    def seconds(self) -> float:
        """Time of training, without what kills have lost."""
        return time.monotonic() - self._started

    def add(self, step: int, figures: Mapping[str, float], kind: str = "train") -> None:
        """Adds the figures of a step; `kind` is "train" or "validation"."""
        with self.path.open("a", encoding="utf-8") as curve:
            curve.write(json.dumps({"step": step, "kind": kind, "figures": dict(figures)}) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(f"{kind}/{name}", value, step)
            self._events.flush()
        if self._log is not None:
            values = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self._log(f"{step:6d} {self.seconds / 60:7.1f} min  {kind:10s} {values}")

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            self._events.close()


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The entries of a training's curve: step, kind and figures, in their order.

    A last line that a kill left incomplete is skipped.
    """
    path = folder / CURVE
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _tensorboard(folder: Path, step: int) -> Any:
    """An event writer that hides what an earlier run wrote beyond `step`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise PackageMissing(
            "Live curves need TensorBoard, which is not installed.",
            "Run: pip install tensorboard, or set tensorboard = false.",
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1)


@contextmanager
def process_group(device: str) -> Iterator[tuple[Ranks, str]]:
    """Joins the process group of torchrun, if there is one, until the block ends.

    Args:
        device: "cpu", "cuda" or "cuda:N", as `device.choose_device` returns it.

    Yields:
        This process's ranks, and its device: under torchrun each has a GPU of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS, device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=EXCHANGE_TIMEOUT)
    try:
        yield Ranks(distributed.get_rank(), size), device
    finally:
        distributed.destroy_process_group()
