"""The peak of a stretch of work, not of the process."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from DiffuGTSLib.evaluation.scoring import forget_peak, peak_gb, peak_gpu_gb


def hold(gigabytes: float) -> None:
    np.ones(int(gigabytes * 1e9 / 8)).sum()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be set back on Linux alone")
def test_an_earlier_stretch_does_not_count():
    forget_peak()
    start = peak_gb()
    hold(0.6)
    high = peak_gb()
    assert 0.5 < high - start < 0.7
    forget_peak()
    hold(0.2)
    assert 0.1 < peak_gb() - start < 0.4


def test_a_cpu_has_no_memory_of_a_gpu():
    assert peak_gpu_gb("cpu") is None
