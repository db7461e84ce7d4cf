"""Files fetched by hand: which is which, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.maisi_files import write_catalogue, write_text_encoder, write_weights

from DiffuGTSLib.errors import ModelDamaged, ModelMissing, OutputNotWritten
from DiffuGTSLib.files import atomic_folder
from DiffuGTSLib.models.catalogue import entry
from DiffuGTSLib.models.install import Fetched, check_disk_space, install, match_files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_weights(tmp_path_factory.mktemp("files"), "maisi-mr-brain")


def test_the_model_and_its_parts_are_known_whatever_the_order(files: tuple[Path, Path]) -> None:
    for order in (files, files[::-1]):
        model, found = match_files(order, None, "installed")
        assert model.name == "maisi-mr-brain"
        assert (found.autoencoder, found.denoiser) == files
        assert found.text_folder is None


def test_renamed_files_need_the_models_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    renamed = [tmp_path / "a.pt", tmp_path / "b.pt"]
    for path, source in zip(renamed, files, strict=True):
        path.write_bytes(source.read_bytes())
    with pytest.raises(ModelMissing, match="not clear from their names"):
        match_files(renamed, None, "installed")
    model, found = match_files(renamed, "maisi-ct", "installed")
    assert (model.name, found.denoiser) == ("maisi-ct", renamed[1])


def test_a_file_that_is_missing_is_named_with_its_address(files: tuple[Path, Path]) -> None:
    with pytest.raises(ModelMissing, match=r"autoencoder of maisi-mr-brain") as caught:
        match_files(files[1:], None, "installed")
    assert "NV-Generate-CT/resolve/main/models/autoencoder_v1.pt" in caught.value.hint


def test_two_files_of_a_kind_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(ModelMissing, match="2 of those given"):
        match_files([*files, files[0]], None, "installed")


def test_a_text_encoder_that_is_nowhere_is_asked_for(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelMissing, match="SapBERT") as caught:
        match_files(files, None, None)
    assert "--text-encoder installed" in caught.value.hint


def test_a_text_encoder_is_taken_from_the_hubs_cache(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = entry("maisi-mr-brain").text_encoder
    model = tmp_path / f"models--{encoder.repository.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("c" * 40)
    expected = write_text_encoder(model / "snapshots" / ("c" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert match_files(files, None, None)[1].text_folder == expected


def test_the_embedded_model_is_not_converted(files: tuple[Path, Path]) -> None:
    with pytest.raises(ModelMissing, match="comes with the program"):
        match_files(files, "embedded", None)


def test_a_full_disk_is_seen_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 10**8})())
    with pytest.raises(OutputNotWritten, match=r"needs 1\.2 GB .* 0\.1 GB are free"):
        check_disk_space(entry("maisi-ct"), tmp_path / "store" / "maisi-ct")


def test_what_fails_while_it_is_built_leaves_nothing(tmp_path: Path) -> None:
    def build() -> None:
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    building = atomic_folder(tmp_path / "file" / "model")
    with pytest.raises(OutputNotWritten, match="cannot be written"):
        building.__enter__()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFUGTS_CATALOGUE", str(write_catalogue(tmp_path / "catalogue.json")))
    monkeypatch.setenv("DIFFUGTS_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


def test_a_failed_conversion_leaves_nothing(
    files: tuple[Path, Path], store: Path, tmp_path: Path
) -> None:
    content = torch.load(files[1], weights_only=True)
    content["unet_state_dict"].pop("conv_in.conv.bias")
    torch.save(content, tmp_path / "short.pt")
    model = entry("maisi-mr-brain")
    with pytest.raises(ModelDamaged, match=r"short\.pt lacks the key conv_in\.conv\.bias"):
        install(model, Fetched(files[0], tmp_path / "short.pt", None), None, lambda _: None)
    assert list(store.iterdir()) == []


def test_an_installed_model_is_not_overwritten(files: tuple[Path, Path], store: Path) -> None:
    model, found = entry("maisi-mr-brain"), Fetched(*files, None)
    notes: list[str] = []
    folder = install(model, found, None, notes.append)
    assert folder == store / "maisi-mr-brain"
    assert notes[0] == "reading autoencoder_v1.pt"
    with pytest.raises(OutputNotWritten, match="already") as caught:
        install(model, found, None, notes.append)
    assert "models remove maisi-mr-brain" in caught.value.hint
