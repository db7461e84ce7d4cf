"""The inputs of a batch: volumes of the scene as files, and the table of all scans."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from DiffuGTSPanel.data.Failure import Failure
from DiffuGTSPanel.process import LibraryLauncher
from DiffuGTSPanel.process.Piecewise import Piecewise
from DiffuGTSPanel.scene import ScanExport, VolumeFile
from DiffuGTSPanel.scene.VolumeGrid import VolumeGrid


@dataclass(frozen=True)
class ExportedVolume:
    """A volume of the scene that was exported to a file, and its grids."""

    volume: Any
    grid: VolumeGrid


def splitInputs(inputs: Any) -> tuple[list[Path], list[Any]]:
    """The paths and the volume nodes among the inputs, each in their order.

    Args:
        inputs: a path, a pattern, a volume node, or a list of these.

    Raises:
        TypeError: for anything else.
    """
    single = isinstance(inputs, str | Path) or hasattr(inputs, "IsA")
    items = [inputs] if single else list(inputs)
    nodes = [item for item in items if hasattr(item, "IsA")]
    # Relative to the folder in which Slicer was started, as in its console.
    paths = [Path(os.path.abspath(item)) for item in items if not hasattr(item, "IsA")]
    return paths, nodes


class BatchScanExport:
    """The exported volumes of all batches of a session.

    A volume that has not changed keeps its file, so that a batch can be resumed.

    Args:
        folder: for files; its owner removes it.
    """

    def __init__(self, folder: ScanExport.JobFolder) -> None:
        self._folder = folder
        self._files: dict[tuple[object, ...], Path] = {}
        self._scans: dict[Path, ExportedVolume] = {}
        self._count = 0

    def find(self, image: Path) -> ExportedVolume | None:
        """The volume that was exported to a file; None for other files."""
        return self._scans.get(image)

    def write(self, nodes: Sequence[Any]) -> Piecewise:
        """Exports the volumes that have no file yet, in pieces.

        Raises:
            Failure: one is not a scan or was removed, or there is no space; names the volume.
        """
        for node in nodes:
            try:
                yield from self._write(node)
            except Failure as failure:
                name = node.GetName() if slicer.mrmlScene.IsNodePresent(node) else ""
                message = f"{name}: {failure.message}" if name else failure.message
                raise Failure(failure.code, message, failure.hint) from None

    def table(self, name: str, paths: Sequence[Path], nodes: Sequence[Any]) -> list[Path]:
        """The inputs of the command: a table of all scans, and the tables among `paths`.

        A command line is too short for thousands of paths.

        Args:
            name: of the table's file.

        Raises:
            Failure: there are no scans, or the temporary folder cannot be written.
        """
        LibraryLauncher.useLibrary()
        from DiffuGTSLib.batch.input_table import is_table

        tables = [path for path in paths if is_table(path)]
        rows = [{"image": str(path)} for path in paths if path not in tables]
        rows += [{"image": str(file), "name": self._scans[file].volume.GetName()}
                 for file in (self._files[_key(node)] for node in nodes)]
        if not rows and not tables:
            raise Failure("nothing-asked", _("There are no scans to segment."),
                          _("Add files, folders or volumes of the scene."))
        if not rows:
            return tables
        file = self._batchFolder() / f"{name}.json"
        with _writable():
            file.write_text(json.dumps(rows), encoding="utf-8")
        return [file, *tables]

    def touch(self) -> None:
        """Marks the files as in use: another Slicer removes old ones as stale.

        Raises:
            Failure: the temporary folder cannot be written.
        """
        with _writable():
            os.utime(self._batchFolder())

    def remove(self, images: Iterable[Path]) -> None:
        """Removes the files among `images` that were exported here."""
        for image in set(images) & set(self._scans):
            with contextlib.suppress(OSError):  # removed with the folder at the end of the session
                image.unlink(missing_ok=True)

    def _write(self, node: Any) -> Piecewise:
        source = ScanExport.readSource(node)
        key = _key(node)
        if key in self._files and self._files[key].is_file():
            return
        self._count += 1
        path = self._batchFolder() / f"{source.hint or 'scan'}_{self._count}.nrrd"
        yield from VolumeFile.write(path, source.array, source.grid.fileToRas, source.tag)
        if _key(node) != key:
            path.unlink(missing_ok=True)
            raise Failure("volume-changed", _("The scan changed while it was being read."),
                          _("Run again."))
        self._files[key] = path
        self._scans[path] = ExportedVolume(node, source.grid)

    def _batchFolder(self) -> Path:
        folder = self._folder.new("batch")
        with _writable():
            folder.mkdir(parents=True, exist_ok=True)  # some systems clear temporary folders
        return folder


@contextlib.contextmanager
def _writable() -> Iterator[None]:
    """Turns an error in writing to the temporary folder into a failure."""
    try:
        yield
    except OSError:
        raise Failure("output-not-written", _("The temporary folder cannot be written."),
                      _("Free some space on the disk.")) from None


def _key(node: Any) -> tuple[object, ...]:
    return (node.GetID(), node.GetName(), *ScanExport.readSource(node).key)
