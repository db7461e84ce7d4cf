"""The parts of the embedded model, each made from the data folder into the folder of runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from DiffuGTSLib.attention import AnomalyAttention
from DiffuGTSLib.evaluation.evaluate import Evaluation
from DiffuGTSLib.foundation.autoencoder import Autoencoder
from DiffuGTSLib.text import TextEncoder
from DiffuGTSLib.training import attention, autoencoder, denoiser, packaging, validation
from DiffuGTSLib.training.config import (
    ATTENTION,
    ATTENTION_WIDE,
    AUTOENCODER,
    DENOISER,
    Training,
)
from DiffuGTSLib.training.corpus import Corpus
from DiffuGTSLib.training.data import Sample, read_cases
from DiffuGTSLib.training.feed import Feed
from DiffuGTSLib.training.loop import LoopConfig
from DiffuGTSLib.training.project_folder import ProjectFolder, Wanted

SMALL, WIDE = 72, 96  # voxels an axis of a window, at most
AHEAD = 1  # processes that draw windows while the attention trains


@dataclass(frozen=True)
class Workshop:
    """Where the data come from and where the parts go.

    Attributes:
        data: folder with manifest.json and the scans.
        runs: folder for checkpoints, logs and the cache.
        tell: is given each line of a training's log.
        quick: steps of each training instead of its own number, for a trial; 0: its own.
    """

    data: Path
    runs: Path
    tell: Callable[[str], None] | None = None
    quick: int = 0

    @property
    def folder(self) -> ProjectFolder:
        """The data as training material."""
        return ProjectFolder(self.data, self.runs / "cache", Wanted())

    def vae(self, training: Training = AUTOENCODER) -> None:
        """Trains the autoencoder, moves its latents' mean to 0 and stores their scale factor."""
        folder = self.folder
        config = self._loop(training, "vae")
        model = autoencoder.train(folder.samples("training"), self._unseen(), config)
        model.requires_grad_(False).eval()
        scale = denoiser.centre_latents(model, folder.sources("training"))
        model.save_pretrained(self.runs / "vae" / "model")
        (self.runs / "vae" / "scale_factor.json").write_text(json.dumps(scale))

    def unet(self, training: Training = DENOISER) -> None:
        """Trains the denoiser on the latents of healthy tissue."""
        scale = json.loads((self.runs / "vae" / "scale_factor.json").read_text())
        scans = denoiser.encode_copies(
            self.autoencoder(), self.folder.sources("training"), scale, denoiser.COPIES, seed=0
        )
        config = self._loop(training, "unet")
        denoiser.train(scans, config).save_pretrained(self.runs / "unet" / "model")

    def aova(self, training: Training = ATTENTION, wide: Training = ATTENTION_WIDE) -> None:
        """Trains the attention over the frozen autoencoder: on small windows, then on wide ones."""
        encoder = TextEncoder.from_package()

        def train(
            part: str, plan: Training, largest: int, emphasis: attention.Emphasis,
            start: AnomalyAttention | None = None,
        ) -> AnomalyAttention:
            corpus = self._corpus(largest)
            return attention.train(
                self.autoencoder(), Feed(corpus.sampler(), attention.WINDOWS, AHEAD),
                corpus.held_out(),
                self._loop(plan, part), attention.PromptTexts(encoder, corpus.organs),
                {"mirrors": packaging.MIRRORS}, start=start, emphasis=emphasis,
            )

        small = train("aova_small", training, SMALL, attention.FIND)
        model = train("aova", wide, WIDE, attention.LET_GO, small)
        classes = json.dumps(self._corpus(WIDE).trained_classes())
        (self.runs / "aova" / packaging.CLASSES).write_text(classes)
        model.save_pretrained(self.runs / "aova" / "model")

    def average(self, before: Path, share: float) -> None:
        """Moves the attention's weights towards those it went on from; `share` stays its own.

        Weights of one training and of another that went on from it can be averaged, and are as
        good as each where that one was better (model soups, Wortsman et al., ICML 2022).
        """
        own, other = (packaging.trained_attention(runs) for runs in (self.runs, before))
        theirs, ours = other.state_dict(), own.state_dict()
        own.load_state_dict({name: torch.lerp(theirs[name], ours[name], share) for name in ours})
        own.save_pretrained(self.runs / "aova" / "model")

    def package(self, output: Path) -> None:
        """Writes the model package from the trained parts, as they are now."""
        packaging.write_package(self.runs, output)

    def fuse(self, model: Path) -> None:
        """Fits calibration and fusion on tuning patients and grown lesions, into the package."""
        everything = len(read_cases(self.data)) * 10
        packaging.calibrate(model, self.folder.examples(everything), self.runs / "fusion.json",
                            tell=self.tell or print)

    def validate(
        self, output: Path, model: str, only: Sequence[str] | None = None, threads: int = 2,
        docs: Path | None = None,
    ) -> Evaluation:
        """Scores the model on the validation patients: table, figures, baselines."""
        return validation.run(self.data, output, model, only, threads, docs)

    def autoencoder(self) -> Autoencoder:
        """The finished autoencoder, frozen."""
        model = Autoencoder.from_pretrained(self.runs / "vae" / "model", low_cpu_mem_usage=False)
        model.requires_grad_(False).eval()
        return model.to(memory_format=torch.channels_last_3d)

    def _corpus(self, largest: int) -> Corpus:
        """The data in windows of at most so many voxels an axis."""
        folder = ProjectFolder(self.data, self.runs / "cache", Wanted(largest=largest))
        return Corpus([(folder, 1.0)], folder.wanted)

    def _loop(self, training: Training, part: str) -> LoopConfig:
        steps = self.quick or training.steps
        return replace(training, steps=steps).loop(self.runs / part, tell=self.tell)

    def _unseen(self) -> list[Sample]:
        """The validation patients, whose PSNR goes into the autoencoder's log."""
        return self.folder.samples("validation")
