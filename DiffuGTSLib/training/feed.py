"""The windows of each training step, drawn ahead by worker processes where there are any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from DiffuGTSLib.training.loop import LoopConfig, step_generator
from DiffuGTSLib.training.windows import Window

_PURPOSE = 0xFEED  # keeps the windows' generator apart from the one that the loss is given


class Sampler(Protocol):
    """What draws windows."""

    def draw(self, generator: np.random.Generator) -> Window:
        """A window; the same generator, the same window."""
        ...


class _Steps(Dataset[list[Window]]):
    """The windows of the steps from `first` on, one item a step."""

    def __init__(self, feed: Feed, config: LoopConfig, first: int) -> None:
        self.feed, self.first, self.count = feed, first, config.steps - first
        self.seed, self.rank = config.seed, config.ranks.rank

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> list[Window]:
        return self.feed.draw(self.seed, self.first + index, self.rank)


class Feed:
    """The same windows for the same seed, step and rank, whatever the number of workers.

    Args:
        count: windows a step.
        workers: processes that draw ahead while the networks run; 0 draws when asked.
    """

    def __init__(self, sampler: Sampler, count: int = 1, workers: int = 0) -> None:
        self.sampler, self.count, self.workers = sampler, count, workers
        self._ahead: Iterator[list[Window]] | None = None
        self._next = 0

    def windows(self, step: int, config: LoopConfig) -> list[Window]:
        """The windows of a step, for this process; steps are asked for one after the other."""
        if self.workers == 0:
            return self.draw(config.seed, step, config.ranks.rank)
        if self._ahead is None or step != self._next:
            loader = DataLoader(_Steps(self, config, step), batch_size=None,
                                num_workers=self.workers)
            self._ahead = iter(loader)
        self._next = step + 1
        return next(self._ahead)

    def draw(self, seed: int, step: int, rank: int) -> list[Window]:
        """The windows of a step, drawn here and now."""
        generator = step_generator(seed, step, rank, _PURPOSE)
        return [self.sampler.draw(generator) for _ in range(self.count)]
