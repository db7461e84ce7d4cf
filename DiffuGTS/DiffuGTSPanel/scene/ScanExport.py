"""Volumes of the scene as files for the worker; where results go in the subject hierarchy."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.scene import VolumeFile
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid, gridOf

_PREFIX = "DiffuGTS-"
# Only a Slicer that crashed leaves its folder behind; no run takes this long.
_STALE_SECONDS = 2 * 24 * 3600
_MODALITY_TAG = "0008|0060"
_SAMPLE_VOXELS = 1_000_000
_KEPT_SCANS = 2


@dataclass(frozen=True)
class ScanSource:
    """A volume as it is exported for the worker.

    Attributes:
        array: (K, J, I), the voxels in VTK's memory; of the region where one was chosen.
        imageData: the owner of that memory.
        grid: of the voxels.
        tag: modality to write into the file; "" lets the worker detect it.
        statedModality: for the request; None where the user did not choose one.
        hint: MR sequence and skull stripping from the volume's name, for the file name; or "".
    """

    array: np.ndarray
    imageData: Any
    grid: VolumeGrid
    tag: str
    statedModality: str | None
    hint: str

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for sources whose files would be equal."""
        return (self.imageData.GetAddressAsString(""), self.imageData.GetMTime(), self.tag,
                self.hint, self.grid.extent, self.grid.fileToRas.tobytes())


def readSource(
    volumeNode: Any, roiNode: Any = None, modality: str | None = None, frameNode: Any = None
) -> ScanSource:
    """Checks a volume and collects what the worker has to know about it.

    Args:
        volumeNode: of the scene.
        roiNode: a Markups ROI that limits the search.
        modality: "CT" or "MR" as chosen; None otherwise.
        frameNode: another frame of the volume's sequence, instead of the one shown.

    Raises:
        Failure: no volume, no voxels, several components, no usable grid, region outside,
            modality neither CT nor MR.
    """
    if volumeNode is None or not slicer.mrmlScene.IsNodePresent(volumeNode):
        raise Failure("no-volume", _("No scan is selected."), _("Load a scan and select it."))
    voxels = frameNode or volumeNode
    imageData = _checkedImage(voxels)
    grid = gridOf(volumeNode, imageData, roiNode)
    whole = slicer.util.arrayFromVolume(voxels)
    i, j, k = (slice(low, high + 1) for low, high in
               zip(grid.extent[::2], grid.extent[1::2], strict=True))
    tag = "" if modality else _dicomModality(volumeNode)
    if roiNode is not None:
        # A region may hold neither air nor bone; only the whole scan shows its modality.
        tag, modality = _settledModality(whole, tag, modality), None
    hint = _hintIn(volumeNode.GetName())
    return ScanSource(whole[k, j, i], imageData, grid, tag, modality, hint)


def _checkedImage(volumeNode: Any) -> Any:
    """The image data of a volume with one component."""
    scalar = volumeNode.IsA("vtkMRMLScalarVolumeNode")
    if not scalar or volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise Failure("not-a-scalar-volume", _("The selected volume is not a scan."),
                      _("Select a CT or MR volume."))
    imageData = volumeNode.GetImageData()
    if imageData is None or imageData.GetNumberOfPoints() == 0 or (
            imageData.GetPointData().GetScalars() is None):
        raise Failure("empty-volume", _("The selected volume has no voxels."),
                      _("Load the scan again."))
    values = imageData.GetNumberOfScalarComponents()
    if values != 1:
        raise Failure(
            "not-a-scalar-volume",
            _("The selected volume has {values} components per voxel, like a colour image or a "
              "time series.").format(values=values),
            _("Select a volume with one component; load a time series as a sequence."))
    return imageData


def _dicomModality(volumeNode: Any) -> str:
    """The DICOM modality; "" for a volume that was not loaded from DICOM."""
    hierarchy = subjectHierarchy()
    item = hierarchy.GetItemByDataNode(volumeNode)
    name = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    return str(hierarchy.GetItemAttribute(item, name) or "") if item else ""


