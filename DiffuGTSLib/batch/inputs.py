"""From the inputs of the user to a list of cases: scans are found, prompts parsed, names assigned.

Names of cases are valid file names on every system, and unique.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from DiffuGTSLib.batch.case import BatchFailure, BatchSettings, Case
from DiffuGTSLib.batch.find_scans import OUTPUTS, Found, find
from DiffuGTSLib.batch.input_table import BadTable, TableRow, is_table, read_table
from DiffuGTSLib.errors import DiffuGTSError, OutputNotWritten, PromptNotUnderstood
from DiffuGTSLib.files import is_inside, is_same_file
from DiffuGTSLib.prompt import several
from DiffuGTSLib.prompt.parsing import refusals

_EXAMPLES = 5
# The image and its DICOM series: what makes two cases the same one.
Identity = tuple[str, str]
# With a suffix, "-12" of a picture or a temporary name it still fits into 255 bytes.
MAX_NAME_BYTES = 120
_MAX_PARENTS = 4
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@")
# Files that a run writes into its folder and that might be passed as a table.
OWN_TABLES = ("cases.csv", "lesions.csv", "run.json")


class InputMissing(DiffuGTSError):
    """No inputs, or no prompt for some of them."""

    code = "nothing-asked"


@dataclass(frozen=True)
class BatchEntry:
    """A case, and why it cannot run if that is known in advance.

    Attributes:
        skipped: the problem is no failure; see find_scans.Found.
    """

    case: Case
    problem: BatchFailure | None = None
    skipped: bool = False


@dataclass(frozen=True)
class Request:
    """A scan with its prompts; the name is the table's where it has one.

    Attributes:
        found: the scan, or why there is none.
        prompts: what to segment in it.
        sequence: of an MR scan, where a table has it.
        within: a mask to search in, where a table has it.
        segment: of that mask; see `RegionFile`.
        refused: why one of the prompts is not accepted.
    """

    found: Found
    prompts: tuple[str, ...]
    sequence: str = ""
    within: Path | None = None
    segment: str = ""
    refused: BatchFailure | None = None


@dataclass(frozen=True)
class LeftOut:
    """Files in the searched folders that are no scans.

    Attributes:
        count: files, and folders with the results of a batch.
        examples: names of the first ones.
    """

    count: int = 0
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, paths: Sequence[Path]) -> LeftOut:
        """Their number and the names of the first ones."""
        names = (f"{path.name} (results of a batch)" if path.is_dir() else path.name
                 for path in paths[:_EXAMPLES])
        return cls(len(paths), tuple(names))

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON."""
        return asdict(self) | {"examples": list(self.examples)}

    @property
    def sentence(self) -> str:
        """For users; "" where nothing was left out."""
        if not self.count:
            return ""
        names = ", ".join(self.examples) + (", …" if self.count > len(self.examples) else "")
        return f"Left out, as they are no scans: {self.count} ({names})."


@dataclass(frozen=True)
class Gathered:
    """The scans among the inputs, with their prompts, and what was left out."""

    requests: list[Request]
    left_out: LeftOut


def identity(case: Case) -> Identity:
    """What identifies a case across runs, whatever its name."""
    return str(case.image), case.series


def gather(inputs: Sequence[Path | str], prompts: Sequence[str], avoid: Path) -> Gathered:
    """All scans among the inputs, each once, with their prompts.

    Args:
        inputs: files, folders, patterns and tables.
        prompts: for all scans for which no table gives others; semicolons separate several
            in one text.
        avoid: the run's own output folder, which is not searched.

    Raises:
        InputMissing: there is no input, or no prompt for some.
        PromptNotUnderstood: one of `prompts`; a table's become problems of their cases.
        BadTable: see input_table; or two rows name different sequences or masks for one scan.
    """
    # A text without any prompt in it is passed on and refused with a message.
    shared = tuple(part for text in prompts for part in several(text) or [text])
    for refusal in refusals(shared).values():
        raise refusal
    left_out: dict[Path, None] = {}
    requests = [one for source in inputs for one in _requests(source, shared, avoid, left_out)]
    if not requests:
        raise InputMissing("There is nothing to segment.", "Pass files, folders or a table.")
    requests = _merged(requests)
    if any(not one.prompts for one in requests):
        raise InputMissing("There is no prompt for some of the scans.",
                           'Say what to look for: --prompt "liver tumor".')
    refused = refusals([text for one in requests for text in one.prompts if text not in shared])
    # Another input may name a file that a folder's search has left out.
    named = {one.found.image for one in requests} | {Path(os.path.abspath(one)) for one in inputs}
    others = [path for path in left_out if path not in named]
    return Gathered([_with_refusal(one, refused) for one in requests], LeftOut.of(others))


