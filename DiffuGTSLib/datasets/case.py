"""One scan of a data set with its tumor mask and its prompt, and how they are read and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from DiffuGTSLib.errors import BadDataSet, UnreadableImage
from DiffuGTSLib.scan import Modality, volume
from DiffuGTSLib.scan.header import is_complete, quiet, read_header

SEQUENCE_NAMES = {"t1": "T1", "t1c": "T1 with contrast", "t2": "T2", "flair": "FLAIR"}
# Rounded headers differ by less; a shift by a slice or a swapped axis by far more.
_TOLERANCE_VOXELS = 0.1


@dataclass(frozen=True)
class Volumes:
    """A case in memory, all on the scan's own grid.

    Attributes:
        scan: the scan, with its modality and sequence.
        tumor: uint8, 0 and 1; all 0 where the case has no mask.
        organ: uint8, 0 and 1, the tumors included; None where the data set has none.
    """

    scan: volume.Scan
    tumor: sitk.Image
    organ: sitk.Image | None

    @property
    def image(self) -> sitk.Image:
        """The scan's voxels."""
        return self.scan.image

    @property
    def modality(self) -> Modality:
        """"CT" or "MR"."""
        return self.scan.modality


@dataclass(frozen=True)
class LabelledCase:
    """A scan, its tumor mask and its prompt; no voxel is read before `read`.

    Attributes:
        name: unique in its data set.
        patient: scans of one patient share it.
        image: a file or a DICOM folder.
        prompt: the text to segment it from.
        modality: "CT" or "MR"; None: guessed when it is read.
        sequence: "t1", "t1c", "t2", "flair"; "": by the scan's names.
        skull_stripped: nothing but the brain is left.
        channel: of a 4D file, which volume.
        mask: the reference; None: what the prompt names is not in the scan.
        tumor_labels: values of the mask that are tumor; (): every value above 0.
        organ_labels: values of the mask that are the organ; (): none.
        known_labels: every value that the mask may hold; (): any.
        organ_mask: a separate mask of the organ.
        lesion_class: a prompt that names the class of lesions.
        dataset: id in the catalogue, or "cases".
        group: cases of one group are averaged; "": by class and sequence.
        wrong_organ: the mask outlines a tumor that the prompt does not name.
    """

    name: str
    patient: str
    image: Path
    prompt: str
    modality: Modality | None = None
    sequence: str = ""
    skull_stripped: bool = False
    channel: int | None = None
    mask: Path | None = None
    tumor_labels: tuple[int, ...] = ()
    organ_labels: tuple[int, ...] = ()
    known_labels: tuple[int, ...] = ()
    organ_mask: Path | None = None
    lesion_class: str = ""
    dataset: str = "cases"
    group: str = ""
    wrong_organ: bool = False

    @property
    def group_name(self) -> str:
        """The group that the case is averaged in: the given one, else its class and sequence."""
        if self.group:
            return self.group
        name = self.lesion_class or self.prompt
        return f"{name}, {SEQUENCE_NAMES[self.sequence]}" if self.sequence else name

    def read(self) -> Volumes:
        """The scan and its masks.

        Raises:
            BadDataSet: a mask lies on another grid or holds unknown values.
            DiffuGTSError: the scan or a mask cannot be read; see errors.py.
        """
        scan = self.read_scan()
        labels = None if self.mask is None else self.read_mask(self.mask, scan.image)
        tumor = _chosen(scan.image, labels, self.tumor_labels)
        organ = None
        if self.organ_mask is not None:
            organ = _chosen(scan.image, self.read_mask(self.organ_mask, scan.image, ()), ())
        elif self.organ_labels and labels is not None:
            organ = _chosen(scan.image, labels, self.organ_labels)
        return Volumes(scan, tumor, organ)

    def read_scan(self) -> volume.Scan:
        """The scan alone, checked as every scan is.

        Raises:
            DiffuGTSError: see `volume.read`.
        """
        if self.channel is None:
            scan = volume.read(self.image, self.modality)
        else:
            image = volume.check(read_channel(self.image, self.channel))
            scan = volume.from_image(image, self.modality, self.name)
        return replace(scan, sequence=self.sequence or scan.sequence,
                       skull_stripped=self.skull_stripped or scan.skull_stripped)

    def read_mask(
        self, path: Path, image: sitk.Image, known: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """The values of a mask, integers (z, y, x).

        Args:
            image: the scan, whose grid it must have.
            known: the values that it may hold besides 0; the case's own if None, any if ().

        Raises:
            BadDataSet: another grid, or unknown values.
            UnreadableImage: it cannot be read.
        """
        values, geometry = read_labels(path)
        if (shift := Geometry.of(image).difference(geometry)) is not None:
            raise BadDataSet(f"{path.name} lies on another grid than its scan: {shift}.",
                             "A mask has its scan's size, spacing, origin and direction.")
        others = unknown_values(values, self.known_labels if known is None else known)
        if others:
            raise BadDataSet(f"{path.name} holds values without a meaning here: {others}.",
                             "Check that the folder is the data set that it is named after.")
        return values


class _HasGeometry(Protocol):
    """An image or the reader of its header."""

    def GetSize(self) -> tuple[int, ...]: ...  # noqa: N802
    def GetSpacing(self) -> tuple[float, ...]: ...  # noqa: N802
    def GetOrigin(self) -> tuple[float, ...]: ...  # noqa: N802
    def GetDirection(self) -> tuple[float, ...]: ...  # noqa: N802


@dataclass(frozen=True)
class Geometry:
    """Size, spacing (mm), and the positions (mm) of the eight corner voxels of a volume."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    corners: np.ndarray

    @classmethod
    def of(cls, image: _HasGeometry) -> Geometry:
        """The geometry of an image or a header; of a 4D one, that of its volumes."""
        size, spacing = image.GetSize()[:3], image.GetSpacing()[:3]
        dimension = len(image.GetSize())
        direction = np.array(image.GetDirection()).reshape(dimension, dimension)[:3, :3]
        ends = [[0, n - 1] for n in size]
        index = np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3) * np.array(spacing)
        return cls(size, spacing, np.array(image.GetOrigin()[:3]) + index @ direction.T)

    def difference(self, other: Geometry) -> str | None:
        """How `other` differs, in words; None where it does not."""
        if self.size != other.size:
            ours, theirs = (" x ".join(map(str, geometry.size)) for geometry in (self, other))
            return f"{theirs} voxels instead of {ours}"
        apart = float(np.linalg.norm(self.corners - other.corners, axis=1).max())
        if apart > _TOLERANCE_VOXELS * min(self.spacing):
            return f"its corners lie up to {apart:.1f} mm away"
        return None


def read_channel(path: Path, channel: int) -> sitk.Image:
    """One volume of a 4D file.

    Raises:
        UnreadableImage: it cannot be read.
        BadDataSet: it is not 4D, or has too few volumes.
    """
    header = open_header(path)
    size = list(header.GetSize())
    if len(size) != 4 or channel >= size[3]:
        raise BadDataSet(f"{path.name} does not hold the {channel + 1} volumes that it should.",
                         "Check that the file is complete.")
    header.SetExtractSize([*size[:3], 0])
    header.SetExtractIndex([0, 0, 0, channel])
    with quiet():
        return header.Execute()


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """The values of a mask, integers (z, y, x), and its geometry.

    Raises:
        UnreadableImage: it cannot be read.
        BadDataSet: not 3D, or values that are not whole numbers.
    """
    header = open_header(path, "mask")
    with quiet():
        image = header.Execute()
    voxels = sitk.GetArrayFromImage(image)
    if voxels.ndim != 3:
        raise BadDataSet(f"{path.name} is not one 3D mask.", "Check the file.")
    if np.issubdtype(voxels.dtype, np.floating):
        rounded = np.rint(voxels)
        if not np.array_equal(rounded, voxels):
            raise BadDataSet(f"{path.name} holds values that are not whole numbers.",
                             "It may be a probability map; a mask is needed.")
        voxels = rounded.astype(np.int16)
    return voxels, Geometry.of(image)


def unknown_values(values: np.ndarray, known: Iterable[int]) -> str:
    """The values of a mask that are not among the `known` ones, as "4, 7"; "" if there are none.

    Where no values are known, only negative ones are reported.
    """
    present, allowed = np.unique(values[values != 0]), set(known)
    others = [int(v) for v in present if (v not in allowed if allowed else v < 0)]
    return ", ".join(map(str, others[:8]))


def open_header(path: Path, what: str = "scan") -> sitk.ImageFileReader:
    """The reader of a complete file.

    Args:
        what: the file is, for the message: in some data sets scan and mask have the same name.

    Raises:
        UnreadableImage: missing, damaged or no image.
    """
    if not path.is_file():
        raise UnreadableImage(f"The {what} {path.name} does not exist.", "Check the folder.")
    with quiet():
        try:
            header = read_header(path)
            complete = is_complete(path, header)
        except (RuntimeError, OSError):
            raise UnreadableImage(f"{path.name} cannot be read as an image.",
                                  "Copy or download the file again.") from None
    if not complete:
        raise UnreadableImage(f"{path.name} is damaged: voxels are missing at its end.",
                              "Copy or download the file again.")
    return header


def _chosen(image: sitk.Image, labels: np.ndarray | None, chosen: tuple[int, ...]) -> sitk.Image:
    """uint8 0 and 1 on the grid of `image`; all 0 without `labels`."""
    if labels is None:
        mask = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    else:
        inside = np.isin(labels, chosen) if chosen else labels > 0
        mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(image)
    return mask
