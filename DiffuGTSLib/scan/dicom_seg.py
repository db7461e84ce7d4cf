"""A segmentation as a DICOM object that refers to the series that was segmented."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib import __version__
from DiffuGTSLib.errors import DiffuGTSError, PackageMissing
from DiffuGTSLib.files import write_atomically
from DiffuGTSLib.scan.dicom import series_files
from DiffuGTSLib.scan.header import has_dicom_mark

if TYPE_CHECKING:
    from pydicom import Dataset

_NO_CODES = "^^"
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows",
             "Columns", "FrameOfReferenceUID")
# Of patient, study and equipment, as highdicom copies them from the scan.
_MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID",
                 "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName",
                 "Manufacturer", "PositionReferenceIndicator")


class DicomNotMade(DiffuGTSError):
    """No DICOM segmentation can be made for this scan."""

    code = "dicom-not-made"


def is_dicom(path: Path) -> bool:
    """Whether a scan that was read from `path` was DICOM: a folder, or a file that says so."""
    return path.is_dir() or has_dicom_mark(path)


def check_installed() -> None:
    """Checks, before a long run, that DICOM segmentations can be written.

    Raises:
        PackageMissing: highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise PackageMissing(
            "DICOM segmentations are written by the package highdicom, which is not installed.",
            "Run: pip install highdicom",
        ) from None


def write_dicom_segmentation(
    labels: sitk.Image, image: Path, series: str, path: Path, names: Sequence[str],
    terminology: Sequence[str], model: str,
) -> None:
    """Writes a DICOM segmentation, a segment a label, in an atomic write.

    Args:
        labels: 3D integers on the scan's grid, 1.. as the lists below.
        image: the DICOM folder or file that was segmented.
        series: its series UID, or "" where there is only one.
        path: of the new .dcm file.
        names: of the segments, at least one: an empty segmentation is no DICOM segmentation.
        terminology: of each segment, as 3D Slicer serialises it.
        model: name of the model package, for the record.

    Raises:
        PackageMissing: see `check_installed`.
        DicomNotMade: the scan's files lack what a segmentation has to refer to.
        OutputNotWritten: no space, no permission.
    """
    check_installed()
    import pydicom

    files = series_files(image, series) if image.is_dir() else (str(image),)
    sources = [pydicom.dcmread(file, force=True) for file in files]
    _complete(sources)
    try:
        segmentation = _made(labels, sources, names, terminology, model)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise DicomNotMade(
            "The scan's DICOM files lack something that a DICOM segmentation refers to.",
            "Leave out --dicom-seg; the other outputs do not need it.",
        ) from error
    write_atomically(path, _content(segmentation))


def _complete(sources: Sequence[Dataset]) -> None:
    """Adds, empty, what an anonymiser removed and may be empty (type 2 of DICOM PS3.3).

    Raises:
        DicomNotMade: something is missing that has to have a value; the message names it.
    """
    missing = [name for name in _REQUIRED if any(not source.get(name) for source in sources)]
    if missing:
        raise DicomNotMade(
            f"The scan's DICOM files lack {', '.join(missing)}, which a DICOM segmentation "
            "refers to.", "Leave out --dicom-seg; the other outputs do not need it.")
    for source in sources:
        for name in _MAY_BE_EMPTY:
            if name not in source:
                setattr(source, name, "")


def _made(
    labels: sitk.Image, sources: Sequence[Dataset], names: Sequence[str],
    terminology: Sequence[str], model: str,
) -> Any:
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian

    described = [_description(number, name, entry, model) for number, (name, entry)
                 in enumerate(zip(names, terminology, strict=True), start=1)]
    volume = hd.Volume(
        _indices(labels), _affine(labels), "PATIENT",
        frame_of_reference_uid=sources[0].FrameOfReferenceUID,
    )
    return hd.seg.Segmentation(
        source_images=sources, pixel_array=volume,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY, segment_descriptions=described,
        series_instance_uid=hd.UID(), series_number=_series_number(sources[0]),
        sop_instance_uid=hd.UID(), instance_number=1, manufacturer="DiffuGTS",
        manufacturer_model_name="DiffuGTS", software_versions=__version__,
        device_serial_number="0", transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description="DiffuGTS, research use only", content_label="LESIONS",
        omit_empty_frames=True,
    )


def _description(number: int, name: str, entry: str, model: str) -> Any:
    import highdicom as hd

    parts = entry.split("~")
    region = _code(parts[5])
    return hd.seg.SegmentDescription(
        segment_number=number, segment_label=name[:64],
        segmented_property_category=_code(parts[1]), segmented_property_type=_code(parts[2]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="DiffuGTS", version=__version__,
            family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
            parameters={"model": model},
        ),
        anatomic_regions=[region] if region else None,
    )


def _code(text: str) -> Any:
    """"SCT^49755003^Morphologically Altered Structure" as a code; None for "^^"."""
    import highdicom as hd

    if text == _NO_CODES:
        return None
    scheme, value, meaning = text.split("^")
    return hd.sr.CodedConcept(value, scheme, meaning[:64])


def _indices(labels: sitk.Image) -> np.ndarray:
    """(slices, rows, columns); 8 bits where they suffice."""
    array = sitk.GetArrayFromImage(labels)
    return array.astype(np.uint8 if array.max() < 256 else np.uint16)


def _affine(image: sitk.Image) -> np.ndarray:
    """From (slice, row, column) to LPS in mm, (4, 4)."""
    matrix = np.eye(4)
    axes = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix[:3, :3], matrix[:3, 3] = axes[:, ::-1], image.GetOrigin()
    return matrix


def _series_number(source: Dataset) -> int:
    """Not one that the study is likely to have."""
    return int(source.get("SeriesNumber") or 0) % 10000 + 90000


def _content(segmentation: Any) -> bytes:
    """The file, in memory: packed bits, and only the slices with something in them."""
    stream = io.BytesIO()
    segmentation.save_as(stream)
    return stream.getvalue()
