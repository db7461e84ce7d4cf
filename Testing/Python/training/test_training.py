"""Training: the split, windows, synthetic lesions, losses, a loop that survives a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from support.phantom_chest import chest
from support.training_material import training_case

from DiffuGTSLib.networks import Denoiser
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.training import autoencoder_trainer, denoiser_trainer
from DiffuGTSLib.training.attention_trainer import (
    FALSE_POSITIVE_VOXELS,
    SPILL_WEIGHT,
    gate_loss,
    map_loss,
)
from DiffuGTSLib.training.data import augment
from DiffuGTSLib.training.data.cases import TrainingVolume, load_volume, read_cases
from DiffuGTSLib.training.data.scan_table import scan_table
from DiffuGTSLib.training.data.synthetic_lesions import add_lesion
from DiffuGTSLib.training.data.windows import ORGANS, LabelledVolume, WindowSampler, label_volume
from DiffuGTSLib.training.denoiser_trainer import centre_latents, random_mask
from DiffuGTSLib.training.loop import Loop, LoopConfig

OPEN = torch.full((16, 16, 16), 30.0)  # a gate
TRAIN = """
import sys
from pathlib import Path
import torch
from DiffuGTSLib.training.loop import Loop, LoopConfig
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
def loss(step, generator):
    x = torch.from_numpy(generator.standard_normal((8, 4))).float()
    if step == 15 and len(sys.argv) > 2:
        print("now", flush=True)
        import time; time.sleep(60)
    return ((model(x) - x.sum(1, keepdim=True)) ** 2).mean(), {}
