"""What the parts of a batch pass to each other: a case, the settings, how it went.

All of it is plain and small: it travels as JSON between processes and machines. Volumes do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from DiffuGTSLib.errors import explain
from DiffuGTSLib.pipeline import Options
from DiffuGTSLib.scan.region import RegionFile

# Of a process: one case is read and one is written while the networks run on a third.
WORKER_THREADS = 3
FORMATS = (".seg.nrrd", ".nii.gz")
# In the output folder, beside tables and report; nothing in them is ever taken for a scan.
RUN, RECORDS = "run.json", "records"
SEGMENTATIONS, THUMBNAILS, MAP_FOLDERS = "segmentations", "thumbnails", "maps"
Status = Literal["done", "failed", "cancelled"]
# on_progress(stage, done, total, fraction of the case in 0..1)
OnProgress = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class Case:
    """A scan and what to look for in it.

    Attributes:
        name: unique in the run and fit for a file name.
        image: absolute path of a file or DICOM folder.
        prompts: at least one; they share one encoding of the scan.
        series: DICOM series UID where the folder holds several.
        sequence: of an MR scan; "" leaves it to the settings.
        within: absolute path of a mask to which the search is limited; None for none.
        segment: of that mask, see `RegionFile`; "" for all of it.
    """

    name: str
    image: Path
    prompts: tuple[str, ...]
    series: str = ""
    sequence: str = ""
    within: Path | None = None
    segment: str = ""

    @property
    def region(self) -> RegionFile | None:
        """What the search is limited to; None for nothing."""
        return RegionFile(self.within, self.segment) if self.within else None

    @property
    def searched_in(self) -> str:
        """The mask's file name and the segment's, for tables; "" where all is searched."""
        return ": ".join(filter(None, (self.within.name, self.segment))) if self.within else ""

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON."""
        entries = asdict(self) | {"image": str(self.image), "prompts": list(self.prompts)}
        return entries | {"within": str(self.within) if self.within else ""}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Case:
        """The case that `as_dict` described."""
        return cls(entries["name"], Path(entries["image"]), tuple(entries["prompts"]),
                   entries["series"], entries["sequence"],
                   Path(entries["within"]) if entries.get("within") else None,
                   entries.get("segment", ""))  # not in records of older batches


@dataclass(frozen=True)
class BatchSettings:
    """What is the same for all cases of a run: the method's options, and what to write where.

    Attributes:
        options: of the method; what they state of MR scans counts for those alone.
        folder: where the outputs go, absolute; the same path on every machine.
        suffix: of the segmentations, one of `FORMATS`.
        dicom_seg: also write a DICOM segmentation where the scan is DICOM.
        maps: also write attention, pseudo-healthy scan, residual and more.
        host: another machine whose networks are used, as `remote.Address` takes it; "" for none.
    """

    options: Options
    folder: Path
    suffix: str = ".seg.nrrd"
    dicom_seg: bool = False
    maps: bool = False
    host: str = ""

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON."""
        own = {"folder": str(self.folder), "host": self.host}
        return self.options.as_dict() | self.outputs() | own

    def outputs(self) -> dict[str, Any]:
        """What is written of each case, in plain values."""
        return {"suffix": self.suffix, "dicom_seg": self.dicom_seg, "maps": self.maps}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> BatchSettings:
        """The settings that `as_dict` described."""
        own = ("folder", "suffix", "dicom_seg", "maps", "host")
        options = {name: value for name, value in entries.items() if name not in own}
        return cls(Options.from_dict(options), Path(entries["folder"]), entries["suffix"],
                   entries["dicom_seg"], entries["maps"], entries["host"])


@dataclass(frozen=True)
class BatchFailure:
    """Why a case, or a run, did not succeed: the fields of a DiffuGTSError."""

    code: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: BaseException) -> BatchFailure:
        """The failure that an exception means to the user."""
        known = explain(error, "Crop the scan, or process fewer at once (--jobs).")
        closest = getattr(known, "suggestions", ())
        hint = f"{known.hint} Nearest: {', '.join(closest)}." if closest else known.hint
        return cls(known.code, known.message, hint)


@dataclass(frozen=True)
class Outcome:
    """How a case went.

    Attributes:
        case: its name.
        seconds: from reading to the last file, without the wait for the networks.
        network_seconds: of these, in the networks.
        error: of a failed case.
        modality: of the scan.
        prompts: of each prompt what output.segments.described states, with `labels`, the
            lesions' values in the segmentation, and `names`.
        files: "segmentation", "dicom", "thumbnails", "maps": paths below the output folder.
        notes: sentences on what was requested of a done case and could not be made.
        modality_reason: why the scan was taken for CT or MR.
    """

    case: str
    status: Status
    seconds: float = 0.0
    network_seconds: float = 0.0
    error: BatchFailure | None = None
    modality: str = ""
    prompts: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    modality_reason: str = ""

    @property
    def all_notes(self) -> list[str]:
        """Those, and what is known of scan and prompts; each once."""
        of_prompts = (note for prompt in self.prompts for note in prompt.get("notes", ()))
        return list(dict.fromkeys((*self.notes, *of_prompts)))

    @property
    def lesions(self) -> list[dict[str, Any]]:
        """Those of all prompts."""
        return lesions_in(self.prompts)

    @property
    def volume_ml(self) -> float:
        """Of all lesions."""
        return volume_ml_of(self.lesions)

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Outcome:
        """The outcome that `as_dict` described."""
        error = entries["error"]
        return cls(**{**entries, "error": BatchFailure(**error) if error else None})


def lesions_in(prompts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lesions of all prompts, as `Outcome.prompts` holds them."""
    return [lesion for prompt in prompts for lesion in prompt["lesions"]]


def volume_ml_of(lesions: Iterable[Mapping[str, Any]]) -> float:
    """Of all of them, in ml."""
    return float(sum(lesion["volume_ml"] for lesion in lesions))
