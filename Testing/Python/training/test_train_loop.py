"""The step loop: kills, seeds, several processes, curves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_material import REPOSITORY

from DiffuGTSLib.errors import PackageMissing, TrainingImpossible
from DiffuGTSLib.training.loop import (
    CHECKPOINT,
    CURVE,
    CurveWriter,
    Loop,
    LoopConfig,
    read_curve,
    step_generator,
)

TOGETHER = """
import sys
from pathlib import Path
import numpy as np, torch
from DiffuGTSLib.training.loop import Loop, LoopConfig, process_group, step_generator
with process_group("cpu") as (ranks, device):
    torch.manual_seed(ranks.rank)  # the first one's weights have to win
    model = torch.nn.Linear(4, 1)
    idle = torch.nn.Parameter(torch.ones(1))
    model.register_parameter("idle", idle)
    def loss(step, generator):
        x = torch.from_numpy(generator.standard_normal((8, 4))).float()
        error = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        # One process alone uses this parameter, every other step.
        if ranks.rank == 1 and step % 2:
            error = error + idle.sum() * 0.1
        return error, {"error": float(error)}
    Loop(LoopConfig(12, 1e-2, Path(sys.argv[1]), save_every=6, log_every=4, ranks=ranks),
         model, loss).run()
    Path(sys.argv[1], f"rank{ranks.rank}.txt").write_text(repr(
        [model.weight.tolist(), model.idle.tolist()]))
"""


def test_two_processes_agree_and_give_what_one_gives_on_both_halves(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
    assert run.returncode == 0, run.stderr
    first = (tmp_path / "rank0.txt").read_text(encoding="utf-8")
    assert first == (tmp_path / "rank1.txt").read_text(encoding="utf-8")
    weight, idle = json.loads(first)
    alone_weight, alone_idle, curve = on_both_halves(tmp_path / "alone")
    assert np.allclose(weight, alone_weight, atol=1e-5)
    assert np.allclose(idle, alone_idle, atol=1e-5)
    together = [e["figures"]["error"] for e in read_curve(tmp_path)]
    assert np.allclose(together, curve, atol=1e-4)


def on_both_halves(folder: Path) -> tuple[list, list, list]:
    """One process that takes both halves of each step."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    model.register_parameter("idle", torch.nn.Parameter(torch.ones(1)))

    def loss(step: int, _: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        halves = [step_generator(0, step, rank).standard_normal((8, 4)) for rank in (0, 1)]
        x = torch.from_numpy(np.concatenate(halves)).float()
        error = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        total = error + model.idle.sum() * 0.05 if step % 2 else error
        return total, {"error": float(total.detach())}

    Loop(LoopConfig(12, 1e-2, folder, save_every=6, log_every=4), model, loss).run()
    curve = [e["figures"]["error"] for e in read_curve(folder)]
    return model.weight.tolist(), model.idle.tolist(), curve


class Killed(Exception):
    """Stands for a kill between two steps."""


def run(
    folder: Path, kill_at: int = 99, seed: int = 0, log: Callable[[str], None] | None = None
) -> list[float]:
    torch.manual_seed(seed)
    model = torch.nn.Linear(3, 1)

    def loss(step: int, generator: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        if step == kill_at:
            raise Killed
        x = torch.from_numpy(generator.standard_normal((4, 3))).float()
        return ((model(x) + torch.randn(1)) ** 2).mean(), {}

    def validate() -> dict[str, float]:
        return {"weight": float(model.weight.detach().sum())}

    config = LoopConfig(20, 1e-2, folder, seed=seed, save_every=8, log_every=3, log=log)
    Loop(config, model, loss, validate).run()
    return model.weight.flatten().tolist()


def test_the_same_seed_gives_the_same_curve_and_another_one_another(tmp_path: Path) -> None:
    assert run(tmp_path / "a") == run(tmp_path / "b")
    assert read_curve(tmp_path / "a") == read_curve(tmp_path / "b") != []
    run(tmp_path / "c", seed=1)
    assert read_curve(tmp_path / "c") != read_curve(tmp_path / "a")


def test_a_killed_training_gives_the_curve_of_one_that_was_not(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", kill_at=15)
    assert [e["step"] for e in read_curve(tmp_path / "killed")][-1] == 15
    assert run(tmp_path / "killed") == whole
    assert read_curve(tmp_path / "killed") == read_curve(tmp_path / "whole")


def test_each_entry_of_the_curve_is_logged_as_a_readable_line(tmp_path: Path) -> None:
    lines: list[str] = []
    run(tmp_path, log=lines.append)
    entries = [(str(e["step"]), e["kind"]) for e in read_curve(tmp_path)]
    assert [(line.split()[0], line.split()[3]) for line in lines] == entries
    assert f"loss {read_curve(tmp_path)[0]['figures']['loss']:.4f}" in lines[0]


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    (tmp_path / CURVE).write_text('{"step": 2, "kind": "train", "figures": {}}\n{"step": 4, "ki')
    CurveWriter(tmp_path, step=8).close()
    assert (tmp_path / CURVE).read_text(encoding="utf-8").endswith("{}}\n")
    assert [e["step"] for e in read_curve(tmp_path)] == [2]


def test_a_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:300])
    with pytest.raises(TrainingImpossible, match="checkpoint"):
        run(tmp_path)


def test_the_time_before_a_kill_counts(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at=15)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    torch.save(state | {"seconds": 7200.0}, tmp_path / CHECKPOINT)
    lines: list[str] = []
    run(tmp_path, log=lines.append)
    assert lines[0] == f"continues after step {state['step']} of 20"
    assert float(lines[-1].split()[1]) >= 120


def test_live_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = CurveWriter(tmp_path, tensorboard=True)
    curves.add(5, {"loss": 0.25})
    curves.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(5, 0.25)]


def test_missing_tensorboard_is_reported(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(PackageMissing, match="TensorBoard"):
        CurveWriter(tmp_path, tensorboard=True)
