"""One scan and its prompts from the shell: segment, combine, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.models.store import read_card, ready_to_segment
from DiffuGTSLib.output.segments import MAPS, Segments, combine, described
from DiffuGTSLib.pipeline.early_check import check_package
from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.progress import Callback, ProgressEstimator
from DiffuGTSLib.scan.header import ScanGrid, Triple
from DiffuGTSLib.scan.segmentation_file import check_output, write_image
from DiffuGTSLib.scan.volume import MODEL_SPACING_MM, Scan, as_scan, grid_of

if TYPE_CHECKING:
    from DiffuGTSLib.pipeline.result import Result
    from DiffuGTSLib.pipeline.segmenter import Segmenter

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

    def check(self) -> None:
        """To be called before a long run.

        Raises:
            OutputNotWritten: one of them cannot be written.
        """
        if self.segmentation is not None:
            check_output(self.segmentation)
        if self.figure is not None:
            if self.figure.suffix.lower() != ".png":
                raise OutputNotWritten(f"The figure {self.figure.name} has to end in .png.")
            if not self.figure.absolute().parent.is_dir():
                raise OutputNotWritten(f"The folder for {self.figure.name} does not exist.",
                                       "Create the folder first.")
        if self.maps is not None and self.maps.exists() and not self.maps.is_dir():
            raise OutputNotWritten(f"{self.maps.name} is a file, not a folder.",
                                   "Choose another name for the maps.")


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
    reference: sitk.Image | None = None,
) -> Run:
    """Segments `image` by each prompt and writes the outputs.

    Args:
        image: a path or an image.
        prompts: at least one.
        outputs: checked before the run starts.
        options: of the run.
        bar: makes the progress callback, given the estimator and the prompts.
        reference: a mask on the same grid, for the figure.

    Raises:
        DiffuGTSError: whatever kind fits.
    """
    outputs.check()
    model = ready_to_segment(options.model)
    scan = _read(image, options, model)
    from DiffuGTSLib.pipeline.segmenter import Segmenter

    segmenter = Segmenter.from_pretrained(options.model, options.device)
    estimator = ProgressEstimator(len(prompts))
    with bar(estimator, prompts) as progress:
        results = list(segmenter.segment_all(
            scan, prompts, options, progress=progress, estimator=estimator))
    finished = Run(results, _document(segmenter, scan, results, options))
    _write(finished, scan, outputs, reference)
    return finished


def _read(image: Path | sitk.Image, options: Options, model: Path) -> Scan:
    """The scan; refused by its header where it is too large.

    Before the networks' packages are imported, which takes seconds.
    """
    grid = grid_of(image)
    if grid is not None:
        check_package(grid, model, options.device)
    scan = as_scan(image, options.modality, options.sequence, options.skull_stripped,
                   _spacing(model))
    if grid is None:
        check_package(ScanGrid.of(scan.image), model, options.device)
    return scan


def _spacing(model: Path) -> Triple:
    """Of the model's grid, in mm."""
    x, y, z = read_card(model).get("spacing_mm", MODEL_SPACING_MM)
    return float(x), float(y), float(z)


def _document(
    segmenter: Segmenter, scan: Scan, results: Sequence[Result], options: Options
) -> dict[str, Any]:
    """The JSON document, without the paths; `labels` are the values in the segmentation."""
    from DiffuGTSLib import __version__

    return {
        "version": __version__,
        "model": segmenter.package.card.name,
        "device": segmenter.device,
        "modality": scan.modality,
        "seed": options.seed,
        "prompts": described(results),
    }


def _write(run: Run, scan: Scan, outputs: Outputs, reference: sitk.Image | None) -> None:
    """Writes the outputs and notes their absolute paths in the document.

    The segmentation comes last: where it is, everything is. If one cannot be written, those
    written before it are removed.
    """
    written: list[Path] = []
    try:
        _write_evidence(run, scan, outputs, reference, written)
        if outputs.segmentation is not None:
            Segments.of(run.results).write(combine(run.results), outputs.segmentation)
            run.document["segmentation"] = str(outputs.segmentation.absolute())
    except OutputNotWritten:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _write_evidence(
    run: Run, scan: Scan, outputs: Outputs, reference: sitk.Image | None,
    written: list[Path],
) -> None:
    """Maps and figures of each prompt; their paths are appended to `written`."""
    several = len(run.results) > 1
    if outputs.figure is not None:
        from DiffuGTSLib.output.figure import overview  # brings matplotlib
    for number, (result, entry) in enumerate(
        zip(run.results, run.document["prompts"], strict=True), start=1
    ):
        if outputs.maps is not None:
            start = f"{number}_" if several else ""
            entry["maps"] = _write_maps(result, outputs.maps, start, written)
        if outputs.figure is not None:
            path = outputs.figure
            if several:
                path = path.with_name(f"{path.stem}_{number}{path.suffix}")
            overview(
                scan.image, result.attention, result.pseudo_healthy, result.residual, result.mask,
                title=result.prompt.title, lesions=result.lesions, path=path,
                modality=scan.modality, highest_score=result.highest_score,
                reference=reference,
            )
            written.append(path)
            entry["figure"] = str(path.absolute())


def _write_maps(
    result: Result, folder: Path, start: str, written: list[Path]
) -> dict[str, str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise OutputNotWritten(
            f"The folder {folder.name} cannot be made.", "Choose another folder for the maps."
        ) from None
    paths = {name: folder / f"{start}{name}.nii.gz" for name in MAPS}
    for name, path in paths.items():
        write_image(getattr(result, name), path)
        written.append(path)
    return {name: str(path.absolute()) for name, path in paths.items()}
