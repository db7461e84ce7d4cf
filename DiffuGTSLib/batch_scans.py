"""Finds the scans that a file, a folder, a DICOM folder or a pattern means."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from DiffuGTSLib.batch_case import Failure
from DiffuGTSLib.errors import NotAScalarVolume, UnreadableImage

if TYPE_CHECKING:
    import SimpleITK as sitk

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")
_SEGMENTATIONS = (".seg.nrrd", ".seg.nii.gz", ".seg.nii")
_DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
_LEAST_SLICES = 4  # a series with fewer is a localiser
_MODALITIES = ("CT", "MR")
_MODALITY_TAG, _SERIES_TAG, _NUMBER_TAG = "0008|0060", "0020|000e", "0020|0011"


@dataclass(frozen=True)
class Found:
    """A scan on disk, or what is there instead.

    Attributes:
        image: absolute path of a file or DICOM folder.
        series: DICOM series UID.
        name: from the file or folder; not unique yet.
        problem: why it cannot be a case.
        skipped: the problem is no failure: a folder of DICOM holds more than scans.
    """

    image: Path
    series: str = ""
    name: str = ""
    problem: Failure | None = None
    skipped: bool = False


@dataclass(frozen=True)
class _Slice:
    """A DICOM file with an image in it."""

    path: Path
    series: str
    number: str
    modality: str
    frames: int


def find(source: Path | str, avoid: Path) -> list[Found]:
    """The scans at a path or matching a pattern, in the order of their paths.

    A folder is searched with all folders below it; of DICOM files, each series is a scan, and
    each multi-frame file.

    Args:
        source: a path, or a pattern with *, ?, [] and ** for folders at any depth.
        avoid: a folder that is left out, the run's own outputs.
    """
    if os.path.lexists(source):
        return _at(Path(source), avoid)
    if not glob.has_magic(str(source)):
        return [_missing(Path(source), f"{Path(source).name} does not exist.")]
    matches = sorted(glob.glob(str(source), recursive=True))
    found = [scan for match in matches for scan in _at(Path(match), avoid)]
    return found or [_missing(Path(source), f"Nothing matches {Path(source).name}.")]


def stem(path: Path) -> str:
    """The name of a file without the suffix of an image, or of a folder."""
    for suffix in (*_SEGMENTATIONS, *SUFFIXES, *_DICOM_SUFFIXES):
        if path.name.lower().endswith(suffix) and path.name.lower() != suffix:
            return path.name[: -len(suffix)]
    return path.name


def _missing(path: Path, message: str) -> Found:
    return _problem(path, message, "Check the name and the folder.")


def _problem(path: Path, message: str, hint: str) -> Found:
    failure = Failure(UnreadableImage.code, message, hint)
    return Found(_absolute(path), name=stem(path), problem=failure)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _at(path: Path, avoid: Path) -> list[Found]:
    """The scans at a path that exists."""
    path = _absolute(path)
    if not os.path.isdir(path):
        return [Found(path, name=stem(path))]
    found, dicom = [], []
    for entry in _walk(path, avoid):
        if isinstance(entry, Found):
            found.append(entry)
        elif _is_scan(entry):
            found.append(Found(entry, name=stem(entry)))
        elif _is_dicom(entry):
            dicom.append(entry)
    found += _series(dicom)
    if all(scan.skipped for scan in found):
        found.append(_problem(path, f"The folder {path.name} holds no scans.",
                              "Pass a folder with image files or DICOM series."))
    return sorted(found, key=lambda scan: (str(scan.image), scan.name))


def _walk(folder: Path, avoid: Path) -> Iterator[Path | Found]:
    """The files in a folder and below, and problems; links to folders are followed once."""
    seen = {os.path.realpath(avoid)}
    unopened: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=unopened.append, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if not name.startswith("."))
    for error in unopened:
        path = Path(os.fsdecode(error.filename))
        yield _problem(path, f"The folder {path.name} cannot be opened.",
                       "Check its access rights.")


def _is_scan(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.endswith(_SEGMENTATIONS)


def _is_dicom(path: Path) -> bool:
    """By its suffix, or by what is in it."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return True
    from DiffuGTSLib.image_file import has_dicom_mark

    return has_dicom_mark(path)


def _series(files: list[Path]) -> list[Found]:
    """The series that DICOM files make, and what is no scan among them."""
    slices: dict[str, list[_Slice]] = {}
    found: list[Found] = []
    others: dict[Path, int] = {}
    for path in files:
        one = _slice(path)
        if one is None:
            others[path.parent] = others.get(path.parent, 0) + 1
        elif one.frames > 1:
            found.append(_checked(Found(path, name=stem(path)), one.modality, one.frames))
        else:
            slices.setdefault(one.series, []).append(one)
    found += [_without_image(folder, count) for folder, count in others.items()]
    return found + _of_slices(slices)


def _of_slices(slices: dict[str, list[_Slice]]) -> list[Found]:
    """A scan a series; it is named by its folder, and its number where that is needed."""
    folders = {
        series: Path(os.path.commonpath([one.path.parent for one in members]))
        for series, members in slices.items()
    }
    found = []
    for series, members in slices.items():
        folder, name = folders[series], folders[series].name
        others = [other for other, place in folders.items() if place == folder]
        if len(others) > 1:
            numbers = [slices[other][0].number for other in others]
            number = members[0].number
            told = number if number and numbers.count(number) == 1 else ""
            name = f"{name}-{told or f'{others.index(series) + 1}of{len(others)}'}"
        found.append(_checked(Found(folder, series, name), members[0].modality, len(members)))
    return found


def _checked(scan: Found, modality: str, slices: int) -> Found:
    """The scan, marked as skipped where it cannot be one."""
    if modality not in _MODALITIES:
        reason = f"A DICOM series of modality {modality[:8] or 'unknown'}, neither CT nor MR."
    elif slices < _LEAST_SLICES:
        reason = f"A DICOM series of {slices} slices, too few for a volume."
    else:
        return scan
    failure = Failure(NotAScalarVolume.code, reason)
    return Found(scan.image, scan.series, scan.name, failure, skipped=True)


def _without_image(folder: Path, count: int) -> Found:
    failure = Failure(UnreadableImage.code, f"{count} DICOM files without a readable image.")
    return Found(folder, name=f"{folder.name}-others", problem=failure, skipped=True)


def _slice(path: Path) -> _Slice | None:
    """What the header of a DICOM file says; None where it has no image."""
    from DiffuGTSLib.dicom_multiframe import frames_in
    from DiffuGTSLib.image_file import quiet, read_header

    try:
        with quiet():
            header = read_header(path)
    except RuntimeError:
        return None
    return _Slice(path, _tag(header, _SERIES_TAG), _tag(header, _NUMBER_TAG),
                  _tag(header, _MODALITY_TAG).upper(), frames_in(header))


def _tag(header: sitk.ImageFileReader, tag: str) -> str:
    return header.GetMetaData(tag).strip() if header.HasMetaDataKey(tag) else ""
