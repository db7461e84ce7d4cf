"""Volumes of the scene to files for the worker; the place of results in the scene."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.scene import VolumeFile
from DiffuGTSPanel.scene.VolumeGrid import Placement, place

_PREFIX = "DiffuGTS-"
# Only a Slicer that crashed leaves its folder; no run takes so long.
_LEFT_BEHIND_SECONDS = 2 * 24 * 3600
_MODALITY_TAG = "0008|0060"
_SAMPLE_VOXELS = 1_000_000
_KEPT_SCANS = 2


@dataclass(frozen=True)
class Source:
    """A volume as it goes to the worker.

    Attributes:
        array: (K, J, I), the voxels in VTK's memory; a region of them where one was chosen.
        imageData: their owner.
        placement: their grid.
        tag: modality to write into the file; "" leaves it to the worker to find out.
        told: modality to state in the request; None where it was not chosen.
        hint: what the volume's name says of an MR scan, to be part of the file's; may be "".
    """

    array: np.ndarray
    imageData: Any
    placement: Placement
    tag: str
    told: str | None
    hint: str

    @property
    def key(self) -> tuple[object, ...]:
        """Stays the same as long as the file would be the same."""
        return (self.imageData.GetAddressAsString(""), self.imageData.GetMTime(), self.tag,
                self.hint, self.placement.extent, self.placement.fileToRas.tobytes())


def readSource(
    volumeNode: Any, roiNode: Any = None, modality: str | None = None, frameNode: Any = None
) -> Source:
    """Checks a volume and finds out what the worker has to know of it.

    Args:
        volumeNode: of the scene.
        roiNode: a Markups ROI, to look only there.
        modality: "CT" or "MR" as chosen; None otherwise.
        frameNode: another frame of the volume's sequence, in the place of the shown one.

    Raises:
        Failure: no volume, no voxels, not one number a voxel, no usable grid, region outside,
            modality neither CT nor MR.
    """
    if volumeNode is None or not slicer.mrmlScene.IsNodePresent(volumeNode):
        raise Failure("no-volume", _("No scan is selected."), _("Load a scan and select it."))
    voxels = frameNode or volumeNode
    imageData = _checkedImage(voxels)
    placement = place(volumeNode, imageData, roiNode)
    whole = slicer.util.arrayFromVolume(voxels)
    i, j, k = (slice(low, high + 1) for low, high in
               zip(placement.extent[::2], placement.extent[1::2], strict=True))
    tag = "" if modality else _dicomModality(volumeNode)
    if roiNode is not None:
        # A region may hold neither air nor bone: only the whole scan tells what it is.
        tag, modality = _settledModality(whole, tag, modality), None
    hint = _hintIn(volumeNode.GetName())
    return Source(whole[k, j, i], imageData, placement, tag, modality, hint)


def _checkedImage(volumeNode: Any) -> Any:
    """The image data of a volume that holds one number a voxel."""
    scalar = volumeNode.IsA("vtkMRMLScalarVolumeNode")
    if not scalar or volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise Failure("not-a-scalar-volume", _("What is selected is no scan."),
                      _("Select a CT or MR volume."))
    imageData = volumeNode.GetImageData()
    if imageData is None or imageData.GetNumberOfPoints() == 0 or (
            imageData.GetPointData().GetScalars() is None):
        raise Failure("empty-volume", _("The selected volume holds no voxels."),
                      _("Load the scan again."))
    values = imageData.GetNumberOfScalarComponents()
    if values != 1:
        raise Failure(
            "not-a-scalar-volume",
            _("The selected volume has {values} values a voxel, as a colour image or a "
              "time series has.").format(values=values),
            _("Select one volume with one value a voxel; load a time series as a sequence."))
    return imageData


def _dicomModality(volumeNode: Any) -> str:
    """As DICOM states it; "" for a volume that did not come from DICOM."""
    hierarchy = subjectHierarchy()
    item = hierarchy.GetItemByDataNode(volumeNode)
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    return str(hierarchy.GetItemAttribute(item, name) or "") if item else ""


def _settledModality(whole: np.ndarray, tag: str, told: str | None) -> str:
    """The modality of a whole scan, judged by a sample of its voxels as the library judges all."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.errors import DiffuGTSError
    from DiffuGTSLib.scan.modality import settle_modality

    step = max(1, round((whole.size / _SAMPLE_VOXELS) ** (1 / 3)))
    sample = sitk.GetImageFromArray(np.ascontiguousarray(whole[::step, ::step, ::step]))
    if tag:
        sample.SetMetaData(_MODALITY_TAG, tag)
    try:
        return str(settle_modality(sample, told))
    except DiffuGTSError as error:
        raise Failure(error.code, error.message, error.hint) from None


