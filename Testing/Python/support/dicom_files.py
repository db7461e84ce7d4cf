"""DICOM files from an image: a series of slices, or one enhanced (multi-frame) file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

INTERCEPT = -1024


def write_series(
    folder: Path, image: sitk.Image, number: int = 1, modality: str = "CT", study: str = "1.2.3.4"
) -> Path:
    """One file a slice, named so that the order of names is not the order of positions."""
    folder.mkdir(parents=True, exist_ok=True)
    series, frame = generate_uid(), generate_uid()
    stored = sitk.GetArrayFromImage(image).astype(np.int32) - INTERCEPT
    for index in range(image.GetSize()[2]):
        data = _common(image, CTImageStorage, series, frame, study, modality, number)
        data.InstanceNumber = index + 1
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.ImagePositionPatient = list(image.TransformIndexToPhysicalPoint((0, 0, index)))
        data.ImageOrientationPatient = _orientation(image)
        data.PixelSpacing = _pixel_spacing(image)
        data.SliceThickness = image.GetSpacing()[2]
        data.RescaleIntercept, data.RescaleSlope = INTERCEPT, 1
        data.PixelData = stored[index].astype(np.uint16).tobytes()
        name = f"{number}_{(index * 7) % 100:02d}_{index:03d}.dcm"
        data.save_as(folder / name, enforce_file_format=True)
    return folder


def write_enhanced(path: Path, image: sitk.Image, order: Sequence[int] | None = None) -> Path:
    """One enhanced CT file; `order` are the slices as the frames follow each other."""
    given = range(image.GetSize()[2]) if order is None else order
    slices = [int(index) for index in given]
    data = _common(
        image, EnhancedCTImageStorage, generate_uid(), generate_uid(), "1.2.3.5", "CT", 1
    )
    data.InstanceNumber = 1
    data.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    data.NumberOfFrames = len(slices)
    data.ContentDate, data.ContentTime = "20200101", "120000"
    measures, orientation, rescale = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = _pixel_spacing(image), image.GetSpacing()[2]
    orientation.ImageOrientationPatient = _orientation(image)
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = INTERCEPT, 1, "HU"
    shared = Dataset()
    shared.PixelMeasuresSequence = Items([measures])
    shared.PlaneOrientationSequence = Items([orientation])
    shared.PixelValueTransformationSequence = Items([rescale])
    data.SharedFunctionalGroupsSequence = Items([shared])
    data.PerFrameFunctionalGroupsSequence = Items([_frame(image, index) for index in slices])
    stored = sitk.GetArrayFromImage(image).astype(np.int32)[slices] - INTERCEPT
    data.PixelData = stored.astype(np.uint16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def _frame(image: sitk.Image, index: int) -> Dataset:
    frame, content, place = Dataset(), Dataset(), Dataset()
    content.StackID, content.InStackPositionNumber = "1", index + 1
    content.DimensionIndexValues = [1, index + 1]
    place.ImagePositionPatient = list(image.TransformIndexToPhysicalPoint((0, 0, index)))
    frame.FrameContentSequence = Items([content])
    frame.PlanePositionSequence = Items([place])
    return frame


def _common(
    image: sitk.Image, kind: str, series: str, frame: str, study: str, modality: str, number: int
) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID = "Phantom^Ball", "phantom"
    data.PatientBirthDate, data.PatientSex = "", "O"
    data.StudyInstanceUID, data.SeriesInstanceUID = study, series
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame, ""
    data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "", ""
    data.StudyDate, data.StudyTime = "20200101", "120000"
    data.Modality, data.SeriesNumber = modality, number
    data.Manufacturer = "phantom"
    data.Columns, data.Rows = image.GetSize()[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = 0
    return data


def _orientation(image: sitk.Image) -> list[float]:
    """The directions along a row and along a column."""
    matrix = np.array(image.GetDirection()).reshape(3, 3)
    return [*matrix[:, 0], *matrix[:, 1]]


def _pixel_spacing(image: sitk.Image) -> list[float]:
    """Between rows, then between columns."""
    return [image.GetSpacing()[1], image.GetSpacing()[0]]
