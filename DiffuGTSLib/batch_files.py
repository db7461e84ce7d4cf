"""The files of one case: all of them, or none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from DiffuGTSLib.batch_case import MAP_FOLDERS, SEGMENTATIONS, THUMBNAILS, Case, Settings
from DiffuGTSLib.dicom_segmentation import DicomNotMade, is_dicom, write_dicom_segmentation
from DiffuGTSLib.errors import DiffuGTSError, OutputNotWritten
from DiffuGTSLib.run import MAPS, Segments, combine
from DiffuGTSLib.segmentation_file import write_image

if TYPE_CHECKING:
    import SimpleITK as sitk

    from DiffuGTSLib.modality import Modality
    from DiffuGTSLib.result import Result


class CaseFiles:
    """Writes the outputs of a case below the run's folder.

    Args:
        settings: of the run.
        case: whose name the files get.
        model: name of the model package, for DICOM.

    Attributes:
        notes: sentences on what was asked for and could not be made.
    """

    def __init__(self, settings: Settings, case: Case, model: str) -> None:
        self._settings = settings
        self._case = case
        self._model = model
        self._written: list[Path] = []
        self.notes: list[str] = []

    def write(self, results: list[Result], modality: Modality) -> dict[str, Any]:
        """Writes all that the settings ask for and returns the paths below the run's folder.

        Files of an earlier try are replaced. The segmentation comes last.

        Args:
            results: one a prompt; the list is emptied, as their maps take much memory.

        Raises:
            OutputNotWritten: nothing of the case is left behind then.
        """
        try:
            labels, segments = combine(results), Segments.of(results)
            files = self._write_evidence(results, modality)
            if self._settings.dicom_seg and segments.names and is_dicom(self._case.image):
                files |= self._write_dicom(labels, segments)
            path = self._path(SEGMENTATIONS, f"{self._case.name}{self._settings.suffix}")
            segments.write(labels, path)
            files["segmentation"] = self._relative(path)
        except (DiffuGTSError, OSError):
            for path in self._written:
                path.unlink(missing_ok=True)
            raise
        return files

    def _write_evidence(self, results: list[Result], modality: Modality) -> dict[str, Any]:
        """Pictures and maps, prompt by prompt; "maps" has a dictionary a prompt: name to path."""
        from DiffuGTSLib.batch_thumbnail import write_thumbnail

        thumbnails: list[str] = []
        maps: list[dict[str, str]] = []
        several = len(results) > 1
        while results:
            result, number = results.pop(0), len(thumbnails) + 1
            path = self._path(THUMBNAILS, f"{self._case.name}-{number}.jpg")
            write_thumbnail(result, result.image, modality, path)
            thumbnails.append(self._relative(path))
            if self._settings.maps:
                maps.append(self._write_maps(result, f"{number}_" if several else ""))
        return {"thumbnails": thumbnails} | ({"maps": maps} if maps else {})

    def _write_maps(self, result: Result, start: str) -> dict[str, str]:
        paths = {name: self._path(f"{MAP_FOLDERS}/{self._case.name}", f"{start}{name}.nii.gz")
                 for name in MAPS}
        for name, path in paths.items():
            write_image(getattr(result, name), path)
        return {name: self._relative(path) for name, path in paths.items()}

    def _write_dicom(self, labels: sitk.Image, segments: Segments) -> dict[str, str]:
        """Its path, as "dicom"; nothing but a note where the scan's files do not allow it."""
        path = self._path(SEGMENTATIONS, f"{self._case.name}.dcm")
        try:
            write_dicom_segmentation(labels, self._case.image, self._case.series, path,
                                     segments.names, segments.terminology, self._model)
        except DicomNotMade as error:
            self.notes.append(f"There is no DICOM segmentation. {error.message}")
            return {}
        return {"dicom": self._relative(path)}

    def _path(self, folder: str, name: str) -> Path:
        """A path to be written; it is removed again if the case fails."""
        place = self._settings.folder / folder
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise OutputNotWritten(f"The folder {place.name} cannot be made.",
                                   "Free some space on the disk or check its rights.") from None
        self._written.append(place / name)
        return place / name

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._settings.folder).as_posix()
