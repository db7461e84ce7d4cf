"""How many bytes of tensors are alive while something runs, at its peak; and a limit to them.

On tensors of the device "meta" nothing is computed and nothing allocated, so that the need of a
run is known before it begins, from the networks themselves and the very code that will run them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_iter

UNFOLDED_AT_MOST = 20480


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is active, as long as they live.

    Args:
        limit: at which `torch.OutOfMemoryError` is raised, as a GPU's allocator does; None for
            no limit.
        unfolds: also counts what small convolutions allocate in float32 on a CPU.

    Attributes:
        now: bytes alive.
        peak: the most that were alive at a time.
    """

    def __init__(self, limit: int | None = None, unfolds: bool = False) -> None:
        super().__init__()
        self.limit = limit
        self.unfolds = unfolds
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()
        self._outputs: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = self._made(func, args, kwargs or {})
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        if self.unfolds and func is torch.ops.aten.conv3d.default:
            self.peak = max(self.peak, self.now + _unfolded(out, *args[:2]))
        return out

    def _made(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What the operation makes.

        Without content, an output like an earlier one is not worked out again: the same repeats
        slab after slab, and an interpolation takes 15 ms.
        """
        given, structure = tree_flatten((args, kwargs))
        key = (func, structure, *(_kind(x) for x in given))
        known = self._outputs.get(key)
        if known is not None:
            return torch.empty_strided(*known[:2], dtype=known[2], device="meta")
        out = func(*args, **kwargs)
        if isinstance(out, torch.Tensor) and out.is_meta and _is_new(out, args):
            self._outputs[key] = _kind(out)
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


def _unfolded(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> int:
    """Bytes of the input as a 3D convolution unfolds it: a copy for each voxel of its kernel.

    Torch's own rule (`use_mkldnn`): larger inputs go to a library that needs no copies.
    """
    kernel = weight[0, 0].numel()
    if kernel == 1 or math.prod(x.shape[:4]) > UNFOLDED_AT_MOST:
        return 0
    return kernel * x.shape[1] * out[0, 0].numel() * x.element_size()


def _kind(given: Any) -> Any:
    """What of an operation's input its output's shape depends on."""
    if isinstance(given, torch.Tensor):
        return given.shape, given.stride(), given.dtype, given.device
    return type(given), given


def _is_new(out: torch.Tensor, args: Any) -> bool:
    """Whether it has memory of its own; not so a view, or an input that was changed in place."""
    storage = out.untyped_storage()._cdata
    return all(
        x.untyped_storage()._cdata != storage for x in tree_iter(args)
        if isinstance(x, torch.Tensor)
    )
