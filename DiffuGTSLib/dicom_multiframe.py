"""Enhanced, multi-frame DICOM: one file that holds a whole volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.modality import MODALITY_TAG

_FRAMES_TAG = "0028|0008"


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
        volume = dataset.get_volume(dtype=np.float32, apply_real_world_transform=False)
    except (ValueError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        raise UnreadableImage(
            f"The frames in {path.name} do not make one evenly spaced volume.",
            "The file may hold several time points, or not say where its frames lie: "
            "export one volume, as single slices.",
        ) from error
    image = _as_image(np.asarray(volume.array), np.asarray(volume.affine))
    image.SetMetaData(MODALITY_TAG, str(dataset.Modality))
    return image


def _as_image(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """From (slices, rows, columns) and the matrix that takes such an index to LPS in mm."""
    whole = np.array_equal(array, np.rint(array)) and np.abs(array).max(initial=0) < 2**15
    image = sitk.GetImageFromArray(array.astype(np.int16) if whole else array)
    axes = affine[:3, 2::-1]  # SimpleITK counts columns first
    spacing = np.linalg.norm(axes, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image
