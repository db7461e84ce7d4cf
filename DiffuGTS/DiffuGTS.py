"""DiffuGTS in 3D Slicer: type "liver tumor", see the tumor."""

from __future__ import annotations

import importlib
import sys
import unittest
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

# Slicer 5.8 has Python 3.9, with which only this file works.
_IS_SUPPORTED = sys.version_info >= (3, 11)
if _IS_SUPPORTED:
    from DiffuGTSPanel.Logic import DiffuGTSLogic
    from DiffuGTSPanel.process import LibraryLauncher

__all__ = ["DiffuGTS", "DiffuGTSLogic", "DiffuGTSTest", "DiffuGTSWidget"]

_PANEL = "DiffuGTSPanel"
_LIBRARY = "DiffuGTSLib"
# Slicer's own documentation, to which its default link leads, has no page on an extension's module.
_DOCUMENTATION = "https://github.com/DiffuGTS/SlicerDiffuGTS/blob/main/docs/panel.md"


class DiffuGTS(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "DiffuGTS"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["DiffuGTS developers"]
        self.parent.helpText = _(
            "Segments what a text names in a CT or MR scan, lesion by lesion, and shows the "
            "evidence: where the model looked, what the tissue would look like healthy, and the "
            "difference. Select a scan, type what to look for, such as <i>liver tumor</i>, and "
            "press Enter. Everything runs on this computer; no data are sent anywhere. "
            "<b>Research use, not for clinical decisions.</b>"
        ) + "<p>" + _('More is in the <a href="{address}">documentation</a>.').format(
            address=_DOCUMENTATION) + "</p>"
        self.parent.acknowledgementText = _(
            "An independent implementation of the method of Jiang et al., CVPR 2025 "
            "(arXiv 2505.02753). Apache License 2.0. The embedded model was trained on public "
            "data; NOTICE.txt names it. Research use, not for clinical decisions."
        )
        if _IS_SUPPORTED:
            slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Registers the scans that come with the library with the module Sample Data."""
    if LibraryLauncher.libraryFolder() is None:
        return
    LibraryLauncher.useLibrary()
    import SampleData

    from DiffuGTSLib.files import sha256
    from DiffuGTSLib.scan.example_scans import example_scans

    for scan in example_scans():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="DiffuGTS", sampleName=f"{scan.name} ({scan.prompt})",
            uris=scan.path.as_uri(), fileNames=scan.image,
            nodeNames=scan.name, checksums=f"SHA256:{sha256(scan.path)}",
        )


class DiffuGTSWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's widget; the panel in it is DiffuGTSPanel/widgets/Panel.py."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: DiffuGTSLogic | None = None
        self.panel: Any = None

    def setup(self) -> None:
        """Creates logic and panel; called once, when the module is first shown."""
        ScriptedLoadableModuleWidget.setup(self)
        if not _IS_SUPPORTED:
            label = qt.QLabel(_("DiffuGTS needs Slicer 5.10 or newer; this Slicer has Python "
                                "{version}.").format(version=sys.version.split()[0]))
            label.wordWrap = True
            self.layout.addWidget(label)
            self.layout.addStretch(1)
            return
        from DiffuGTSPanel.widgets.Panel import Panel

        self.logic = DiffuGTSLogic()
        self.panel = Panel(widget=self, logic=self.logic)
        for event, handler in (
            (slicer.mrmlScene.StartCloseEvent, self._sceneStartsToClose),
            (slicer.mrmlScene.EndCloseEvent, self._sceneHasSettled),
            (slicer.mrmlScene.StartImportEvent, self._sceneStartsImport),
            (slicer.mrmlScene.EndImportEvent, self._sceneHasSettled),
            (slicer.mrmlScene.EndBatchProcessEvent, self._sceneHasSettled),
        ):
            self.addObserver(slicer.mrmlScene, event, handler)

    def enter(self) -> None:
        """The module is shown."""
        if self.panel is not None:
            self.panel.enter()

    def exit(self) -> None:
        """Another module is shown; a run continues."""
        if self.panel is not None:
            self.panel.exit()

    def cleanup(self) -> None:
        """The module is reloaded or Slicer ends: ends the background process."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.cleanup()
        if self.logic is not None:
            self.logic.shutdown()

    def onReload(self) -> None:
        """Reloads the panel's files too, so that all have the same version."""
        reloadPackages()
        ScriptedLoadableModuleWidget.onReload(self)

    def _sceneStartsToClose(self, _caller: Any, _event: Any) -> None:
        self.panel.sceneStartClose()

    def _sceneStartsImport(self, _caller: Any, _event: Any) -> None:
        self.panel.sceneStartImport()

    def _sceneHasSettled(self, _caller: Any, _event: Any) -> None:
        self.panel.sceneSettled()


def reloadPackages() -> None:
    """Unloads the modules of panel and library, and imports the panel's again."""
    loaded = [name for name in sys.modules if name.split(".")[0] in (_PANEL, _LIBRARY)]
    again = sorted(name for name in loaded if name.startswith(f"{_PANEL}."))
    for name in loaded:
        del sys.modules[name]
    importlib.invalidate_caches()
    for name in again:
        importlib.import_module(name)


class DiffuGTSTest(ScriptedLoadableModuleTest):
    """Self-tests for the real application, on a phantom and the embedded model."""

    def setUp(self) -> None:
        """An empty scene and a logic of its own."""
        slicer.mrmlScene.Clear(0)
        self.logic = DiffuGTSLogic()

    def tearDown(self) -> None:
        """Ends the background process."""
        self.logic.shutdown()

    def runTest(self) -> None:
        """Runs all tests. CTest does not call this: it loads each of them itself."""
        for test in (self.test_promptsAreUnderstood, self.test_voxelsComeBackWhereTheyWere,
                     self.test_phantomIsSegmented, self.test_unknownPromptIsRefused):
            self.setUp()
            try:
                test()
            except unittest.SkipTest as skipped:
                self.delayDisplay(str(skipped))
            finally:
                self.tearDown()
        self.delayDisplay(_("All tests passed."))

    def needPackages(self) -> None:
        """Skips a test where the packages are missing that the panel installs."""
        problem = self.logic.packages.problem()
        if problem is not None:
            self.skipTest(problem.message)

    def test_promptsAreUnderstood(self) -> None:
        """Prompts are understood without torch."""
        before = "torch" in sys.modules  # another extension may have imported it
        good, bad = self.logic.understand("hepatic neoplasm; the weather")
        self.assertTrue(good.ok)
        self.assertEqual(good.title, "liver tumor")
        self.assertFalse(bad.ok)
        self.assertIn("liver", bad.hint)
        self.assertEqual("torch" in sys.modules, before)

    def test_voxelsComeBackWhereTheyWere(self) -> None:
        """Lesions from an array are at the volume's voxels, oblique and transformed."""
        from DiffuGTSPanel.data.Run import LesionMask, PromptResult
        from DiffuGTSPanel.scene import LesionSegments
        from DiffuGTSPanel.scene.VolumeGrid import gridOf

        volume, truth = self.phantomVolume()
        turned = vtk.vtkTransform()
        turned.RotateX(20)
        turned.Translate(5, -3, 8)
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(turned.GetMatrix())
        volume.SetAndObserveTransformNodeID(transform.GetID())
        grid = gridOf(volume, volume.GetImageData())
        result = PromptResult(0, "x", "lung tumor", True, 1.0, 0.5, "", "")
        masks = {1: LesionMask(truth.astype(np.uint8), (0, 0, 0))}
        described = [{"number": 1, "volume_ml": 1.0, "longest_diameter_mm": 1.0,
                      "perpendicular_mm": 1.0, "mean_score": 1.0, "max_score": 1.0,
                      "slice_range": [0, 1], "centroid_ras_mm": [0, 0, 0]}]
        node = LesionSegments.newSegmentation(volume, "test")
        for _segment in LesionSegments.addLesions(
                node, volume, grid, result, masks, described, 0):
            pass
        array = slicer.util.arrayFromSegmentBinaryLabelmap(
            node, result.lesions[0].segmentId, volume)
        np.testing.assert_array_equal(array > 0, truth > 0)
        self.assertEqual(node.GetTransformNodeID(), volume.GetTransformNodeID())

    def test_phantomIsSegmented(self) -> None:
        """A run gives a segmentation node on the volume's grid, with evidence."""
        self.needPackages()
        volume, _truth = self.phantomVolume()
        steps: list[float] = []
        node = self.logic.segment(
            volume, "lung tumor", progress=lambda fraction, _text: steps.append(fraction))
        result = self.logic.lastRun.results[0]
        self.assertEqual(steps, sorted(steps))
        self.assertEqual(node.GetSegmentation().GetNumberOfSegments(), len(result.lesions))
        self.assertEqual(set(result.files), {"attention", "residual", "uncertainty",
                                             "probability", "pseudo_healthy"})

    def test_unknownPromptIsRefused(self) -> None:
        """A text that names no finding is refused and leaves no nodes."""
        self.needPackages()
        from DiffuGTSPanel.data.Failure import Failure

        volume, _truth = self.phantomVolume()
        with self.assertRaises(Failure) as caught:
            self.logic.segment(volume, "the weather in Paris")
        self.assertEqual(caught.exception.code, "prompt-not-understood")
        self.assertEqual(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"), [])

    def phantomVolume(self) -> tuple[Any, np.ndarray]:
        """A phantom of the chest as a volume node, and its true tumors (K, J, I)."""
        import SimpleITK as sitk

        LibraryLauncher.useLibrary()
        from DiffuGTSLib.scan.phantom import make_phantom

        phantom = make_phantom("chest", 0)
        image = phantom.image
        matrix = np.eye(4)
        matrix[:3, :3] = (np.array(image.GetDirection()).reshape(3, 3)
                          * np.array(image.GetSpacing()))
        matrix[:3, 3] = image.GetOrigin()
        volume = slicer.util.addVolumeFromArray(
            sitk.GetArrayFromImage(image), ijkToRAS=np.diag([-1, -1, 1, 1]) @ matrix,
            name="Phantom")
        return volume, sitk.GetArrayFromImage(phantom.mask)
