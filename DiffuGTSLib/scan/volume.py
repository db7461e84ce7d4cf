"""Scans from disk: read, checked, with their modality."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk

from DiffuGTSLib.errors import (
    ModalityMismatch,
    NoContent,
    NotAScalarVolume,
    NotFinite,
    TooLarge,
    TooSmall,
    UnreadableImage,
)
from DiffuGTSLib.scan.dicom import frames_in, read_multiframe, read_series, series_files
from DiffuGTSLib.scan.file_checks import check_file, check_name
from DiffuGTSLib.scan.header import (
    ScanGrid,
    holds_bytes,
    is_complete,
    is_sheared,
    promised_bytes,
    quiet,
    read_header,
    stated_spacing,
)
from DiffuGTSLib.scan.modality import (
    MODALITY_TAG,
    Modality,
    doubtful_note,
    given_note,
    guess_sequence,
    guess_skull_stripped,
    modality_reason,
    settle_modality,
)
from DiffuGTSLib.scan.nifti import (
    FORMS_TAG,
    MAX_SHARE,
    SPACING_RANGE_MM,
    Forms,
    check_forms,
    keep_forms,
)
from DiffuGTSLib.scan.nifti_voxels import check_voxels, holds_no_number
from DiffuGTSLib.scan.values import check_contents, doubts, without_outliers

MIN_SLICES = 4
# Two float copies of the scan while it is resampled. What a run needs is judged by the memory plan.
SCAN_BYTES_PER_VOXEL = 8
_NOTED_SHEAR = 1e-4
_SERIES_DESCRIPTION_TAG = "0008|103e"
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")


@dataclass(frozen=True)
class Scan:
    """A scan that passed all checks.

    Attributes:
        image: 3D, one number a voxel; carries no tags but the DICOM modality and NIfTI's forms.
        modality: "CT" (HU) or "MR".
        sequence: "t1", "t1c", "t2", "flair", or "" when unknown or CT.
        name: file or folder name without suffix.
        skull_stripped: its name says that nothing but the brain is left.
        notes: what the user should know of how it was read; sentences.
        modality_reason: why it is taken for CT or MR, to follow these in a sentence.
    """

    image: sitk.Image
    modality: Modality
    sequence: str
    name: str
    skull_stripped: bool = False
    notes: Sequence[str] = ()
    modality_reason: str = "as given"

    def with_overrides(
        self, modality: str | None = None, sequence: str | None = None,
        skull_stripped: bool | None = None,
    ) -> Scan:
        """The scan with what the caller knows of it, in place of what was read or guessed.

        Raises:
            ModalityMismatch: as `settle_modality`; or a sequence of a CT.
        """
        settled, notes = self.modality, self.notes
        if modality not in (None, settled):
            settled = settle_modality(self.image, modality)
            before, now = (given_note(self.image, each, each) for each in (self.modality, settled))
            notes = (*(note for note in notes if note != before), *([now] if now else []))
        if settled == "CT":
            if sequence:
                raise ModalityMismatch(
                    "A CT has no MR sequence.",
                    "Leave the MR sequence to the program, or state that the scan is MR.",
                )
            sequence = ""
        stripped = self.skull_stripped if skull_stripped is None else skull_stripped
        reason = self.modality_reason if modality is None else "as given"
        return replace(self, modality=settled, modality_reason=reason, skull_stripped=stripped,
                       sequence=self.sequence if sequence is None else sequence, notes=notes)


Source = Scan | sitk.Image | Path | str


def as_scan(
    source: Source, modality: str | None = None, sequence: str | None = None,
    skull_stripped: bool | None = None, series: str = "",
) -> Scan:
    """The one form of a scan that the pipeline takes, from any that a caller may have.

    Args:
        source: a scan; a 3D scalar image; the path of an image file or of a DICOM folder.
        modality, sequence, skull_stripped: see `Scan`; None takes what is read or guessed.
        series: as `read`.

    Raises:
        DiffuGTSError: as `read`, `check` and `Scan.with_overrides`.
    """
    if isinstance(source, Scan):
        return source.with_overrides(modality, sequence, skull_stripped)
    if isinstance(source, sitk.Image):
        scan = from_image(check(source), modality)
    else:
        scan = read(source, modality, series)
    return scan.with_overrides(None, sequence, skull_stripped)


def grid_of(source: Source) -> ScanGrid | None:
    """The grid of what `as_scan` takes, before any voxel is read; None where only reading tells.

    Raises:
        DiffuGTSError: an image is no scan; see `as_volume`.
    """
    if isinstance(source, Scan):
        return ScanGrid.of(source.image)
    if isinstance(source, sitk.Image):
        return ScanGrid.of(as_volume(source))
    return ScanGrid.stated(Path(source))


def read(path: Path | str, modality: str | None = None, series: str = "") -> Scan:
    """A scan from an image file or a folder with a DICOM series.

    Args:
        path: any file that SimpleITK reads, or a DICOM folder.
        modality: "CT" or "MR"; None guesses (see `guess_modality`).
        series: the UID of the DICOM series where the folder holds several.

    Raises:
        UnreadableImage: missing, no permission, damaged, no image, no or several DICOM series.
        NotAScalarVolume, NotFinite, NoContent, TooSmall, TooLarge: as `check`; the shape and
            the size are judged by the header, before any voxel is read.
        ModalityMismatch: as `settle_modality`.
    """
    path = Path(path)
    with quiet():
        try:
            image, description, notes = _load(path, series)
        except RuntimeError as error:
            raise _unreadable(path, error) from None
        except MemoryError:
            raise TooLarge(
                f"{path.name} does not fit into memory.", "Close other programs or crop the scan."
            ) from None
    folder = path.absolute().parent.name
    return from_image(
        check(image), modality, _stem(path), (description, folder), notes
    )


def from_image(
    image: sitk.Image, modality: str | None = None, name: str = "", hints: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Scan:
    """A scan from an image that passed `check`.

    Args:
        image: 3D, one number a voxel.
        modality: "CT" or "MR"; None guesses.
        name: of the scan; may hint at the MR sequence.
        hints: further names that may hint at it, the most specific first.
        notes: of `Scan`.

    Raises:
        ModalityMismatch: as `settle_modality`.
    """
    settled = settle_modality(image, modality)
    reason = modality_reason(image, modality, settled)
    against = given_note(image, modality, settled)
    image, clipped = without_outliers(image, settled)
    moved = doubtful_note(image) if settled == "MR" and "values" in reason else ""
    of_values = (note for note in (against, moved) if note)
    said = (*notes, *_axes_notes(image), *clipped, *of_values, *doubts(image))
    if settled == "CT":
        return Scan(image, settled, "", name, notes=said, modality_reason=reason)
    stripped = guess_skull_stripped(name, *hints)
    return Scan(image, settled, guess_sequence(name, *hints), name, stripped, said, reason)


def check(image: sitk.Image) -> sitk.Image:
    """The image itself when it is a usable scan; a single time point loses its fourth axis.

    Raises:
        NotAScalarVolume: 2D, one slice, 4D, colour, vector or complex.
        NoContent: no voxels, the same value in all of them, or two values only, as in a mask.
        TooSmall: fewer than 4 slices along an axis.
        UnreadableImage: a spacing that no scanner has.
        TooLarge: to read it takes more memory than there is.
        NotFinite: NaN or infinite voxels.
    """
    image = as_volume(image)
    _check_memory(image.GetSize(), 0)
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()
    # A minimum or maximum is NaN as soon as one voxel is.
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _not_finite()
    check_contents(image)
    return image


def _not_finite() -> NotFinite:
    return NotFinite(
        "The scan holds voxels that are not numbers or are infinite.",
        "Replace them, by the value of air for example, and try again.",
    )


def as_volume(image: sitk.Image) -> sitk.Image:
    """What `check` gives, and refuses, without a look at the voxels or the memory."""
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = keep_forms(image, image[:, :, :, 0])
    if image.GetNumberOfComponentsPerPixel() == 1 and "vector" in image.GetPixelIDTypeAsString():
        image = sitk.VectorIndexSelectionCast(image, 0)
    _check_kind(image.GetDimension(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID())
    _check_grid(image.GetSize(), image.GetSpacing())
    _check_axes(image)
    return image


def _axes(image: sitk.Image) -> tuple[np.ndarray, float]:
    """The lengths of the axes, and how far they are from right angles: the largest cosine between
    two of them."""
    axes = np.array(image.GetDirection()).reshape(3, 3)
    lengths = np.linalg.norm(axes, axis=0)
    axes = axes / lengths
    return lengths, float(np.abs(axes.T @ axes - np.eye(3)).max())


def _check_axes(image: sitk.Image) -> None:
    lengths, shear = _axes(image)
    if shear > MAX_SHARE:
        raise UnreadableImage(
            f"The axes that the scan states are not at right angles (by {shear:.1%}).",
            "Resample the scan to a regular grid.",
        )
    if np.abs(lengths - 1).max() > MAX_SHARE:
        stated = ", ".join(f"{length:.4g}" for length in lengths)
        raise UnreadableImage(
            f"The axes that the scan states are not of unit length but {stated} long.",
            "Correct the directions in the file's header; spacings are stated by themselves.",
        )


def _axes_notes(image: sitk.Image) -> list[str]:
    shear = _axes(image)[1]
    if shear <= _NOTED_SHEAR:
        return []
    return [f"The axes that the scan states are not quite at right angles (by {shear:.2%})."]


def _load(path: Path, series: str) -> tuple[sitk.Image, str, Sequence[str]]:
    """Image without tags (but modality and forms), the DICOM series description or "", notes."""
    check_name(path)
    if not os.path.lexists(path):
        raise UnreadableImage(f"{path.name} does not exist.", "Check the name and the folder.")
    if path.is_dir():
        files = series_files(path, series)
        if len(files) > 1:
            _check_header(read_header(Path(files[0])), len(files))
            read = read_series(path, files)
            return read.image, read.description, read.notes
        path = Path(files[0])
    return _load_file(path)


def _load_file(path: Path) -> tuple[sitk.Image, str, Sequence[str]]:
    check_file(path)
    notes = check_voxels(path)
    forms = Forms.of(path)
    if forms:
        notes += check_forms(forms)
    header = read_header(path)
    if is_sheared(header):
        raise _sheared(path)
    try:
        _check_header(header)
    except TooLarge:
        if not is_complete(path, header):
            raise _damaged(path) from None  # the header states too many voxels
        raise
    has_description = header.HasMetaDataKey(_SERIES_DESCRIPTION_TAG)
    description = header.GetMetaData(_SERIES_DESCRIPTION_TAG) if has_description else ""
    if frames_in(header) > 1:
        return read_multiframe(path), description, notes
    image = _voxels(path, header)
    if holds_no_number(path):
        raise _not_finite()
    for key in image.GetMetaDataKeys():
        if key != MODALITY_TAG:
            image.EraseMetaData(key)
    if forms:
        image.SetMetaData(FORMS_TAG, forms.bytes().hex())
    return image, description, notes


def _voxels(path: Path, header: sitk.ImageFileReader) -> sitk.Image:
    """The image of a file, which is checked for its end while it is read: both unzip it."""
    promised = promised_bytes(path, header)
    with ThreadPoolExecutor(1) as pool:
        complete = pool.submit(holds_bytes, path, promised)
        try:
            image = header.Execute()
        except RuntimeError:
            if complete.result():
                raise
    if not complete.result():
        raise _damaged(path)
    return image


def _damaged(path: Path) -> UnreadableImage:
    return UnreadableImage(
        f"{path.name} is damaged: voxels are missing at its end.",
        "Copy or download the file again.",
    )


def _check_header(header: sitk.ImageFileReader, files: int = 1) -> None:
    """`check`, as far as a header shows, of an image that is made of `files` slices or one file."""
    size, spacing = list(header.GetSize()), list(header.GetSpacing())
    if len(size) == 4 and size[3] == 1:
        size, spacing = size[:3], spacing[:3]
    if files > 1:
        # The distance of DICOM slices is known once all of them are read.
        size, spacing = [*size[:2], files], [*spacing[:2], 1.0]
    elif frames_in(header) > 1:
        spacing = [*spacing[:2], 1.0]
    _check_kind(len(size), header.GetNumberOfComponents(), header.GetPixelID())
    stated = stated_spacing(Path(header.GetFileName()))
    # Only an unusable one: ITK has turned the others into mm from the file's own unit.
    if stated is not None and not all(math.isfinite(step) and step > 0 for step in stated):
        spacing = list(stated)
    _check_grid(size, spacing)
    _check_memory(size, _bytes_per_voxel(header.GetPixelID()))


def _check_kind(dimension: int, components: int, pixel: int) -> None:
    if dimension != 3:
        raise NotAScalarVolume(
            f"The image has {dimension} dimensions; a scan has 3.",
            "Pass one volume: all slices of a scan, and one time point only.",
        )
    if pixel in _COMPLEX:
        raise NotAScalarVolume(
            "The image has complex numbers as voxels.", "Pass the magnitude image."
        )
    if components != 1:
        raise NotAScalarVolume(
            f"The image has {components} values a voxel, as a colour or vector image has.",
            "Pass the scan itself, with one value a voxel.",
        )


def _check_grid(size: Sequence[int], spacing: Sequence[float]) -> None:
    if min(size) < 1:
        raise NoContent("The scan has no voxels.", "Choose another scan.")
    shape = " x ".join(str(n) for n in size)
    if min(size) == 1:
        raise NotAScalarVolume(
            f"The image is a single slice ({shape} voxels).",
            "Pass the whole volume; of a DICOM series, its folder.",
        )
    if min(size) < MIN_SLICES:
        raise TooSmall(
            f"The scan has {shape} voxels; at least {MIN_SLICES} along each axis are needed.",
            "Pass the whole volume.",
        )
    low, high = SPACING_RANGE_MM
    if not all(math.isfinite(s) and low <= s <= high for s in spacing):
        stated = " x ".join(f"{s:.4g}" for s in spacing)
        raise UnreadableImage(
            f"The scan's voxel spacing ({stated} mm) cannot be right.",
            f"Set the true spacing in mm ({low:g} to {high:g}) in the file.",
        )


def _check_memory(size: Sequence[int], own_bytes: int) -> None:
    """`own_bytes`: of a voxel in its own type where the scan is still to be read, else 0."""
    need = math.prod(size) * (own_bytes + SCAN_BYTES_PER_VOXEL)
    there = psutil.virtual_memory().available
    if need > there:
        raise TooLarge(
            f"The scan needs about {need / 1e9:.1f} GB of memory; {there / 1e9:.1f} GB are free.",
            "Crop the scan to the region in question, close other programs, "
            "or use a machine with more memory.",
        )


def _bytes_per_voxel(pixel: int) -> int:
    return int(sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], pixel)).itemsize)


def _sheared(path: Path) -> UnreadableImage:
    return UnreadableImage(
        f"The axes that {path.name} states are not at right angles.",
        "Resample the scan to a regular grid, or correct the sform of the NIfTI file.",
    )


def _unreadable(path: Path, error: RuntimeError) -> UnreadableImage:
    """One plain sentence for what SimpleITK says in many lines."""
    if "orthonormal" in str(error):
        return _sheared(path)
    kind = "The DICOM series in " if path.is_dir() else ""
    return UnreadableImage(
        f"{kind}{path.name} cannot be read as an image.",
        "The file may be damaged or of another kind; NIfTI, NRRD, MetaImage and DICOM are read.",
    )


def _stem(path: Path) -> str:
    name = path.absolute().name
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name if path.is_dir() else path.stem
