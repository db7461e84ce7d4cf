"""The demonstration: a public scan where the network gives it, else a digital phantom."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from DiffuGTSLib.cli.segment import Bar, Outputs, Run, segment_scan
from DiffuGTSLib.errors import DownloadFailed, OutputNotWritten
from DiffuGTSLib.evaluation.measures import dice
from DiffuGTSLib.pipeline import Options
from DiffuGTSLib.pipeline.lesions import find_lesions, labelled
from DiffuGTSLib.scan.example_scans import example_scans, fetch
from DiffuGTSLib.scan.phantom import Kind, Phantom, make_phantom

EXAMPLE = "MRBrainTumor1"


def run_demo(
    folder: Path, phantom_only: bool, kind: Kind, options: Options, bar: Bar,
    notify: Callable[[str], None],
) -> Run:
    """Runs the method on the demonstration's scan and writes picture and segmentation.

    Args:
        folder: for segmentation.seg.nrrd and overview.png; created if absent.
        phantom_only: use the digital phantom, no network.
        kind: of the phantom.
        options: of the run.
        bar: as for `segment_scan`.
        notify: gets one line that names the scan it is.

    Returns:
        The run; its document names the scan and, for the phantom, holds the truth and the DSC.

    Raises:
        DiffuGTSError: whatever kind fits.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise OutputNotWritten(f"The folder {folder.name} cannot be created.",
                               "Choose another folder.") from None
    outputs = Outputs(folder / "segmentation.seg.nrrd", None, folder / "overview.png")
    if not phantom_only:
        scan = example_scans()[EXAMPLE]
        try:
            path = fetch(scan)
        except DownloadFailed as error:
            notify(f"{error.message} The digital phantom is used instead.")
        else:
            notify(f'Scan: {scan.name} ({scan.source}), prompt "{scan.prompt}".')
            finished = segment_scan(path, [scan.prompt], outputs, options, bar)
            finished.document["scan"] = scan.name
            return finished
    phantom = make_phantom(kind)
    notify(f'Scan: digital phantom, {kind}, prompt "{phantom.prompt}".')
    finished = segment_scan(phantom.image, [phantom.prompt], outputs, options, bar, phantom.mask)
    finished.document |= {"scan": f"phantom {kind}"} | _compared(finished, phantom)
    return finished


def _compared(finished: Run, phantom: Phantom) -> dict[str, Any]:
    """What the phantom truly holds, and the DSC with what was found."""
    truth = sitk.Cast(phantom.mask, sitk.sitkFloat32)
    tumors = find_lesions(phantom.mask, truth)
    # The lesions as they are written: crumbs are none.
    segmented = labelled(finished.results[0].mask)
    found, there = (sitk.GetArrayViewFromImage(mask) > 0 for mask in (segmented, phantom.mask))
    return {"truth": {"tumors": len(tumors), "volume_ml": sum(t.volume_ml for t in tumors)},
            "dsc": dice(found, there)}


def comparison(document: Mapping[str, Any]) -> str:
    """The truth beside what was found, in one line; "" where the truth is not known."""
    if "truth" not in document:
        return ""
    truth, lesions = document["truth"], document["prompts"][0]["lesions"]
    found = sum(lesion["volume_ml"] for lesion in lesions)
    return (f"In the phantom there {_tumors(truth['tumors'], truth['volume_ml'])}; found "
            f"{_tumors(len(lesions), found)}. DSC {document['dsc']:.2f} (1: the same voxels).")


def _tumors(count: int, volume_ml: float) -> str:
    noun = "tumor" if count == 1 else "tumors"
    verb = "is" if count == 1 else "are"
    return f"{verb} {count} {noun}, {volume_ml:.2f} ml"
