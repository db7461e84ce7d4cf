"""The denoiser against MONAI's, its conditionings, its refusals and its files."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from support.random_networks import randomised_denoiser

from DiffuGTSLib.models import load
from DiffuGTSLib.models.convert import MAISI_DDPM, MAISI_RFLOW
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.networks.denoiser_blocks import halved

SMALL: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "num_channels": (8, 8, 16, 16),
    "attention_levels": (False, False, True, True), "num_head_channels": (0, 0, 8, 8),
    "num_res_blocks": 2, "norm_num_groups": 4, "include_spacing_input": True,
}
RFLOW = SMALL | {"num_class_embeds": 16, "include_fc": True, "resblock_updown": True}
DDPM = SMALL | {
    "include_top_region_index_input": True, "include_bottom_region_index_input": True,
}
EMBEDDED = SMALL | {
    "in_channels": 8, "out_channels": 8, "num_channels": (8, 16, 24),
    "attention_levels": (False, False, True), "num_head_channels": 4, "num_res_blocks": (1, 2, 1),
    "num_class_embeds": 4, "include_fc": True, "resblock_updown": True, "norm_eps": 1e-2,
}
PLAIN = EMBEDDED | {
    "attention_levels": (True, False, False), "num_class_embeds": None, "include_fc": False,
    "resblock_updown": False, "include_spacing_input": False, "out_channels": 3,
}
CONFIGURATIONS = {"rflow": RFLOW, "ddpm": DDPM, "embedded": EMBEDDED, "plain": PLAIN}

MONAI_NAMES = {
    "class_labels": "class_labels", "top_region": "top_region_index_tensor",
    "bottom_region": "bottom_region_index_tensor", "spacing": "spacing_tensor",
}


def build(configuration: dict[str, Any]) -> Denoiser:
    model = randomised_denoiser(Denoiser(**configuration))
    assert isinstance(model, Denoiser)
    return model


def monai_twin(configuration: dict[str, Any]) -> DiffusionModelUNetMaisi:
    return DiffusionModelUNetMaisi(spatial_dims=3, use_flash_attention=False, **configuration)


def conditioning(configuration: dict[str, Any], batch: int) -> dict[str, torch.Tensor]:
    """What the configuration takes, different for each of the batch."""
    regions = 100.0 * torch.eye(4)
    inputs = {}
    if configuration.get("num_class_embeds"):
        inputs["class_labels"] = torch.arange(1, batch + 1)
    if configuration.get("include_top_region_index_input"):
        inputs["top_region"] = regions[:batch]
    if configuration.get("include_bottom_region_index_input"):
        inputs["bottom_region"] = regions[1 : batch + 1]
    if configuration.get("include_spacing_input"):
        inputs["spacing"] = 100.0 * torch.tensor([[1.0, 1.5, 3.0], [0.7, 0.7, 5.0]])[:batch]
    return inputs


def latent(configuration: dict[str, Any], batch: int, *size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, configuration["in_channels"], *size, generator=generator)


TIMES = torch.tensor([500.25, 31.7])


@pytest.fixture(params=list(CONFIGURATIONS))
def configuration(request: pytest.FixtureRequest) -> dict[str, Any]:
    return CONFIGURATIONS[request.param]


def assert_like_monai(
    ours: Denoiser, theirs: DiffusionModelUNetMaisi, configuration: dict[str, Any],
    x: torch.Tensor,
) -> None:
    inputs = conditioning(configuration, len(x))
    renamed = {MONAI_NAMES[name]: value for name, value in inputs.items()}
    expected = theirs.eval()(x, TIMES[: len(x)], **renamed)
    value = ours(x, TIMES[: len(x)], **inputs)
    assert value.shape == expected.shape
    assert expected.std() > 1e-2, "an output near 0 would test nothing"
    assert float((value - expected).abs().max() / expected.abs().max()) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("batch", "size"), [(2, (8, 16, 24)), (1, (16, 8, 8))])
def test_outputs_what_monai_outputs(
    configuration: dict[str, Any], batch: int, size: tuple[int, int, int]
) -> None:
    ours, theirs = build(configuration), monai_twin(configuration)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_like_monai(ours, theirs, configuration, latent(configuration, batch, *size))


@torch.no_grad()
def test_reads_weights_that_monai_wrote(configuration: dict[str, Any]) -> None:
    theirs = monai_twin(configuration)
    randomised_denoiser(theirs)
    ours = Denoiser(**configuration).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_like_monai(ours, theirs, configuration, latent(configuration, 2, 8, 8, 8))


@torch.no_grad()
@pytest.mark.parametrize("maisi", [MAISI_RFLOW, MAISI_DDPM], ids=["rflow", "ddpm"])
def test_a_step_at_maisis_own_width_is_monais(maisi: dict[str, Any]) -> None:
    ours = build(maisi)
    with torch.device("meta"):
        theirs = monai_twin(maisi)
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    torch.nn.Module.to(ours, memory_format=torch.channels_last_3d)
    assert_like_monai(ours, theirs, maisi, latent(maisi, 1, 16, 8, 8))


@torch.no_grad()
def test_a_step_of_the_embedded_model_is_monais() -> None:
    trained = load("embedded").denoiser
    ours = Denoiser.from_config(trained.config, continues=False).eval()  # what the layers give
    ours.load_state_dict(trained.state_dict())
    known = inspect.signature(DiffusionModelUNetMaisi).parameters
    configuration = {name: value for name, value in ours.config.items() if name in known}
    theirs = monai_twin(configuration)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_like_monai(ours, theirs, configuration, latent(configuration, 1, 24, 24, 16))


@torch.no_grad()
@pytest.mark.parametrize("name", ["rflow", "embedded"])
def test_without_gradients_nothing_is_written_over_that_is_read(name: str) -> None:
    model, x = build(CONFIGURATIONS[name]), latent(CONFIGURATIONS[name], 2, 8, 8, 16)
    given, inputs = x.clone(), conditioning(CONFIGURATIONS[name], 2)
    once, again = model(x, TIMES, **inputs), model(x, TIMES, **inputs)
    with torch.enable_grad():
        expected = model(x, TIMES, **inputs)
    assert torch.equal(x, given)
    assert torch.equal(once, again)
    torch.testing.assert_close(once, expected.detach(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_halving_is_the_mean_of_each_eight_voxels_and_keeps_the_layout() -> None:
    x = latent(SMALL, 2, 4, 6, 8).contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(halved(x), torch.nn.functional.avg_pool3d(x, 2))
    assert halved(x).is_contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
def test_takes_odd_sizes_on_a_single_level() -> None:
    single = PLAIN | {
        "num_channels": (8,), "attention_levels": (True,), "num_res_blocks": 1,
    }
    ours, theirs = build(single), monai_twin(single)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_like_monai(ours, theirs, single, latent(single, 2, 3, 5, 7))


@pytest.mark.parametrize(("maisi", "millions"), [(MAISI_RFLOW, 180), (MAISI_DDPM, 169)])
def test_maisi_has_its_number_of_parameters(maisi: dict[str, Any], millions: int) -> None:
    with torch.device("meta"):
        model = Denoiser(**maisi)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("maisi", [MAISI_RFLOW, MAISI_DDPM], ids=["rflow", "ddpm"])
def test_maisi_configurations_have_monais_keys_and_shapes(maisi: dict[str, Any]) -> None:
    with torch.device("meta"):
        ours, theirs = Denoiser(**maisi), monai_twin(maisi)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes


@torch.no_grad()
def test_fresh_it_outputs_zero(configuration: dict[str, Any]) -> None:
    x = latent(configuration, 2, 8, 8, 8)
    output = Denoiser(**configuration)(x, TIMES, **conditioning(configuration, 2))
    assert torch.count_nonzero(output) == 0


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("class_labels", torch.tensor([7])),
        ("spacing", torch.tensor([[100.0, 100.0, 100.0]])),
        ("top_region", torch.tensor([[0.0, 0.0, 100.0, 0.0]])),
        ("bottom_region", torch.tensor([[0.0, 0.0, 100.0, 0.0]])),
    ],
)
def test_each_conditioning_changes_the_output(name: str, changed: torch.Tensor) -> None:
    configuration = RFLOW if name == "class_labels" else DDPM
    model, x = build(configuration), latent(configuration, 1, 8, 8, 8)
    inputs = conditioning(configuration, 1)
    before = model(x, TIMES[:1], **inputs)
    after = model(x, TIMES[:1], **(inputs | {name: changed}))
    assert (before - after).abs().max() > 1e-2


@torch.no_grad()
def test_a_fraction_of_a_timestep_changes_the_output() -> None:
    model, x = build(EMBEDDED), latent(EMBEDDED, 1, 8, 8, 8)
    inputs = conditioning(EMBEDDED, 1)
    whole, more = (model(x, torch.tensor([t]), **inputs) for t in (500.0, 500.5))
    assert (whole - more).abs().max() > 1e-3


@torch.no_grad()
def test_one_timestep_serves_a_whole_batch() -> None:
    model, x = build(EMBEDDED), latent(EMBEDDED, 2, 8, 8, 8)
    inputs = conditioning(EMBEDDED, 2)
    expected = model(x, torch.tensor([250.0, 250.0]), **inputs)
    assert torch.equal(model(x, torch.tensor(250.0), **inputs), expected)


@torch.no_grad()
def test_the_members_of_a_batch_do_not_mix() -> None:
    model, x = build(RFLOW), latent(RFLOW, 2, 8, 8, 8)
    inputs = conditioning(RFLOW, 2)
    together = model(x, TIMES, **inputs)[1:]
    alone = model(x[1:], TIMES[1:], **{name: value[1:] for name, value in inputs.items()})
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_ignores_a_conditioning_it_does_not_take() -> None:
    model, x = build(PLAIN), latent(PLAIN, 2, 8, 8, 8)
    expected = model(x, TIMES)
    assert torch.equal(model(x, TIMES, **conditioning(RFLOW, 2)), expected)


@pytest.mark.parametrize("name", ["class_labels", "top_region", "bottom_region", "spacing"])
def test_names_the_conditioning_that_is_missing(name: str) -> None:
    configuration = RFLOW if name == "class_labels" else DDPM
    inputs = conditioning(configuration, 1)
    del inputs[name]
    with pytest.raises(ValueError, match=name):
        Denoiser(**configuration)(latent(configuration, 1, 8, 8, 8), TIMES[:1], **inputs)


@pytest.mark.parametrize("size", [(12, 8, 8), (8, 4, 8), (8, 8, 9)])
def test_refuses_an_axis_that_the_levels_do_not_divide(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        Denoiser(**RFLOW)(latent(RFLOW, 1, *size), TIMES[:1], **conditioning(RFLOW, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_levels": (False, True)}, "attention_levels"),
        ({"num_head_channels": (8, 8)}, "num_head_channels"),
        ({"num_res_blocks": (1, 1)}, "num_res_blocks"),
        ({"num_channels": (8, 8, 16, 18)}, "groups"),
        ({"num_head_channels": (0, 0, 8, 5)}, "heads of 5"),
        ({"attention_levels": (False,) * 4, "num_head_channels": 0}, "heads of 0"),
    ],
)
def test_refuses_widths_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoiser(**(SMALL | changes))


@torch.no_grad()
def test_runs_in_half_precision() -> None:
    model, x = build(EMBEDDED), latent(EMBEDDED, 2, 8, 8, 8)
    inputs = conditioning(EMBEDDED, 2)
    exact = model(x, TIMES, **inputs)
    half = model.to(torch.bfloat16)(x.bfloat16(), TIMES, **inputs)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).square().mean().sqrt() < 0.1 * exact.std()


def test_every_parameter_takes_part() -> None:
    model = build(EMBEDDED)
    output = model(latent(EMBEDDED, 2, 8, 8, 8), TIMES, **conditioning(EMBEDDED, 2))
    output.square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model, x = build(RFLOW), latent(RFLOW, 2, 8, 8, 8)
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = Denoiser.from_pretrained(tmp_path)
    inputs = conditioning(RFLOW, 2)
    torch.testing.assert_close(loaded(x, TIMES, **inputs), model(x, TIMES, **inputs))
    assert all(torch.equal(p, loaded.state_dict()[n]) for n, p in model.state_dict().items())
