"""`diffugts models ...` as a real process, against a model hub on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.hub_server import Hub, running_hub
from support.maisi_files import write_catalogue, write_text_encoder, write_weights

from DiffuGTSLib.models.catalogue import catalogue, entry

REPOSITORY = Path(__file__).resolve().parents[3]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a narrow catalogue, the published files of maisi-mr and a text encoder."""
    folder = tmp_path_factory.mktemp("models")
    write_catalogue(folder / "catalogue.json")
    _, denoiser = write_weights(folder / "files", "maisi-mr")
    content = torch.load(denoiser, weights_only=True)
    # So large that the hub's client writes a part of it before the connection breaks.
    torch.save(content | {"optimizer": torch.zeros(6_000_000)}, denoiser)
    write_text_encoder(folder / "texts")
    return folder


@pytest.fixture(scope="module")
def hub(place: Path) -> Iterator[Hub]:
    model = entry("maisi-mr")
    with running_hub() as server:
        for file in model.files:
            server.files[f"{file.repository}/{file.path}"] = place / "files" / file.name
        for file in model.text_encoder.files:
            server.files[f"{file.repository}/{file.path}"] = place / "texts" / file.name
        yield server


@pytest.fixture(scope="module")
def environment(place: Path, hub: Hub) -> dict[str, str]:
    """The store, the cache and the hub of this test."""
    return os.environ | {
        "PYTHONPATH": str(REPOSITORY), "DIFFUGTS_CATALOGUE": str(place / "catalogue.json"),
        "DIFFUGTS_MODELS": str(place / "store"), "HF_HUB_CACHE": str(place / "cache"),
        "HF_ENDPOINT": hub.address, "HF_TOKEN_PATH": str(place / "no-token"),
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def models(environment: dict[str, str]) -> Run:
    """Runs `diffugts models`."""
    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "DiffuGTSLib.cli", "models", *map(str, arguments)], text=True,
            capture_output=True, env=environment | more, timeout=300, check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="module")
def installed(models: Run, hub: Hub) -> subprocess.CompletedProcess[str]:
    """maisi-mr, downloaded over a connection that broke once in the large file."""
    hub.cuts = [10**9, 15_000_000]
    done = models("download", "maisi-mr", "--accept-licence", "--json", HF_TOKEN="hf_known")
    assert done.returncode == 0, done.stderr
    return done


def listed(models: Run, name: str) -> dict[str, Any]:
    document = json.loads(models("list", "--json").stdout)
    return next(model for model in document["models"] if model["name"] == name)


def failed_plainly(done: subprocess.CompletedProcess[str], *words: str) -> bool:
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    return True


def test_the_list_names_every_model_with_its_licence(models: Run) -> None:
    done = models("list")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in catalogue())
    assert "Noncommercial" in done.stdout
    assert "not for clinical decisions" in done.stdout


def test_the_list_as_json_is_one_document_with_all_that_a_panel_needs(models: Run) -> None:
    document = json.loads(models("list", "--json").stdout)
    embedded = document["models"][0]
    assert (embedded["name"], embedded["state"], embedded["ready"]) == ("embedded", "ready", True)
    assert embedded["actions"] == ["verify"]
    assert embedded["bytes"] > 1_000_000
    assert {"title", "purpose", "modalities", "licence", "trained_on", "message", "folder",
            "attention", "scores"} <= set(embedded)


def test_show_lists_data_classes_and_scores(models: Run, tmp_path: Path) -> None:
    shown = dict(line.split(": ", 1) for line in models("show", "embedded").stdout.splitlines()
                if ": " in line)
    document = json.loads(models("show", "embedded", "--json").stdout)
    assert shown["Trained on"] == document["trained_on"]
    assert "soft tissue tumor" in shown["Masks of real lesions in training"]
    assert "liver tumor" in shown["Synthetic lesions in training"]
    assert document["scores"]["measure"] in shown["Scores"]
    assert f"sarcoma MR {document['scores']['sarcoma MR']}" in shown["Scores"]
    assert Path(shown["Folder"]) == Path(document["folder"])
    assert failed_plainly(models("show", tmp_path / "none"), "no model")


def test_a_licence_is_shown_and_has_to_be_accepted(models: Run, hub: Hub, place: Path) -> None:
    hub.requests.clear()
    done = models("download", "maisi-ct")
    licence = entry("maisi-ct").licence
    assert failed_plainly(done, licence.url, "has not been accepted", "--accept-licence")
    assert hub.requests == []
    assert not (place / "store" / "maisi-ct").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of this kind are not Windows's")
@pytest.mark.parametrize(("answer", "code", "said"), [
    (b"n\n", 1, b"has not been accepted"), (b"\x03", 130, b"cancelled")])
def test_the_question_for_the_licence_can_be_declined(
    environment: dict[str, str], answer: bytes, code: int, said: bytes
) -> None:
    import pty

    child, terminal = pty.fork()
    if child == 0:
        signal.alarm(240)  # rather than wait for ever
        command = [sys.executable, "-m", "DiffuGTSLib.cli", "models", "download", "maisi-ct"]
        os.execve(sys.executable, command, environment)
    seen = b""
    while b"accept it?" not in seen:
        seen += os.read(terminal, 4096)
    os.write(terminal, answer)
    with contextlib.suppress(OSError):  # how a terminal ends on Linux
        while True:
            if not select.select([terminal], [], [], 20)[0]:
                os.write(terminal, answer)  # dropped, while the terminal was made ready to read
            elif more := os.read(terminal, 4096):
                seen += more
            else:
                break
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    assert said in seen.lower()
    assert b"went wrong" not in seen


