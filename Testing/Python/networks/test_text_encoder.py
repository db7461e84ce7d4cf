"""The text encoder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from DiffuGTSLib.errors import ModelDamaged, ModelMissing
from DiffuGTSLib.networks import text_encoder
from DiffuGTSLib.networks.text_encoder import TextEncoder

TEXTS = ["liver tumor", "healthy liver", "Hepatozelluläres Karzinom", "", "a longer text " * 80]
KNOWN_LIVER_TUMOR = [0.006903, 0.009466, -0.049666, -0.032787, -0.045114, -0.070616]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.from_package()


def test_vectors_have_unit_length_and_width_384(encoder: TextEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-6)


def test_no_texts_give_an_empty_tensor(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_vectors_have_their_known_values(encoder: TextEncoder) -> None:
    vector = encoder.encode(["liver tumor"])[0]
    assert vector[:6].tolist() == pytest.approx(KNOWN_LIVER_TUMOR, abs=1e-5)


def test_vectors_equal_those_of_sentence_transformers(encoder: TextEncoder) -> None:
    reference = pytest.importorskip("sentence_transformers")
    model = reference.SentenceTransformer(str(text_encoder.find_folder()), device="cpu")
    expected = torch.from_numpy(model.encode(TEXTS, show_progress_bar=False))
    assert torch.allclose(encoder.encode(TEXTS), expected, atol=1e-5)


def test_a_vector_does_not_depend_on_the_other_texts(encoder: TextEncoder) -> None:
    fresh = TextEncoder.from_package()
    alone = fresh.encode(["liver tumor"])[0]
    assert torch.equal(encoder.encode([*TEXTS[::-1], "liver tumor"])[-1], alone)


def test_what_a_caller_does_to_a_result_stays_out_of_the_cache(encoder: TextEncoder) -> None:
    first = encoder.encode(["lung nodule"])
    kept = first.clone()
    first.zero_()
    assert torch.equal(encoder.encode(["lung nodule"]), kept)


def test_each_text_is_encoded_once(encoder: TextEncoder) -> None:
    calls: list[int] = []
    hook = encoder._model.register_forward_hook(lambda *_: calls.append(1))
    encoder.encode(["a text seen first here", "a text seen first here"])
    encoder.encode(["a text seen first here"])
    hook.remove()
    assert len(calls) == 1


def test_an_ensemble_is_the_unit_length_average(encoder: TextEncoder) -> None:
    average = encoder.encode(["liver", "the liver"]).mean(dim=0)
    assert torch.allclose(encoder.encode_ensemble(["liver", "the liver"]), average / average.norm())
    with pytest.raises(ValueError, match="at least one"):
        encoder.encode_ensemble([])


def test_texts_of_one_meaning_are_nearer_than_others(encoder: TextEncoder) -> None:
    liver, hepatic, banana = encoder.encode(["liver tumor", "hepatic neoplasm", "banana"])
    assert liver @ hepatic > 0.6 > 0.3 > liver @ banana


def test_the_weights_are_frozen(encoder: TextEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in encoder._model.parameters())
    weight = torch.ones(384, requires_grad=True)
    (encoder.encode(["liver"]) * weight).sum().backward()  # inference tensors would raise here
    assert weight.grad is not None


def test_a_changed_weight_file_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(text_encoder.find_folder(), tmp_path / "model"))
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x00\x01\x02\x03")
    with pytest.raises(ModelDamaged, match=r"model\.safetensors"):
        TextEncoder(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"model\.safetensors"):
        TextEncoder(tmp_path)


def test_neither_package_nor_cache_is_reported_with_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_encoder, "PACKAGE", "no_such_package_here")
    monkeypatch.setattr(text_encoder, "HUB_NAME", "nobody/no-such-model")
    with pytest.raises(ModelMissing) as caught:
        TextEncoder.from_package()
    assert "pip install" in caught.value.hint


def test_the_cache_of_the_hub_stands_in_for_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = text_encoder.find_folder()
    commit = "c" * 40
    model = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2"
    (model / "snapshots").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    shutil.copytree(files, model / "snapshots" / commit)
    monkeypatch.setattr(text_encoder, "PACKAGE", "no_such_package_here")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert text_encoder.find_folder() == model / "snapshots" / commit


def test_loading_prints_nothing_and_does_not_import_the_package() -> None:
    code = (
        "import sys; from DiffuGTSLib.networks.text_encoder import TextEncoder, PACKAGE;"
        "TextEncoder.from_package().encode(['liver']); sys.exit(PACKAGE in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
