"""The frozen medical diffusion model, the attention on its features, the text encoder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DiffuGTSLib.networks.attention import AnomalyAttention, Texts
    from DiffuGTSLib.networks.autoencoder import Autoencoder
    from DiffuGTSLib.networks.denoiser import Conditioning, Denoiser
    from DiffuGTSLib.networks.device import choose_device
    from DiffuGTSLib.networks.schedules import load_schedule
    from DiffuGTSLib.networks.text_encoder import TextEncoder

__all__ = [
    "AnomalyAttention",
    "Autoencoder",
    "Conditioning",
    "Denoiser",
    "TextEncoder",
    "Texts",
    "choose_device",
    "load_schedule",
]
_MODULES = {
    "AnomalyAttention": "attention",
    "Autoencoder": "autoencoder",
    "Conditioning": "denoiser",
    "Denoiser": "denoiser",
    "TextEncoder": "text_encoder",
    "Texts": "attention",
    "choose_device": "device",
    "load_schedule": "schedules",
}


def __getattr__(name: str) -> Any:
    # On demand: it brings torch and diffusers, which not every user of this package needs.
    if name in _MODULES:
        return getattr(import_module(f"DiffuGTSLib.networks.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
