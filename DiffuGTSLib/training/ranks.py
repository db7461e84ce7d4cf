"""One process or several (torchrun): gradients are averaged, so that all hold the same weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn

# Others wait while the first rank validates or resamples the data for the first time.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """Which of the processes that train together this one is.

    Attributes:
        rank: 0 to size - 1; rank 0 writes checkpoints, log and package.
        size: number of processes; with 1 nothing is exchanged.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.size > 1:
            distributed.barrier()

    def share(self, network: nn.Module) -> None:
        """Gives every process the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                distributed.broadcast(tensor, 0)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over the processes.

        A parameter that only some of them used counts as 0 for the others; one that none used
        keeps no gradient, as it would in a single process.
        """
        if self.size == 1:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters],
                            device=parameters[0].device)
        pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        # One exchange for all: hundreds of small ones would cost more than the step.
        flat = torch.cat([used, *pieces])
        distributed.all_reduce(flat)
        means = flat[len(parameters):] / self.size
        pieces = list(means.split([p.numel() for p in parameters]))
        for p, piece, users in zip(parameters, pieces, flat[: len(parameters)], strict=True):
            p.grad = piece.view_as(p) if users > 0 else None

    def average(self, figures: dict[str, float], device: torch.device) -> dict[str, float]:
        """Each figure's mean over the processes; all have to know the same figures."""
        if self.size == 1 or not figures:
            return figures
        values = torch.tensor(list(figures.values()), dtype=torch.float32, device=device)
        distributed.all_reduce(values)
        return dict(zip(figures, (values / self.size).tolist(), strict=True))


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Joins the processes that torchrun started, if it did, until the block ends.

    Args:
        device: "cpu", "cuda" or "cuda:N", as `device.choose_device` returns it.

    Yields:
        This process's ranks, and its device: under torchrun each has a GPU of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), size), device
    finally:
        distributed.destroy_process_group()
