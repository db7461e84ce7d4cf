"""The demonstration: two real scans that come with the program, or a digital phantom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from DiffuGTSLib.cli.segment import Bar, Outputs, Run, segment_scan
from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.pipeline import Options
from DiffuGTSLib.pipeline.lesions import find_lesions
from DiffuGTSLib.scan.example_scans import example_scans
from DiffuGTSLib.scan.phantom import Kind, make_phantom


@dataclass(frozen=True)
class Example:
    """A scan of the demonstration.

    Attributes:
        name: in words.
        image: a path or an image.
        truth: uint8 image of its tumors, on the scan's grid.
        source: where scan and truth come from.
    """

    name: str
    prompt: str
    image: Path | sitk.Image
    truth: sitk.Image
    source: str

    @property
    def file(self) -> str:
        """The name of its outputs."""
        return self.name.lower().replace(" ", "_")


def examples(phantom: Kind | None) -> list[Example]:
    """The phantom of a kind, or the real scans."""
    if phantom is not None:
        made = make_phantom(phantom)
        return [Example(f"phantom {phantom}", made.prompt, made.image, made.mask,
                        "a digital phantom")]
    return [Example(scan.name, scan.prompt, scan.path, scan.read_outline(), scan.source)
            for scan in example_scans()]


def run_demo(
    folder: Path, example: Example, options: Options, bar: Bar, notify: Callable[[str], None]
) -> Run:
    """Runs the method on a scan of the demonstration and writes its picture and segmentation.

    Args:
        folder: for NAME.seg.nrrd and NAME.png; created if absent.
        options: of the run.
        bar: as for `segment_scan`.
        notify: gets one line that names the scan.

    Returns:
        The run; its document names the scan, and holds the truth and the DSC.

    Raises:
        DiffuGTSError: whatever kind fits.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise OutputNotWritten(f"The folder {folder.name} cannot be created.",
                               "Choose another folder.") from None
    notify(f'Scan: {example.name} ({example.source}), prompt "{example.prompt}".')
    outputs = Outputs(folder / f"{example.file}.seg.nrrd", None, folder / f"{example.file}.png")
    finished = segment_scan(example.image, [example.prompt], outputs, options, bar, example.truth)
    finished.document |= {"scan": example.name} | _compared(finished, example.truth)
    return finished


def _compared(finished: Run, outline: sitk.Image) -> dict[str, Any]:
    """What the scan truly holds, and the DSC with what was found."""
    tumors = find_lesions(outline, sitk.Cast(outline, sitk.sitkFloat32))
    # The lesions as they are written: crumbs are none.
    segmented = finished.results[0].labels
    found, there = (sitk.GetArrayViewFromImage(mask) > 0 for mask in (segmented, outline))
    return {"truth": {"tumors": len(tumors), "volume_ml": sum(t.volume_ml for t in tumors)},
            "dsc": dice(found, there)}


def comparison(document: Mapping[str, Any]) -> str:
    """The truth beside what was found, in one line."""
    truth, lesions = document["truth"], document["prompts"][0]["lesions"]
    found = sum(lesion["volume_ml"] for lesion in lesions)
    return (f"In truth there {_tumors(truth['tumors'], truth['volume_ml'])}; found "
            f"{_tumors(len(lesions), found)}. DSC {document['dsc']:.2f} (1: the same voxels).")


def _tumors(count: int, volume_ml: float) -> str:
    noun = "tumor" if count == 1 else "tumors"
    verb = "is" if count == 1 else "are"
    return f"{verb} {count} {noun}, {volume_ml:.2f} ml"