def _settledModality(whole: np.ndarray, tag: str, stated: str | None) -> str:
    """The modality of a whole scan, from a sample of its voxels."""
    LibraryLauncher.useLibrary()
    import SimpleITK as sitk  # at the top it would slow every start of Slicer

    from DiffuGTSLib.errors import DiffuGTSError
    from DiffuGTSLib.scan.modality import settle_modality

    step = max(1, round((whole.size / _SAMPLE_VOXELS) ** (1 / 3)))
    sample = sitk.GetImageFromArray(np.ascontiguousarray(whole[::step, ::step, ::step]))
    if tag:
        sample.SetMetaData(_MODALITY_TAG, tag)
    try:
        return str(settle_modality(sample, stated))
    except DiffuGTSError as error:
        raise Failure(error.code, error.message, error.hint) from None


def _hintIn(name: str) -> str:
    """What the library reads from a volume's name, without any patient's name."""
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.scan.modality import guess_sequence, guess_skull_stripped

    words = [guess_sequence(name), "stripped" if guess_skull_stripped(name) else ""]
    return "-".join(word for word in words if word)


def subjectHierarchy() -> Any:
    """The scene's subject hierarchy node."""
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def putBeside(node: Any, volumeNode: Any, folderName: str = "") -> None:
    """Puts a node beside the volume in the subject hierarchy: DICOM export needs its study.

    Args:
        folderName: of a folder there, created where needed.
    """
    hierarchy = subjectHierarchy()
    parent = hierarchy.GetItemParent(_item(volumeNode)) or hierarchy.GetSceneItemID()
    if folderName:
        folder = hierarchy.GetItemChildWithName(parent, folderName)
        parent = folder or hierarchy.CreateFolderItem(parent, folderName)
    hierarchy.SetItemParent(_item(node), parent)


def removeEmptyFolder(volumeNode: Any, folderName: str) -> None:
    """Removes a folder that `putBeside` created, once it is empty."""
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
    """The temporary folder of the runs' files, removed at the end.

    File names are ASCII and hold nothing about the patient.
    """

    def __init__(self) -> None:
        self._root: Path | None = None
        self._scans: dict[tuple[object, ...], Path] = {}
        self._count = 0

    def new(self, name: str) -> Path:
        """The path of a job's folder, which the worker creates."""
        return self._rootFolder() / name

    def scan(self, key: tuple[object, ...]) -> Path | None:
        """The file that was written for a source; None where there is none."""
        path = self._scans.get(key)
        return path if path is not None and path.is_file() else None

    def writeScan(self, source: ScanSource) -> Piecewise:
        """Writes a source in pieces, for `scan`; keeps one earlier scan.

        Raises:
            Failure: no space, or the volume changed during writing.
        """
        key = source.key
        self._count += 1
        path = self._rootFolder() / f"{source.hint or 'scan'}-{self._count}.nrrd"
        yield from VolumeFile.write(path, source.array, source.grid.fileToRas, source.tag)
        if source.key != key:
            path.unlink(missing_ok=True)
            raise Failure("volume-changed", _("The scan changed while it was being read."),
                          _("Run again."))
        while len(self._scans) >= _KEPT_SCANS:
            self._scans.pop(next(iter(self._scans))).unlink(missing_ok=True)
        self._scans[key] = path

    def region(self, name: str) -> Path:
        """The path of what a job may search in."""
        return self._rootFolder() / f"region-{name}.nrrd"

    def writeRegion(self, name: str, array: np.ndarray, grid: VolumeGrid) -> Piecewise:
        """Writes what a job may search in, for `region`, in pieces.

        Raises:
            Failure: no space.
        """
        yield from VolumeFile.write(self.region(name), array, grid.fileToRas)

    def removeJob(self, name: str) -> None:
        """Removes a job's folder."""
        if self._root is not None:
            shutil.rmtree(self._root / name, ignore_errors=True)
            (self._root / f"region-{name}.nrrd").unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes everything."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        self._root = None
        self._scans.clear()

    def _rootFolder(self) -> Path:
        if self._root is None:
            parent = Path(slicer.app.temporaryPath)
            try:
                parent.mkdir(parents=True, exist_ok=True)
                _removeStale(parent)
                self._root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            except OSError:
                raise Failure(
                    "output-not-written", _("The temporary folder cannot be written."),
                    _("Choose another one in Slicer's application settings.")) from None
        return self._root


def _removeStale(parent: Path) -> None:
    """Removes the folders of a Slicer that crashed, which hold copies of scans."""
    limit = time.time() - _STALE_SECONDS
    for folder in parent.glob(f"{_PREFIX}*"):
        newest = max((entry.stat().st_mtime for entry in os.scandir(folder)),
                     default=folder.stat().st_mtime)
        if newest < limit:
            shutil.rmtree(folder, ignore_errors=True)
