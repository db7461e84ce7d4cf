"""A scan's grid as its header states it, and its size on a model's grid; no voxel is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from DiffuGTSLib.dicom_multiframe import frames_in
from DiffuGTSLib.image_file import quiet, read_header
from DiffuGTSLib.volume import SPACING_RANGE_MM

Triple = tuple[float, float, float]
Size = tuple[int, int, int]

# Where the axes of a RAS grid lie; an image's axis points to one of the two.
RAS_AXES = ("RL", "AP", "SI")


@dataclass(frozen=True)
class Grid:
    """Voxels and spacing in mm of a scan, along the axes right, anterior and superior."""

    size: Size
    spacing: Triple

    @classmethod
    def of(cls, image: sitk.Image | sitk.ImageFileReader) -> Grid:
        """That of a 3D image, or of a header."""
        letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
            image.GetDirection())
        axes = [next(i for i, way in enumerate(letters) if way in ends) for ends in RAS_AXES]
        size, spacing = image.GetSize(), image.GetSpacing()
        (a, b, c), (x, y, z) = [size[i] for i in axes], [float(spacing[i]) for i in axes]
        return cls((a, b, c), (x, y, z))

    @classmethod
    def stated(cls, path: Path) -> Grid | None:
        """What the header of an image file states; None where reading alone can tell: a DICOM
        folder or multi-frame file, an image that is no scan, a file that cannot be read."""
        try:
            with quiet():
                header = read_header(path)
        except RuntimeError:
            return None
        low, high = SPACING_RANGE_MM
        usable = all(low <= step <= high for step in header.GetSpacing())
        plain = header.GetDimension() == 3 and frames_in(header) == 1
        return cls.of(header) if plain and usable else None

    def in_model(self, spacing: Triple, multiple: int, smallest: int) -> Size:
        """Voxels (X, Y, Z) on the model's grid, padded as `grid.to_canonical` pads."""
        x, y, z = (
            _padded(max(1, math.ceil(n * own / step - 1e-3)), multiple, smallest)
            for n, own, step in zip(self.size, self.spacing, spacing, strict=True)
        )
        return x, y, z


def _padded(n: int, multiple: int, smallest: int) -> int:
    return n + max(-n % multiple, smallest - n)