Loop(LoopConfig(30, 1e-2, Path(sys.argv[1]), save_every=10), model, loss).run()
print(model.weight.tolist())
"""


def train(folder: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(folder), *more],
                            stdout=subprocess.PIPE, text=True,
                            cwd=Path(__file__).resolve().parents[3])


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole").communicate()[0]
    killed = train(tmp_path / "killed", "wait")
    assert killed.stdout is not None
    assert killed.stdout.readline() == "now\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert train(tmp_path / "killed").communicate()[0] == whole != ""


def test_one_overflow_does_not_spoil_the_weights(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)

    def loss(step: int, _generator: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        value = model(torch.ones(1, 2)).sum()
        return value * (float("inf") if step == 1 else 1.0), {}

    Loop(LoopConfig(3, 1e-2, tmp_path), model, loss).run()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_validation_patients_are_never_trained_on(shared_data: Path) -> None:
    splits = {c.name: c.split for c in read_cases(shared_data)}
    held_out = ["lung1", "lidc0314", "brain1"]
    held_out += [f"fg-6692_{sequence}" for sequence in ("t1", "t1c", "t2", "fla")]
    held_out += [f"sts_{n:03d}_{k}" for n in range(33, 41) for k in ("ct", "t1")]
    assert all(splits[name] == "validation" for name in held_out)
    assert {splits[f"sts_{n:03d}_ct"] for n in range(29, 33)} == {"tuning"}
    assert sum(s == "training" for s in splits.values()) == 101 - len(held_out) - 8


def test_samples_come_back_from_the_cache_as_they_were(shared_data: Path, tmp_path: Path) -> None:
    (case,) = [c for c in read_cases(shared_data) if c.name == "breast1"]
    first, second = load_volume(case, tmp_path), load_volume(case, tmp_path)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.masks["tumor"], second.masks["tumor"])
    assert first.masks["tumor"].sum() * 0.008 == pytest.approx(0.13, abs=0.05)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_synthetic_lesion_lies_in_its_organ_and_changes_only_there(modality) -> None:
    image, organ = np.full((64, 64, 64), 0.5, np.float32), np.zeros((64, 64, 64), bool)
    organ[8:56, 8:56, 8:56] = True
    synthetic = add_lesion(image, organ, "liver", modality, np.random.default_rng(3))
    assert synthetic is not None
    assert synthetic.mask.any()
    assert not (synthetic.mask & ~organ).any()
    assert abs(synthetic.image - image)[synthetic.mask].mean() > 0.002
    assert np.array_equal(synthetic.image[:6], image[:6])


def test_an_organ_too_small_gets_no_lesion() -> None:
    image = np.zeros((16, 16, 16), np.float32)
    assert add_lesion(image, image > 1, "lung", "CT", np.random.default_rng(0)) is None


def test_a_deformed_window_keeps_image_and_labels_together() -> None:
    stack = torch.zeros(2, 64, 64, 64)
    stack[:, 24:40, 24:40, 24:40] = 1
    window = augment.deformed_window(stack, (48, 48, 48), np.array([32, 32, 32]),
                                     np.random.default_rng(2), mirror_x=True)
    overlap = ((window[0] > 0.5) & (window[1] > 0.5)).sum()
    assert overlap > 0.9 * (window[1] > 0.5).sum() > 1000


def source(shape: tuple[int, int, int] = (80, 72, 64)) -> LabelledVolume:
    case = training_case("sts_001_ct", "sarcoma", "CT", masks=("tumor",))
    image, tumor = np.full(shape, 0.52, np.float16), np.zeros(shape, bool)
    tumor[30:50, 30:50, 20:40] = True
    return label_volume(TrainingVolume(case, image, {"tumor": tumor}))


def test_windows_are_cubes_that_know_their_padding() -> None:
    sampler = WindowSampler([source()], largest=56)
    window = sampler.draw(np.random.default_rng(1))
    assert window.image.shape[2:] == (64, 64, 64)
    assert window.weight.sum() < window.weight.numel()  # padding does not count
    assert not window.weight[window.inside == 0].any()
    assert not window.image[0, 0][window.inside == 0].any()
    assert (window.organs[window.lesion > 0] == ORGANS.index("soft_tissue") + 1).all()


def test_the_padding_lies_on_any_side() -> None:
    sampler = WindowSampler([source()], largest=96)
    windows = [sampler.draw(np.random.default_rng(n)) for n in range(12)]
    begins = {int(w.inside.amax((1, 2)).argmax()) for w in windows}
    assert len(begins) > 6


def test_windows_lie_strictly_inside_a_crop_around_a_tumor() -> None:
    sampler, kind = WindowSampler([source()], largest=96), source().kind
    sizes = [sampler.maker.size((80, 72, 12), kind, np.random.default_rng(i)) for i in range(40)]
    assert all(a <= 0.95 * b for size in sizes for a, b in zip(size[:2], (80, 72), strict=True))
    assert all(size[2] == 12 for size in sizes)  # a crop as thin as that is taken whole


def test_prompts_for_other_organs_name_three_that_hold_no_lesion() -> None:
    sampler = WindowSampler([source()], largest=64)
    for n in range(8):
        window = sampler.draw(np.random.default_rng(n))
        assert len(set(window.others)) == 3
        assert window.organ not in window.others
        assert all(window.known[organ] for organ in window.others)


def test_the_map_loss_prefers_the_truth_to_nothing_and_nothing_to_everything_else() -> None:
    target, weight = torch.zeros(16, 16, 16), torch.ones(16, 16, 16)
    target[4:8, 4:8, 4:8] = 1
    right, nothing, wrong = (map_loss(x, OPEN, target, weight) for x in
                             (8 * target - 4, torch.full_like(target, -4.0), 4 - 8 * target))
    assert right < 0.3 < nothing < wrong


def test_the_map_loss_is_that_of_the_product_of_anomaly_and_gate() -> None:
    generator = torch.Generator().manual_seed(0)
    anomaly, gate = (3 * torch.randn(8, 8, 8, generator=generator) for _ in range(2))
    target, weight = torch.zeros(8, 8, 8), torch.ones(8, 8, 8)
    target[2:5, 2:5, 2:5] = 1
    p = (anomaly.sigmoid() * gate.sigmoid()).double()
    product = torch.logit(p.clamp(1e-9, 1 - 1e-9)).float()
    expected = map_loss(product, torch.full_like(gate, 60.0), target, weight)
    found = map_loss(anomaly, gate, target, weight)
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


def test_false_positives_without_a_lesion_cost_their_weight() -> None:
    nothing, weight = torch.zeros(16, 16, 16), torch.ones(16, 16, 16)
    quiet, alarm = torch.full((16, 16, 16), -9.0), torch.full((16, 16, 16), -9.0)
    alarm[4:8, 4:12, 4:12] = 1.0
    losses = [float(map_loss(x, OPEN, nothing, weight)) for x in (quiet, alarm)]
    marked = 256 * float(torch.sigmoid(torch.tensor(1.0)))
    entropy = 256 * float(F.softplus(torch.tensor(1.0))) / 4096
    spill = SPILL_WEIGHT * marked / (marked + FALSE_POSITIVE_VOXELS)
    assert losses[1] - losses[0] == pytest.approx(entropy + spill, rel=0.02)


def test_a_simulated_head_leaves_the_brain_as_it_is() -> None:
    brain = np.linalg.norm(np.indices((40, 40, 40)) - 20, axis=0) < 12
    image = np.where(brain, 0.5, 0.0).astype(np.float32)
    heads = [augment.simulated_head(image, brain, np.random.default_rng(n)) for n in range(4)]
    for head in heads:
        assert np.array_equal(head[brain], image[brain])
        around = ndimage.binary_dilation(brain, iterations=8) & ~brain
        assert (head[around] > 0.1).mean() > 0.2
        assert head[0, 0, 39] < 0.1  # air
    assert np.abs(heads[0] - heads[1]).max() > 0.1


def test_stripped_brains_get_heads_and_heads_lose_theirs_at_times() -> None:
    image = np.where(np.linalg.norm(np.indices((50, 50, 50)) - 25, axis=0) < 20, 0.5, 0.0)
    stack = torch.from_numpy(np.stack([image, (image > 0) * 2.0, image * 0, image * 0])).float()
    kind, known = scan_table().kinds["glioma"], np.ones(len(ORGANS), bool)
    stripped = LabelledVolume(kind, stack, known, 1, stripped=True)
    sampler = WindowSampler([stripped], 64)
    bright = [float((w.image[0, 0][w.organs == 0] > 0.1).float().mean()) for w in (
        sampler.draw(np.random.default_rng(n)) for n in range(16))]
    heads = sum(share > 0.03 for share in bright)
    assert 2 <= heads <= 12


def test_the_one_organ_in_a_window_counts_as_much_as_all_that_are_not() -> None:
    window = WindowSampler([source()], largest=56).draw(np.random.default_rng(1))
    window = replace(window, known=torch.ones(len(ORGANS), dtype=torch.bool))
    here = (window.organs[::2, ::2, ::2] == ORGANS.index("soft_tissue") + 1).float()
    right = torch.full((len(ORGANS), *here.shape), -12.0)
    right[ORGANS.index("soft_tissue")] = 24 * here - 12
    missed, alarm = right.clone(), right.clone()
    missed[ORGANS.index("soft_tissue")] = -12.0
    alarm[ORGANS.index("lung")] = 24 * here - 12
    assert gate_loss(right, window) < 0.02
    assert gate_loss(missed, window) > 4 * gate_loss(alarm, window) > 0.04


def test_ignored_voxels_do_not_count() -> None:
    target = torch.zeros(8, 8, 8)
    target[:4] = 1
    weight = torch.ones(8, 8, 8)
    weight[6:] = 0
    logits = 8 * target - 4
    spoiled, gate = logits.clone(), torch.full_like(logits, 9.0)
    spoiled[6:] = 9.0
    assert torch.allclose(map_loss(logits, gate, target, weight),
                          map_loss(spoiled, gate, target, weight))


def patches() -> torch.Tensor:
    generator = np.random.default_rng(0)
    smooth = [augment.random_patch(chest(), 48, generator) for _ in range(6)]
    return torch.from_numpy(np.stack(smooth))[:, None]


def test_the_autoencoder_starts_as_the_principal_component_code() -> None:
    torch.manual_seed(0)
    model = Autoencoder(**autoencoder_trainer.EMBEDDED_CONFIG).requires_grad_(False)
    seen = patches()
    autoencoder_trainer.initialise(model, seen)
    _, components = autoencoder_trainer.principal_components(seen)
    blocks = seen[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).unfold(3, 4, 4).reshape(-1, 64)
    kept = components[:12]
    expected = ((blocks @ kept.T @ kept - blocks) ** 2).mean()
    rebuilt = model.decode(model.encode(seen)[0])
    assert float(((rebuilt - seen) ** 2).mean()) == pytest.approx(float(expected), rel=0.02)


def test_centring_the_latents_does_not_change_what_is_decoded() -> None:
    torch.manual_seed(0)
    model = Autoencoder(**autoencoder_trainer.EMBEDDED_CONFIG).requires_grad_(False)
    autoencoder_trainer.initialise(model, patches())
    before = model.decode(model.encode(patches())[0])
    scale = centre_latents(model, [source()])
    assert scale > 0
    after = model.decode(model.encode(patches())[0])
    assert torch.allclose(before, after, atol=1e-4)


def test_inpainting_masks_lie_in_organs_more_often_than_not() -> None:
    organs = torch.zeros(16, 16, 16)
    organs[:8] = 1
    masks = [random_mask(organs, np.random.default_rng(i)) for i in range(60)]
    inside = sum(float((mask * organs).sum()) for mask in masks)
    assert 0.55 < inside / sum(float(mask.sum()) for mask in masks) < 0.95
    assert 0.005 < float(np.median([float(mask.mean()) for mask in masks])) < 0.4


def test_an_untrained_denoiser_is_as_good_as_the_continuation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Denoiser(**denoiser_trainer.EMBEDDED_CONFIG)
    z0, mask = torch.randn(2, 12, 16, 16, 16), torch.zeros(2, 1, 16, 16, 16)
    mask[:, :, 4:9, 5:11, 6:10] = 1
    value = denoiser_trainer.inpainting_loss(
        model, z0, mask, mask, torch.tensor([1, 8]), LoopConfig(1, 1e-4, tmp_path))
    assert 0.97 < float(value) < 1


def test_another_scanner_keeps_zero_and_the_order_of_intensities_nearby() -> None:
    ramp = np.linspace(0, 2, 64, dtype=np.float32)[:, None, None] * np.ones((64, 8, 8), np.float32)
    seen = [augment.random_bias_and_curve(ramp, np.random.default_rng(i)) for i in range(40)]
    assert all(not image[0].any() and np.isfinite(image).all() for image in seen)
    unchanged = sum(np.array_equal(image, ramp) for image in seen)
    assert 8 < unchanged < 28
    assert all(np.corrcoef(image.ravel(), ramp.ravel())[0, 1] > 0.6 for image in seen)


def test_windows_lie_at_the_edges_of_a_scan_as_often_as_inside() -> None:
    positions = torch.arange(100.0)[:, None, None].expand(100, 60, 60)
    stack = torch.stack([positions, torch.zeros_like(positions)])
    middles = [
        float(augment.deformed_window(stack, (40, 24, 24), None, np.random.default_rng(i), False)
              [0].mean()) for i in range(60)
    ]
    at_an_edge = np.mean([min(m, 99 - m) < 23 for m in middles])
    assert 0.3 < at_an_edge < 0.7
    assert min(middles) > 19
    assert max(middles) < 80
