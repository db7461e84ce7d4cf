"""The demonstration: a public scan where the network gives it, else a digital phantom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import SimpleITK as sitk

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.options import Options
from DiffuGTSLib.phantom import Kind, make_phantom
from DiffuGTSLib.run import Bar, Outputs, Run, run
from DiffuGTSLib.samples import DownloadFailed, fetch, samples
from DiffuGTSLib.scores import dice

SAMPLE = "MRBrainTumor1"


def run_demo(
    folder: Path, phantom_only: bool, kind: Kind, options: Options, bar: Bar,
    tell: Callable[[str], None],
) -> Run:
    """Runs the method on the demonstration's scan and writes picture and segmentation.

    Args:
        folder: for segmentation.seg.nrrd and overview.png; made if need be.
        phantom_only: do not ask the network.
        kind: of the phantom.
        options: of the run.
        bar: as for `run`.
        tell: gets one line that says which scan it is.

    Returns:
        The run; its document names the scan and, for the phantom, the DSC.

    Raises:
        DiffuGTSError: whatever kind fits.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise OutputNotWritten(f"The folder {folder.name} cannot be made.",
                               "Choose another place.") from None
    outputs = Outputs(folder / "segmentation.seg.nrrd", None, folder / "overview.png")
    if not phantom_only:
        sample = samples()[SAMPLE]
        try:
            path = fetch(sample)
        except DownloadFailed as error:
            tell(f"{error.message} The digital phantom takes its place.")
        else:
            tell(f'Scan: {sample.name} ({sample.source}), prompt "{sample.prompt}".')
            finished = run(path, [sample.prompt], outputs, options, bar)
            finished.document["scan"] = sample.name
            return finished
    phantom = make_phantom(kind)
    tell(f'Scan: digital phantom, {kind}, prompt "{phantom.prompt}".')
    finished = run(phantom.image, [phantom.prompt], outputs, options, bar, phantom.mask)
    finished.document["scan"] = f"phantom {kind}"
    found, there = (sitk.GetArrayViewFromImage(mask) > 0
                    for mask in (finished.results[0].mask, phantom.mask))
    finished.document["dsc"] = dice(found, there)
    return finished
