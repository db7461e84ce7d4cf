"""Published checkpoints: read as data, whatever they pretend to be."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from DiffuGTSLib.errors import ModelDamaged
from DiffuGTSLib.models.convert import read_checkpoint, scale_factor

REPOSITORY = Path(__file__).resolve().parents[3]


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_tensors_and_plain_values_are_read(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "unet_state_dict": {"a": torch.arange(3)}}, tmp_path / "x.pt")
    content = read_checkpoint(tmp_path / "x.pt")
    assert content["epoch"] == 3
    assert torch.equal(content["unet_state_dict"]["a"], torch.arange(3))


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"unet_state_dict": {}, "x": Trap(tmp_path / "trapped")}, tmp_path / "x.pt")
    with pytest.raises(ModelDamaged, match=r"x\.pt holds more than weights"):
        read_checkpoint(tmp_path / "x.pt")
    assert not (tmp_path / "trapped").exists()


def test_the_scale_factor_of_monais_trainer_is_read_without_monai(tmp_path: Path) -> None:
    latents = MetaTensor(torch.randn(1, 4, 4, 4), meta={"filename_or_obj": "a", "n": np.eye(2)})
    factor = 1 / torch.std(latents)
    assert isinstance(factor, MetaTensor)
    torch.save({"loss": np.float64(0.1), "scale_factor": factor}, tmp_path / "x.pt")
    code = ("import sys; from pathlib import Path;"
            "from DiffuGTSLib.models.convert import read_checkpoint;"
            "print(read_checkpoint(Path(sys.argv[1]))['scale_factor'].item());"
            "sys.exit('monai' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.pt")], cwd=REPOSITORY,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(factor.item())
    assert scale_factor(read_checkpoint(tmp_path / "x.pt"), "x") == pytest.approx(factor.item())


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(1000)}, tmp_path / "x.pt")
    content = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelDamaged, match=r"x\.pt is damaged"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>", pickle.dumps([1, 2])])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ModelDamaged, match=r"x\.pt"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelDamaged, match=r"absent\.pt"):
        read_checkpoint(tmp_path / "absent.pt")


def test_a_checkpoint_of_no_weights_by_name_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "x.pt")
    with pytest.raises(ModelDamaged, match="by name"):
        read_checkpoint(tmp_path / "x.pt")
