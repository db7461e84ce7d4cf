"""What processes a case: it holds the model, and may be called from several threads at once."""

from __future__ import annotations

import platform
import threading
import time
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from DiffuGTSLib import __version__, volume
from DiffuGTSLib.batch_case import Case, Failure, Outcome, Settings, Tell
from DiffuGTSLib.batch_files import CaseFiles
from DiffuGTSLib.errors import Cancelled
from DiffuGTSLib.meter import Meter
from DiffuGTSLib.models import CARD, sha256
from DiffuGTSLib.run import described
from DiffuGTSLib.segmenter import Segmenter, as_told

if TYPE_CHECKING:
    from DiffuGTSLib.result import Result
    from DiffuGTSLib.segmenter import PreparedScan

NETWORK_STAGES = ("encode", "attention", "inpaint", "residual")


class CaseProcessor:
    """Takes cases from the scan on disk to the files of the result.

    Call `process` from HANDS threads: the networks work on one case at a time, and what the
    other threads read and write meanwhile costs them no waiting. No more than HANDS scans are in
    memory.

    Args:
        settings: of the run.
        device: where this one works, if not where the settings say.

    Raises:
        ModelMissing, ModelDamaged, DeviceMissing: the model cannot be loaded.
    """

    def __init__(self, settings: Settings, device: str | None = None) -> None:
        self._settings = settings
        self._segmenter = Segmenter.from_pretrained(settings.model, device or settings.device)
        self._networks = threading.Lock()

    def facts(self) -> dict[str, Any]:
        """Versions, device and model; the model's hash is its card's, which has all others."""
        import torch

        package = self._segmenter.package
        return {
            "version": __version__,
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "simpleitk": sitk.Version_VersionString(),
            "device": str(self._segmenter.device),
            "model": package.card.name,
            "model_sha256": sha256(package.folder / CARD),
        }

    def process(self, case: Case, tell: Tell, cancelled: threading.Event) -> Outcome:
        """Reads, segments and writes a case; whatever goes wrong is told by the outcome.

        Args:
            case: to be processed; files of an earlier try are replaced.
            tell: called with the steps of the method, from this thread.
            cancelled: once set, the case ends at its next step.
        """
        watch = _Watch(len(case.prompts), tell, cancelled)
        try:
            watch.step("read", 0, 1)
            scan = self._read(case)
            prepared = self._segmenter.prepare(scan)
            watch.step("read", 1, 1)
            results = self._segment(case, prepared, watch)
            watch.step("write", 0, 1)
            card = self._segmenter.package.card
            prompts = described(results)
            files = CaseFiles(self._settings, case, card.name)
            paths = files.write(results, scan.modality)
            watch.pause()
            return Outcome(case.name, "done", watch.seconds, watch.network_seconds, None,
                           scan.modality, prompts, paths, files.notes)
        except Cancelled:
            return Outcome(case.name, "cancelled")
        except Exception as error:
            watch.pause()
            return Outcome(case.name, "failed", watch.seconds, watch.network_seconds,
                           Failure.of(error))

    def _read(self, case: Case) -> volume.Scan:
        settings = self._settings
        spacing = self._segmenter.package.card.spacing_mm
        scan = volume.read(case.image, settings.modality, spacing, case.series)
        # What was told of all is meant for the MR scans; a batch may hold CT as well.
        shared = settings.sequence if scan.modality == "MR" else None
        return as_told(scan, case.sequence or shared, settings.skull_stripped)

    def _segment(self, case: Case, prepared: PreparedScan, watch: _Watch) -> list[Result]:
        watch.pause()
        with self._networks:
            watch.go_on()
            scan = self._segmenter.encode(prepared, progress=watch.step)
            results = []
            for index, prompt in enumerate(case.prompts):
                watch.meter.start_prompt(index)
                results.append(self._segmenter.segment(
                    scan, prompt, progress=watch.step, seed=self._settings.seed,
                    threshold=self._settings.threshold, samples=self._settings.samples,
                ))
            return results


class _Watch:
    """Passes a case's steps on, stops it when asked to, and adds up its time by stage."""

    def __init__(self, prompts: int, tell: Tell, cancelled: threading.Event) -> None:
        self.meter = Meter(prompts)
        self.seconds = 0.0
        self.network_seconds = 0.0
        self._tell = tell
        self._cancelled = cancelled
        self._stage = "read"
        self._since = time.monotonic()

    def step(self, stage: str, done: int, total: int) -> None:
        """Between two steps of the method.

        Raises:
            Cancelled: the case is to stop.
        """
        self._add()
        self._stage = stage
        if self._cancelled.is_set():
            raise Cancelled
        self._tell(stage, done, total, self.meter.step(stage, done, total))

    def pause(self) -> None:
        """What follows is not the case's time: it waits for the networks, or has ended."""
        self._add()

    def go_on(self) -> None:
        """The wait is over."""
        self._since = time.monotonic()

    def _add(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._since
        if self._stage in NETWORK_STAGES:
            self.network_seconds += now - self._since
        self._since = now
