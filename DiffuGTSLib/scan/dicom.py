"""DICOM volumes: a series of slices in a folder, or the frames of one (enhanced) file.

ITK takes spacing, orientation, size and pixel type of the first slice for all of them. So the
slices of a series are compared before they are stacked, and the odd ones are named.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import ModalityMismatch, UnreadableImage
from DiffuGTSLib.scan.dicom_padding import Range, filled, padding_range, without_padding
from DiffuGTSLib.scan.dicom_tags import DicomTags, read_tags
from DiffuGTSLib.scan.file_checks import is_unicode
from DiffuGTSLib.scan.modality import MODALITY_TAG

_DESCRIPTION_TAG = "0008|103e"
_FRAMES_TAG = "0028|0008"
_MAX_LISTED = 20
_POSITION_TAG = "0020|0032"
_ORIENTATION_TAG = "0020|0037"
_SPACING_TAG = "0028|0030"
_COUNTS = {_POSITION_TAG: 3, _ORIENTATION_TAG: 6, _SPACING_TAG: 2}
_PHOTOMETRIC_TAG = "0028|0004"
_PATIENT_TAG = "0010|0020"
# A scan of usual size moves by no more than a millimetre when these differ by less.
_MAX_TURN = 0.003
_MAX_SHARE = 0.01
_MAX_MM = 1.0
_MAX_UNEVENNESS = 0.1  # of the mean distance of two slices
_NOTED_MM = 0.1
_MAX_NAMED = 3
_FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)


@dataclass(frozen=True)
class Series:
    """A DICOM series.

    Attributes:
        image: (x, y, slices); carries the modality tag and no other.
        description: the series description, for guesses only; may be empty.
        notes: sentences on small differences of the slices.
    """

    image: sitk.Image
    description: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one series, in the order of their positions, and what they say of it.

    Attributes:
        series: its UID.
        frames: of its first file.
    """

    series: str
    number: str
    description: str
    modality: str
    rows: int
    columns: int
    frames: int
    files: tuple[str, ...]

    def sentence(self) -> str:
        """For a list from which one is chosen."""
        facts = [self.description or "without description", self.modality or "unknown modality",
                 f"{max(len(self.files), self.frames)} slices of {self.columns} x {self.rows}"]
        return ", ".join(facts)


def series_files(folder: Path, series: str = "") -> tuple[str, ...]:
    """The files of a DICOM series in `folder`, in the order of their positions.

    Args:
        folder: with the slices themselves; those of a `series` may also lie in folders below.
        series: its UID; without one, the folder has to hold one series only.

    Raises:
        UnreadableImage: the folder cannot be listed, or holds no or more than one series.
    """
    if series:
        for recursive in (False, True):
            for one in list_series(folder, recursive):
                if one.series == series:
                    return one.files
        raise UnreadableImage(
            f"A DICOM series that was in {folder.name} is no longer there.", "Look for it again."
        )
    found = list_series(folder)
    if not found:
        raise UnreadableImage(
            f"The folder {folder.name} holds no DICOM series.",
            "Pass the folder in which the slices lie themselves, or one image file.",
        )
    if len(found) > 1:
        listed = "; ".join(f"{number}: {one.sentence()}"
                           for number, one in enumerate(found[:_MAX_LISTED], start=1))
        more = f"; and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
        raise UnreadableImage(
            f"The folder {folder.name} holds {len(found)} DICOM series instead of one.",
            f"Choose one by its number, with --series: {listed}{more}.",
        )
    return found[0].files


def numbered_series(folder: Path, number: int) -> str:
    """The UID of the series that `series_files` lists under `number`, counted from 1.

    Raises:
        UnreadableImage: there are fewer.
    """
    found = list_series(folder) if folder.is_dir() else []
    if not 1 <= number <= len(found):
        raise UnreadableImage(
            f"{folder.name} holds no DICOM series with the number {number}.",
            f"There are {len(found)}; leave out --series to see them listed." if found else
            "Leave out --series: only a DICOM folder may hold several.")
    return found[number - 1].series


def list_series(folder: Path, recursive: bool = False) -> list[SeriesFiles]:
    """The DICOM series in a folder that hold images, in the order of their numbers.

    Args:
        recursive: those in folders below, too.

    Raises:
        UnreadableImage: the folder cannot be opened.
    """
    try:
        return list(_listed(folder, recursive, folder.stat().st_mtime_ns))
    except OSError as error:
        raise UnreadableImage(
            f"The folder {folder.name} cannot be opened.", "Check its access rights."
        ) from error


