"""The inputs of the denoiser, and classifier-free guidance."""

from __future__ import annotations

import pytest
import torch
from support.maisi_files import NARROW_DENOISER, randomised_denoiser

from DiffuGTSLib.models.convert import NETWORKS
from DiffuGTSLib.networks.denoiser import REGION_SPANS, Conditioning, Denoiser
from DiffuGTSLib.prompt.vocabulary import vocabulary

TIME = torch.tensor([600.0])


def build(name: str) -> Denoiser:
    model = randomised_denoiser(Denoiser(**(NETWORKS[name] | NARROW_DENOISER)))
    assert isinstance(model, Denoiser)
    return model


@pytest.fixture(scope="module")
def rflow() -> Denoiser:
    return build("maisi-rflow")


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_class_and_spacing_reach_the_denoiser_in_its_units(
    rflow: Denoiser, z: torch.Tensor
) -> None:
    conditioning = Conditioning(class_label=9, spacing_mm=(1.0, 1.5, 2.0))
    expected = rflow(z, TIME, class_labels=torch.tensor([9]),
                     spacing=torch.tensor([[100.0, 150.0, 200.0]]))
    assert torch.equal(conditioning.predict(rflow, z, TIME), expected)


@torch.no_grad()
def test_regions_are_one_hot_times_100(z: torch.Tensor) -> None:
    ddpm = build("maisi-ddpm")
    conditioning = Conditioning(spacing_mm=(1.5, 1.5, 1.5), regions=REGION_SPANS["any"])
    expected = ddpm(
        z, TIME, spacing=torch.tensor([[150.0, 150.0, 150.0]]),
        top_region=torch.tensor([[0.0, 100.0, 0.0, 0.0]]),
        bottom_region=torch.tensor([[0.0, 0.0, 100.0, 0.0]]),
    )
    assert torch.equal(conditioning.predict(ddpm, z, TIME), expected)


@torch.no_grad()
def test_guidance_goes_from_the_unknown_class_through_the_told_one(
    rflow: Denoiser, z: torch.Tensor
) -> None:
    known, blind = Conditioning(class_label=11), Conditioning(class_label=0)
    seen, unseen = known.predict(rflow, z, TIME), blind.predict(rflow, z, TIME)
    guided = Conditioning(class_label=11, guidance=10.0).predict(rflow, z, TIME)
    assert (seen - unseen).abs().max() > 1e-2
    torch.testing.assert_close(guided, unseen + 10 * (seen - unseen))


@torch.no_grad()
def test_guidance_of_half_precision_subtracts_in_float32(rflow: Denoiser, z: torch.Tensor) -> None:
    half = z.bfloat16()
    known, blind = Conditioning(class_label=11), Conditioning(class_label=0)
    seen, unseen = known.predict(rflow, half, TIME), blind.predict(rflow, half, TIME)
    guided = Conditioning(class_label=11, guidance=10.0).predict(rflow, half, TIME)
    assert guided.dtype == torch.bfloat16
    exact = unseen.float() + 10 * (seen.float() - unseen.float())
    torch.testing.assert_close(guided, exact.bfloat16(), rtol=0, atol=0)


@torch.no_grad()
def test_guidance_of_one_is_the_told_class_itself(rflow: Denoiser, z: torch.Tensor) -> None:
    seen = Conditioning(class_label=9).predict(rflow, z, TIME)
    guided = Conditioning(class_label=9, guidance=1.0).predict(rflow, z, TIME)
    torch.testing.assert_close(guided, seen, rtol=1e-4, atol=1e-5)


def test_a_guided_model_runs_twice_a_step_and_others_once(rflow: Denoiser) -> None:
    assert Conditioning(guidance=10).passes(rflow) == 2
    assert Conditioning().passes(rflow) == 1
    assert Conditioning(guidance=10).passes(build("maisi-ddpm")) == 1


@torch.no_grad()
def test_each_of_a_batch_is_told_the_same(rflow: Denoiser, z: torch.Tensor) -> None:
    conditioning = Conditioning(class_label=10, guidance=3.0)
    both = conditioning.predict(rflow, torch.cat([z, z + 1]), TIME)
    torch.testing.assert_close(both[:1], conditioning.predict(rflow, z, TIME), rtol=1e-3, atol=1e-4)


def test_every_place_of_the_vocabulary_has_its_regions() -> None:
    regions = {anatomy.region for anatomy in vocabulary().anatomies.values()}
    assert regions <= set(REGION_SPANS)
