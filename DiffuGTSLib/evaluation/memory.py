"""The most memory that a stretch of work held."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak(device: str = "cpu") -> None:
    """Starts a new stretch.

    On Linux what earlier work left behind is handed back and the system's own record set back.
    Elsewhere there is no way to: the peak is that of the process since its start.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a system may forbid it, or have another libc
            ctypes.CDLL(None).malloc_trim(0)
            _CLEAR.write_text("5")
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def peak_gb() -> float:
    """The most main memory held since `forget_peak`, in GB of 10^9 bytes."""
    if sys.platform == "linux":
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024 / 1e9
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def peak_gpu_gb(device: str) -> float | None:
    """The most memory of the GPU that the networks held; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return float(torch.cuda.max_memory_allocated(device)) / 1e9
