"""The scans of a batch: volumes of the scene as files, and the table that names them all."""

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
from DiffuGTSPanel.scene.VolumeGrid import Placement


@dataclass(frozen=True)
class SceneScan:
    """A volume of the scene that was written to a file, and the grid it was written with."""

    volume: Any
    placement: Placement


def split(inputs: Any) -> tuple[list[Path], list[Any]]:
    """Paths and volume nodes, each in their order.

    Args:
        inputs: a path, a pattern, a volume node, or a list of such.

    Raises:
        TypeError: something else is among them.
    """
    alone = isinstance(inputs, str | Path) or hasattr(inputs, "IsA")
    each = [inputs] if alone else list(inputs)
    nodes = [one for one in each if hasattr(one, "IsA")]
    # Relative ones count from where Slicer was started, as in its console.
    paths = [Path(os.path.abspath(one)) for one in each if not hasattr(one, "IsA")]
    return paths, nodes


class BatchScans:
    """The temporary files of all batches of a session.

    A volume that has not changed keeps its file, so that a batch can be resumed.

    Args:
        folder: for files; removed by whoever made it.
    """

    def __init__(self, folder: ScanExport.JobFolder) -> None:
        self._folder = folder
        self._files: dict[tuple[object, ...], Path] = {}
        self._scans: dict[Path, SceneScan] = {}
        self._count = 0

    def find(self, image: Path) -> SceneScan | None:
        """The volume that a file was written from; None for other files."""
        return self._scans.get(image)

    def write(self, nodes: Sequence[Any]) -> Piecewise:
        """Writes the volumes that are not written yet, piece by piece.

        Raises:
            Failure: one is no scan or is gone, or there is no space; its name is told.
        """
        for node in nodes:
            try:
                yield from self._write(node)
            except Failure as failure:
                name = node.GetName() if slicer.mrmlScene.IsNodePresent(node) else ""
                message = f"{name}: {failure.message}" if name else failure.message
                raise Failure(failure.code, message, failure.hint) from None

    def table(self, name: str, paths: Sequence[Path], nodes: Sequence[Any]) -> list[Path]:
        """The inputs for the command: a table of all scans, and the tables among `paths`.

        Thousands of paths would be too long for a command line.

        Args:
            name: of the batch, for the table's file.

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
        file = self._place() / f"{name}.json"
        with _writable():
            file.write_text(json.dumps(rows), encoding="utf-8")
        return [file, *tables]

    def touch(self) -> None:
        """Marks the files as in use: another Slicer would take old ones for left behind.

        Raises:
            Failure: the temporary folder cannot be written.
        """
        with _writable():
            os.utime(self._place())

    def remove(self, images: Iterable[Path]) -> None:
        """Removes the files among `images` that were written here."""
        for image in set(images) & set(self._scans):
            with contextlib.suppress(OSError):  # the folder goes at the end of the session anyway
                image.unlink(missing_ok=True)

    def _write(self, node: Any) -> Piecewise:
        source = ScanExport.readSource(node)
        key = _key(node)
        if key in self._files and self._files[key].is_file():
            return
        self._count += 1
        path = self._place() / f"{source.hint or 'scan'}_{self._count}.nrrd"
        yield from VolumeFile.write(path, source.array, source.placement.fileToRas, source.tag)
        if _key(node) != key:
            path.unlink(missing_ok=True)
            raise Failure("volume-changed", _("The scan changed while it was being read."),
                          _("Run again."))
        self._files[key] = path
        self._scans[path] = SceneScan(node, source.placement)

    def _place(self) -> Path:
        place = self._folder.new("batch")
        with _writable():
            place.mkdir(parents=True, exist_ok=True)  # some systems clear such folders
        return place


@contextlib.contextmanager
def _writable() -> Iterator[None]:
    """What is written to the temporary folder; a disk that refuses is told in words."""
    try:
        yield
    except OSError:
        raise Failure("output-not-written", _("The temporary folder cannot be written."),
                      _("Free some space on the disk.")) from None


def _key(node: Any) -> tuple[object, ...]:
    return (node.GetID(), node.GetName(), *ScanExport.readSource(node).key)
