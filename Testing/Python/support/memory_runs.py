"""What tests of memory share: a scan, networks and texts of a size, and what a run took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from DiffuGTSLib.networks import device
from DiffuGTSLib.networks.attention import AnomalyAttention, Maps, Texts
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Conditioning, Denoiser
from DiffuGTSLib.networks.tiling import Tiling
from DiffuGTSLib.pipeline.encoding import Encoding, encode, maps
from DiffuGTSLib.pipeline.inpainting import inpaint
from DiffuGTSLib.pipeline.residual import Rebuilt, compare
from DiffuGTSLib.pipeline.scan_size import SizeLimits
from DiffuGTSLib.progress import Progress
from support.live_bytes import LiveBytes
from support.noise_schedules import rectified_flow
from support.random_networks import build

CT = torch.tensor([0])


SIZE = (64, 64, 32)


IN_SLABS = Tiling(2**16, 1, 1)


class Networks(NamedTuple):
    """The networks of a model package."""

    autoencoder: Autoencoder
    denoiser: Denoiser
    attention: AnomalyAttention

    def limits(self, samples: int = 1) -> SizeLimits:
        """Those of a model that they are."""
        return SizeLimits.of((2.0, 2.0, 2.0), (0, 0, 0), samples, *(n.config for n in self))


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
                                 context_channels=(32, 24, 16), gate_channels=8,
                                 image_channels=(6, 12, 16))
    for parameter in attention.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Networks(build(), denoiser.eval(), attention.eval())


@pytest.fixture(scope="module")
def texts() -> Texts:
    return random_texts(20)


def random_texts(width: int) -> Texts:
    generator = torch.Generator().manual_seed(1)
    return Texts(*(torch.randn(1, width, generator=generator) for _ in range(3)))


def image(size: Sequence[int] = SIZE) -> torch.Tensor:
    x = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(2))
    return x.contiguous(memory_format=torch.channels_last_3d)


def all_maps(networks: Networks, encoding: Encoding, texts: Texts) -> Maps:
    parts = list(maps(networks.attention, encoding, texts))
    return Maps(torch.cat([p.anomaly for p in parts], 2), torch.cat([p.gate for p in parts], 2))


def allocated(run: Callable[[], object]) -> int:
    """The peak of what torch's own allocator gave out while `run` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        run()
    now = peak = 0
    found = [e for e in watch.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(found, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


class StagePeaks(NamedTuple):
    """Bytes of the tensors that were alive at the peak of each stage, and of an encoded scan."""

    encode: int
    attend: int
    kept: int
    crop: int


@torch.inference_mode()
def stage_peaks(
    networks: Networks, size: Sequence[int], tiling: Tiling | None, samples: int = 1
) -> StagePeaks:
    """Runs each stage with a scan, or a crop, of `size` voxels."""
    autoencoder, denoiser, attention = networks
    texts = random_texts(attention.config.text_dim)
    with LiveBytes() as live:
        encoding = encode(autoencoder, attention, image(size), CT, tiling)
        encode_peak, kept = live.peak, live.now
        live.peak = 0
        torch.cat([part.probability() for part in maps(attention, encoding, texts)], 2)
        attend_peak = live.peak
    del encoding
    latent = torch.randn(1, autoencoder.config.latent_channels,
                         *(n // autoencoder.downscale for n in size))
    schedule = rectified_flow(1, latent[0, 0].numel())
    with LiveBytes() as live:
        mask = torch.ones_like(latent[:, :1])
        healthy = [
            inpaint(denoiser, schedule, latent, mask, Conditioning(), torch.Generator(),
                    Progress(), 0, 1)
            for _ in range(samples)
        ]
        compare(autoencoder, Rebuilt(autoencoder, latent, tiling), healthy, tiling)
    return StagePeaks(encode_peak, attend_peak, kept, live.peak)
