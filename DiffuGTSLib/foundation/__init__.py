"""The frozen medical diffusion model: autoencoder, denoiser, schedules."""
