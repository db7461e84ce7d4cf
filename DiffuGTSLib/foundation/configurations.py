"""MAISI's sizes and schedules as data (METHOD.md 1): `Denoiser(**MAISI_RFLOW)` is the network."""

from __future__ import annotations

from typing import Any, Final

MAISI_AUTOENCODER: Final[dict[str, Any]] = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": (64, 128, 256),
    "num_res_blocks": (2, 2, 2),
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "use_convtranspose": False,
}
"""autoencoder_v1 and _v2, 20.9 M parameters."""

_MAISI_DENOISER: Final[dict[str, Any]] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_channels": (64, 128, 256, 512),
    "attention_levels": (False, False, True, True),
    "num_head_channels": 32,
    "num_res_blocks": 2,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "include_spacing_input": True,
}

MAISI_RFLOW: Final[dict[str, Any]] = _MAISI_DENOISER | {
    "num_class_embeds": 128,
    "include_fc": True,
    "resblock_updown": True,
    "include_top_region_index_input": False,
    "include_bottom_region_index_input": False,
}
"""rflow-ct, rflow-mr, rflow-mr-brain, 180 M parameters."""

MAISI_DDPM: Final[dict[str, Any]] = _MAISI_DENOISER | {
    "num_class_embeds": None,
    "include_fc": False,
    "resblock_updown": False,
    "include_top_region_index_input": True,
    "include_bottom_region_index_input": True,
}
"""ddpm-ct, 169 M parameters."""

RECTIFIED_FLOW_SCHEDULER: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "time_shift_type": "linear",
}
"""Arguments of diffusers' FlowMatchEulerDiscreteScheduler; the shift follows the latent's size."""

DDIM_SCHEDULER: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}
"""Arguments of diffusers' DDIMScheduler; "trailing" starts at the noisiest level."""

DDPM_SCHEDULER: Final[dict[str, Any]] = {
    name: value for name, value in DDIM_SCHEDULER.items() if name != "set_alpha_to_one"
} | {"variance_type": "fixed_small"}
"""Arguments of diffusers' DDPMScheduler: the same noise levels."""

NETWORKS: Final[dict[str, dict[str, Any]]] = {
    "maisi": MAISI_AUTOENCODER,
    "maisi-rflow": MAISI_RFLOW,
    "maisi-ddpm": MAISI_DDPM,
}
"""By the names that the catalogue uses."""
