"""The lesions of a run as text: for the clipboard, for a spreadsheet."""

from __future__ import annotations

import csv
import io
import uuid
from pathlib import Path

from slicer.i18n import tr as _

from DiffuGTSPanel.Failure import Failure
from DiffuGTSPanel.Run import Run


def asText(run: Run, separator: str = "\t") -> str:
    """A header and a line for each kept lesion; numbers with a point, whatever the language."""
    withFrames = any(result.frame is not None for result in run.results)
    header = ["prompt", "lesion", "volume_ml", "longest_mm", "perpendicular_mm", "mean_score",
              "max_score", "r_mm", "a_mm", "s_mm", "first_slice", "last_slice"]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow([*header, "frame"] if withFrames else header)
    for result in run.results:
        for lesion in result.lesions:
            if lesion.kept:
                row = [
                    result.title, lesion.name, f"{lesion.volumeMl:.3f}", f"{lesion.longestMm:.1f}",
                    f"{lesion.perpendicularMm:.1f}", f"{lesion.score:.3f}",
                    f"{lesion.maxScore:.3f}", *(f"{x:.1f}" for x in lesion.position),
                    # As Slicer's users count: from 1.
                    *(number + 1 for number in lesion.sliceRange),
                ]
                frame = "" if result.frame is None else result.frame + 1
                writer.writerow([*row, frame] if withFrames else row)
    return out.getvalue()


def writeCsv(run: Run, path: Path | str) -> None:
    """Writes the table; the file appears under its name when it is complete.

    Raises:
        Failure: no permission, no space, no such folder; nothing is left behind.
    """
    path = Path(path)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.csv")
    try:
        # With a mark at its start, or Excel takes UTF-8 for something else.
        unfinished.write_text(asText(run, ","), encoding="utf-8-sig", newline="")
        unfinished.replace(path)
    except OSError:
        raise Failure("output-not-written", _("The table could not be written."),
                      _("Choose another folder.")) from None
    finally:
        unfinished.unlink(missing_ok=True)
