"""Build of the embedded model: its parts, the package of them, and parts trained in parallel."""

from __future__ import annotations

import json
import multiprocessing
import queue
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.modeling_utils import ModelMixin

from DiffuGTSLib.errors import DiffuGTSError, TrainingImpossible
from DiffuGTSLib.evaluation.evaluate import SCORES, Evaluation
from DiffuGTSLib.models import Card, catalogue, find, save
from DiffuGTSLib.models.package import ATTENTION_ALONE
from DiffuGTSLib.networks import AnomalyAttention, Autoencoder, Denoiser, TextEncoder
from DiffuGTSLib.networks.schedules import RECTIFIED_FLOW_SCHEDULER
from DiffuGTSLib.training import (
    attention_trainer,
    autoencoder_trainer,
    calibration,
    denoiser_trainer,
)
from DiffuGTSLib.training.config import (
    ATTENTION,
    AUTOENCODER,
    CHANGEABLE,
    DENOISER,
    Training,
    fingerprint,
    record_origin,
)
from DiffuGTSLib.training.data.cases import SPACING_MM
from DiffuGTSLib.training.data.corpus import Corpus
from DiffuGTSLib.training.data.project_folder import DataSelection, ProjectFolder
from DiffuGTSLib.training.data.windows import WindowLoader
from DiffuGTSLib.training.embedded import validation
from DiffuGTSLib.training.loop import CHECKPOINT, LoopConfig

