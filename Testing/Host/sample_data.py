"""The module `SampleData`: registered sources are written down, nothing is downloaded."""

from __future__ import annotations

import re
import types
from typing import Any

import slicer


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


class SampleDataSource:
    """One data set; as many names and sums as files, and each sum of a known form."""

    def __init__(self, sampleName: str, **fields: Any) -> None:
        self.sampleName = sampleName
        self.uris, self.fileNames = _listed(fields["uris"]), _listed(fields["fileNames"])
        self.nodeNames, self.checksums = _listed(fields["nodeNames"]), _listed(fields["checksums"])
        self.thumbnailFileName = fields["thumbnailFileName"]
        if not len(self.uris) == len(self.fileNames) == len(self.nodeNames) == len(self.checksums):
            raise ValueError(f"{sampleName}: not as many files as addresses, nodes and checksums")
        for checksum in self.checksums:
            if checksum and not re.fullmatch(r"(SHA256:[0-9a-f]{64}|MD5:[0-9a-f]{32})", checksum):
                raise ValueError(f"{sampleName}: no checksum: {checksum}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleDataSource) and vars(self) == vars(other)

    __hash__ = None


class SampleDataLogic:
    """Keeps slicer.modules.sampleDataSources: category -> sources."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom", sampleName: str | None = None, uris: Any = None,
        fileNames: Any = None, nodeNames: Any = None, customDownloader: Any = None,
        thumbnailFileName: str | None = None, loadFileType: str = "VolumeFile",
        loadFiles: Any = None, loadFileProperties: Any = None, checksums: Any = None,
    ) -> None:
        """Registers a data set once."""
        source = SampleDataSource(
            sampleName or "", uris=uris, fileNames=fileNames, nodeNames=nodeNames,
            checksums=checksums, thumbnailFileName=thumbnailFileName,
        )
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        if source not in sources:
            sources.append(source)


def make_sample_data() -> types.ModuleType:
    """The module."""
    module = types.ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic
    return module