@lru_cache(maxsize=4)
def _listed(folder: Path, recursive: bool, changed_ns: int) -> tuple[SeriesFiles, ...]:
    """Kept, since each series of a large folder is asked for by itself; `changed_ns` is the key."""
    members: dict[str, list[tuple[Path, DicomTags]]] = {}
    for path in _files_in(folder, recursive):
        tags = read_tags(path)
        if tags is not None and tags.has_pixels:
            members.setdefault(tags.series, []).append((path, tags))
    found = [_ordered(series, slices) for series, slices in members.items()]
    return tuple(sorted(found, key=lambda one: (_number(one.number), one.files[0])))


def _files_in(folder: Path, recursive: bool) -> list[Path]:
    names = sorted(os.scandir(folder), key=lambda entry: entry.name)
    files = [Path(entry.path) for entry in names if not entry.is_dir()]
    if recursive:
        files = [Path(parent, name) for parent, _, below in os.walk(folder, followlinks=True)
                 for name in sorted(below)]
    return [path for path in files if is_unicode(path)]


def _ordered(series: str, slices: list[tuple[Path, DicomTags]]) -> SeriesFiles:
    """By position along the normal; where not all say theirs or two agree, by instance number."""
    places = [tags.position for _, tags in slices]
    if None not in places and len(set(places)) == len(places):
        slices = sorted(slices, key=lambda one: one[1].position or 0.0)
    else:
        slices = sorted(slices, key=lambda one: (one[1].instance, str(one[0])))
    first = slices[0][1]
    return SeriesFiles(series, first.number, first.description, first.modality, first.rows,
                       first.columns, first.frames, tuple(str(path) for path, _ in slices))


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def read_series(folder: Path, files: tuple[str, ...]) -> Series:
    """The volume that the slices `files` of `folder` make.

    Raises:
        UnreadableImage, ModalityMismatch: as `check_slices`; or a slice is damaged, which is named.
    """
    try:
        return _stacked(files, check_slices(files, folder.name))
    except RuntimeError as error:
        raise _damaged(files, folder.name) from error


def _stacked(files: tuple[str, ...], slices: Slices) -> Series:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    # Each slice has its own slope and intercept; ITK would squeeze all into the first one's type.
    reader.SetOutputPixelType(slices.pixel)
    image = reader.Execute()
    modality = reader.GetMetaData(0, MODALITY_TAG) if reader.HasMetaDataKey(0, MODALITY_TAG) else ""
    cleaned = without_padding(sitk.GetArrayViewFromImage(image), slices.pads, modality.strip())
    if cleaned is not None:
        padded, image = image, sitk.GetImageFromArray(cleaned)
        image.CopyInformation(padded)
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    if reader.HasMetaDataKey(0, MODALITY_TAG):
        image.SetMetaData(MODALITY_TAG, modality)
    has_description = reader.HasMetaDataKey(0, _DESCRIPTION_TAG)
    description = reader.GetMetaData(0, _DESCRIPTION_TAG) if has_description else ""
    return Series(image, description, slices.notes)


def _damaged(files: Sequence[str], name: str) -> UnreadableImage:
    """Names the first slice that cannot be read by itself."""
    for file in files:
        try:
            sitk.ReadImage(file)
        except RuntimeError:
            return UnreadableImage(
                f"The DICOM slice {Path(file).name} in {name} is damaged or not complete.",
                "Copy or export the series again.")
    return UnreadableImage(f"The DICOM slices in {name} cannot be read as one volume.",
                           "Export the original series again.")


def frames_in(header: sitk.ImageFileReader) -> int:
    """The frames that a DICOM file states; 1 for other files."""
    if not header.HasMetaDataKey(_FRAMES_TAG):
        return 1
    text = header.GetMetaData(_FRAMES_TAG).strip()
    return int(text) if text.isdigit() else 1


