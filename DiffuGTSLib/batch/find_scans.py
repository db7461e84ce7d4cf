"""Finds the scans that a file, a folder, a DICOM folder or a pattern means."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from DiffuGTSLib.batch.case import (
    MAP_FOLDERS,
    RECORDS,
    RUN,
    SEGMENTATIONS,
    THUMBNAILS,
    BatchFailure,
)
from DiffuGTSLib.errors import NotAScalarVolume, UnreadableImage, plain_text
from DiffuGTSLib.scan.file_checks import is_regular, is_unicode
from DiffuGTSLib.scan.modality import MODALITIES

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")
_SEGMENTATIONS = (".seg.nrrd", ".seg.nii.gz", ".seg.nii")
_VOXELS = (".img", ".img.gz", ".raw", ".raw.gz", ".zraw")  # of a header beside them
_DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
_MIN_SLICES = 4  # a series with fewer is a localiser
OUTPUTS = (SEGMENTATIONS, THUMBNAILS, MAP_FOLDERS, RECORDS)


@dataclass(frozen=True)
class Found:
    """A scan on disk, or what was found instead.

    Attributes:
        image: absolute path of a file or DICOM folder.
        series: DICOM series UID.
        name: of the file or folder; not unique yet.
        problem: why it cannot be a case.
        skipped: the problem is no failure: a DICOM folder holds more than scans.
    """

    image: Path
    series: str = ""
    name: str = ""
    problem: BatchFailure | None = None
    skipped: bool = False


@dataclass(frozen=True)
class Finds:
    """The result of a search.

    Attributes:
        scans: in the order of their paths.
        left_out: files in searched folders that are no scans, and folders with a batch's results.
    """

    scans: list[Found]
    left_out: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Slice:
    """A DICOM file with an image in it."""

    path: Path
    series: str
    number: str
    modality: str
    frames: int


def find(source: Path | str, avoid: Path) -> Finds:
    """The scans at a path or matching a pattern.

    A folder is searched with all folders below it; of DICOM files, each series is a scan, and
    each multi-frame file. Results of a batch are no scans, unless their own path is passed.

    Args:
        source: a path, or a pattern with *, ?, [] and ** for folders at any depth.
        avoid: the run's own output folder.
    """
    if os.path.lexists(source):
        return _at(Path(source), avoid)
    if not glob.has_magic(str(source)):
        return Finds([_missing(Path(source), f"{Path(source).name} does not exist.")])
    return _matching(str(source), avoid)


def _matching(pattern: str, avoid: Path) -> Finds:
    """The scans at all paths that a pattern matches."""
    found, left_out = [], []
    for match in sorted(glob.glob(pattern, recursive=True)):
        results = _results_around(Path(match), pattern, avoid)
        if results is None:
            part = _at(Path(match), avoid)
            found += part.scans
            left_out += part.left_out
        elif not _is_same(results, avoid):
            left_out.append(results)
    missing = _missing(Path(pattern), f"Nothing matches {Path(pattern).name}.")
    return Finds(found or [missing], left_out)


def _results_around(path: Path, pattern: str, avoid: Path) -> Path | None:
    """The output folder of a batch that holds `path`, if the pattern led into it."""
    fixed = 0
    while not glob.has_magic(Path(pattern).parts[fixed]):
        fixed += 1
    parts = path.parts[:-1]
    for depth in range(fixed, len(parts)):
        folder = Path(*parts[:depth])
        if parts[depth] in OUTPUTS and _holds_results(folder, avoid):
            return _absolute(folder)
    return None


def _holds_results(folder: Path, avoid: Path) -> bool:
    """Whether a folder is the output folder of this batch, or of another one."""
    another = (folder / RUN).is_file() and (folder / RECORDS).is_dir()
    return another or _is_same(folder, avoid)


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def stem(path: Path) -> str:
    """The name of a file without the suffix of an image, or of a folder."""
    for suffix in (*_SEGMENTATIONS, *SUFFIXES, *_DICOM_SUFFIXES):
        if path.name.lower().endswith(suffix) and path.name.lower() != suffix:
            return path.name[: -len(suffix)]
    return path.name


def _missing(path: Path, message: str) -> Found:
    return _problem(path, message, "Check the name and the folder.")


def _problem(path: Path, message: str, hint: str) -> Found:
    failure = BatchFailure(UnreadableImage.code, plain_text(message), hint)
    return Found(_absolute(path), name=stem(path), problem=failure)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _at(path: Path, avoid: Path) -> Finds:
    """The scans at a path that exists."""
    path = _absolute(path)
    if not os.path.isdir(path):
        return Finds([Found(path, name=stem(path)) if is_unicode(path) else _unnameable(path)])
    found: list[Found] = []
    dicom: list[Path] = []
    left_out: list[Path] = []
    unnameable: dict[Path, None] = {}
    for entry in _walk(path, avoid, left_out):
        if isinstance(entry, Found):
            found.append(entry)
        elif os.path.exists(entry) and not is_regular(entry):
            left_out.append(entry)  # a pipe, a socket or a device
        elif not is_unicode(entry):
            if _is_scan(entry) or _is_dicom(entry):
                unnameable[_not_unicode(entry)] = None
            else:
                left_out.append(entry)
        elif _is_scan(entry):
            found.append(Found(entry, name=stem(entry)))
        elif _is_dicom(entry):
            dicom.append(entry)
        elif not _is_part(entry):
            left_out.append(entry)
    found += [_unnameable(one) for one in unnameable] + _series(dicom)
    if all(scan.skipped for scan in found):
        found.append(_problem(path, f"The folder {path.name} holds no scans.",
                              "Pass a folder with image files or DICOM series."))
    return Finds(sorted(found, key=lambda scan: (str(scan.image), scan.name)), left_out)


def _not_unicode(path: Path) -> Path:
    """The uppermost part of a path whose name is not UTF-8."""
    return next(part for part in (*reversed(path.parents), path) if not is_unicode(part))


def _unnameable(path: Path) -> Found:
    return _problem(path, f"The name {stem(path)} holds bytes that are not UTF-8.",
                    "Rename it: it comes from a system with another encoding.")


def _walk(folder: Path, avoid: Path, left_out: list[Path]) -> Iterator[Path | Found]:
    """The files in a folder and below, and problems; links to folders are followed once.

    Results of a batch are not among them; the folder of another batch is added to `left_out`.
    """
    seen: set[str] = set()
    unopened: list[OSError] = []
    for current, folders, files in os.walk(folder, onerror=unopened.append, followlinks=True):
        real = os.path.realpath(current)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = sorted(name for name in files if not name.startswith("."))
        if _holds_results(Path(current), avoid):
            folders[:] = [name for name in folders if name not in OUTPUTS]
            files = [name for name in files if _is_scan(Path(name))]
            if not _is_same(Path(current), avoid):
                left_out.append(Path(current))
        yield from (Path(current, name) for name in files)
    for error in unopened:
        path = Path(os.fsdecode(error.filename))
        yield _problem(path, f"The folder {path.name} cannot be opened.",
                       "Check its access rights.")


def _is_scan(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.endswith(_SEGMENTATIONS)


def _is_part(path: Path) -> bool:
    """Whether a file belongs to a scan and need not be reported: voxel data, or a DICOMDIR."""
    if path.name.upper() == "DICOMDIR":
        return True
    voxels = next((suffix for suffix in _VOXELS if path.name.lower().endswith(suffix)), "")
    start = path.name[: len(path.name) - len(voxels)]
    return bool(voxels) and any(
        path.with_name(start + suffix).exists() for suffix in (".hdr", ".nhdr", ".mhd"))


def _is_dicom(path: Path) -> bool:
    """By its suffix, or by its content."""
    if path.name.upper() == "DICOMDIR":
        return False
    if path.suffix.lower() in _DICOM_SUFFIXES:
        return True
    from DiffuGTSLib.scan.dicom_tags import is_dicom_file

    return is_dicom_file(path)


def _series(files: list[Path]) -> list[Found]:
    """The series among DICOM files, and files that are no scans."""
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
    """One scan per series, named by its folder, and its number where needed."""
    folders = {
        series: Path(os.path.commonpath([one.path.parent for one in members]))
        for series, members in slices.items()
    }
    found = []
    for series, members in slices.items():
        folder, name = folders[series], folders[series].name
        others = [other for other, parent in folders.items() if parent == folder]
        if len(others) > 1:
            numbers = [slices[other][0].number for other in others]
            number = members[0].number
            unique = number if number and numbers.count(number) == 1 else ""
            name = f"{name}-{unique or f'{others.index(series) + 1}of{len(others)}'}"
        found.append(_checked(Found(folder, series, name), members[0].modality, len(members)))
    return found


def _checked(scan: Found, modality: str, slices: int) -> Found:
    """The scan, marked as skipped where it cannot be one."""
    if modality not in MODALITIES:
        reason = f"A DICOM series of modality {modality[:8] or 'unknown'}, neither CT nor MR."
    elif slices < _MIN_SLICES:
        reason = f"A DICOM series of {slices} slices, too few for a volume."
    else:
        return scan
    failure = BatchFailure(NotAScalarVolume.code, reason)
    return Found(scan.image, scan.series, scan.name, failure, skipped=True)


def _without_image(folder: Path, count: int) -> Found:
    failure = BatchFailure(UnreadableImage.code, f"{count} DICOM files without a readable image.")
    return Found(folder, name=f"{folder.name}-others", problem=failure, skipped=True)


def _slice(path: Path) -> _Slice | None:
    """What the header of a DICOM file says; None where it has no image.

    Read without ITK, which a damaged file can make end the process, and with it the batch.
    """
    from DiffuGTSLib.scan.dicom_tags import read_tags

    tags = read_tags(path)
    if tags is None or not tags.has_pixels:
        return None
    return _Slice(path, tags.series, tags.number, tags.modality, tags.frames)
