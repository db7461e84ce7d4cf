"""What processes a case: it holds the model, and may be called from several threads at once.

The files of one case: all of them, or none.
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from DiffuGTSLib import __version__
from DiffuGTSLib.batch.case import (
    MAP_FOLDERS,
    SEGMENTATIONS,
    THUMBNAILS,
    BatchFailure,
    BatchSettings,
    Case,
    OnProgress,
    Outcome,
)
from DiffuGTSLib.errors import Cancelled, OutputNotWritten
from DiffuGTSLib.files import StagedFiles
from DiffuGTSLib.output import Segments, combine
from DiffuGTSLib.output.segments import MAPS, described
from DiffuGTSLib.pipeline import Segmenter
from DiffuGTSLib.progress import ProgressEstimator
from DiffuGTSLib.remote.address import Address
from DiffuGTSLib.remote.segmenter import RemoteSegmenter, UnsentScan
from DiffuGTSLib.scan import volume, write_image
from DiffuGTSLib.scan.dicom_seg import DicomNotMade, is_dicom, write_dicom_segmentation
from DiffuGTSLib.scan.nifti import keep_forms

if TYPE_CHECKING:
    import SimpleITK as sitk

    from DiffuGTSLib.pipeline import PreparedScan, Result
    from DiffuGTSLib.scan import Modality

NETWORK_STAGES = ("encode", "attention", "inpaint", "residual")


class CaseProcessor:
    """Takes cases from the scan on disk to the files of the result.

    Call `process` from WORKER_THREADS threads: the networks work on one case at a time, and what
    the other threads read and write meanwhile costs them no waiting. No more than WORKER_THREADS
    scans are in memory.

    Args:
        settings: of the run.
        device: of this processor, if not that of the settings.
        check: called before the files of a case get their names; may raise, to leave none.

    Raises:
        ModelMissing, ModelDamaged, DeviceMissing: the model cannot be loaded.
    """

    def __init__(
        self, settings: BatchSettings, device: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._check = check
        self._segmenter = _segmenter(settings, device or settings.options.device)
        self._networks = threading.Lock()

    def facts(self) -> dict[str, Any]:
        """Versions, device and model; the model's hash is its card's, which has all others."""
        from importlib.metadata import version

        ready = self._segmenter.ready if isinstance(self._segmenter, RemoteSegmenter) else {}
        return {
            "version": __version__,
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "torch": str(ready.get("torch") or version("torch")),
            "simpleitk": sitk.Version_VersionString(),
            "device": str(self._segmenter.device),
            "model": self._segmenter.model_name,
            "model_sha256": self._segmenter.fingerprint,
        }

    def close(self) -> None:
        """Ends the connection to another machine, where there is one."""
        if isinstance(self._segmenter, RemoteSegmenter):
            self._segmenter.close()

    def process(
        self, case: Case, on_progress: OnProgress, cancelled: threading.Event
    ) -> Outcome:
        """Reads, segments and writes a case; whatever goes wrong is in the outcome.

        Args:
            case: to be processed; files of an earlier try are replaced.
            on_progress: called with the steps of the method, from this thread.
            cancelled: once set, the case ends at its next step.
        """
        watch = _Watch(len(case.prompts), on_progress, cancelled)
        try:
            watch.step("read", 0, 1)
            scan = self._read(case)
            prepared = self._segmenter.prepare(scan)
            watch.step("read", 1, 1)
            results = self._segment(case, prepared, watch)
            watch.step("write", 0, 1)
            prompts = described(results)
            json.dumps(prompts, allow_nan=False)  # what cannot be recorded fails here, alone
            files = CaseFiles(self._settings, case, self._segmenter.model_name)
            paths = files.write(results, scan.modality, self._check)
            watch.pause()
            return Outcome(case.name, "done", watch.seconds, watch.network_seconds, None,
                           scan.modality, prompts, paths, files.notes, scan.modality_reason)
        except Cancelled:
            return Outcome(case.name, "cancelled")
        except Exception as error:
            watch.pause()
            return Outcome(case.name, "failed", watch.seconds, watch.network_seconds,
                           BatchFailure.of(error))

    def _read(self, case: Case) -> volume.Scan:
        options = self._settings.options
        scan = volume.read(case.image, options.modality, case.series)
        # The settings' sequence is meant for the MR scans; a batch may hold CT as well.
        shared = options.sequence if scan.modality == "MR" else None
        return scan.with_overrides(None, case.sequence or shared, options.skull_stripped)

    def _segment(
        self, case: Case, prepared: PreparedScan | UnsentScan, watch: _Watch
    ) -> list[Result]:
        watch.pause()
        with self._networks:
            watch.resume()
            return list(self._segmenter.segment_all(
                prepared, case.prompts, self._settings.options,  # type: ignore[arg-type]
                progress=watch.step, estimator=watch.estimator, within=case.region,
            ))


def _segmenter(settings: BatchSettings, device: str) -> Segmenter | RemoteSegmenter:
    """The networks of this machine, or of the settings' host."""
    if settings.host:
        return RemoteSegmenter(Address.parse(settings.host), settings.options.model, device)
    return Segmenter.from_pretrained(settings.options.model, device)