WINDOW = 64  # voxels an axis
# What the small autoencoder needs beside its frozen features: the attention sees the scan itself,
# in tiles as large as its windows at a quarter of the resolution. Of the same 4 mm and coarser
# convolutions a plain network is made (Testing/Benchmarks/plain_unet.py).
NETWORK = {"image_channels": (8, 32, 48), "tile": WINDOW // 4}
LIMIT = 10_000  # examples of a class and modality for the calibration: all
LOADER_WORKERS = 1  # processes that draw windows while the attention trains
# Mean error when healthy tissue is inpainted, two samples: 4 steps 0.052 (CT) and 0.134 (MR),
# 12 steps 0.053 and 0.140. Four samples of 4 steps: 0.050 and 0.130, at twice the time.
STEPS = 4
SAMPLES = 2
CLASSES = "classes.json"  # beside the attention's checkpoint: the classes it was trained on
TRAINED_ON = (
    "Soft-tissue-Sarcoma (TCIA) patients 001-028; TCGA-LGG and UCSF-PDGM gliomas with the outlines "
    "of BraTS 2021; NSCLC Radiogenomics; LIDC-IDRI; Medical Segmentation Decathlon Task03 (livers, "
    "share-alike); TotalSegmentator test data; open_ms_data; FNNDSC volunteers; Colin27 (MRIcron); "
    "pyradiomics breast1; synthetic lesions in them."
)
CALIBRATED_ON = (
    "Patients of the training split whose lesions the training does not see (gliomas, lung cancers "
    "and nodules, livers, sarcomas 029-032), for gliomas and livers, of which these are too few, "
    "patients that it sees as well, healthy scans, and synthetic lesions in them. Seen neither by "
    "this nor by the training: the patients of the split \"validation\"."
)
_POLL_SECONDS = 1.0
_TERMINATION_SECONDS = 10.0


def to_terminal(line: str) -> None:
    """Prints a line of progress.

    A function of its own: it is pickled for child processes, and where Ray has run, the `print` in
    builtins cannot be.
    """
    print(line, flush=True)


@dataclass(frozen=True)
class EmbeddedBuild:
    """Trains the parts of the embedded model from the data into the folder of runs.

    Attributes:
        data: folders, each with manifest.json and the scans.
        runs: folder for checkpoints, curves and the cache.
        log: receives each line of progress.
        quick: steps of each training, for a trial; 0: those of the embedded model.
    """

    data: Sequence[Path]
    runs: Path
    log: Callable[[str], None] = to_terminal
    quick: int = 0

    @property
    def corpus(self) -> Corpus:
        """The data for training, kinds of scans by their shares whatever folder they lie in."""
        selection = DataSelection(largest=WINDOW)
        folders = [ProjectFolder(root, self.runs / "cache", selection) for root in self.data]
        return Corpus([(f, sum(f.kinds.values())) for f in folders], selection)

    def vae(self, training: Training = AUTOENCODER) -> None:
        """Trains the autoencoder, moves its latents' mean to 0 and stores their scale factor."""
        corpus = self.corpus
        config = self._loop(training, "vae", corpus)
        model = autoencoder_trainer.train(
            corpus.volumes("training"), corpus.volumes("validation"), config)
        model.requires_grad_(False).eval()
        scale = denoiser_trainer.centre_latents(model, corpus.labelled_volumes("training"))
        model.save_pretrained(self.runs / "vae" / "model")
        (self.runs / "vae" / "scale_factor.json").write_text(json.dumps(scale))

    def unet(self, training: Training = DENOISER) -> None:
        """Trains the denoiser on the latents of healthy tissue."""
        corpus = self.corpus
        config = self._loop(training, "unet", corpus, "vae")
        scale = json.loads((self.runs / "vae" / "scale_factor.json").read_text())
        scans = denoiser_trainer.encode_copies(
            self.autoencoder(), corpus.labelled_volumes("training"), scale,
            denoiser_trainer.COPIES, seed=0,
        )
        denoiser_trainer.train(scans, config).save_pretrained(self.runs / "unet" / "model")

    def aova(self, training: Training = ATTENTION) -> None:
        """Trains the attention over the frozen autoencoder."""
        corpus = self.corpus
        config = self._loop(training, "aova", corpus, "vae")
        loader = WindowLoader(
            corpus.sampler(), attention_trainer.WINDOWS_PER_STEP, LOADER_WORKERS)
        model = attention_trainer.train(
            self.autoencoder(), loader, corpus.held_out(), config,
            attention_trainer.PromptTexts(TextEncoder.from_package(), corpus.organs), NETWORK)
        (self.runs / "aova" / CLASSES).write_text(json.dumps(corpus.trained_classes()))
        model.save_pretrained(self.runs / "aova" / "model")

    def package(self, output: Path) -> None:
        """Writes the model package from the trained parts, as they are now."""
        write_package(self.runs, output)

    def fuse(self, model: Path) -> None:
        """Fits calibration and fusion on tuning patients and synthetic lesions; updates `model`."""
        calibration.calibrate(model, self.corpus.examples(LIMIT), self.runs / "fusion.json",
                              log=self.log, calibrated_on=CALIBRATED_ON)

    def validate(
        self, output: Path, model: str, only: Sequence[str] | None = None, threads: int = 2,
        docs: Path | None = None,
    ) -> Evaluation:
        """Scores the model on the validation patients: tables, figures, baselines."""
        return validation.run(self.data, output, model, only, threads, docs)

    def record(self, output: Path, model: Path) -> None:
        """Writes the scores of a validation into the card of the package.

        Raises:
            ModelMissing: there is no such package.
            InvalidOption: it is not the validation of this package on all scans of `data`.
        """
        validation.record(output / SCORES, find(model), self.data)

    def autoencoder(self) -> Autoencoder:
        """The trained autoencoder, frozen."""
        model = Autoencoder.from_pretrained(self.runs / "vae" / "model", low_cpu_mem_usage=False)
        model.requires_grad_(False).eval()
        return model.to(memory_format=torch.channels_last_3d)

    def _loop(
        self, training: Training, part: str, corpus: Corpus, *networks: str
    ) -> LoopConfig:
        """The settings of a part's training, which is resumed only with what it began with.

        Args:
            networks: parts that it is trained upon.

        Raises:
            TrainingImpossible: the runs began with other settings, scans or networks.
        """
        training = replace(training, steps=self.quick or training.steps)
        settings = {name: value for name, value in asdict(training).items()
                    if f"training.{name}" not in CHANGEABLE}
        record_origin(self.runs / part, {
            "settings": settings, "training scans": corpus.fingerprints("training"),
            "networks": {name: fingerprint(self.runs / name / "model") for name in networks}})
        return training.loop(self.runs / part, log=self.log)


def _trained_part(runs: Path, name: str, blank: ModelMixin) -> ModelMixin:
    """A trained network, or the last checkpoint of one that is still in training."""
    finished = runs / name / "model"
    if finished.is_dir():
        return type(blank).from_pretrained(finished, low_cpu_mem_usage=False)
    state = torch.load(runs / name / CHECKPOINT, weights_only=True, map_location="cpu")
    averaged = {k.removeprefix("module."): v for k, v in state["averaged"].items()}
    averaged.pop("n_averaged")
    blank.load_state_dict(averaged)
    return blank


def trained_attention(runs: Path) -> AnomalyAttention:
    """The attention of a folder of runs."""
    attention = _trained_part(runs, "aova", AnomalyAttention(**NETWORK))
    assert isinstance(attention, AnomalyAttention)
    return attention


def write_package(runs: Path, output: Path) -> None:
    """Writes the uncalibrated package into `output`; its fusion is the attention alone."""
    scale = json.loads((runs / "vae" / "scale_factor.json").read_text())
    classes = runs / "aova" / CLASSES
    card = Card(
        name=catalogue.EMBEDDED, licence="Apache-2.0; training data: see NOTICE.txt",
        modalities=("CT", "MR"), spacing_mm=SPACING_MM, scale_factor=scale,
        class_labels=dict(zip(("CT", "MR"), denoiser_trainer.CLASS_LABELS, strict=True)),
        threshold=0.5, steps=STEPS, samples=SAMPLES, resamplings=1,
        fusion={"CT": ATTENTION_ALONE, "MR": ATTENTION_ALONE},
        trained_on=TRAINED_ON, calibrated_on=calibration.NOTHING,
        trained_classes=json.loads(classes.read_text()) if classes.exists() else None,
    )
    save(
        output, card,
        _trained_part(runs, "vae", Autoencoder()),
        _trained_part(runs, "unet", Denoiser(**denoiser_trainer.EMBEDDED_CONFIG)),
        trained_attention(runs),
        FlowMatchEulerDiscreteScheduler(**RECTIFIED_FLOW_SCHEDULER),
    )


@dataclass(frozen=True)
class _Message:
    """From a child process: a line of progress, or its end, with `error` if it failed."""

    part: str
    text: str = ""
    ended: bool = False
    error: DiffuGTSError | None = None


def build_parallel(
    build: EmbeddedBuild, parts: Sequence[str], threads: int, on_line: Callable[[str, str], None],
    on_finished: Callable[[str], None],
) -> None:
    """Builds the parts (methods of `build`) in parallel, each in a child process.

    Not by a ProcessPoolExecutor: it cannot terminate a busy worker (before Python 3.14), so that
    after an error or Ctrl+C the other part would train on for hours; and its BrokenProcessPool
    names neither the part nor the exit code.

    Args:
        threads: divided among the parts.
        on_line: receives a part and a line of its progress.
        on_finished: receives each part when it is built.

    Raises:
        TrainingImpossible: a child process was killed; the others are terminated.
        DiffuGTSError: raised by one of the parts.
    """
    context = multiprocessing.get_context("spawn")
    messages: Queue[_Message] = context.Queue()
    share = max(1, threads // len(parts))
    # No daemons: these may not start the worker processes of a data loader.
    running = {part: context.Process(target=_build_part, args=(build, part, share, messages),
                                     name=part) for part in parts}
    try:
        for process in running.values():
            process.start()
        while running:
            message = _next_message(messages, running)
            if message.error is not None:
                raise message.error
            if message.ended:
                running.pop(message.part).join()
                on_finished(message.part)
            elif message.text:
                on_line(message.part, message.text)
    finally:
        for process in (p for p in running.values() if p.pid is not None):
            process.terminate()
            process.join(_TERMINATION_SECONDS)
            if process.is_alive():
                process.kill()


def _next_message(messages: Queue[_Message], running: Mapping[str, BaseProcess]) -> _Message:
    """Waits for the next message.

    Raises:
        TrainingImpossible: one of the processes is dead and will send none.
    """
    while True:
        dead = [part for part, process in running.items() if not process.is_alive()]
        try:
            return messages.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            if dead:  # before the wait, so that all its messages have been read
                code = running[dead[0]].exitcode
                raise TrainingImpossible(
                    f"The process that trained {dead[0]} ended (exit code {code}).",
                    "Start the same command again: it continues from the last checkpoint.",
                ) from None


def _build_part(
    build: EmbeddedBuild, part: str, threads: int, messages: Queue[_Message]
) -> None:
    """The child process: builds one part; exits when its parent is dead."""
    # Ctrl+C reaches the whole process group; the parent terminates this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    parent: Any = multiprocessing.parent_process()

    def log(text: str) -> None:
        if not parent.is_alive():
            raise SystemExit("The process that started this one has ended.")
        messages.put(_Message(part, text))

    try:
        getattr(replace(build, log=log), part)()
    except DiffuGTSError as error:
        messages.put(_Message(part, ended=True, error=error))
    else:
        messages.put(_Message(part, ended=True))
