"""Names of cases: fit for files on every system, and no two the same."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

# A suffix, "-12" of a picture and a temporary name still fit into the 255 bytes of most systems.
LONGEST_BYTES = 120
_MOST_PARENTS = 4
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# A spreadsheet takes a cell that begins so for a formula.
FORMULA = ("=", "+", "-", "@")


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
    if len(name.encode()) <= LONGEST_BYTES:
        return name
    # What is cut off still tells two names apart.
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST_BYTES - 9].decode(errors='ignore').rstrip(' .')}-{mark}"


def assign(wanted: Sequence[tuple[str, Path]], taken: Iterable[str] = ()) -> list[str]:
    """A name for each case.

    Where several want the same name, the folders above tell them apart: "a/scan.nii" and
    "b/scan.nii" become "a_scan" and "b_scan"; numbers do where that is not enough.

    Args:
        wanted: the name that each would have, and its image.
        taken: names that others have already.
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
    """With as few folders in front as make them differ; unchanged where none do."""
    for count in range(1, _MOST_PARENTS + 1):
        names = [safe("_".join([*_parents(image, count), name])) for name, image in wanted]
        if len({_folded(name) for name in names}) == len(names):
            return names
    return [safe(name) for name, _ in wanted]


def _parents(image: Path, count: int) -> list[str]:
    return list(image.parent.parts[1:])[-count:]


def _numbered(name: str, used: set[str]) -> str:
    """The name, with a number where it is used already; marks it as used."""
    number, free = 1, name
    while _folded(free) in used:
        number += 1
        free = f"{name}_{number}"
    used.add(_folded(free))
    return free


def _folded(name: str) -> str:
    """The same for names that a disk may not tell apart."""
    return unicodedata.normalize("NFD", name).casefold()
