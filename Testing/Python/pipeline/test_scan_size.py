"""A scan that cannot be run is refused by its header and the package's configurations alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from support.tiny_model import PROMPT, ball_scan, write_tiny_model

from DiffuGTSLib.cli.segment import Outputs, segment_scan
from DiffuGTSLib.errors import AttentionMissing, ModelDamaged, ModelMissing, TooLarge
from DiffuGTSLib.models.package import load
from DiffuGTSLib.pipeline import memory_plan
from DiffuGTSLib.pipeline.early_check import check_package
from DiffuGTSLib.pipeline.memory_plan import Planner
from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.pipeline.segmenter import Segmenter
from DiffuGTSLib.scan.canonical import to_canonical
from DiffuGTSLib.scan.header import ScanGrid
from DiffuGTSLib.scan.volume import from_image

TILT = np.deg2rad(20)
OBLIQUE = [np.cos(TILT), -np.sin(TILT), 0, np.sin(TILT), np.cos(TILT), 0, 0, 0, 1]
DIRECTIONS = {
    "plain": [1, 0, 0, 0, 1, 0, 0, 0, 1], "oblique": OBLIQUE,
    "left-handed": [1, 0, 0, 0, 1, 0, 0, 0, -1], "sagittal": [0, 0, 1, 1, 0, 0, 0, -1, 0],
}
FIGURES = r"needs at least \d.* GB on the CPU, where \d.* GB can be used"


def blank(size: Sequence[int], spacing: Sequence[float]) -> sitk.Image:
    image = sitk.Image(list(size), sitk.sitkInt16)
    image.SetSpacing(list(spacing))
    return image


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def outline(tiny: Path, tmp_path: Path) -> Path:
    """The package without its weights, whose files end behind the header: to load them fails."""
    folder = shutil.copytree(tiny, tmp_path / "outline")
    for path in folder.rglob("*.safetensors"):
        with path.open("r+b") as stream:
            stream.truncate(8 + int.from_bytes(stream.read(8), "little"))
    return folder


@pytest.fixture
def header(tmp_path: Path) -> Path:
    """A large scan's file without content behind its header: whoever reads voxels fails."""
    path = tmp_path / "large.nii"
    sitk.WriteImage(blank((128, 128, 100), (1, 1, 1.5)), path)
    size = path.stat().st_size
    with path.open("r+b") as stream:
        stream.truncate(400)
        stream.truncate(size)
    return path


