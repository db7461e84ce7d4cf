"""The memory plan: counted on the networks, made before a run, and what follows where it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.live_bytes import LiveBytes
from support.memory_runs import (
    CT,
    IN_SLABS,
    Networks,
    _float32,
    all_maps,
    allocated,
    image,
    networks,
    stage_peaks,
    texts,
)
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.errors import DiffuGTSError, OutOfMemory, TooLarge, is_out_of_memory
from DiffuGTSLib.models.package import load
from DiffuGTSLib.networks.attention import Maps, Texts
from DiffuGTSLib.networks.tiling import MIN_MAP_SLAB, Tiling
from DiffuGTSLib.pipeline import memory_plan
from DiffuGTSLib.pipeline.encoding import encode
from DiffuGTSLib.pipeline.memory_plan import Plan, Planner, carry_out
from DiffuGTSLib.pipeline.residual import Rebuilt, compare
from DiffuGTSLib.pipeline.scan_size import TILINGS, SizeLimits
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.progress import Progress
from DiffuGTSLib.scan.volume import from_image

__all__ = ["_float32", "networks", "texts"]
LARGE = (512, 512, 512)
MAISI = SizeLimits((1.5, 1.5, 1.5), 32, (256, 256, 128), samples=2, channels=64)
FLOAT = torch.float32.itemsize
each_tiling = pytest.mark.parametrize(
    "tiling", [None, Tiling(1, 0, 0), IN_SLABS, Tiling(1, 2, 1)], ids=str)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return Segmenter.from_pretrained(write_tiny_model(tmp_path_factory.mktemp("tiny")), "cpu")


@pytest.fixture(scope="module")
def embedded() -> Networks:
    package = load("embedded")
    return Networks(package.autoencoder, package.denoiser, package.attention)


@pytest.mark.parametrize("planes", [8, 64])
@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_the_constants_are_what_the_embedded_model_takes(
    embedded: Networks, tiling: Tiling | None, planes: int
) -> None:
    size, limits = (64, 48, 32), embedded.limits()
    if tiling is not None:
        tiling = replace(tiling, slab_elements=planes * size[1] * size[2] * limits.channels)
    peaks = stage_peaks(embedded, size, tiling)
    need, kept = limits.encoding_bytes(size, tiling, FLOAT)
    crop = limits.crop_bytes(size, 1, tiling, FLOAT)
    for least, taken in ((need, max(peaks.encode, peaks.attend)), (kept, peaks.kept),
                         (crop, peaks.crop)):
        # MAISI takes more in slabs, and crops more in bfloat16.
        assert taken < least < (2.5 if tiling else 1.6) * taken


def test_the_allocator_gives_out_no_more_than_the_plan_says(embedded: Networks) -> None:
    size = (64, 48, 48)
    with torch.inference_mode():
        taken = allocated(lambda: encode(embedded.autoencoder, embedded.attention, image(size), CT))
    need, _ = embedded.limits().encoding_bytes(size, None, FLOAT)
    assert 0.7 * need < taken < need


@torch.inference_mode()
@each_tiling
@pytest.mark.parametrize("slab", [None, 8, 20])
def test_a_prompts_maps_in_slabs_are_those_in_one_piece(
    networks: Networks, texts: Texts, tiling: Tiling | None, slab: int | None
) -> None:
    whole = encode(networks.autoencoder, networks.attention, image(), CT)
    cut = encode(networks.autoencoder, networks.attention, image(), CT, tiling)
    expected = all_maps(networks, whole, texts)
    found = all_maps(networks, replace(cut, slab=slab), texts)
    assert expected.anomaly.std() > 0.01
    assert expected.gate.std() > 0.01
    torch.testing.assert_close(found.anomaly, expected.anomaly, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.gate, expected.gate, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_crop_is_compared_in_slabs_as_in_one_piece(networks: Networks) -> None:
    latent = torch.randn(1, 4, 8, 8, 4, generator=torch.Generator().manual_seed(3))
    whole, cut = (
        compare(networks.autoencoder, Rebuilt(networks.autoencoder, latent, tiling),
                [latent * 0.5, latent * 0.8], tiling)
        for tiling in (None, Tiling(1, 1, 1))
    )
    for name in ("healthy", "pixel", "feature", "spread"):
        torch.testing.assert_close(getattr(cut, name), getattr(whole, name), rtol=1e-4, atol=1e-5)


def free(monkeypatch: pytest.MonkeyPatch, **on: int) -> None:
    monkeypatch.setattr(memory_plan, "free_bytes", lambda name: on[name.split(":")[0]])


def test_less_memory_gives_smaller_slabs_and_then_a_refusal_with_the_figures(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    planner, chosen = Planner(MAISI, "cpu"), []
    free(monkeypatch, cpu=10**12)
    needs = [plan.need for plan in planner.encoding(LARGE)]
    assert len(needs) == len(TILINGS)
    for room in (10**12, *needs[1:]):
        free(monkeypatch, cpu=room)
        plan = next(planner.encoding(LARGE))
        assert plan.need <= room
        chosen.append(TILINGS.index(plan.tiling))
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == len(TILINGS) - 1
    free(monkeypatch, cpu=10**10)
    with pytest.raises(TooLarge, match=r"needs at least [1-9].* GB on the CPU, where 10\.0 GB"):
        next(planner.encoding(LARGE))


def test_a_gpu_that_is_too_small_leaves_the_work_to_the_cpu_and_says_why(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "element_bytes", lambda name: FLOAT)
    free(monkeypatch, cuda=10**8, cpu=10**12)
    said: list[str] = []
    where = carry_out(Planner(MAISI, "cuda:0").crop(LARGE, 1, "cuda:0"),
                      lambda plan: plan.device, "A region was painted", said.append)
    assert where == "cpu"
    assert said[0].startswith("The region around a candidate needs at least ")
    assert said[0].endswith("where 0.1 GB can be used. A region was painted on the CPU in one "
                            "piece instead.")


def test_the_evidence_has_to_fit_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "element_bytes", lambda name: 2)
    free(monkeypatch, cuda=10**12, cpu=10**10)
    assert next(Planner(MAISI, "cuda").encoding(LARGE)).device == "cuda"
    free(monkeypatch, cuda=10**12, cpu=10**9)
    with pytest.raises(TooLarge, match=r"8\.6 GB on the CPU, where 1\.0 GB can be used"):
        next(Planner(MAISI, "cuda").encoding(LARGE))


def test_a_scan_that_cannot_fit_is_refused_before_any_network_runs(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, cpu=1000)
    ran: list[object] = []
    first = segmenter.package.autoencoder.encoder.blocks[0]
    with first.register_forward_pre_hook(lambda module, given: ran.append(given)), \
            pytest.raises(TooLarge, match="The scan needs at least"):
        segmenter.encode(ball_scan()[0], "MR")
    assert not ran


@torch.inference_mode()
def test_where_memory_runs_out_the_next_plan_gives_the_same(
    networks: Networks, texts: Texts
) -> None:
    def run(plan: Plan, limit: int | None = None) -> tuple[Maps, int]:
        with LiveBytes(limit if plan.device == "gpu" else None) as live:
            made = encode(networks.autoencoder, networks.attention, image(), CT, plan.tiling)
            return all_maps(networks, made, texts), live.peak

    whole, slabs, cpu = (Plan("gpu", None, 0), Plan("gpu", IN_SLABS, 0), Plan("cpu", None, 0))
    (expected, most), (_, least) = run(whole), run(slabs)
    said: list[str] = []
    found, _ = carry_out(iter([whole, slabs]), lambda plan: run(plan, (most + least) // 2),
                         "The scan was encoded", said.append)
    assert said == ["Memory ran out on the GPU in one piece. "
                    "The scan was encoded on the GPU in slabs instead."]
    torch.testing.assert_close(found.anomaly, expected.anomaly, rtol=1e-4, atol=1e-4)
    carry_out(iter([whole, slabs, cpu]), lambda plan: run(plan, 10**6), "It ran", said.append)
    assert said[-1] == "Memory ran out on the GPU in slabs. It ran on the CPU in one piece instead."
    with pytest.raises(OutOfMemory, match="no smaller way"):
        carry_out(iter([whole, slabs]), lambda plan: run(plan, 10**6), "It ran", said.append)


def test_a_run_that_runs_out_says_so_in_its_notes_and_finds_the_same(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = segmenter.segment(segmenter.encode(ball_scan()[0], "MR"), PROMPT)
    monkeypatch.setattr(memory_plan, "TILINGS", (None, IN_SLABS))
    ready = segmenter.prepare(from_image(ball_scan()[0], "MR"))
    peaks = []
    for plan in segmenter._plans(ready.canonical):  # counted here, not under the limit
        with LiveBytes() as live:
            segmenter._encoded(ready, plan, Progress())
        peaks.append(live.peak)
    with LiveBytes(limit=sum(peaks) // 2):
        scan = segmenter.encode(ready)
    found = segmenter.segment(scan, PROMPT)
    assert found.notes == ["Memory ran out on the CPU in one piece. "
                           "The scan was encoded on the CPU in slabs instead."]
    assert np.abs(found.evidence.attention - expected.evidence.attention).max() < 3e-3


def test_the_attention_falls_back_to_thinner_slabs(segmenter: Segmenter) -> None:
    scan = segmenter.encode(ball_scan()[0], "MR")
    prompt = segmenter.segment(scan, PROMPT).prompt
    said: list[str] = []
    expected = segmenter.attend(scan, prompt, said.append)
    assert not said
    with LiveBytes() as thin:
        segmenter.attend(replace(scan, encoding=replace(scan.encoding, slab=MIN_MAP_SLAB)), prompt)
    with LiveBytes(limit=thin.peak + 1000):
        found = segmenter.attend(scan, prompt, said.append)
    assert said == ["Memory ran out on the CPU in one piece. "
                    "The attention was computed on the CPU in slabs instead."]
    np.testing.assert_allclose(found, expected, atol=1e-4)


CHILD = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.tiled_autoencoder import encode
from DiffuGTSLib.networks.tiling import Tiling
from DiffuGTSLib.pipeline.memory_plan import Plan, carry_out

network = Autoencoder(num_channels=(32, 32, 32), num_res_blocks=(1, 1, 1)).eval()
def run(plan):
    x = torch.zeros(1, 1, 128, 96, 96)
    if plan.tiling is None:
        return network.encode_with_features(x)[0]
    return encode(network, x, plan.tiling)[0]
with torch.inference_mode():
    encode(network, torch.zeros(1, 1, 16, 96, 96), Tiling(1, 1, 1))  # all libraries are loaded
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
    said = []
    try:
        plans = [Plan("cpu", None, 0), Plan("cpu", Tiling(2**22, 1, 1), 0)]
        shape = list(carry_out(iter(plans), run, "It ran", said.append).shape)
    except Exception as error:
        shape = type(error).__name__
print(json.dumps([said, shape]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize(("room", "end"), [(3 * 10**8, [1, 4, 32, 24, 24]), (10**6, "OutOfMemory")])
def test_what_the_real_allocator_says_at_its_limit_is_understood(room: int, end: object) -> None:
    # Every block by a mapping of its own: what the heap loses to fragments differs by 500 MB.
    done = subprocess.run([sys.executable, "-c", CHILD, str(room)], capture_output=True, text=True,
                          timeout=200, check=True, cwd=Path(__file__).resolve().parents[3],
                          env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"})
    assert json.loads(done.stdout) == [
        ["Memory ran out on the CPU in one piece. It ran on the CPU in slabs instead."], end]


@pytest.mark.parametrize(("error", "memory_ran_out"), [
    (torch.OutOfMemoryError("CUDA out of memory"), True), (MemoryError(), True),
    (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), True), (RuntimeError("shapes differ"), False),
    (RuntimeError("could not create a primitive"), True),
    (RuntimeError("could not create a memory object"), True),
    (RuntimeError("could not create a primitive descriptor for a convolution"), False),
    (ValueError("out of memory"), False)])
def test_other_errors_are_not_taken_for_it(error: Exception, memory_ran_out: bool) -> None:
    assert is_out_of_memory(error) == memory_ran_out

    def fail(plan: Plan) -> None:
        raise error

    expected = OutOfMemory if memory_ran_out else type(error)
    with pytest.raises(expected):
        carry_out(iter([Plan("cpu", None, 0)]), fail, "It ran", lambda text: None)
    assert issubclass(OutOfMemory, DiffuGTSError)
