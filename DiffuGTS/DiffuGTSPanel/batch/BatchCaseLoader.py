"""Loads a case of a batch into the scene: its scan and its lesions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DiffuGTSPanel.batch.BatchScanExport import ExportedVolume
from DiffuGTSPanel.data.Batch import BatchCase
from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import inScene
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.scene import SliceViews
from DiffuGTSPanel.scene.ScanExport import putBeside
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid, worldOf


def loadCase(case: BatchCase, scan: ExportedVolume | None) -> None:
    """Shows scan and lesions of a case, loading what is not in the scene.

    Args:
        case: gets its nodes.
        scan: the volume that was exported for the case; None for one from a file.

    Raises:
        Failure: the scan or the result cannot be read, or the volume was removed.
    """
    case.volume, case.segments = inScene(case.volume), inScene(case.segments)
    if case.volume is None:
        if scan is not None:
            raise Failure("volume-gone", _("The volume is no longer in the scene."),
                          _("Its segmentation is in the output folder."))
        case.volume = loadScan(case.image, case.series, case.name)
    if case.segments is None and case.segmentation is not None:
        case.segments = _loadSegments(case, scan.grid if scan else None)
    _hideOtherCases(case.segments)
    slicer.util.setSliceViewerLayers(background=case.volume, foreground=None, fit=True)
    if case.lesions:
        position = tuple(case.lesions[0]["centroid_ras_mm"])
        if scan is not None:
            position = worldOf(case.volume, scan.grid.toVolume(position))
        SliceViews.jumpTo(position)


def loadScan(image: Path, series: str, name: str) -> Any:
    """Loads a scan from the disk as a volume node.

    DICOM is read as the batch reads it, without Slicer's database: one series of several in a
    folder, and multi-frame files with the positions of their frames.

    Raises:
        Failure: it cannot be read.
    """
    LibraryLauncher.useLibrary()
    from DiffuGTSLib.errors import DiffuGTSError
    from DiffuGTSLib.scan.dicom import frames_in, read_multiframe, read_series, series_files
    from DiffuGTSLib.scan.header import quiet, read_header

    try:
        if series or image.is_dir():
            with quiet():
                loaded = read_series(image, series_files(image, series)).image
            return _asNode(loaded, name)
        with quiet():
            isMultiframe = frames_in(read_header(image)) > 1
        if isMultiframe:
            return _asNode(read_multiframe(image), name)
        return slicer.util.loadVolume(str(image), properties={"name": name, "singleFile": True})
    except DiffuGTSError as error:
        raise Failure(error.code, error.message, error.hint) from None
    except RuntimeError:
        raise Failure("unreadable-image", _("{name} cannot be read.").format(name=image.name),
                      _("Check that the file exists and is complete.")) from None


def _asNode(image: Any, name: str) -> Any:
    """A SimpleITK image as a volume node."""
    import SimpleITK as sitk

    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return slicer.util.addVolumeFromArray(
        sitk.GetArrayFromImage(image), ijkToRAS=np.diag([-1.0, -1, 1, 1]) @ lps, name=name)


def _loadSegments(case: BatchCase, grid: VolumeGrid | None) -> Any:
    name = _("{scan} lesions").format(scan=case.volume.GetName())
    try:
        node = slicer.util.loadSegmentation(str(case.segmentation), properties={"name": name})
    except RuntimeError:
        raise Failure("result-not-read", _("The segmentation can no longer be read."),
                      _("Run the batch again and resume the earlier run: it creates what is "
                        "missing.")) from None
    if grid is not None:
        _moveToOwnGrid(node, grid)
        node.SetAndObserveTransformNodeID(case.volume.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(case.volume)
    putBeside(node, case.volume)
    node.SetAttribute("DiffuGTS.Batch", case.name)
    return node


def _moveToOwnGrid(node: Any, grid: VolumeGrid) -> None:
    """Moves segments from the file's grid to the volume's own, voxel by voxel."""
    change = grid.regionToRas @ np.linalg.inv(grid.fileToRas)
    if np.allclose(change, np.eye(4)):
        return
    segmentation = node.GetSegmentation()
    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    # Segments may share an image.
    images = {image.GetAddressAsString(""): image for image in (
        segmentation.GetNthSegment(index).GetRepresentation(labelmap)
        for index in range(segmentation.GetNumberOfSegments()))}
    matrix = vtk.vtkMatrix4x4()
    for image in images.values():
        image.GetImageToWorldMatrix(matrix)
        moved = change @ slicer.util.arrayFromVTKMatrix(matrix)
        image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(moved))


def _hideOtherCases(segments: Any) -> None:
    """Hides the lesions of other cases, which would cover this scan."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute("DiffuGTS.Batch") is not None:
            node.SetDisplayVisibility(node is segments)