def read_multiframe(path: Path) -> sitk.Image:
    """The volume in a multi-frame file; carries the modality tag and no other.

    The frames are put where they say they lie; SimpleITK would stack them in the order of the
    file, whatever their positions.

    Raises:
        UnreadableImage: the frames make no evenly spaced volume, or highdicom is not installed.
    """
    try:
        import highdicom
    except ImportError:
        raise UnreadableImage(
            f"{path.name} is a multi-frame DICOM file; the package highdicom reads them.",
            "Run: pip install highdicom",
        ) from None
    try:
        dataset = highdicom.imread(path)
        read = partial(dataset.get_volume, dtype=np.float32, apply_real_world_transform=False)
        volume = read()
        array = volume.array
        if "PixelPaddingValue" in dataset:
            stored = read(apply_modality_transform=False).array
            array = filled(array, stored == dataset.PixelPaddingValue, str(dataset.Modality))
    except (ValueError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        raise UnreadableImage(
            f"The frames in {path.name} do not make one evenly spaced volume.",
            "The file may hold several time points, or not say where its frames lie: "
            "export one volume, as single slices.",
        ) from error
    image = _as_image(np.asarray(array), np.asarray(volume.affine))
    image.SetMetaData(MODALITY_TAG, str(dataset.Modality))
    return image


def _as_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """From (slices, rows, columns) and the matrix that takes such an index to LPS in mm."""
    integers = np.array_equal(array, np.rint(array)) and np.abs(array).max(initial=0) < 2**15
    image = sitk.GetImageFromArray(array.astype(np.int16) if integers else array)
    axes = affine[:3, 2::-1]  # SimpleITK counts columns first
    spacing = np.linalg.norm(axes, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


@dataclass(frozen=True)
class Slices:
    """What the headers of a series' slices have in common.

    Attributes:
        pixel: the type that holds the values of all slices, each with its own rescaling.
        pads: of each slice, the rescaled values that are padding; None where it states none.
        notes: sentences on small differences.
    """

    pixel: int
    pads: list[Range | None]
    notes: list[str]


def check_slices(files: Sequence[str], name: str) -> Slices:
    """Reads the headers of the slices, in their order, and compares them.

    Args:
        files: of one series, by position.
        name: of the folder, for messages.

    Raises:
        UnreadableImage: they are of several patients, differ in size, spacing or orientation, say
            not where they lie or how large their pixels are, or lie unevenly or tilted.
        ModalityMismatch: their values are stored inverted.
        RuntimeError: SimpleITK cannot read one of them.
    """
    headers = [_header(file) for file in files]
    for tag in (_POSITION_TAG, _ORIENTATION_TAG):
        if not all(header.HasMetaDataKey(tag) for header in headers):
            raise UnreadableImage(f"The DICOM slices in {name} do not say where they lie.",
                                  "Export the original series again.")
    # ITK would take 1 mm. ImagerPixelSpacing is the spacing at a detector, not in a patient.
    if not all(_value(header, _SPACING_TAG).strip() for header in headers):
        raise UnreadableImage(
            f"The DICOM slices in {name} do not say how large their pixels are (PixelSpacing).",
            "Export the original series again.")
    _refuse_patients(files, [_value(header, _PATIENT_TAG).strip() for header in headers], name)
    _refuse_inverted(headers, name)
    _refuse_odd(files, [tuple(header.GetSize()[:2]) for header in headers], name, "size",
                lambda size: f"{size[0]} x {size[1]} pixels")
    steps = [_numbers(header, _SPACING_TAG, name) for header in headers]
    turns = [_numbers(header, _ORIENTATION_TAG, name) for header in headers]
    _refuse_odd(files, _groups(steps, _MAX_SHARE, True), name, "pixel spacing",
                lambda step: " x ".join(f"{s:.4g}" for s in step) + " mm")
    _refuse_odd(files, _groups(turns, _MAX_TURN, False), name, "orientation",
                lambda axes: " ".join(f"{a:.3g}" for a in axes))
    notes = _check_positions(headers, name)
    pads = [padding_range(partial(_value, header)) for header in headers]
    return Slices(_widest([header.GetPixelID() for header in headers]), pads, notes)


def _header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    return reader


def _value(header: sitk.ImageFileReader, tag: str) -> str:
    return str(header.GetMetaData(tag)) if header.HasMetaDataKey(tag) else ""


def _numbers(header: sitk.ImageFileReader, tag: str, name: str) -> tuple[float, ...]:
    """The numbers of a tag, as many as it has to have."""
    text = _value(header, tag)
    try:
        values = tuple(float(part) for part in text.split("\\") if part.strip())
    except ValueError:
        values = (math.nan,)
    if len(values) != _COUNTS[tag] or not all(map(math.isfinite, values)):
        raise UnreadableImage(
            f"A DICOM slice in {name} is damaged: where it lies is stated as {text[:40]!r}.",
            "Export the original series again.")
    return values


def _groups(
    values: list[tuple[float, ...]], tolerance: float, relative: bool
) -> list[tuple[float, ...]]:
    """Each replaced by the first one seen that is alike."""
    seen: list[tuple[float, ...]] = []

    def alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        if len(one) != len(other):
            return False
        difference = np.abs(np.subtract(one, other))
        return bool((difference <= tolerance * (np.abs(other) if relative else 1.0)).all())

    grouped = []
    for value in values:
        first = next((one for one in seen if alike(value, one)), None)
        if first is None:
            seen.append(value)
        grouped.append(value if first is None else first)
    return grouped


def _refuse_odd(
    files: Sequence[str], values: Sequence[tuple[float, ...]], name: str, what: str,
    words: Callable[[tuple[float, ...]], str],
) -> None:
    """Refuses slices that do not all have the same of `what`, and names those in the minority."""
    counts = Counter(values).most_common()
    if len(counts) == 1:
        return
    usual, odd = counts[0][0], [index for index, value in enumerate(values)
                                if value != counts[0][0]]
    named = ", ".join(Path(files[index]).name for index in odd[:_MAX_NAMED])
    more = f" and {len(odd) - _MAX_NAMED} more" if len(odd) > _MAX_NAMED else ""
    raise UnreadableImage(
        f"The DICOM slices in {name} differ in {what}: {words(usual)}, but {words(values[odd[0]])} "
        f"in {named}{more}.", "Move the slices that do not belong to the scan to another folder.")


def _refuse_patients(files: Sequence[str], patients: Sequence[str], name: str) -> None:
    """One series is of one patient; which ones they are is not said."""
    stated = list(dict.fromkeys(filter(None, patients)))
    if len(stated) < 2:
        return
    odd = Path(files[patients.index(stated[1])]).name
    raise UnreadableImage(
        f"The DICOM series in {name} holds slices of {len(stated)} patients (their PatientIDs "
        f"differ): {odd} is of another one than the first slice.",
        "Put the slices of each patient into a folder of their own.")


def _refuse_inverted(headers: list[sitk.ImageFileReader], name: str) -> None:
    if any(header.HasMetaDataKey(_PHOTOMETRIC_TAG)
           and header.GetMetaData(_PHOTOMETRIC_TAG).strip() == "MONOCHROME1" for header in headers):
        raise ModalityMismatch(
            f"The DICOM slices in {name} are stored inverted (MONOCHROME1), which changes their "
            "values.", "Export the series as MONOCHROME2.")


def _check_positions(headers: list[sitk.ImageFileReader], name: str) -> list[str]:
    """A volume has one slice spacing, along the slices' normal; ITK does not insist on it."""
    positions = np.array([_numbers(header, _POSITION_TAG, name) for header in headers])
    axes = np.array(_numbers(headers[0], _ORIENTATION_TAG, name)).reshape(2, 3)
    normal = np.cross(axes[0], axes[1])
    steps = np.diff(positions, axis=0)
    mean = steps.mean(axis=0)
    length = float(np.linalg.norm(mean))
    off = np.linalg.norm(steps - mean, axis=1)
    even = positions[0] + np.arange(len(positions))[:, None] * mean
    away = np.linalg.norm(positions - even, axis=1)
    widest = float(np.linalg.norm(steps, axis=1).max())
    if length == 0.0 or off.max() > _MAX_UNEVENNESS * length or away.max() > _MAX_MM:
        where = int(off.argmax()) + 1
        raise UnreadableImage(
            f"The DICOM slices in {name} are not evenly spaced: up to {widest:.4g} mm, "
            f"{length:.4g} mm on average; the oddest are slices {where} and {where + 1}.",
            "A slice is missing or repeated, or the folder holds several time points: "
            "export one complete volume.")
    aside = float(np.linalg.norm(mean - (mean @ normal) * normal)) * (len(headers) - 1)
    if aside > _MAX_MM:
        raise UnreadableImage(
            f"The DICOM slices in {name} are sheared, as with a tilted gantry: by {aside:.3g} mm "
            "from the first to the last.",
            "Load the series in 3D Slicer, harden its tilt correction and save it as .nrrd.")
    if away.max() > _NOTED_MM:
        return [f"The DICOM slices lie up to {away.max():.2g} mm away from even places."]
    return []


def _widest(pixels: list[int]) -> int:
    """The one type of all slices; where they differ, one that holds the values of each."""
    if len(set(pixels)) == 1:
        return pixels[0]
    return sitk.sitkFloat32 if set(pixels) & set(_FLOATS) else sitk.sitkInt32
