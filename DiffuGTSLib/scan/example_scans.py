"""Real scans that come with the program, with the outlines of experts (Resources/Samples).

For the demonstration and for 3D Slicer's module Sample Data. Their patients are of the validation:
no network was trained on them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from DiffuGTSLib.errors import UnreadableImage
from DiffuGTSLib.files import resource

if TYPE_CHECKING:
    import SimpleITK as sitk

FOLDER = "Samples"


@dataclass(frozen=True)
class ExampleScan:
    """A scan with the outline of its tumor.

    Attributes:
        name: in words; of a volume node, too, so that it tells the MR sequence.
        prompt: for its tumor.
        modality: "CT" or "MR".
        image, outline: files in Resources/Samples.
        source: where the scan comes from, its authors and licence.
    """

    name: str
    prompt: str
    modality: str
    image: str
    outline: str
    source: str

    @property
    def path(self) -> Path:
        """The scan's file."""
        return resource(f"{FOLDER}/{self.image}")

    def read_outline(self) -> sitk.Image:
        """The tumor, uint8 0 and 1, on the scan's grid.

        Raises:
            UnreadableImage: the program is not whole.
        """
        import SimpleITK as sitk  # at the top it would slow every start of Slicer

        path = resource(f"{FOLDER}/{self.outline}")
        try:
            return sitk.ReadImage(str(path), sitk.sitkUInt8)
        except RuntimeError:
            raise UnreadableImage(f"The sample's outline {path.name} cannot be read.",
                                 "Install the program again.") from None


def example_scans() -> list[ExampleScan]:
    """All of them, in the order in which they are shown."""
    listed = json.loads(resource(f"{FOLDER}/scans.json").read_text(encoding="utf-8"))["scans"]
    return [ExampleScan(**entry) for entry in listed]