def name_cases(requests: Sequence[Request], names: Mapping[Identity, str]) -> list[BatchEntry]:
    """The cases, each with a name of its own.

    Args:
        names: of cases of an earlier run, which keep them.
    """
    known = [names.get((str(one.found.image), one.found.series)) for one in requests]
    new = [(one.found.name, one.found.image)
           for one, name in zip(requests, known, strict=True) if name is None]
    assigned = iter(assign(new, names.values()))
    entries = []
    for one, name in zip(requests, known, strict=True):
        case = Case(name or next(assigned), one.found.image, one.prompts, one.found.series,
                    one.sequence, one.within, one.segment)
        entries.append(BatchEntry(case, one.found.problem or one.refused, one.found.skipped))
    return entries


def refuse_own_outputs(
    inputs: Sequence[Path | str], requests: Sequence[Request], settings: BatchSettings
) -> None:
    """Refuses inputs that the run itself would replace.

    Raises:
        OutputNotWritten: a table has the name of a result, a scan lies where results are written,
            or the output folder is that of DICOM slices.
    """
    for source in map(Path, inputs):
        if (is_table(source) and source.is_file() and source.name.lower() in OWN_TABLES
                and is_same_file(source.absolute().parent, settings.folder)):
            raise OutputNotWritten(f"The run would replace the table {source.name} itself.",
                                   "Choose another folder for output, or another name for it.")
    for one in requests:
        image = one.found.image
        if is_same_file(image, settings.folder):
            raise OutputNotWritten(
                f"The output folder {settings.folder.name} is that of the scans.",
                "Choose a folder beside it.")
        for kind, path in (("scan", image), ("mask", one.within)):
            if path is not None and any(
                    is_inside(path, settings.folder / name) for name in OUTPUTS):
                raise OutputNotWritten(
                    f"The {kind} {path.name} lies where this run would write its results.",
                    "Choose another folder for output.")


def _requests(
    source: Path | str, shared: tuple[str, ...], avoid: Path, left_out: dict[Path, None]
) -> list[Request]:
    """The scans of one input; what its search leaves out is added to `left_out`."""
    from_table = is_table(source) and Path(source).is_file()
    rows = read_table(Path(source)) if from_table else [TableRow(Path(source))]
    requests = []
    for row in rows:
        # A pattern is a text: a path would lose a slash at its end.
        finds = find(row.image if from_table else source, avoid)
        left_out |= dict.fromkeys(finds.left_out)
        requests += [Request(replace(found, name=row.name or found.name), row.prompts or shared,
                             row.sequence, row.within, row.segment) for found in finds.scans]
    return requests


def _merged(requests: Sequence[Request]) -> list[Request]:
    """One request per scan: prompts from several inputs share one encoding, and a link to a scan is
    no other one."""
    owners = _owners([one.found for one in requests])
    merged: dict[tuple[str, str], Request] = {}
    for one in requests:
        key = os.path.realpath(one.found.image), one.found.series
        before = merged.get(key, one)
        sequences = {before.sequence, one.sequence} - {""}
        if len(sequences) > 1:
            raise BadTable(f"{one.found.image.name} has two different MR sequences: "
                           f"{' and '.join(sorted(sequences))}.", "Correct the table.")
        _refuse_two_regions(before, one)
        prompts = dict.fromkeys((*before.prompts, *one.prompts))
        merged[key] = Request(owners[key], tuple(prompts), "".join(sequences), one.within,
                              one.segment)
    return list(merged.values())


