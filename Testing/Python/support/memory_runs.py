"""What tests of memory share: a scan, networks and texts of a size, and what a run took."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from DiffuGTSLib.networks import device
from DiffuGTSLib.networks.attention import AnomalyAttention, Maps, Texts
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.networks.tiled_autoencoder import Tiling
from DiffuGTSLib.pipeline.encoding import Encoding, maps
from DiffuGTSLib.pipeline.memory_plan import (
    Networks,
)
from support.random_networks import build

CT = torch.tensor([0])


SIZE = (64, 64, 32)


IN_SLABS = Tiling(2**16, 1, 1)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU without bfloat16: its emulation would round, and copy maps."""
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: False)


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Random networks; in the attention nothing is zero, as it is before a training."""
    torch.manual_seed(0)
    denoiser = Denoiser(num_channels=(8, 16), attention_levels=(False, True), num_head_channels=8,
                        num_res_blocks=1, norm_num_groups=8)
    attention = AnomalyAttention(feature_channels=(8, 16, 32), text_dim=20, text_rank=10,
                                 context_channels=(32, 24, 16), gate_channels=8)
    for parameter in attention.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Networks(build(), denoiser.eval(), attention.eval())


@pytest.fixture(scope="module")
def texts() -> Texts:
    generator = torch.Generator().manual_seed(1)
    return Texts(*(torch.randn(1, 20, generator=generator) for _ in range(3)))


def image() -> torch.Tensor:
    x = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(2))
    return x.contiguous(memory_format=torch.channels_last_3d)


def asked(networks: Networks, encoding: Encoding, texts: Texts) -> Maps:
    parts = list(maps(networks.attention, encoding, texts))
    return Maps(torch.cat([p.anomaly for p in parts], 2), torch.cat([p.gate for p in parts], 2))


def measured(run: Callable[[], object]) -> int:
    """The peak of what torch's own allocator gave out while `run` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        run()
    now = peak = 0
    found = [e for e in watch.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(found, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
