"""Builds the embedded model from the data folder, part by part; each part can be resumed.

    python -m DiffuGTSLib.cli.embedded vae  --data DIR --data DIR2 --runs runs
    python -m DiffuGTSLib.cli.embedded unet --data DIR --data DIR2 --runs runs
    python -m DiffuGTSLib.cli.embedded aova --data DIR --data DIR2 --runs runs
    python -m DiffuGTSLib.cli.embedded package --runs runs --output DIR
    python -m DiffuGTSLib.cli.embedded fuse --data DIR --data DIR2 --runs runs --model DIR
    python -m DiffuGTSLib.cli.embedded validate --data DIR --data DIR2 --model DIR --output OUT
    python -m DiffuGTSLib.cli.embedded record --data DIR --data DIR2 --model DIR --output OUT

`unet` and `aova` depend on `vae`, not on each other, and can run in parallel. All parts:

    python -m DiffuGTSLib.cli.embedded reproduce --data DIR --data DIR2 --runs runs --output OUT
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from DiffuGTSLib.cli.common import plain_errors
from DiffuGTSLib.training.config import ATTENTION, AUTOENCODER, DENOISER
from DiffuGTSLib.training.embedded.build import EmbeddedBuild
from DiffuGTSLib.training.embedded.reproduce import reproduce as reproduce_all

app = typer.Typer(add_completion=False, help="Builds the embedded model, part by part.",
                  pretty_exceptions_enable=False, rich_markup_mode=None)
DataOption = Annotated[list[Path], typer.Option(
    "--data", help="Folder with manifest.json and scans; several: the option again.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="For checkpoints, curves and the cache.")]
StepsOption = Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps in total.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="CPU threads.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Validation cases to run.")]


@app.command()
@plain_errors
def vae(data: DataOption, runs: RunsOption, steps: StepsOption = AUTOENCODER.steps,
        threads: ThreadsOption = 2) -> None:
    """Trains the autoencoder, then moves its latents' mean to 0 and stores their scale factor."""
    torch.set_num_threads(threads)
    EmbeddedBuild(data, runs).vae(replace(AUTOENCODER, steps=steps))


@app.command()
@plain_errors
def unet(data: DataOption, runs: RunsOption, steps: StepsOption = DENOISER.steps,
         threads: ThreadsOption = 1) -> None:
    """Trains the denoiser on the latents of healthy tissue."""
    torch.set_num_threads(threads)
    EmbeddedBuild(data, runs).unet(replace(DENOISER, steps=steps))


@app.command()
@plain_errors
def aova(data: DataOption, runs: RunsOption, steps: StepsOption = ATTENTION.steps,
         threads: ThreadsOption = 2) -> None:
    """Trains the attention over the frozen autoencoder."""
    torch.set_num_threads(threads)
    EmbeddedBuild(data, runs).aova(replace(ATTENTION, steps=steps))


@app.command()
@plain_errors
def package(
    runs: RunsOption, output: Annotated[Path, typer.Option(help="Folder to write.")]
) -> None:
    """Writes the model package from the trained parts, as they are now."""
    EmbeddedBuild((), runs).package(output)


@app.command()
@plain_errors
def fuse(data: DataOption, runs: RunsOption,
         model: Annotated[Path, typer.Option(help="The package.")],
         threads: ThreadsOption = 2) -> None:
    """Fits calibration and fusion on tuning patients and synthetic lesions; updates the package."""
    torch.set_num_threads(threads)
    EmbeddedBuild(data, runs).fuse(model)


@app.command()
@plain_errors
def validate(data: DataOption, output: Annotated[Path, typer.Option(help="Folder to write.")],
             model: Annotated[str, typer.Option(help="Name or folder.")] = "embedded",
             only: OnlyOption = None, threads: ThreadsOption = 2,
             docs: Annotated[Path | None, typer.Option(
                 help="For the tables; pictures that are there are replaced.")] = None) -> None:
    """Scores the model on the validation patients: tables, ablation, baselines, report."""
    EmbeddedBuild(data, Path()).validate(output, model, only, threads, docs)


@app.command()
@plain_errors
def record(
    data: DataOption,
    model: Annotated[Path, typer.Option(help="The package.")],
    output: Annotated[Path, typer.Option(help="Folder that `validate` wrote.")],
) -> None:
    """Writes the scores of a validation into the package's card, which results cite."""
    EmbeddedBuild(data, Path()).record(output, model)


@app.command()
@plain_errors
def reproduce(
    data: DataOption, runs: RunsOption,
    output: Annotated[Path, typer.Option(help="model/ and validation/ are written here.")],
    threads: ThreadsOption = 2, only: OnlyOption = None,
    quick: Annotated[int, typer.Option(
        min=0, help="Steps of each training, for a trial; 0: those of the embedded model.")] = 0,
) -> None:
    """Builds all parts and prints their times and scores; the command again resumes."""
    torch.set_num_threads(threads)
    reproduce_all(EmbeddedBuild(data, runs, quick=quick), output, threads, only=only)


if __name__ == "__main__":
    app()