def _refuse_two_regions(one: Request, other: Request) -> None:
    """All prompts of a scan share what is searched."""
    if (one.within, one.segment) == (other.within, other.segment):
        return
    name, hint = one.found.image.name, "Use a table and an output folder for each"
    if one.within is None or other.within is None:
        raise BadTable(f"{name} is to be searched in a mask, and in another row without one.",
                       f"{hint}, or the mask in both rows.")
    if one.within == other.within:
        raise BadTable(f"{name} is to be searched in two different segments of one mask.",
                       f"{hint}, or a mask of both segments.")
    raise BadTable(f"{name} is to be searched in two different masks.",
                   f"{hint}, or one mask of both.")


def _owners(scans: Sequence[Found]) -> dict[tuple[str, str], Found]:
    """Of what is found under several names the one that is no link, else the first."""
    owners: dict[tuple[str, str], Found] = {}
    for scan in scans:
        key = os.path.realpath(scan.image), scan.series
        if key not in owners or (owners[key].image.is_symlink() and not scan.image.is_symlink()):
            owners[key] = scan
    return owners


def _with_refusal(one: Request, refused: Mapping[str, PromptNotUnderstood]) -> Request:
    errors = [refused[text] for text in one.prompts if text in refused]
    return replace(one, refused=BatchFailure.of(errors[0])) if errors else one


def safe(text: str) -> str:
    """The text as a file name that stays in its folder, on Linux, macOS and Windows.

    Spaces, single quotes and letters of all scripts stay.
    """
    plain = unicodedata.normalize("NFC", " ".join(text.split()))
    kept = "".join("_" if unicodedata.category(c) in ("Cc", "Cs", "Cf") else c for c in plain)
    name = _FORBIDDEN.sub("_", kept).rstrip(" .").lstrip(" .")
    if not name:
        return "case"
    if name.startswith(FORMULA) or _RESERVED.fullmatch(name):
        name = f"_{name}"
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    # The hash keeps names different whose ends were cut off.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: MAX_NAME_BYTES - 9].decode(errors='ignore').rstrip(' .')}-{digest}"


def assign(wanted: Sequence[tuple[str, Path]], taken: Iterable[str] = ()) -> list[str]:
    """A name for each case.

    Where several would get the same name, the parent folders are put in front: "a/scan.nii" and
    "b/scan.nii" become "a_scan" and "b_scan"; numbers are added where that is not enough.

    Args:
        wanted: the preferred name of each, and its image.
        taken: names that are in use.
    """
    groups: dict[str, list[int]] = {}
    for index, (name, _) in enumerate(wanted):
        groups.setdefault(_folded(safe(name)), []).append(index)
    names = [safe(name) for name, _ in wanted]
    for members in groups.values():
        if len(members) > 1:
            for index, name in zip(members, _by_parents([wanted[i] for i in members]),
                                   strict=True):
                names[index] = name
    used = {_folded(name) for name in taken}
    return [_numbered(name, used) for name in names]


def _by_parents(wanted: list[tuple[str, Path]]) -> list[str]:
    """With the fewest parent folders in front that make them differ; else unchanged."""
    for count in range(1, _MAX_PARENTS + 1):
        names = [safe("_".join([*_parents(image, count), name])) for name, image in wanted]
        if len({_folded(name) for name in names}) == len(names):
            return names
    return [safe(name) for name, _ in wanted]


def _parents(image: Path, count: int) -> list[str]:
    return list(image.parent.parts[1:])[-count:]


def _numbered(name: str, used: set[str]) -> str:
    """The name, with a number if it is in use; marks it as used."""
    number, free = 1, name
    while _folded(free) in used:
        number += 1
        free = f"{name}_{number}"
    used.add(_folded(free))
    return free


def _folded(name: str) -> str:
    """The same text for names that a file system may not distinguish."""
    return unicodedata.normalize("NFD", name).casefold()
