"""The autoencoder against MONAI's, its features, its locality and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from safetensors.torch import load_file
from support.random_networks import SMALL, build, randomised, relative_error
from torch import nn

from DiffuGTSLib.models.convert import MAISI_AUTOENCODER
from DiffuGTSLib.networks.autoencoder import Autoencoder

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "maisi-like": SMALL,
    "transposed": SMALL | {"use_convtranspose": True, "norm_eps": 1e-3},
    "uneven": SMALL | {"num_channels": (4, 8, 8), "num_res_blocks": (1, 2, 1)},
}


def monai_twin(configuration: dict[str, Any]) -> AutoencoderKlMaisi:
    common: dict[str, Any] = {"norm_eps": 1e-6} | configuration
    return AutoencoderKlMaisi(
        spatial_dims=3, in_channels=1, out_channels=1, attention_levels=(False,) * 3,
        use_flash_attention=False, norm_float16=False, num_splits=1, save_mem=False, **common,
    ).eval()


@pytest.fixture(params=list(CONFIGURATIONS))
def pair(request: pytest.FixtureRequest) -> tuple[Autoencoder, AutoencoderKlMaisi]:
    """Our network and MONAI's, with the same random weights; strict, so the keys are equal."""
    configuration = CONFIGURATIONS[request.param]
    ours = build(**configuration)
    theirs = monai_twin(configuration)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return ours, theirs


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 1, 8, 20, 12, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_encodes_as_monai_does(
    pair: tuple[Autoencoder, AutoencoderKlMaisi], image: torch.Tensor
) -> None:
    ours, theirs = pair
    for value, expected in zip(ours.encode(image), theirs.encode(image), strict=True):
        assert relative_error(value, expected) < 1e-5


@torch.no_grad()
def test_decodes_as_monai_does(pair: tuple[Autoencoder, AutoencoderKlMaisi]) -> None:
    ours, theirs = pair
    z = torch.randn(2, 4, 2, 5, 3, generator=torch.Generator().manual_seed(2))
    assert relative_error(ours.decode(z), theirs.decode(z)) < 1e-5


@torch.no_grad()
def test_reads_weights_that_monai_wrote(image: torch.Tensor) -> None:
    theirs = randomised(monai_twin(SMALL), seed=5)
    ours = Autoencoder(**SMALL)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert relative_error(ours.encode(image)[0], theirs.encode(image)[0]) < 1e-5


def test_maisi_has_20_9_million_parameters() -> None:
    with torch.device("meta"):
        model = Autoencoder(**MAISI_AUTOENCODER)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(20.9e6, rel=0.01)


def test_maisi_configuration_has_monais_keys_and_shapes() -> None:
    with torch.device("meta"):
        ours = Autoencoder(**MAISI_AUTOENCODER)
        changes = {k: v for k, v in MAISI_AUTOENCODER.items() if "in_ch" not in k}
        theirs = monai_twin({k: v for k, v in changes.items() if "out_ch" not in k})
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes


@torch.no_grad()
def test_features_are_the_three_stages(image: torch.Tensor) -> None:
    _, features = build().encode_with_features(image)
    shapes = [tuple(f.shape[1:]) for f in features]
    assert shapes == [(8, 8, 20, 12), (16, 4, 10, 6), (32, 2, 5, 3)]


def test_maisi_features_have_64_128_and_256_channels() -> None:
    with torch.device("meta"):
        model = Autoencoder(**MAISI_AUTOENCODER)
        _, features = model.encode_with_features(torch.empty(1, 1, 16, 24, 32))
    shapes = [tuple(f.shape[1:]) for f in features]
    assert shapes == [(64, 16, 24, 32), (128, 8, 12, 16), (256, 4, 6, 8)]


@torch.no_grad()
@pytest.mark.parametrize(("stage", "last_block"), [(0, 2), (1, 5), (2, 8)])
def test_features_are_the_outputs_of_blocks_2_5_and_8(
    image: torch.Tensor, stage: int, last_block: int
) -> None:
    model = build()
    x = nn.Sequential(*list(model.encoder.blocks)[: last_block + 1])(image)
    assert torch.equal(model.encode_with_features(image)[1][stage], x)
    assert x.std() > 1e-2


@torch.no_grad()
def test_features_come_with_the_mean_latent(image: torch.Tensor) -> None:
    model = build()
    assert torch.equal(model.encode_with_features(image)[0], model.encode(image)[0])


def crop_error(model: Autoencoder) -> float:
    """Largest difference in the middle between the latent of a crop and the crop of the latent."""
    whole = torch.randn(1, 1, 96, 16, 16, generator=torch.Generator().manual_seed(3))
    latent = model.encode(whole)[0][:, :, 11:13]
    from_crop = model.encode(whole[:, :, 4:92])[0][:, :, 10:12]
    return relative_error(from_crop, latent)


@torch.no_grad()
def test_without_normalisation_a_crop_encodes_as_the_whole_does() -> None:
    assert crop_error(build(norm_num_groups=None, num_res_blocks=(1, 1, 1))) < 1e-5


@torch.no_grad()
def test_with_normalisation_a_crop_encodes_differently() -> None:
    assert crop_error(build(num_res_blocks=(1, 1, 1))) > 1e-4


@torch.no_grad()
def test_decoding_gives_the_scans_size_back(image: torch.Tensor) -> None:
    model = build(norm_num_groups=None, use_convtranspose=True)
    assert model.decode(model.encode(image)[0]).shape == image.shape


@pytest.mark.parametrize("size", [(9, 8, 8), (8, 10, 8), (8, 8, 7)])
def test_refuses_an_axis_that_four_does_not_divide(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        build().encode(torch.zeros(1, 1, *size))


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, image: torch.Tensor) -> None:
    model = build(norm_num_groups=None, use_convtranspose=True)
    model.save_pretrained(tmp_path)
    loaded = Autoencoder.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(image)[0], model.encode(image)[0])
    assert loaded.config.norm_num_groups is None
    assert loaded.config.use_convtranspose is True


def test_is_saved_as_config_and_safetensors(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert (tmp_path / "config.json").exists()
    (weights,) = tmp_path.glob("*.safetensors")
    assert load_file(weights).keys() == model.state_dict().keys()