def test_a_mistyped_name_gets_the_closest_ones(models: Run) -> None:
    assert failed_plainly(models("download", "maisi-tc"), "Did you mean", "maisi-ct")
    assert failed_plainly(models("verify", "embeded"), "Did you mean embedded?")


def test_a_broken_download_goes_on_where_it_stopped(
    installed: subprocess.CompletedProcess[str], hub: Hub
) -> None:
    large = [r for r in hub.requests if r[0] == "GET" and "diff_unet_3d_rflow-mr.pt" in r[1]]
    assert [range_ for _, _, range_, _ in large] == ["", "bytes=10485760-"]


def test_the_token_from_its_usual_place_goes_to_the_hub(
    installed: subprocess.CompletedProcess[str], hub: Hub
) -> None:
    assert any(token == "Bearer hf_known" for *_, token in hub.requests)


def test_a_downloaded_model_is_installed_and_waits_for_training(
    models: Run, installed: subprocess.CompletedProcess[str]
) -> None:
    outcome = json.loads(installed.stdout)
    assert (outcome["name"], outcome["attention"]) == ("maisi-mr", "none")
    assert "diffugts train attention" in outcome["message"]
    model = listed(models, "maisi-mr")
    assert (model["state"], model["ready"]) == ("needs-training", False)
    assert model["actions"] == ["verify", "remove"]
    assert model["folder"] == outcome["folder"]


def test_what_is_installed_is_not_fetched_again(
    models: Run, installed: subprocess.CompletedProcess[str], hub: Hub
) -> None:
    hub.requests.clear()
    done = models("download", "maisi-mr", "--json")
    assert (done.returncode, hub.requests) == (0, [])
    assert "already" in json.loads(done.stdout)["message"]


def test_verify_finds_the_file_that_was_changed(
    models: Run, installed: subprocess.CompletedProcess[str]
) -> None:
    folder = Path(json.loads(installed.stdout)["folder"])
    rows = json.loads(models("verify", "--json").stdout)["models"]
    assert {row["name"]: row["ok"] for row in rows} == {"embedded": True, "maisi-mr": True}
    path = folder / "scheduler" / "scheduler_config.json"
    whole = path.read_bytes()
    path.write_bytes(whole + b" ")
    done = models("verify", "maisi-mr")
    path.write_bytes(whole)
    assert done.returncode == 1
    assert "scheduler/scheduler_config.json" in done.stdout
    assert "Hint: Run: diffugts models remove maisi-mr" in done.stdout


def test_offline_takes_what_the_cache_has_and_asks_nobody(
    models: Run, installed: subprocess.CompletedProcess[str], hub: Hub
) -> None:
    assert models("remove", "maisi-mr").returncode == 0
    assert listed(models, "maisi-mr")["state"] == "not-installed"
    hub.requests.clear()
    done = models("download", "maisi-mr", "--offline", "--accept-licence")
    assert (done.returncode, hub.requests) == (0, []), done.stderr
    assert listed(models, "maisi-mr")["installed"]


def test_offline_without_the_files_says_so(models: Run, hub: Hub) -> None:
    done = models("download", "maisi-ct", "--offline", "--accept-licence")
    assert failed_plainly(done, "autoencoder_v1.pt is not in the hub's cache", "by hand")


def test_a_gated_repository_is_explained(models: Run, hub: Hub) -> None:
    hub.gated.add("nvidia/NV-Generate-CT")
    done = models("download", "maisi-ct", "--accept-licence")
    assert failed_plainly(done, "Accept the licence on", "hf auth login")


def test_files_fetched_by_hand_are_converted(models: Run, place: Path) -> None:
    files = [place / "files" / file.name for file in reversed(entry("maisi-mr").files)]
    done = models("convert", *files, "--text-encoder", place / "texts", "--output",
                  place / "own", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(place / "own")
    assert "NVIDIA OneWay Noncommercial License" in done.stderr
    assert models("verify", place / "own").returncode == 0


def test_an_autoencoder_of_another_model_is_refused(models: Run, place: Path) -> None:
    ours, denoiser = (place / "files" / file.name for file in entry("maisi-mr").files)
    other = place / "autoencoder_v1.pt"
    other.write_bytes(ours.read_bytes())
    done = models("convert", other, denoiser, "--text-encoder", place / "texts", "-o", place / "no")
    assert failed_plainly(done, "of another model", "autoencoder_v2.pt")
    assert not (place / "no").exists()


@pytest.mark.parametrize(("name", "words"), [
    ("nothing-like-it", ("not installed",)), ("embedded", ("comes with the program",)),
])  # fmt: skip
def test_what_is_not_there_cannot_be_removed(
    models: Run, name: str, words: tuple[str, ...]
) -> None:
    assert failed_plainly(models("remove", name), *words)
