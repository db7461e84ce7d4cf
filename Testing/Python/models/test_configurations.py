"""MAISI's configurations, as the catalogue names them, against MONAI's classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.maisi_files import (
    NARROW_AUTOENCODER,
    NARROW_DENOISER,
    monai_autoencoder,
    monai_denoiser,
    randomised_denoiser,
)

from DiffuGTSLib.models.catalogue import Entry, catalogue
from DiffuGTSLib.models.convert import NETWORKS
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.networks.schedules import DDIM_SCHEDULER

MODELS = {name: entry for name, entry in catalogue().items() if not entry.bundled}
TOLERANCE = 1e-5

each_model = pytest.mark.parametrize("entry", MODELS.values(), ids=MODELS)


def largest_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    assert value.shape == expected.shape
    assert expected.std() > 1e-2, "a comparison of constants would test nothing"
    return float((value - expected).abs().max() / expected.abs().max())


def conditioning(entry: Entry, batch: int) -> dict[str, torch.Tensor]:
    """What the model's denoiser takes: the classes of the catalogue, spacings, regions."""
    configuration = NETWORKS[entry.networks["denoiser"].configuration]
    labels = [*entry.class_labels.values(), 0]
    inputs = {"spacing": torch.tensor([[150.0, 150.0, 150.0], [70.0, 90.0, 500.0]])[:batch]}
    if configuration["num_class_embeds"]:
        inputs["class_labels"] = torch.tensor([labels[0], labels[-1]])[:batch]
    if configuration["include_top_region_index_input"]:
        inputs["top_region"] = 100.0 * torch.eye(4)[[1, 0]][:batch]
        inputs["bottom_region"] = 100.0 * torch.eye(4)[[2, 3]][:batch]
    return inputs


MONAI_NAMES = {"class_labels": "class_labels", "spacing": "spacing_tensor",
               "top_region": "top_region_index_tensor",
               "bottom_region": "bottom_region_index_tensor"}


@torch.no_grad()
@each_model
@pytest.mark.parametrize(("batch", "size"), [(2, (8, 24, 16)), (1, (24, 8, 40))])
def test_the_denoiser_outputs_what_monai_outputs(
    entry: Entry, batch: int, size: tuple[int, int, int]
) -> None:
    name = entry.networks["denoiser"].configuration
    theirs = randomised_denoiser(monai_denoiser(name))
    ours = Denoiser(**(NETWORKS[name] | NARROW_DENOISER)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    z = torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(1))
    times, inputs = torch.tensor([713.4, 20.6])[:batch], conditioning(entry, batch)
    expected = theirs(z, times, **{MONAI_NAMES[k]: v for k, v in inputs.items()})
    assert largest_error(ours(z, times, **inputs), expected) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("size", [(12, 20, 28), (16, 4, 36)])
def test_the_autoencoder_encodes_and_decodes_as_monais_does(size: tuple[int, int, int]) -> None:
    theirs = randomised_denoiser(monai_autoencoder())
    ours = Autoencoder(**(NETWORKS["maisi"] | NARROW_AUTOENCODER)).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(2))
    mean, deviation = theirs.encode(x)
    for value, expected in zip(ours.encode(x), (mean, deviation), strict=True):
        assert largest_error(value, expected) < TOLERANCE
    assert largest_error(ours.decode(mean), theirs.decode(mean)) < TOLERANCE


@each_model
def test_the_catalogue_states_the_number_of_parameters(entry: Entry) -> None:
    kinds: dict[str, Any] = {"autoencoder": Autoencoder, "denoiser": Denoiser}
    for part, network in entry.networks.items():
        with torch.device("meta"):
            model = kinds[part](**NETWORKS[network.configuration])
        assert sum(p.numel() for p in model.parameters()) == network.parameters


@each_model
def test_the_class_labels_are_within_the_denoisers_classes(entry: Entry) -> None:
    classes = NETWORKS[entry.networks["denoiser"].configuration]["num_class_embeds"]
    assert all(label < classes for label in entry.class_labels.values())
    assert bool(classes) == bool(entry.class_labels)


@each_model
def test_the_limits_are_what_the_networks_need(entry: Entry) -> None:
    with torch.device("meta"):
        parts = [kind(**NETWORKS[entry.networks[part].configuration])
                 for part, kind in (("autoencoder", Autoencoder), ("denoiser", Denoiser))]
    assert entry.limits.multiple == parts[0].downscale * parts[1].downscale
    assert all(n % entry.limits.multiple == 0 for n in entry.least_crop)


@each_model
def test_ddim_runs_in_a_divisor_of_its_thousand_steps(entry: Entry) -> None:
    training_steps = DDIM_SCHEDULER["num_train_timesteps"]
    assert entry.schedule == "rectified-flow" or training_steps % entry.steps == 0
