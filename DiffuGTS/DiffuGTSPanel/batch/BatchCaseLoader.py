"""A case of a batch into the scene: its scan and its lesions, one over the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from DiffuGTSPanel.batch.BatchScanExport import SceneScan
from DiffuGTSPanel.data.Batch import BatchCase
from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.data.Run import inScene
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.scene import SliceViews
from DiffuGTSPanel.scene.ScanExport import putBeside
from DiffuGTSPanel.scene.VolumeGrid import Placement, worldOf


def show(case: BatchCase, scan: SceneScan | None) -> None:
    """Shows scan and lesions of a case; what is not in the scene yet is loaded.

    Args:
        case: gets its nodes.
        scan: of a case that came from the scene.

    Raises:
        Failure: the scan, or the result, cannot be read or is gone.
    """
    case.volume, case.segments = inScene(case.volume), inScene(case.segments)
    if case.volume is None:
        if scan is not None:
            raise Failure("volume-gone", _("The volume is no longer in the scene."),
                          _("Its segmentation is in the output folder."))
        case.volume = loadScan(case.image, case.series, case.name)
    if case.segments is None and case.segmentation is not None:
        case.segments = _loadSegments(case, scan.placement if scan else None)
    _onlyThis(case.segments)
    slicer.util.setSliceViewerLayers(background=case.volume, foreground=None, fit=True)
    if case.lesions:
        place = tuple(case.lesions[0]["centroid_ras_mm"])
        SliceViews.jumpTo(worldOf(case.volume, scan.placement.own(place)) if scan else place)


def loadScan(image: Path, series: str, name: str) -> Any:
    """A volume node with a scan from the disk.

    DICOM is read as the batch has read it, without Slicer's database: of a series of several in
    one folder the right one, and multi-frame files with their frames in place.

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
            manyFrames = frames_in(read_header(image)) > 1
        if manyFrames:
            return _asNode(read_multiframe(image), name)
        return slicer.util.loadVolume(str(image), properties={"name": name, "singleFile": True})
    except DiffuGTSError as error:
        raise Failure(error.code, error.message, error.hint) from None
    except RuntimeError:
        raise Failure("unreadable-image", _("{name} cannot be read.").format(name=image.name),
                      _("Check that the file is there and whole.")) from None


def _asNode(image: Any, name: str) -> Any:
    """An image of SimpleITK as a volume node."""
    import SimpleITK as sitk

    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return slicer.util.addVolumeFromArray(
        sitk.GetArrayFromImage(image), ijkToRAS=np.diag([-1.0, -1, 1, 1]) @ lps, name=name)


def _loadSegments(case: BatchCase, placement: Placement | None) -> Any:
    name = _("{scan} lesions").format(scan=case.volume.GetName())
    try:
        node = slicer.util.loadSegmentation(str(case.segmentation), properties={"name": name})
    except RuntimeError:
        raise Failure("result-not-read", _("The segmentation can no longer be read."),
                      _("Run the batch again and go on with the earlier run (resume): it does what "
                        "is missing.")) from None
    if placement is not None:
        _ontoOwnGrid(node, placement)
        node.SetAndObserveTransformNodeID(case.volume.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(case.volume)
    putBeside(node, case.volume)
    node.SetAttribute("DiffuGTS.Batch", case.name)
    return node


def _ontoOwnGrid(node: Any, placement: Placement) -> None:
    """Moves segments from the grid that the model saw to the volume's own, voxel by voxel."""
    change = placement.regionToRas @ np.linalg.inv(placement.fileToRas)
    if np.allclose(change, np.eye(4)):
        return
    segmentation = node.GetSegmentation()
    labelmap = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    # Several segments may share an image.
    images = {image.GetAddressAsString(""): image for image in (
        segmentation.GetNthSegment(index).GetRepresentation(labelmap)
        for index in range(segmentation.GetNumberOfSegments()))}
    matrix = vtk.vtkMatrix4x4()
    for image in images.values():
        image.GetImageToWorldMatrix(matrix)
        own = change @ slicer.util.arrayFromVTKMatrix(matrix)
        image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(own))


def _onlyThis(segments: Any) -> None:
    """Hides the lesions of other cases: they would lie over this one's scan."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute("DiffuGTS.Batch") is not None:
            node.SetDisplayVisibility(node is segments)
