"""The parts of the embedded model, each made from the data folder into the folder of runs.

From trained parts to the embedded model package, and its calibration.

Parts of a workshop made at the same time, each by a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import queue
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin

from DiffuGTSLib.errors import DiffuGTSError, TrainingImpossible
from DiffuGTSLib.evaluation.evaluate import Evaluation
from DiffuGTSLib.models import catalogue
from DiffuGTSLib.models.card import Card
from DiffuGTSLib.models.package import ATTENTION_ALONE, save
from DiffuGTSLib.networks.attention import AnomalyAttention
from DiffuGTSLib.networks.autoencoder import Autoencoder
from DiffuGTSLib.networks.denoiser import Denoiser
from DiffuGTSLib.networks.schedules import RECTIFIED_FLOW_SCHEDULER
from DiffuGTSLib.networks.text_encoder import TextEncoder
from DiffuGTSLib.training import (
    attention_trainer,
    autoencoder_trainer,
    calibration,
    denoiser_trainer,
)
from DiffuGTSLib.training.calibration import CALIBRATED_ON
from DiffuGTSLib.training.config import ATTENTION, ATTENTION_WIDE, AUTOENCODER, DENOISER, Training
from DiffuGTSLib.training.data.cases import SPACING_MM, Sample, read_cases
from DiffuGTSLib.training.data.corpus import Corpus
from DiffuGTSLib.training.data.project_folder import ProjectFolder, Wanted
from DiffuGTSLib.training.data.windows import Feed
from DiffuGTSLib.training.embedded import validation
from DiffuGTSLib.training.loop import CHECKPOINT, LoopConfig

SMALL, WIDE = 72, 96  # voxels an axis of a window, at most
AHEAD = 1  # processes that draw windows while the attention trains
# Mean error when healthy tissue is inpainted, two samples: 4 steps 0.052 (CT) and 0.134 (MR),
# 12 steps 0.053 and 0.140. Four samples of 4 steps: 0.050 and 0.130, at twice the time.
STEPS = 4
SAMPLES = 2
# Mean calibration score of the committed attention over anatomies and modalities: 0.54 with scans
# mirrored along x and y as well, 0.53 without.
MIRRORS = (0, 1)
CLASSES = "classes.json"  # beside the attention's checkpoint: what it was trained on
TRAINED_ON = (
    "Soft-tissue-Sarcoma (TCIA) patients 001-028, NSCLC Radiogenomics r01-001, TotalSegmentator "
    "test data (abdomen, liver slab, two mediastinum crops), open_ms_data p07 and p19, FNNDSC "
    "volunteers, Colin27 (MRIcron), pyradiomics breast1; synthetic lesions in them."
)
_LOOK_SECONDS = 1.0
_ENDING_SECONDS = 10.0


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
        model = autoencoder_trainer.train(folder.samples("training"), self._unseen(), config)
        model.requires_grad_(False).eval()
        scale = denoiser_trainer.centre_latents(model, folder.sources("training"))
        model.save_pretrained(self.runs / "vae" / "model")
        (self.runs / "vae" / "scale_factor.json").write_text(json.dumps(scale))

    def unet(self, training: Training = DENOISER) -> None:
        """Trains the denoiser on the latents of healthy tissue."""
        scale = json.loads((self.runs / "vae" / "scale_factor.json").read_text())
        scans = denoiser_trainer.encode_copies(
            self.autoencoder(), self.folder.sources("training"), scale, denoiser_trainer.COPIES,
            seed=0,
        )
        config = self._loop(training, "unet")
        denoiser_trainer.train(scans, config).save_pretrained(self.runs / "unet" / "model")

    def aova(self, training: Training = ATTENTION, wide: Training = ATTENTION_WIDE) -> None:
        """Trains the attention over the frozen autoencoder: on small windows, then on wide ones."""
        encoder = TextEncoder.from_package()

        def train(
            part: str, plan: Training, largest: int, emphasis: attention_trainer.Emphasis,
            start: AnomalyAttention | None = None,
        ) -> AnomalyAttention:
            corpus = self._corpus(largest)
            return attention_trainer.train(
                self.autoencoder(), Feed(corpus.sampler(), attention_trainer.WINDOWS, AHEAD),
                corpus.held_out(),
                self._loop(plan, part), attention_trainer.PromptTexts(encoder, corpus.organs),
                {"mirrors": MIRRORS}, start=start, emphasis=emphasis,
            )

        small = train("aova_small", training, SMALL, attention_trainer.FIND)
        model = train("aova", wide, WIDE, attention_trainer.LET_GO, small)
        classes = json.dumps(self._corpus(WIDE).trained_classes())
        (self.runs / "aova" / CLASSES).write_text(classes)
        model.save_pretrained(self.runs / "aova" / "model")

    def average(self, before: Path, share: float) -> None:
        """Moves the attention's weights towards those it went on from; `share` stays its own.

        Weights of one training and of another that went on from it can be averaged, and are as
        good as each where that one was better (model soups, Wortsman et al., ICML 2022).
        """
        own, other = (trained_attention(runs) for runs in (self.runs, before))
        theirs, ours = other.state_dict(), own.state_dict()
        own.load_state_dict({name: torch.lerp(theirs[name], ours[name], share) for name in ours})
        own.save_pretrained(self.runs / "aova" / "model")

    def package(self, output: Path) -> None:
        """Writes the model package from the trained parts, as they are now."""
        write_package(self.runs, output)

    def fuse(self, model: Path) -> None:
        """Fits calibration and fusion on tuning patients and grown lesions, into the package."""
        everything = len(read_cases(self.data)) * 10
        calibration.calibrate(model, self.folder.examples(everything), self.runs / "fusion.json",
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


def _part(runs: Path, name: str, blank: ModelMixin) -> ModelMixin:
    """A finished part, or the last checkpoint of one still in training."""
    finished = runs / name / "model"
    if finished.is_dir():
        return type(blank).from_pretrained(
            finished, low_cpu_mem_usage=False)
    state = torch.load(runs / name / CHECKPOINT, weights_only=True, map_location="cpu")
    averaged = {k.removeprefix("module."): v for k, v in state["averaged"].items()}
    averaged.pop("n_averaged")
    blank.load_state_dict(averaged)
    return blank


def trained_attention(runs: Path) -> AnomalyAttention:
    """The attention of a folder of runs."""
    made = _part(runs, "aova", AnomalyAttention(mirrors=MIRRORS))
    assert isinstance(made, AnomalyAttention)
    return made


def write_package(runs: Path, output: Path) -> None:
    """Writes the package into `output`, with the attention alone as its fusion until calibrated."""
    scale = json.loads((runs / "vae" / "scale_factor.json").read_text())
    seen = runs / "aova" / CLASSES
    card = Card(
        name=catalogue.EMBEDDED, licence="Apache-2.0; training data: see NOTICE.txt",
        modalities=("CT", "MR"), spacing_mm=SPACING_MM, scale_factor=scale,
        class_labels=dict(zip(("CT", "MR"), denoiser_trainer.CLASS_LABELS, strict=True)),
        threshold=0.5, steps=STEPS, samples=SAMPLES, resamplings=1,
        fusion={"CT": ATTENTION_ALONE, "MR": ATTENTION_ALONE},
        trained_on=TRAINED_ON, calibrated_on=CALIBRATED_ON,
        trained_classes=json.loads(seen.read_text()) if seen.exists() else None,
    )
    save(
        output, card,
        _part(runs, "vae", Autoencoder()),
        _part(runs, "unet", Denoiser(**denoiser_trainer.EMBEDDED_CONFIG)),
        trained_attention(runs),
        FlowMatchEulerDiscreteScheduler(**RECTIFIED_FLOW_SCHEDULER),
    )


@dataclass(frozen=True)
class _Line:
    """What a process says: a line of its log, or at its end `error` (None: all went well)."""

    part: str
    text: str = ""
    ended: bool = False
    error: DiffuGTSError | None = None


def make(
    shop: Workshop, parts: Sequence[str], threads: int, tell: Callable[[str, str], None],
    made: Callable[[str], None],
) -> None:
    """Makes the parts, which are methods of the workshop; threads are shared out among them.

    Args:
        tell: is given a part and a line of its log.
        made: is given each part at its end.

    Raises:
        TrainingImpossible: a process was ended from outside; the others are ended, too.
        DiffuGTSError: what one of them raised.
    """
    context = multiprocessing.get_context("spawn")
    lines: Queue[_Line] = context.Queue()
    share = max(1, threads // len(parts))
    # No daemons: those may not have the processes that draw windows ahead.
    at_work = {part: context.Process(target=_make, args=(shop, part, share, lines), name=part)
               for part in parts}
    try:
        for process in at_work.values():
            process.start()
        while at_work:
            line = _next(lines, at_work)
            if line.error is not None:
                raise line.error
            if line.ended:
                at_work.pop(line.part).join()
                made(line.part)
            elif line.text:
                tell(line.part, line.text)
    finally:
        for process in at_work.values():
            process.terminate()
            process.join(_ENDING_SECONDS)
            if process.is_alive():
                process.kill()


def _next(lines: Queue[_Line], at_work: Mapping[str, BaseProcess]) -> _Line:
    """The next line, as soon as there is one.

    Raises:
        TrainingImpossible: none will come from one of the processes.
    """
    while True:
        gone = [part for part, process in at_work.items() if not process.is_alive()]
        try:
            return lines.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            if gone:  # and what it said before has been read
                code = at_work[gone[0]].exitcode
                raise TrainingImpossible(
                    f"The process that trained {gone[0]} ended (exit code {code}).",
                    "Start the same command again: it continues from the last checkpoint.",
                ) from None


def _make(shop: Workshop, part: str, threads: int, lines: Queue[_Line]) -> None:
    """The child: makes one part; ends where nobody listens any more."""
    # Ctrl-C reaches the whole group; the parent ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    parent: Any = multiprocessing.parent_process()

    def tell(text: str) -> None:
        if not parent.is_alive():
            raise SystemExit("The process that started this one has ended.")
        lines.put(_Line(part, text))

    try:
        getattr(replace(shop, tell=tell), part)()
    except DiffuGTSError as error:
        lines.put(_Line(part, ended=True, error=error))
    else:
        lines.put(_Line(part, ended=True))
