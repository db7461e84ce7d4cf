"""Builds the embedded model from the data folder, part by part; each part resumes where it was.

    python -m DiffuGTSLib.training.embedded vae  --data ../shared/data --runs runs
    python -m DiffuGTSLib.training.embedded unet --data ../shared/data --runs runs
    python -m DiffuGTSLib.training.embedded aova --data ../shared/data --runs runs
    python -m DiffuGTSLib.training.embedded package --runs runs --output DIR
    python -m DiffuGTSLib.training.embedded fuse --data ../shared/data --runs runs --model DIR
    python -m DiffuGTSLib.training.embedded validate --data ../shared/data --model DIR --output OUT

`unet` and `aova` need `vae`; they do not need each other and can run side by side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from DiffuGTSLib.foundation.autoencoder import Autoencoder
from DiffuGTSLib.text import TextEncoder
from DiffuGTSLib.training import attention, autoencoder, denoiser, fusion, packaging, validation
from DiffuGTSLib.training.data import Sample, load_sample, read_cases
from DiffuGTSLib.training.loop import LoopConfig
from DiffuGTSLib.training.windows import Source, Window, WindowSampler, make_source

app = typer.Typer(add_completion=False, help="Builds the embedded model, part by part.")

Data = Annotated[Path, typer.Option(help="Folder with manifest.json and the scans.")]
Runs = Annotated[Path, typer.Option(help="Folder for checkpoints, logs and the cache.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps in all.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]


@dataclass(frozen=True)
class Workshop:
    """Where the data come from and where the parts go."""

    data: Path
    runs: Path

    def samples(self, split: str) -> list[Sample]:
        """The scans of a split on the canonical grid, through the cache."""
        return [load_sample(c, self.runs / "cache") for c in read_cases(self.data)
                if c.split == split]

    def sources(self, split: str) -> list[Source]:
        """The same with everything that is known of them, for windows."""
        return [make_source(s, self.runs / "cache") for s in self.samples(split)]

    def autoencoder(self) -> Autoencoder:
        """The finished autoencoder, frozen."""
        model = Autoencoder.from_pretrained(self.runs / "vae" / "model", low_cpu_mem_usage=False)
        model.requires_grad_(False).eval()
        return model.to(memory_format=torch.channels_last_3d)


@app.command()
def vae(data: Data, runs: Runs, steps: Steps = 2000, threads: Threads = 2) -> None:
    """Trains the autoencoder, then moves its latents' mean to 0 and stores their scale factor."""
    torch.set_num_threads(threads)
    shop = Workshop(data, runs)
    config = LoopConfig(steps, 4e-4, runs / "vae", save_every=400)
    model = autoencoder.train(shop.samples("training"), shop.samples("validation"), config)
    model.requires_grad_(False).eval()
    scale = denoiser.centre_latents(model, shop.sources("training"))
    model.save_pretrained(runs / "vae" / "model")
    (runs / "vae" / "scale_factor.json").write_text(json.dumps(scale))


@app.command()
def unet(data: Data, runs: Runs, steps: Steps = 6000, threads: Threads = 1) -> None:
    """Trains the denoiser on the latents of healthy tissue."""
    torch.set_num_threads(threads)
    shop = Workshop(data, runs)
    scale = json.loads((runs / "vae" / "scale_factor.json").read_text())
    scans = denoiser.encode_copies(
        shop.autoencoder(), shop.sources("training"), scale, denoiser.COPIES, seed=0
    )
    config = LoopConfig(steps, 8e-4, runs / "unet", warmup=200, clip=1.0)
    denoiser.train(scans, config).save_pretrained(runs / "unet" / "model")


@app.command()
def aova(data: Data, runs: Runs, steps: Steps = 7000, threads: Threads = 1) -> None:
    """Trains the attention over the frozen autoencoder."""
    torch.set_num_threads(threads)
    shop = Workshop(data, runs)
    sources = shop.sources("training")
    held_out = tuning_windows(shop, sources)
    config = LoopConfig(steps, 1.5e-4, runs / "aova", warmup=100, clip=1.0, save_every=500)
    model = attention.train(shop.autoencoder(), WindowSampler(sources, largest=72), held_out,
                            config, TextEncoder.from_package())
    model.save_pretrained(runs / "aova" / "model")


def tuning_windows(shop: Workshop, sources: list[Source]) -> list[Window]:
    """Windows to watch the training by: sarcomas of the tuning patients, new synthetic lesions."""
    generator = np.random.default_rng(5)
    real = WindowSampler(shop.sources("tuning"))
    grown = WindowSampler([s for s in sources if s.kind in ("chest", "brain", "abdomen")])
    windows = [real.draw(generator) for _ in range(16)]
    while len(windows) < 32:
        window = grown.draw(generator)
        if window.lesion.sum() > 30:
            windows.append(window)
    return windows


@app.command()
def package(runs: Runs, output: Annotated[Path, typer.Option(help="Folder to write.")]) -> None:
    """Writes the model package from the trained parts, as they are now."""
    packaging.write_package(runs, output)


@app.command()
def fuse(data: Data, runs: Runs, model: Annotated[Path, typer.Option(help="The package.")],
         threads: Threads = 2) -> None:
    """Fits calibration and fusion on the tuning patients and grown lesions; updates the package."""
    torch.set_num_threads(threads)
    shop = Workshop(data, runs)
    cases = [c for c in read_cases(data) if c.split == "tuning"]
    examples = fusion.real_examples(cases) + fusion.grown_examples(
        shop.samples("training"), shop.sources("training"), seed=77
    )
    packaging.calibrate(model, examples, runs / "fusion.json")


@app.command()
def validate(data: Data, output: Annotated[Path, typer.Option(help="Folder to write.")],
             model: Annotated[str, typer.Option(help="Name or folder.")] = "embedded",
             only: Annotated[list[str] | None, typer.Option(help="Cases to run.")] = None,
             threads: Threads = 2) -> None:
    """Scores the model on the validation patients: table, figures, baselines."""
    chosen = [t for t in validation.tasks() if not only or t.case in only]
    validation.run(data, output, model, chosen, threads)


if __name__ == "__main__":
    app()
