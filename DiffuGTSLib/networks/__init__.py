"""The frozen medical diffusion model: autoencoder, denoiser, schedules."""

from __future__ import annotations


