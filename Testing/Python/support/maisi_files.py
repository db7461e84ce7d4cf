"""Weights in the structure of MAISI's published files, random and narrow, and a catalogue for them.

The networks that write the files are MONAI's own, with MAISI's configurations but narrow widths;
the text encoder is a BERT of one layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from DiffuGTSLib.files import resource
from DiffuGTSLib.models.convert import MAISI_AUTOENCODER, NETWORKS
from support.random_networks import randomised_denoiser

NARROW_AUTOENCODER: dict[str, Any] = {
    "num_channels": [8, 16, 16], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4,
}
NARROW_DENOISER: dict[str, Any] = {
    "num_channels": [8, 8, 16, 16], "num_head_channels": [0, 0, 8, 8], "num_res_blocks": 1,
    "norm_num_groups": 4,
}
SCALE_FACTOR = 1.25
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "brain", "liver", "tumor", "normal",
         "healthy", "a", "of", "the", "with", "scan", "abnormal", "in", "mass", "tissue", "image"]


def monai_autoencoder(changes: dict[str, Any] = NARROW_AUTOENCODER) -> AutoencoderKlMaisi:
    return AutoencoderKlMaisi(
        spatial_dims=3, attention_levels=(False,) * 3, use_flash_attention=False,
        norm_float16=False, num_splits=1, save_mem=False, **(MAISI_AUTOENCODER | changes),
    ).eval()


def monai_denoiser(
    configuration: str, changes: dict[str, Any] = NARROW_DENOISER
) -> DiffusionModelUNetMaisi:
    arguments = NETWORKS[configuration] | changes
    return DiffusionModelUNetMaisi(
        spatial_dims=3, use_flash_attention=False, **arguments).eval()


def write_weights(folder: Path, name: str) -> tuple[Path, Path]:
    """The two files of a catalogue's model, named as the hub names them; autoencoder, denoiser."""
    entry = next(m for m in original_catalogue()["models"] if m["name"] == name)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / Path(file["path"]).name for file in entry["files"]]
    torch.save(randomised_denoiser(monai_autoencoder()).state_dict(), paths[0])
    configuration = entry["networks"]["denoiser"]["configuration"]
    state = randomised_denoiser(monai_denoiser(configuration)).state_dict()
    if configuration == "maisi-ddpm":
        # The published file carries projections that the network has not (METHOD.md 1).
        for key in [k for k in state if k.endswith("attn.to_q.weight")]:
            prefix, width = key.removesuffix("to_q.weight"), state[key].shape[0]
            state[f"{prefix}out_proj.weight"] = torch.zeros(width, width)
            state[f"{prefix}out_proj.bias"] = torch.zeros(width)
    torch.save({"epoch": 7, "loss": 0.1, "num_train_timesteps": 1000,
                "scale_factor": torch.tensor(SCALE_FACTOR), "unet_state_dict": state}, paths[1])
    return paths[0], paths[1]


def write_text_encoder(folder: Path) -> Path:
    """A folder with the files of a BERT of one layer and 32 channels."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(2)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1,
                        num_attention_heads=2, intermediate_size=32)
    (folder / "config.json").write_text(config.to_json_string())
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    state = {k: v.contiguous() for k, v in BertModel(config).state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def original_catalogue() -> dict[str, Any]:
    return json.loads((resource("Models") / "catalogue.json").read_text(encoding="utf-8"))


def write_catalogue(path: Path) -> Path:
    """The program's catalogue with narrow networks, for DIFFUGTS_CATALOGUE."""
    document = original_catalogue()
    for model in document["models"]:
        if not model["bundled"]:
            model["networks"]["autoencoder"]["changes"] = NARROW_AUTOENCODER
            model["networks"]["denoiser"]["changes"] = NARROW_DENOISER
            model["schedule"]["steps"] = 2
            model["spacing_mm"], model["least_crop"] = [2, 2, 2], [32, 32, 32]
            for part in ("autoencoder", "denoiser"):
                model["networks"][part]["parameters"] = 1000
    sapbert = next(e for e in document["text_encoders"] if e["name"] == "sapbert")
    sapbert |= {"dimensions": 32, "parameters": 1000}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
