"""No run needs the network, and none asks for it: segment, batch and worker without any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.batch_runs import statuses, write_scan
from support.tiny_model import PROMPT, write_tiny_model

REPOSITORY = Path(__file__).resolve().parents[3]
OFFLINE = Path(__file__).resolve().parents[1] / "support" / "offline"


class Offline:
    """A folder with a scan, a model and a model without autoencoder; commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_scan(folder / "scan.nrrd")
        write_tiny_model(folder / "tiny")
        broken = write_tiny_model(folder / "broken" / "model")
        for path in (broken / "vae").iterdir():
            path.unlink()
        (broken / "vae").rmdir()
        card = json.loads((broken / "card.json").read_text(encoding="utf-8"))
        (broken / "card.json").write_text(json.dumps(card | {"files": {}}))

    @property
    def attempts(self) -> list[str]:
        log = self.folder / "network.log"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(map(str, (REPOSITORY, OFFLINE)))
        return {key: value for key, value in os.environ.items()
                if not key.startswith(("HF_", "DIFFUGTS_"))} | {
            "PYTHONPATH": path, "OMP_NUM_THREADS": "1",
            "NETWORK_LOG": str(self.folder / "network.log")}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, text=True, capture_output=True,
            timeout=300, check=False, env=self.environment, stdin=subprocess.DEVNULL)

    def worker(self, model: str, request: dict[str, object], until: str) -> dict[str, object]:
        """The first event of that kind; stdin stays open until then."""
        with subprocess.Popen(
            [sys.executable, "-m", "DiffuGTSLib.worker", "--model", model, "--device", "cpu"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=self.folder,
            env=self.environment,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            events = (json.loads(line) for line in process.stdout)
            found = next(event for event in events if event["type"] == until)
            process.kill()
        return dict(found)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    return Offline(tmp_path_factory.mktemp("offline"))


def test_the_test_would_notice(offline: Offline) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 443), 1)"
    path = offline.folder / "ask.py"
    path.write_text(code)
    assert offline.run("ask").returncode != 0
    assert offline.attempts
    (offline.folder / "network.log").unlink()


def test_segment_and_batch_ask_for_nothing(offline: Offline) -> None:
    done = offline.run("DiffuGTSLib.cli", "segment", "scan.nrrd", "-p", PROMPT, "-o", "m.nrrd",
                       "--model", "tiny", "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    done = offline.run("DiffuGTSLib.cli", "batch", "scan.nrrd", "-p", PROMPT, "-o", "out",
                       "--model", "tiny", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert statuses(offline.folder / "out") == {"scan": "done"}
    assert offline.attempts == []


REQUEST = {"type": "segment", "id": 1, "image": "scan.nrrd", "prompt": PROMPT, "folder": "job"}


def test_the_worker_asks_for_nothing(offline: Offline) -> None:
    assert offline.worker("tiny", REQUEST, "result")["lesions"]
    assert offline.attempts == []


@pytest.mark.parametrize("command", ["segment", "batch"])
def test_a_relative_model_folder_without_autoencoder_is_no_name_of_the_hub(
    offline: Offline, command: str
) -> None:
    done = offline.run("DiffuGTSLib.cli", command, "scan.nrrd", "-p", PROMPT, "-o",
                       "x.nrrd" if command == "segment" else "x", "--model", "broken/model",
                       "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr.startswith("The model package is damaged: vae")
    assert offline.attempts == []


def test_so_does_the_worker_name_it(offline: Offline) -> None:
    assert offline.worker("broken/model", REQUEST, "error")["code"] == "model-damaged"
    assert offline.attempts == []