class _Watch:
    """Passes a case's steps on, stops it on request, and adds up its time by stage."""

    def __init__(self, prompts: int, on_progress: OnProgress, cancelled: threading.Event) -> None:
        self.estimator = ProgressEstimator(prompts)
        self.seconds = 0.0
        self.network_seconds = 0.0
        self._on_progress = on_progress
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
        self._on_progress(stage, done, total, self.estimator.step(stage, done, total))

    def pause(self) -> None:
        """What follows is not the case's time: it waits for the networks, or has ended."""
        self._add()

    def resume(self) -> None:
        """The wait is over."""
        self._since = time.monotonic()

    def _add(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._since
        if self._stage in NETWORK_STAGES:
            self.network_seconds += now - self._since
        self._since = now


class CaseFiles:
    """Writes the outputs of a case below the run's folder.

    Args:
        settings: of the run.
        case: whose name the files get.
        model: name of the model package, for DICOM.

    Attributes:
        notes: sentences on what was requested and could not be made.
    """

    def __init__(self, settings: BatchSettings, case: Case, model: str) -> None:
        self._settings = settings
        self._case = case
        self._model = model
        self._staged = StagedFiles()
        self.notes: list[str] = []

    def write(
        self, results: list[Result], modality: Modality, check: Callable[[], None]
    ) -> dict[str, Any]:
        """Writes all that the settings request and returns the paths below the run's folder.

        All files appear together once each is complete, the segmentation last; those of an
        earlier try are replaced.

        Args:
            results: one a prompt; the list is emptied, as their maps take much memory.
            check: called before the files get their names; what it raises leaves none.

        Raises:
            OutputNotWritten: nothing of the case is left behind then.
        """
        try:
            labels, segments = combine(results), Segments.of(results)
            files = self._write_evidence(results, modality)
            if self._settings.dicom_seg and segments.names and is_dicom(self._case.image):
                files |= self._write_dicom(labels, segments)
            path = self._path(SEGMENTATIONS, f"{self._case.name}{self._settings.suffix}")
            segments.write(labels, self._staged.path(path, self._settings.suffix))
            files["segmentation"] = self._relative(path)
            check()
            self._staged.commit()
        finally:
            self._staged.discard()
        return files

    def _write_evidence(self, results: list[Result], modality: Modality) -> dict[str, Any]:
        """Pictures and maps, prompt by prompt; "maps" has a dictionary a prompt: name to path."""
        from DiffuGTSLib.output.thumbnail import write_thumbnail

        thumbnails: list[str] = []
        maps: list[dict[str, str]] = []
        several = len(results) > 1
        while results:
            result, number = results.pop(0), len(thumbnails) + 1
            path = self._path(THUMBNAILS, f"{self._case.name}-{number}.jpg")
            write_thumbnail(result, result.image, modality,
                            self._staged.path(path, path.suffix))
            thumbnails.append(self._relative(path))
            if self._settings.maps:
                maps.append(self._write_maps(result, f"{number}_" if several else ""))
        return {"thumbnails": thumbnails} | ({"maps": maps} if maps else {})

    def _write_maps(self, result: Result, start: str) -> dict[str, str]:
        paths = {name: self._path(f"{MAP_FOLDERS}/{self._case.name}", f"{start}{name}.nii.gz")
                 for name in MAPS}
        for name, path in paths.items():
            write_image(keep_forms(result.image, getattr(result, name)),
                        self._staged.path(path, ".nii.gz"))
        return {name: self._relative(path) for name, path in paths.items()}

    def _write_dicom(self, labels: sitk.Image, segments: Segments) -> dict[str, str]:
        """Its path, as "dicom"; nothing but a note where the scan's files do not allow it."""
        path = self._path(SEGMENTATIONS, f"{self._case.name}.dcm")
        staged = self._staged.path(path, ".dcm")
        try:
            write_dicom_segmentation(labels, self._case.image, self._case.series, staged,
                                     segments.names, segments.terminology, self._model)
        except DicomNotMade as error:
            self._staged.drop(staged)
            self.notes.append(f"There is no DICOM segmentation. {error.message}")
            return {}
        return {"dicom": self._relative(path)}

    def _path(self, folder: str, name: str) -> Path:
        """The final path of a file; its folder is made."""
        parent = self._settings.folder / folder
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise OutputNotWritten(f"The folder {parent.name} cannot be made.",
                                   "Free some space on the disk or check its rights.") from None
        return parent / name

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._settings.folder).as_posix()
