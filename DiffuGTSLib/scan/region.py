"""A region that limits the search: an organ's mask, of whatever program.

A given organ is better than the model's own gate, above all where that was not validated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.scan.file_checks import check_file
from DiffuGTSLib.scan.header import is_complete, quiet, read_header

if TYPE_CHECKING:
    from DiffuGTSLib.scan.canonical import Canonical

SCAN_DIMENSIONS = 3
NAMELESS = "the given region"
# No label map has more: FreeSurfer's finest has about 200, TotalSegmentator's 120.
MAX_LABELS = 1000
# A scan of 8 bits has fewer values than that. But in a label map most neighbours are equal; in
# scans of 8 bits 80 to 95 % differ.
_FEW_LABELS, _MAX_DIFFERING = 32, 0.6
_MAX_LISTED = 20
_MENTIONED_SHARE = 0.05  # outside of the scan: less is a matter of the grids
_TOLERANCE = 0.01  # of a voxel, at the border of the scan
_MASK_HINT = ("Pass a mask or a label map: whole numbers from 0, with 0 outside. Threshold a "
              "probability map first, at 0.5 say.")


class RegionUnusable(DiffuGTSError):
    """What is to limit the search is no mask, or holds nothing of the scan."""

    code = "region-unusable"


@dataclass(frozen=True)
class Region:
    """What a search is limited to.

    Attributes:
        image: uint8, 1 inside; on any grid that covers the organ.
        name: for sentences, as "“liver” of organs.seg.nrrd".
    """

    image: sitk.Image
    name: str = NAMELESS

    @cached_property
    def volume_ml(self) -> float:
        """Of the whole region, in ml."""
        voxels = int(np.count_nonzero(sitk.GetArrayViewFromImage(self.image)))
        return voxels * float(np.prod(self.image.GetSpacing())) / 1000

    def notes_on(self, scan: sitk.Image) -> list[str]:
        """What is to be said of a search of `scan` in it; sentences.

        Args:
            scan: gives the grid.

        Raises:
            RegionUnusable: nothing of it lies in the scan.
        """
        if not self.volume_ml:
            raise RegionUnusable(f"Nothing can be searched: {self.name} is empty.",
                                 "Pass the mask of an organ that the scan shows.")
        outside = self._share_outside(scan)
        if outside == 1:
            raise _outside()
        ml = f"{self.volume_ml:.0f}" if self.volume_ml >= 10 else f"{self.volume_ml:.2g}"
        notes = [f"Searched only in {self.name} ({ml} ml)."]
        if outside > _MENTIONED_SHARE:
            notes.append(f"{100 * outside:.0f} % of that lies outside the scan: the mask may be "
                         "another scan's.")
        return notes

    def on_grid(self, canonical: Canonical) -> np.ndarray:
        """The region on the padded canonical grid, bool (X, Y, Z).

        Raises:
            RegionUnusable: nothing of it lies in the scan.
        """
        from DiffuGTSLib.scan.canonical import mask_on_grid  # brings torch

        inside = mask_on_grid(self.image, canonical.geometry)
        if not inside.any():
            raise _outside()
        padded = np.zeros(tuple(canonical.tensor.shape[2:]), bool)
        padded[tuple(slice(0, n) for n in inside.shape)] = inside
        return padded

    def _share_outside(self, scan: sitk.Image) -> float:
        """The share of its voxels whose centres lie outside of a scan, 0 to 1."""
        to_scan, start = _indices_in(scan, self.image)
        last = np.array(self.image.GetSize()) - 1
        corners = np.array(list(product(*((0, n) for n in last))))
        highest = np.array(scan.GetSize()) - 0.5 + _TOLERANCE

        def inside(indices: np.ndarray) -> np.ndarray:
            places = indices @ to_scan.T + start
            return ((places >= -0.5 - _TOLERANCE) & (places <= highest)).all(axis=1)

        if inside(corners).all():
            return 0.0  # the usual case, without a look at the voxels
        total = within = 0
        for z, plane in enumerate(sitk.GetArrayViewFromImage(self.image)):
            y, x = np.nonzero(plane)
            total += len(x)
            within += int(inside(np.stack([x, y, np.full(len(x), z)], axis=1)).sum())
        return 1 - within / total


def _outside() -> RegionUnusable:
    return RegionUnusable("The mask that limits the search holds nothing of the scan.",
                          "It may be of another scan, not on the scan's grid, or tiny.")


def _indices_in(scan: sitk.Image, image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """How indices of an image become those of a scan: a matrix (3, 3), and where (0, 0, 0) is."""
    def matrix(of: sitk.Image) -> np.ndarray:
        return np.array(of.GetDirection()).reshape(3, 3) * np.array(of.GetSpacing())

    to_scan = np.linalg.solve(matrix(scan), matrix(image))
    offset = np.array(image.GetOrigin()) - np.array(scan.GetOrigin())
    return to_scan, np.linalg.solve(matrix(scan), offset)


@dataclass(frozen=True)
class RegionFile:
    """A file with a mask, and what of it counts.

    Attributes:
        path: of a label image: .nii.gz, .nrrd, .seg.nrrd, .mha and what else ITK reads.
        segment: name or ID of one segment, or value of one label; "" for all of them.
        name: for sentences; "" takes it from the file.
    """

    path: Path
    segment: str = ""
    name: str = ""

    def read(self) -> Region:
        """The region; of overlapping segments, all layers.

        Raises:
            UnreadableImage: there is no such file, or it is damaged.
            RegionUnusable: it is no 3D mask, or has no such segment.
        """
        check_file(self.path)
        try:
            with quiet():
                header = read_header(self.path)
                whole = is_complete(self.path, header)
                image = header.Execute() if whole else None
        except RuntimeError:
            image = None
        if image is None:
            raise RegionUnusable(f"The mask {self.path.name} cannot be read, or is not whole.",
                                 "Copy it again, or save it as .nii.gz or .nrrd.")
        file = " ".join(self.path.name.split())
        labels = _checked_labels(image, file)
        segments = _segments(image)
        voxels = sitk.GetArrayViewFromImage(image)
        inside: np.ndarray
        if not self.segment:
            inside, name = np.asarray(voxels != 0), _name_of_all(labels, segments, file)
        elif segments:
            inside, name = _segment(voxels, segments, self.segment, file)
        else:
            inside = np.asarray(voxels == _label(labels, self.segment, file))
            name = f"label {self.segment.strip()} of {file}"
        return Region(_image_of(inside, image), self.name or name)


def as_region(given: sitk.Image | Region, name: str = "") -> Region:
    """An image of labels as a region: 1 wherever it is not 0.

    Raises:
        RegionUnusable: it is no 3D mask.
    """
    if isinstance(given, Region):
        return given
    _checked_labels(given, name)
    return Region(_image_of(sitk.GetArrayViewFromImage(given) != 0, given), name or NAMELESS)


def _image_of(inside: np.ndarray, image: sitk.Image) -> sitk.Image:
    """A bool array as an image, on the grid of another one."""
    # Segments that overlap lie in layers.
    flat = np.any(inside, axis=-1) if inside.ndim > SCAN_DIMENSIONS else inside
    region = sitk.GetImageFromArray(flat.view(np.uint8))
    region.CopyInformation(image)
    return region


def _checked_labels(image: sitk.Image, name: str) -> list[int]:
    """The labels in an image, 0 aside.

    Raises:
        RegionUnusable: it is not one 3D image, or its values are none of a label map.
    """
    subject = f"The mask {name}" if name else "The mask"
    if image.GetDimension() != SCAN_DIMENSIONS:
        raise RegionUnusable(f"{subject} is not one 3D image.",
                             "Pass the mask of one organ on the scan's grid.")
    voxels = sitk.GetArrayViewFromImage(image)
    found: set[int] = set()
    for plane in voxels:
        if np.issubdtype(plane.dtype, np.floating):
            if not np.isfinite(plane).all():
                raise RegionUnusable(f"{subject} holds NaN.", "Pass a mask of 0 and 1.")
            if (plane != np.floor(plane)).any():
                raise RegionUnusable(f"{subject} holds values that are not whole numbers.",
                                     _MASK_HINT)
        if plane.min() < 0:
            raise RegionUnusable(f"{subject} holds negative values, as a scan does.", _MASK_HINT)
        found |= _values(plane)
        if len(found) > MAX_LABELS:
            raise RegionUnusable(f"{subject} holds more than {MAX_LABELS} different values, as a "
                                 "scan does.", _MASK_HINT)
    if len(found) > _FEW_LABELS and _differing_share(voxels) > _MAX_DIFFERING:
        raise RegionUnusable(f"{subject} looks like a scan: nearly each voxel differs from the "
                             "next.", _MASK_HINT)
    return sorted(found - {0})


def _values(plane: np.ndarray) -> set[int]:
    """The different values of whole numbers from 0."""
    if plane.max() < 1 << 16:  # ten times as fast as sorting
        return set(np.flatnonzero(np.bincount(plane.ravel().astype(np.int64))).tolist())
    return {int(value) for value in np.unique(plane)}


def _differing_share(voxels: np.ndarray) -> float:
    """Of the pairs of neighbours along x that are not both 0: how many differ."""
    pairs = differing = 0
    for plane in voxels:
        one, other = plane[:, 1:], plane[:, :-1]
        pairs += int(np.count_nonzero((one != 0) | (other != 0)))
        differing += int(np.count_nonzero(one != other))
    return differing / max(pairs, 1)


@dataclass(frozen=True)
class _Segment:
    """One segment of a file of 3D Slicer."""

    id: str
    name: str
    layer: int
    label: int


def _segments(image: sitk.Image) -> list[_Segment]:
    """The segments that a .seg.nrrd states; none for other files."""
    segments: list[_Segment] = []
    while image.HasMetaDataKey(f"Segment{len(segments)}_ID"):
        number = len(segments)

        def field(key: str, default: str, number: int = number) -> str:
            name = f"Segment{number}_{key}"
            return str(image.GetMetaData(name)) if image.HasMetaDataKey(name) else default

        # Before Slicer 4.11 each segment had a layer of its own, and neither of the two keys.
        segments.append(_Segment(field("ID", ""), " ".join(field("Name", "").split()),
                                 int(field("Layer", str(number))), int(field("LabelValue", "1"))))
    return segments


def _name_of_all(labels: Sequence[int], segments: Sequence[_Segment], file: str) -> str:
    if len(segments) == 1:
        return f"“{segments[0].name}” of {file}"
    if segments:
        return f"the {len(segments)} segments of {file}"
    return f"the {len(labels)} labels of {file}" if len(labels) > 1 else f"the mask {file}"


def _segment(
    voxels: np.ndarray, segments: Sequence[_Segment], wanted: str, file: str
) -> tuple[np.ndarray, str]:
    """Where a segment is, by its ID or name (several may have it), and the name for sentences."""
    wanted = " ".join(wanted.split())
    chosen = ([each for each in segments if wanted in (each.id, each.name)]
              or [each for each in segments if wanted.casefold() == each.name.casefold()])
    if not chosen:
        raise RegionUnusable(f"There is no segment “{wanted}” in {file}.",
                             _listed("segments", [each.name for each in segments]))
    inside = np.zeros(voxels.shape[:SCAN_DIMENSIONS], bool)
    for each in chosen:
        layers = voxels if voxels.ndim > SCAN_DIMENSIONS else voxels[..., None]
        if each.layer < layers.shape[-1]:
            inside |= layers[..., each.layer] == each.label
    return inside, f"“{chosen[0].name}” of {file}"


def _label(labels: Sequence[int], wanted: str, file: str) -> int:
    """The value of a label that is there."""
    try:
        label = int(wanted)
    except ValueError:
        label = 0
    if label not in labels:
        raise RegionUnusable(f"There is no label “{wanted.strip()}” in {file}.",
                             _listed("labels", list(map(str, labels))))
    return label


def _listed(kind: str, names: Sequence[str]) -> str:
    """What there is, for a hint."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    listed = ", ".join(names[:_MAX_LISTED])
    return f"Its {kind}: {listed}{more}." if names else f"It has no {kind}."
