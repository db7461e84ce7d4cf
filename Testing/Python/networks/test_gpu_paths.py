"""What differs on a GPU, as far as it shows without one: precisions, devices that must not mix,
what is left where its memory is short."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from support.noise_schedules import ddim, ddpm, rectified_flow
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.errors import TooLarge
from DiffuGTSLib.models import package
from DiffuGTSLib.models.package import Package, load
from DiffuGTSLib.networks import device
from DiffuGTSLib.networks.denoiser import Conditioning, Denoiser
from DiffuGTSLib.networks.schedules import Schedule
from DiffuGTSLib.pipeline import memory_plan
from DiffuGTSLib.pipeline.inpainting import inpaint
from DiffuGTSLib.pipeline.memory_plan import Planner
from DiffuGTSLib.pipeline.scan_size import TILINGS, SizeLimits
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.progress import Progress

SMALL = {"num_channels": (8, 16), "attention_levels": (False, True), "num_head_channels": 8,
         "num_res_blocks": 1, "norm_num_groups": 4, "num_class_embeds": 4,
         "include_spacing_input": True}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU does as a GPU: bfloat16 weights, no autocast."""
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda: False)
    monkeypatch.setattr(package, "storage_dtype", lambda name: torch.bfloat16)


@pytest.mark.usefixtures("in_bfloat16")
def test_with_networks_stored_in_half_precision_the_same_is_found(tiny: Path) -> None:
    segmenter = Segmenter.from_pretrained(tiny, "cpu")
    assert {n.dtype for n in segmenter.package.networks} == {torch.bfloat16}
    scan = segmenter.encode(ball_scan()[0], "MR")
    assert {level.dtype for level in scan.features} == {torch.bfloat16}  # as the plan counts them
    assert scan.latent.dtype == torch.float32
    found = segmenter.segment(scan, PROMPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "storage_dtype", lambda name: torch.float32)
        exact = Segmenter.from_pretrained(tiny, "cpu")
        expected = exact.segment(exact.encode(ball_scan()[0], "MR"), PROMPT)
    assert np.abs(found.evidence.attention - expected.evidence.attention).max() < 0.1
    assert len(found.lesions) == len(expected.lesions)


def test_a_gpu_runs_without_autocast() -> None:
    with torch.autocast("cpu", enabled=False), device.precision("cuda"):
        assert not torch.is_autocast_enabled("cuda")


@pytest.mark.parametrize(("real", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_emulates_bfloat16_computes_in_float32(
    real: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda name: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: real or including_emulation)
    assert device.computes_in("cuda:1") == dtype
    assert device.storage_dtype("cuda:1") == dtype


@torch.inference_mode()
@pytest.mark.parametrize("schedule", [rectified_flow(2, 512), ddim(2), ddpm(2)],
                         ids=["flow", "ddim", "ddpm"])
def test_painting_on_another_device_mixes_none(schedule: Schedule) -> None:
    """Without content nothing can be read back, and the CPU's tensors do not fit."""
    with torch.device("meta"):
        denoiser = Denoiser(**SMALL).bfloat16()
        latent, mask = torch.zeros(1, 4, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    conditioning = Conditioning(1, (1.5, 1.5, 1.5), (1, 2), 10.0)
    painted = inpaint(denoiser, schedule, latent, mask, conditioning, torch.Generator(), Progress(),
                      0, 2, resamplings=2)
    assert (painted.device.type, painted.dtype) == ("meta", torch.float32)


def test_no_map_in_one_piece_has_more_elements_than_a_gpu_counts(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "free_bytes", lambda name: 10**15)
    monkeypatch.setattr(memory_plan, "element_bytes", lambda name: 2)
    limits = SizeLimits((1.5, 1.5, 1.5), 32, (256, 256, 128), samples=1, channels=64)
    planner = Planner(limits, "cuda")
    assert next(planner.crop((256, 256, 240), 1, "cuda")).tiling is None
    assert next(planner.crop((256, 256, 256), 1, "cuda")).tiling is not None
    assert next(Planner(limits, "cpu").crop((256, 256, 256), 1, "cpu")).tiling is None


def test_a_gpu_without_room_for_the_weights_leaves_the_model_on_the_cpu(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Package.place

    def full(model: Package, where: str) -> None:
        if where != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        place(model, where)

    monkeypatch.setattr(Package, "place", full)
    monkeypatch.setattr(memory_plan, "release", lambda name: None)
    segmenter = Segmenter(load(tiny), "cuda")
    assert segmenter.device == "cpu"
    note = "Memory ran out on the GPU in one piece. The model was loaded on the CPU"
    assert segmenter.encode(ball_scan()[0], "MR").notes[0].startswith(note)


def test_a_gpu_on_which_nothing_is_free_counts_as_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert memory_plan.free_bytes("cuda:0") == 0


def test_weights_that_are_still_to_be_loaded_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "free_bytes", lambda name: 10**9)
    limits = SizeLimits((2.0, 2.0, 2.0), 16, (0, 0, 0), samples=1, channels=16)
    size = (128, 96, 96)
    least = min(limits.crop_bytes(size, 1, way, torch.float32.itemsize) for way in TILINGS)
    spare = (10**9 - least) // torch.float32.itemsize
    assert next(Planner(limits, "cpu", spare).crop(size, 1, "cpu")).need == least
    with pytest.raises(TooLarge):
        next(Planner(limits, "cpu", spare + 1).crop(size, 1, "cpu"))