def leave(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    memory = SimpleNamespace(available=round(gigabytes * 1e9), total=10**10)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def segment(image: Path | sitk.Image, model: Path | str, folder: Path) -> None:
    segment_scan(
        image, [PROMPT], Outputs(folder / "seg.nrrd"), Options(str(model), "cpu", modality="MR"),
        lambda estimator, prompts: nullcontext(lambda stage, done, total: None))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_the_size_on_the_models_grid_follows_from_the_header(
    direction: list[float], tmp_path: Path
) -> None:
    image = blank((21, 40, 33), (1.2, 0.7, 3.1)) + 5
    image.SetDirection(direction)
    sitk.WriteImage(image, tmp_path / "scan.nii")
    expected = to_canonical(image, "MR", (1.5, 1.5, 2.0), 16, 48).tensor.shape[2:]
    for grid in (ScanGrid.of(image), ScanGrid.stated(tmp_path / "scan.nii")):
        assert grid is not None
        assert grid.in_model((1.5, 1.5, 2.0), 16, 48) == tuple(expected)


@pytest.mark.parametrize("size", [(8, 8), (8, 8, 8, 2)])
def test_a_header_that_is_no_scans_states_no_grid(size: tuple[int, ...], tmp_path: Path) -> None:
    sitk.WriteImage(sitk.Image(size, sitk.sitkInt16), tmp_path / "image.mha")
    assert ScanGrid.stated(tmp_path / "image.mha") is None
    assert ScanGrid.stated(tmp_path) is None
    assert ScanGrid.stated(tmp_path / "absent.nii") is None


def test_too_large_a_scan_is_refused_before_weights_and_voxels_are_read(
    outline: Path, header: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 0.26)
    with pytest.raises(TooLarge, match=FIGURES):
        segment(header, outline, tmp_path)
    with pytest.raises(TooLarge, match=FIGURES):
        segment(blank((128, 128, 100), (1, 1, 1.5)), outline, tmp_path)


def test_a_loaded_model_refuses_by_the_header_too(
    tiny: Path, header: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter.from_pretrained(tiny, "cpu")
    leave(monkeypatch, 0.26)
    monkeypatch.setattr("DiffuGTSLib.pipeline.segmenter.to_canonical", None)
    with pytest.raises(TooLarge, match=FIGURES):
        segmenter.encode(header, "MR")
    with pytest.raises(TooLarge, match=FIGURES):
        segmenter.encode(blank((128, 128, 100), (1, 1, 1.5)), "MR")


def test_what_is_refused_by_configurations_is_what_the_networks_would_refuse(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 0.26)
    segmenter, grid = Segmenter(load(tiny)), ScanGrid((128, 128, 100), (1.0, 1.0, 1.5))
    weights = sum(p.numel() for n in segmenter.package.networks for p in n.state_dict().values())
    with pytest.raises(TooLarge) as by_networks:
        Planner(segmenter.limits, "cpu", weights).check(grid)
    with pytest.raises(TooLarge) as by_configurations:
        check_package(grid, tiny, "cpu")
    assert str(by_configurations.value) == str(by_networks.value)


def test_a_gpu_takes_what_the_cpu_cannot(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cpu": 10**8, "cuda": 10**10}
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: free[device])
    monkeypatch.setattr(memory_plan, "element_bytes", lambda device: 4)
    monkeypatch.setattr("DiffuGTSLib.networks.device.choose_device", lambda name: "cuda")
    grid = ScanGrid((128, 128, 100), (1.0, 1.0, 1.5))
    check_package(grid, tiny, "auto")
    with pytest.raises(TooLarge, match="on the CPU"):
        check_package(grid, tiny, "cpu")


@pytest.mark.parametrize(("spacing", "verdict"), [(2.0, "fits"), (200.0, "too large")])
def test_the_check_needs_no_torch(outline: Path, spacing: float, verdict: str) -> None:
    code = f"""
import sys
from pathlib import Path
from DiffuGTSLib.errors import TooLarge
from DiffuGTSLib.pipeline.early_check import check_package
from DiffuGTSLib.scan.header import ScanGrid
try:
    check_package(ScanGrid((50, 50, 50), ({spacing},) * 3), Path({str(outline)!r}), "cpu")
    print("fits", end=" ")
except TooLarge:
    print("too large", end=" ")
print("torch" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            check=True, cwd=Path(__file__).resolve().parents[3])
    assert answer.stdout.strip() == f"{verdict} False"


def test_a_finer_grid_of_the_model_needs_more_memory(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = shutil.copytree(tiny, tmp_path / "fine")
    card = json.loads((fine / "card.json").read_text(encoding="utf-8"))
    (fine / "card.json").write_text(json.dumps(card | {"spacing_mm": [0.5, 0.5, 1.0]}))
    leave(monkeypatch, 2)
    grid = ScanGrid((128, 128, 100), (1.0, 1.0, 1.5))
    check_package(grid, tiny, "cpu")
    with pytest.raises(TooLarge, match=FIGURES):
        check_package(grid, fine, "cpu")


def test_what_was_read_is_not_resampled_where_it_does_not_fit(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter.from_pretrained(tiny, "cpu")
    scan = from_image(ball_scan()[0], "MR")
    leave(monkeypatch, 0.25)
    with pytest.raises(TooLarge, match=FIGURES):
        segmenter.prepare(scan)


def test_an_untrained_model_is_named_before_the_scan_is_read(
    outline: Path, header: Path, tmp_path: Path
) -> None:
    index = json.loads((outline / "model_index.json").read_text(encoding="utf-8"))
    del index["aova"]
    (outline / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(AttentionMissing, match="“tiny” cannot segment yet") as missing:
        segment(header, outline, tmp_path)
    assert missing.value.hint.endswith(f"--model {outline}")


def test_a_mistyped_model_gets_the_nearest_names(header: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelMissing) as missing:
        segment(header, "maisi", tmp_path)
    assert all(name in missing.value.hint for name in ("maisi-ct", "maisi-mr"))


def test_a_damaged_file_of_weights_is_named(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "damaged")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelDamaged, match=r"unet/diffusion_pytorch_model\.safetensors"):
        check_package(ScanGrid((50, 50, 50), (2.0, 2.0, 2.0)), folder, "cpu")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"num_channels": 3}'])
def test_a_damaged_configuration_is_named(outline: Path, text: str) -> None:
    (outline / "unet" / "config.json").write_text(text)
    with pytest.raises(ModelDamaged, match=r"config\.json"):
        check_package(ScanGrid((50, 50, 50), (2.0, 2.0, 2.0)), outline, "cpu")
