"""Images and segmentations to disk, in atomic writes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.files import atomic_file, final_name, remove_unfinished, temporary_path
from DiffuGTSLib.scan.header import is_complete, quiet, read_header
from DiffuGTSLib.scan.nifti import FORMS_TAG, keep_forms, write_forms

Colour = tuple[float, float, float]
# Distinguishable on grey, also for colour-blind eyes; the first is 3D Slicer's colour of a mass.
COLOURS = (
    (144, 238, 144), (230, 159, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (213, 94, 0),
)
SUFFIXES = (".seg.nrrd", ".nii.gz", ".nrrd")
# zlib's fastest: maps are large, and level 1 of 9 costs a few per cent of size.
_COMPRESSION_LEVEL = 1
_REPRESENTATION = "Binary labelmap"
# What every file of this program says of its origin: NRRD as a key, NIfTI in "descrip", PNG as
# its software.
MARK = "DiffuGTS"
_MARKED_BYTES = 1 << 16


def check_output(path: Path | str) -> Path:
    """The path when an image can be written there; to be called before a long run.

    Raises:
        OutputNotWritten: unknown suffix, no such folder, a folder in the way, no permission.
    """
    path = Path(path)
    suffix = output_suffix(path)
    if not _is_unicode(path):
        raise OutputNotWritten("The name of the output holds bytes that are not UTF-8.",
                               "Choose another name, or rename the folder.")
    if not path.absolute().parent.is_dir():
        raise OutputNotWritten(
            f"The folder for {final_name(path)} does not exist.", "Create the folder first."
        )
    if path.is_dir():
        raise OutputNotWritten(
            f"{final_name(path)} is a folder, not a file.", "Choose another name for the output."
        )
    remove_unfinished(path.absolute().parent)
    probe = temporary_path(path, suffix)
    try:
        probe.touch()
        probe.unlink()
    except (OSError, ValueError):
        raise OutputNotWritten(
            f"There is no permission to write {final_name(path)}, or no space.",
            "Choose another folder.",
        ) from None
    return path


def refuse_foreign(path: Path) -> None:
    """Refuses to replace a file that another program wrote; to be called before a long run.

    Raises:
        OutputNotWritten: `path` is there and does not say that this program wrote it.
    """
    if not path.is_symlink() and (not path.exists() or is_empty(path)):
        return
    start = b""
    if path.is_file():
        try:
            with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
                start = file.read(_MARKED_BYTES)
        except (OSError, EOFError, zlib.error):
            start = b""
    if MARK.encode() not in start:
        raise OutputNotWritten(
            f"{final_name(path)} exists, and this program did not write it as it is now.",
            "Choose another name for the output, or move that file away.",
        )


def is_empty(path: Path) -> bool:
    """Whether it is a file without a byte, which nobody misses."""
    return path.is_file() and path.stat().st_size == 0


def write_image(image: sitk.Image, path: Path | str) -> Path:
    """Writes a volume, compressed, to .nii.gz or .nrrd, and returns the path.

    The file appears under its name only when it is complete; tags of the image are left out. A
    .nii.gz gets the sform and qform of the scan where the image carries them (`keep_forms`), so
    that it lies on the scan in every reader.

    Raises:
        OutputNotWritten: as `check_output`, or writing failed; then nothing is left behind.
    """
    return _write(image, check_output(path), {})


def write_segmentation(
    labels: sitk.Image,
    path: Path | str,
    names: Sequence[str],
    colours: Sequence[Colour],
    terminology: Sequence[str],
) -> Path:
    """Writes a labelmap; to .seg.nrrd as a segmentation of 3D Slicer.

    Args:
        labels: 3D integers; label n is the segment n - 1 of the lists below.
        path: .nii.gz or .nrrd (labels only), or .seg.nrrd (names, colours, terminology too).
        names: of the segments.
        colours: red, green and blue in [0, 1] of each segment.
        terminology: of each segment, a terminology entry as 3D Slicer serialises it; may be "".

    Raises:
        OutputNotWritten: as `write_image`.
        ValueError: lists of different lengths, or a label without a name.
    """
    path = check_output(path)
    if not len(names) == len(colours) == len(terminology):
        raise ValueError("each segment needs a name, a colour and a terminology entry")
    highest = int(sitk.GetArrayViewFromImage(labels).max())
    if highest > len(names):
        raise ValueError(f"label {highest} has no name")
    labelmap = sitk.Cast(labels, sitk.sitkUInt8 if len(names) < 256 else sitk.sitkUInt16)
    keep_forms(labels, labelmap)
    fields: dict[str, str] = {}
    if output_suffix(path) == ".seg.nrrd":
        fields = _segmentation_fields(labelmap) | _segment_fields(
            _extent(labelmap), names, colours, terminology
        )
    return _write(labelmap, path, fields)


def _write(image: sitk.Image, path: Path, fields: Mapping[str, str]) -> Path:
    forms = image.GetMetaData(FORMS_TAG) if image.HasMetaDataKey(FORMS_TAG) else ""
    plain = sitk.Image(image)
    plain.MakeUnique()  # else erasing a tag would reach the caller's image
    for key in plain.GetMetaDataKeys():
        plain.EraseMetaData(key)
    origin = MARK if output_suffix(path) != ".nii.gz" else "ITK_FileNotes"  # written as "descrip"
    for key, value in {origin: MARK, **fields}.items():
        plain.SetMetaData(key, value)
    with atomic_file(path, output_suffix(path)) as temporary, quiet():
        sitk.WriteImage(
            plain, str(temporary), useCompression=True, compressionLevel=_COMPRESSION_LEVEL
        )
        if forms and output_suffix(path) == ".nii.gz":
            write_forms(temporary, forms, _COMPRESSION_LEVEL)
        # A full disk makes SimpleITK's NIfTI writer stop without an error.
        if not is_complete(temporary, read_header(temporary)):
            raise OSError("incomplete")
    return path


def _is_unicode(path: Path) -> bool:
    """SimpleITK ends the process at any other name."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def output_suffix(path: Path) -> str:
    """The one of `SUFFIXES` in which a path ends.

    Raises:
        OutputNotWritten: it ends in none of them.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return suffix
    raise OutputNotWritten(
        f"{final_name(path)} does not end in a suffix that can be written.",
        "Use .seg.nrrd, .nrrd or .nii.gz.",
    )


def _segmentation_fields(labelmap: sitk.Image) -> dict[str, str]:
    """The header fields of 3D Slicer for the segmentation as a whole."""
    geometry = _serialised_geometry(labelmap)
    return {
        "Segmentation_MasterRepresentation": _REPRESENTATION,
        "Segmentation_ContainedRepresentationNames": f"{_REPRESENTATION}|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "Segmentation_ConversionParameters": f"Reference image geometry|{geometry}|&",
    }


def _segment_fields(
    extent: str, names: Sequence[str], colours: Sequence[Colour], terminology: Sequence[str]
) -> dict[str, str]:
    """The header fields of 3D Slicer for each segment."""
    fields: dict[str, str] = {}
    for index, (name, colour, entry) in enumerate(zip(names, colours, terminology, strict=True)):
        fields |= {
            f"Segment{index}_ID": f"Segment_{index + 1}",
            f"Segment{index}_Name": " ".join(name.split()),
            f"Segment{index}_NameAutoGenerated": "0",
            f"Segment{index}_Color": " ".join(f"{part:.6f}" for part in colour),
            f"Segment{index}_ColorAutoGenerated": "0",
            f"Segment{index}_LabelValue": str(index + 1),
            f"Segment{index}_Layer": "0",
            # Slicer takes the first segment's extent for the whole layer.
            f"Segment{index}_Extent": extent,
            f"Segment{index}_Tags": f"TerminologyEntry:{entry}|" if entry else "",
        }
    return fields


def _extent(labelmap: sitk.Image) -> str:
    """First and last index along x, y and z that hold a label; "0 -1 ..." when none does."""
    voxels = sitk.GetArrayViewFromImage(labelmap)
    bounds: list[int] = []
    for axes in ((0, 1), (0, 2), (1, 2)):
        used = np.flatnonzero(voxels.any(axis=axes))
        bounds += [int(used[0]), int(used[-1])] if used.size else [0, -1]
    return " ".join(str(bound) for bound in bounds)


def _serialised_geometry(image: sitk.Image) -> str:
    """The matrix from voxels to RAS, row by row, and the extent, as 3D Slicer serialises them."""
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    matrix[:3, :3] = direction * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    # DICOM and ITK count to the left and posterior, 3D Slicer to the right and anterior.
    matrix[:2] *= -1
    extent = [bound for n in image.GetSize() for bound in (0, n - 1)]
    return "".join(f"{value:.17g};" for value in [*matrix.ravel(), *extent])