def _hintIn(name: str) -> str:
    """Only what the library would read out of a volume's name: no name of a patient."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.scan.modality import guess_sequence, guess_skull_stripped

    words = [guess_sequence(name), "stripped" if guess_skull_stripped(name) else ""]
    return "-".join(word for word in words if word)


def subjectHierarchy() -> Any:
    """The scene's tree of patients, studies and series."""
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def putBeside(node: Any, volumeNode: Any, folderName: str = "") -> None:
    """Puts a node where the volume is in the tree: under its study, which DICOM export needs.

    Args:
        folderName: of a folder there, made if need be, to put it into.
    """
    hierarchy = subjectHierarchy()
    parent = hierarchy.GetItemParent(_item(volumeNode)) or hierarchy.GetSceneItemID()
    if folderName:
        folder = hierarchy.GetItemChildWithName(parent, folderName)
        parent = folder or hierarchy.CreateFolderItem(parent, folderName)
    hierarchy.SetItemParent(_item(node), parent)


def removeEmptyFolder(volumeNode: Any, folderName: str) -> None:
    """Takes a folder that `putBeside` made out of the tree, when nothing is left in it."""
    hierarchy = subjectHierarchy()
    parent = hierarchy.GetItemParent(_item(volumeNode)) or hierarchy.GetSceneItemID()
    folder = hierarchy.GetItemChildWithName(parent, folderName)
    if folder and not slicer.util.getSubjectHierarchyItemChildren(folder):
        hierarchy.RemoveItem(folder)


def _item(node: Any) -> int:
    hierarchy = subjectHierarchy()
    return int(hierarchy.GetItemByDataNode(node)
               or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node))


class JobFolder:
    """A folder of our own for the files of the runs; removed at the end.

    Its names are plain ASCII and say nothing of the patient.
    """

    def __init__(self) -> None:
        self._root: Path | None = None
        self._scans: dict[tuple[object, ...], Path] = {}
        self._count = 0

    def new(self, name: str) -> Path:
        """The path of a folder for a job; the worker makes it."""
        return self._rootFolder() / name

    def scan(self, key: tuple[object, ...]) -> Path | None:
        """The file that was written for that source, where it still is."""
        path = self._scans.get(key)
        return path if path is not None and path.is_file() else None

    def writeScan(self, source: Source) -> Piecewise:
        """Writes a source, piece by piece, for `scan`; earlier scans but one go.

        Raises:
            Failure: no space, or the volume changed meanwhile.
        """
        key = source.key
        self._count += 1
        path = self._rootFolder() / f"{source.hint or 'scan'}-{self._count}.nrrd"
        yield from VolumeFile.write(path, source.array, source.placement.fileToRas, source.tag)
        if source.key != key:
            path.unlink(missing_ok=True)
            raise Failure("volume-changed", _("The scan changed while it was being read."),
                          _("Run again."))
        while len(self._scans) >= _KEPT_SCANS:
            self._scans.pop(next(iter(self._scans))).unlink(missing_ok=True)
        self._scans[key] = path

    def removeJob(self, name: str) -> None:
        """Removes a job's folder."""
        if self._root is not None:
            shutil.rmtree(self._root / name, ignore_errors=True)

    def remove(self) -> None:
        """Removes everything."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        self._root = None
        self._scans.clear()

    def _rootFolder(self) -> Path:
        if self._root is None:
            place = Path(slicer.app.temporaryPath)
            try:
                place.mkdir(parents=True, exist_ok=True)
                _removeLeftBehind(place)
                self._root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
            except OSError:
                raise Failure(
                    "output-not-written", _("The temporary folder cannot be written."),
                    _("Choose another one in Slicer's application settings.")) from None
        return self._root


def _removeLeftBehind(place: Path) -> None:
    """Removes the folders of a Slicer that crashed: they hold copies of scans."""
    limit = time.time() - _LEFT_BEHIND_SECONDS
    for folder in place.glob(f"{_PREFIX}*"):
        newest = max((entry.stat().st_mtime for entry in os.scandir(folder)),
                     default=folder.stat().st_mtime)
        if newest < limit:
            shutil.rmtree(folder, ignore_errors=True)
