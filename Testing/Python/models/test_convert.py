"""Conversion of published weights: what fits is taken exactly, what does not is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.maisi_files import (
    SCALE_FACTOR,
    WORDS,
    monai_autoencoder,
    monai_denoiser,
    randomised_denoiser,
    write_catalogue,
    write_text_encoder,
    write_weights,
)
from transformers import BertModel

from DiffuGTSLib.errors import AttentionMissing, ModelDamaged
from DiffuGTSLib.files import sha256
from DiffuGTSLib.models import store
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.catalogue import Entry, entry
from DiffuGTSLib.models.convert import convert
from DiffuGTSLib.models.package import load, load_foundation
from DiffuGTSLib.networks.schedules import Ddim, RectifiedFlow

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUGTS_CATALOGUE", str(write_catalogue(tmp_path / "catalogue.json")))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tmp_path / "files"


def converted(name: str, files: Path, text_folder: Path | None = None) -> Path:
    model: Entry = entry(name)
    paths = [files / file.name for file in model.files]
    if not paths[1].exists():
        write_weights(files, name)
    folder = files.parent / "package"
    folder.mkdir()
    convert(model, paths[0], paths[1], text_folder, folder, lambda _: None)
    return folder


def changed(path: Path, change: Change) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@torch.no_grad()
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", ["maisi-ct", "maisi-ct-ddpm", "maisi-mr-brain", "maisi-mr"])
def test_a_converted_model_computes_what_the_original_does(name: str, files: Path) -> None:
    foundation = load_foundation(converted(name, files))
    x = torch.rand(1, 1, 16, 24, 32)
    expected = randomised_denoiser(monai_autoencoder()).encode(x)[0]
    torch.testing.assert_close(foundation.autoencoder.encode(x)[0], expected, rtol=1e-5, atol=1e-5)
    configuration = entry(name).networks["denoiser"].configuration
    theirs = randomised_denoiser(monai_denoiser(configuration))
    z, time, spacing = torch.randn(1, 4, 8, 8, 8), torch.tensor([400.0]), torch.ones(1, 3) * 100
    if configuration == "maisi-ddpm":
        top, bottom = 100 * torch.eye(4)[1:2], 100 * torch.eye(4)[2:3]
        value = foundation.denoiser(z, time, spacing=spacing, top_region=top, bottom_region=bottom)
        expected = theirs(z, time, spacing_tensor=spacing, top_region_index_tensor=top,
                          bottom_region_index_tensor=bottom)
    else:
        label = torch.tensor([9])
        value = foundation.denoiser(z, time, spacing=spacing, class_labels=label)
        expected = theirs(z, time, spacing_tensor=spacing, class_labels=label)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("narrow")
def test_the_card_tells_what_the_model_is_and_where_it_comes_from(files: Path) -> None:
    card = Card.read(converted("maisi-mr-brain", files))
    assert card.scale_factor == pytest.approx(SCALE_FACTOR)
    assert card.licence == "NVIDIA Open Model License"
    assert (card.guidance, card.class_labels["MR/t1/skull-stripped"]) == (10, 29)
    repositories = [source["repository"] for source in card.sources]
    assert repositories == ["nvidia/NV-Generate-CT", "nvidia/NV-Generate-MR-Brain"]
    name = entry("maisi-mr-brain").files[1].name
    assert card.sources[1]["sha256"] == sha256(files / name)


@pytest.mark.usefixtures("narrow")
def test_every_file_of_a_converted_model_is_recorded(files: Path) -> None:
    folder = converted("maisi-ct", files)
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(Card.read(folder).files) == there - {store.CARD}
    store.verify(folder)


@pytest.mark.usefixtures("narrow")
def test_weights_keep_their_precision(files: Path) -> None:
    stored = load_file(converted("maisi-ct", files) / "unet" / store.WEIGHTS)
    original = torch.load(files / "diff_unet_3d_rflow-ct.pt", weights_only=True)
    for key, value in original["unet_state_dict"].items():
        assert torch.equal(stored[key], value)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "kind"), [("maisi-ct", RectifiedFlow), ("maisi-ct-ddpm", Ddim)])
def test_the_schedule_is_the_models(name: str, kind: type, files: Path) -> None:
    schedule = load_foundation(converted(name, files)).schedule(10, 64**3)
    assert isinstance(schedule, kind)
    assert len(schedule) == 10


@pytest.mark.usefixtures("narrow")
def test_a_model_without_attention_does_not_run(files: Path) -> None:
    folder = converted("maisi-ct", files)
    with pytest.raises(AttentionMissing, match="maisi-ct") as caught:
        load(folder)
    assert "diffugts train attention" in caught.value.hint


@pytest.mark.usefixtures("narrow")
def test_an_autoencoder_may_be_wrapped(files: Path) -> None:
    path, _ = write_weights(files, "maisi-ct")
    torch.save({"unet_state_dict": torch.load(path, weights_only=True)}, path)
    store.verify(converted("maisi-ct", files))


def _rename(state: dict[str, Any], old: str, new: str) -> None:
    state[new] = state.pop(old)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("out.2.conv.bias"), r"lacks the key out\.2\.conv\.bias"),
        (lambda s: _rename(s, "out.2.conv.bias", "out.2.bias"), r"unexpected key: out\.2\.bias"),
        (lambda s: s.update({"out.2.conv.bias": torch.zeros(3)}),
         r"misshapen key: out\.2\.conv\.bias is \[3\], \[4\] is needed"),
        (lambda s: s["out.2.conv.bias"].fill_(float("nan")), r"no numbers: out\.2\.conv\.bias"),
    ],
)  # fmt: skip
def test_a_key_that_does_not_fit_is_named(change: Change, message: str, files: Path) -> None:
    _, path = write_weights(files, "maisi-ct")
    changed(path, lambda content: change(content["unet_state_dict"]))
    with pytest.raises(ModelDamaged, match=message) as caught:
        converted("maisi-ct", files)
    assert path.name in caught.value.message


@pytest.mark.usefixtures("narrow")
def test_projections_that_ddpm_does_not_use_are_left_out(files: Path) -> None:
    folder = converted("maisi-ct-ddpm", files)
    original = torch.load(files / "diff_unet_3d_ddpm-ct.pt", weights_only=True)["unet_state_dict"]
    unused = {key for key in original if ".attn.out_proj." in key}
    assert unused
    assert set(load_file(folder / "unet" / store.WEIGHTS)) == set(original) - unused


@pytest.mark.usefixtures("narrow")
def test_other_projections_than_those_are_refused(files: Path) -> None:
    _, path = write_weights(files, "maisi-ct-ddpm")
    changed(path, lambda c: c["unet_state_dict"].update(
        {"down_blocks.0.attentions.0.attn.out_proj.weight": torch.zeros(8, 8)}))
    with pytest.raises(ModelDamaged, match=r"unexpected key: down_blocks\.0"):
        converted("maisi-ct-ddpm", files)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("scale_factor"), "no entry scale_factor"),
        (lambda c: c.update(scale_factor=-1.0), "no positive number"),
        (lambda c: c.update(scale_factor=torch.ones(2)), "no positive number"),
        (lambda c: c.update(num_train_timesteps=500), "500 noise levels"),
        (lambda c: c.pop("unet_state_dict"), "no entry unet_state_dict"),
    ],
)
def test_a_denoisers_file_without_its_entries_is_refused(
    change: Change, message: str, files: Path
) -> None:
    _, path = write_weights(files, "maisi-ct")
    changed(path, change)
    with pytest.raises(ModelDamaged, match=message):
        converted("maisi-ct", files)


@pytest.mark.usefixtures("narrow")
def test_a_text_encoder_comes_along_and_gives_the_first_tokens_vector(files: Path) -> None:
    source = write_text_encoder(files.parent / "texts")
    encoder = load_foundation(converted("maisi-ct", files, source)).texts()
    reference = BertModel.from_pretrained(source).eval()
    ids = [WORDS.index(w) for w in ("[CLS]", "liver", "tumor", "[SEP]")]
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).last_hidden_state[0, 0]
    assert encoder.width == 32
    torch.testing.assert_close(encoder.encode(["Liver tumor"])[0], expected / expected.norm())


@pytest.mark.usefixtures("narrow")
def test_weights_of_a_model_with_a_head_may_be_prefixed(files: Path) -> None:
    source = write_text_encoder(files.parent / "texts")
    path = source / "model.safetensors"
    save_file({f"bert.{key}": value for key, value in load_file(path).items()}, path)
    assert load_foundation(converted("maisi-ct", files, source)).texts().width == 32


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("part", "message"), [
    ("vocab.txt", r"vocab\.txt is not there"), ("config.json", r"config\.json cannot be read"),
    ("model.safetensors", r"pytorch_model\.bin"),
])  # fmt: skip
def test_a_missing_file_of_the_text_encoder_is_named(
    part: str, message: str, files: Path
) -> None:
    source = write_text_encoder(files.parent / "texts")
    (source / part).unlink()
    with pytest.raises(ModelDamaged, match=message):
        converted("maisi-ct", files, source)


@pytest.mark.usefixtures("narrow")
def test_another_text_encoder_than_the_catalogues_is_refused(files: Path) -> None:
    source = write_text_encoder(files.parent / "texts")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (source / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(ModelDamaged, match="vectors of length 64"):
        converted("maisi-ct", files, source)


@pytest.mark.usefixtures("narrow")
def test_a_changed_text_encoder_is_seen_before_it_is_used(files: Path) -> None:
    folder = converted("maisi-ct", files, write_text_encoder(files.parent / "texts"))
    shutil.copy(folder / "tokenizer" / "config.json", folder / "tokenizer" / "tokenizer.json")
    with pytest.raises(ModelDamaged, match=r"tokenizer/tokenizer\.json"):
        load_foundation(folder)
