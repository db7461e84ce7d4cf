"""Networks with random weights for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from DiffuGTSLib.networks.autoencoder import Autoencoder

SMALL: dict[str, Any] = {
    "num_channels": (8, 16, 32), "num_res_blocks": (2, 2, 2), "latent_channels": 4,
    "norm_num_groups": 4,
}


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random normals everywhere, small enough that activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        values = torch.randn(parameter.shape, generator=generator)
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = offset + values * (0.2 if parameter.ndim == 1 else fan**-0.5)
    return model.eval()


def build(**changes: Any) -> Autoencoder:
    model = randomised(Autoencoder(**(SMALL | changes)))
    assert isinstance(model, Autoencoder)
    return model


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    assert value.shape == expected.shape
    assert expected.std() > 1e-2, "a comparison of constants would test nothing"
    return float((value - expected).abs().max() / expected.abs().max())


def randomised_denoiser(model: nn.Module) -> nn.Module:
    """Random normals everywhere: a fresh network outputs exactly 0 and would test nothing."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 1
        values = torch.randn(parameter.shape, generator=generator)
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = offset + values * (0.2 if parameter.ndim == 1 else fan**-0.5)
        if "_layer.0.weight" in name:
            parameter.data /= 100.0  # spacings and regions come x 100 and would drown the rest
    return model.eval()
