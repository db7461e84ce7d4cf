"""How many bytes of tensors are alive while something runs; and a limit to them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is active, as long as they live.

    These are what a GPU's allocator gives out; a CPU's libraries take buffers beside them.

    Args:
        limit: at which `torch.OutOfMemoryError` is raised, as a GPU's allocator does; None for
            no limit.

    Attributes:
        now: bytes alive.
        peak: the most that were alive at a time.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        if self.limit is not None and self.now + size > self.limit:
            raise torch.OutOfMemoryError(f"{self.now + size} bytes are more than {self.limit}")
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
