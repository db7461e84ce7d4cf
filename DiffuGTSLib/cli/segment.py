"""One scan and its prompts from the shell: segment, combine, write."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.files import StagedFiles, is_same_file, remove_unfinished
from DiffuGTSLib.models import Card
from DiffuGTSLib.models.store import ready_to_segment
from DiffuGTSLib.output import Segments, combine
from DiffuGTSLib.output.segments import MAPS, described
from DiffuGTSLib.pipeline import Options
from DiffuGTSLib.pipeline.early_check import check_package
from DiffuGTSLib.progress import Callback, ProgressEstimator
from DiffuGTSLib.remote.address import Address
from DiffuGTSLib.scan import Scan, as_scan, write_image
from DiffuGTSLib.scan.dicom import numbered_series
from DiffuGTSLib.scan.header import ScanGrid
from DiffuGTSLib.scan.nifti import keep_forms
from DiffuGTSLib.scan.region import RegionFile
from DiffuGTSLib.scan.segmentation_file import check_output, output_suffix, refuse_foreign
from DiffuGTSLib.scan.volume import grid_of

if TYPE_CHECKING:
    from DiffuGTSLib.pipeline import Result, Segmenter
    from DiffuGTSLib.remote.segmenter import RemoteSegmenter

Bar = Callable[[ProgressEstimator, Sequence[str]], AbstractContextManager[Callback]]


@dataclass(frozen=True)
class Outputs:
    """What to write; each but the segmentation may be None.

    Attributes:
        segmentation: .nii.gz, .nrrd or .seg.nrrd.
        maps: folder for the maps as .nii.gz; made if need be.
        figure: PNG.
    """

    segmentation: Path | None = None
    maps: Path | None = None
    figure: Path | None = None

    def check(self, image: Path | sitk.Image, prompts: int = 1) -> None:
        """To be called before a long run.

        Args:
            image: what is segmented; no output may take its place.
            prompts: their number.

        Raises:
            OutputNotWritten: one of them cannot be written, is the scan or a part of it, or is
                a file that another program wrote.
        """
        if self.segmentation is not None:
            check_output(self.segmentation)
        if self.figure is not None:
            if self.figure.suffix.lower() != ".png":
                raise OutputNotWritten(f"The figure {self.figure.name} has to end in .png.")
            if not self.figure.absolute().parent.is_dir():
                raise OutputNotWritten(f"The folder for {self.figure.name} does not exist.",
                                       "Create the folder first.")
            if self.figure.is_dir():
                raise OutputNotWritten(f"{self.figure.name} is a folder, not a file.",
                                       "Choose another name for the figure.")
        if self.maps is not None and self.maps.exists() and not self.maps.is_dir():
            raise OutputNotWritten(f"{self.maps.name} is a file, not a folder.",
                                   "Choose another name for the maps.")
        if self.maps is not None:
            _check_can_be_made(self.maps.absolute())
        files = self.files(prompts)
        for path in files:
            if isinstance(image, Path):
                _refuse_scan(path, image)
            refuse_foreign(path)
        remove_unfinished(*dict.fromkeys(path.absolute().parent for path in files))

    def files(self, prompts: int = 1) -> list[Path]:
        """All files that a run with that many prompts writes; the segmentation comes last."""
        numbers = range(1, prompts + 1)
        several = prompts > 1
        files = [path for n in numbers for path in self.maps_of(n, several).values()]
        files += [self.figure_of(n, several) for n in numbers if self.figure is not None]
        return [*files, self.segmentation] if self.segmentation is not None else files

    def maps_of(self, number: int, several: bool) -> dict[str, Path]:
        """The maps of prompt `number`, from 1, by name; none where they are not requested."""
        start = f"{number}_" if several else ""
        return {} if self.maps is None else {
            name: self.maps / f"{start}{name}.nii.gz" for name in MAPS}

    def figure_of(self, number: int, several: bool) -> Path:
        """The picture of prompt `number`, from 1."""
        assert self.figure is not None
        end = f"_{number}" if several else ""
        return self.figure.with_name(f"{self.figure.stem}{end}{self.figure.suffix}")


def _check_can_be_made(folder: Path) -> None:
    """Makes a folder and removes it again: before the run, not after it."""
    missing: list[Path] = []
    try:
        missing += [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise _no_folder(folder)
    except OSError:
        raise _no_folder(folder) from None
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()


def _no_folder(folder: Path) -> OutputNotWritten:
    return OutputNotWritten(f"The folder {folder.name} cannot be made or written to.",
                            "Choose another folder for the maps.")


def _refuse_scan(output: Path, image: Path) -> None:
    """No output may replace the scan, or lie among the slices of a DICOM series."""
    if is_same_file(output, image):
        raise OutputNotWritten(f"The output {output.name} is the scan itself.",
                               "Choose another name: the scan would be lost.")
    if image.is_dir() and is_same_file(output.absolute().parent, image):
        raise OutputNotWritten(f"The output {output.name} would lie among the scan's own files.",
                               "Choose a folder beside that of the DICOM series.")


@dataclass
class Run:
    """A finished run.

    Attributes:
        results: one a prompt.
        document: the same in plain values, for JSON.
    """

    results: list[Result]
    document: dict[str, Any] = field(default_factory=dict)


def segment_scan(
    image: Path | sitk.Image, prompts: Sequence[str], outputs: Outputs, options: Options, bar: Bar,
    reference: sitk.Image | None = None, series: int | None = None,
    within: RegionFile | None = None, host: str = "",
) -> Run:
    """Segments `image` by each prompt and writes the outputs.

    Args:
        image: a path or an image.
        prompts: at least one.
        outputs: checked before the run starts.
        options: of the run.
        bar: makes the progress callback, given the estimator and the prompts.
        reference: a mask on the same grid, for the figure.
        series: number of the DICOM series in a folder with several; see `scan.dicom`.
        within: a mask to which the search is limited.
        host: of another machine, whose networks are used; see `remote.Address`.

    Raises:
        DiffuGTSError: whatever kind fits.
    """
    outputs.check(image, len(prompts))
    if within is not None:
        region = within.read()  # before the networks are loaded
        if any(is_same_file(path, within.path) for path in outputs.files(len(prompts))):
            raise OutputNotWritten(f"An output would replace the mask {within.path.name}.",
                                   "Choose another name: the mask would be lost.")
    address = Address.parse(host) if host else None
    model = None if address else ready_to_segment(options.model)
    uid = numbered_series(image, series) if series and isinstance(image, Path) else ""
    scan = _read(image, options, model, uid)
    if within is not None:
        region.notes_on(scan.image)  # refuses another scan's
    estimator = ProgressEstimator(len(prompts))
    with _segmenter(options, address) as segmenter:
        with bar(estimator, prompts) as progress:
            results = list(segmenter.segment_all(
                scan, prompts, options, progress=progress, estimator=estimator, within=within))
        document = _document(segmenter, scan, results, options)
    finished = Run(results, document)
    _write(finished, scan, outputs, reference)
    return finished


@contextmanager
def _segmenter(
    options: Options, address: Address | None
) -> Iterator[Segmenter | RemoteSegmenter]:
    """The networks of this machine, or of another one."""
    if address is None:
        from DiffuGTSLib.pipeline import Segmenter

        yield Segmenter.from_pretrained(options.model, options.device)
        return
    from DiffuGTSLib.remote.segmenter import RemoteSegmenter

    print(f"Connecting to {address.host} ...", file=sys.stderr, flush=True)
    with closing(RemoteSegmenter(address, options.model, options.device)) as segmenter:
        yield segmenter


def _read(image: Path | sitk.Image, options: Options, model: Path | None, series: str) -> Scan:
    """The scan; refused by its header where it is too large for this machine's networks.

    Before the networks' packages are imported, which takes seconds.
    """
    if model is None:  # the other machine looks at its own memory
        return as_scan(image, options.modality, options.sequence, options.skull_stripped, series)
    Card.read(model)  # a damaged one is refused before the scan is read
    grid = grid_of(image)
    if grid is not None:
        check_package(grid, model, options.device)
    scan = as_scan(image, options.modality, options.sequence, options.skull_stripped, series)
    if grid is None:
        check_package(ScanGrid.of(scan.image), model, options.device)
    return scan


def _document(
    segmenter: Segmenter | RemoteSegmenter, scan: Scan, results: Sequence[Result], options: Options
) -> dict[str, Any]:
    """The JSON document, without the paths; `labels` are the values in the segmentation."""
    from DiffuGTSLib import __version__

    return {
        "version": __version__,
        "model": segmenter.model_name,
        "device": segmenter.device,
        "modality": scan.modality,
        "modality_reason": scan.modality_reason,
        "seed": options.seed,
        "within": results[0].within or None,
        "prompts": described(results),
    }


def _write(run: Run, scan: Scan, outputs: Outputs, reference: sitk.Image | None) -> None:
    """Writes the outputs and notes their absolute paths in the document.

    All appear together, the segmentation last, once each is complete: where one cannot be
    written, the files of an earlier run stay.
    """
    staged = StagedFiles()
    try:
        _write_evidence(run, scan, outputs, reference, staged)
        if outputs.segmentation is not None:
            path = outputs.segmentation
            Segments.of(run.results).write(
                combine(run.results), staged.path(path, output_suffix(path)))
            run.document["segmentation"] = str(path.absolute())
        staged.commit()
    finally:
        staged.discard()


def _write_evidence(
    run: Run, scan: Scan, outputs: Outputs, reference: sitk.Image | None, staged: StagedFiles,
) -> None:
    """Maps and figures of each prompt."""
    several = len(run.results) > 1
    if outputs.figure is not None:
        from DiffuGTSLib.output import overview
    for number, (result, entry) in enumerate(
        zip(run.results, run.document["prompts"], strict=True), start=1
    ):
        if outputs.maps is not None:
            entry["maps"] = _write_maps(result, outputs.maps_of(number, several), staged)
        if outputs.figure is not None:
            path = outputs.figure_of(number, several)
            overview(
                scan.image, result.attention, result.pseudo_healthy, result.residual, result.mask,
                title=result.prompt.title, lesions=result.lesions, path=staged.path(path, ".png"),
                modality=scan.modality, highest_score=result.highest_score,
                reference=reference,
            )
            entry["figure"] = str(path.absolute())


def _write_maps(result: Result, paths: dict[str, Path], staged: StagedFiles) -> dict[str, str]:
    for name, path in paths.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise _no_folder(path.parent) from None
        write_image(keep_forms(result.image, getattr(result, name)),
                    staged.path(path, ".nii.gz"))
    return {name: str(path.absolute()) for name, path in paths.items()}
