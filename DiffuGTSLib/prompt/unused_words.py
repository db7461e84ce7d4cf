"""Words of a prompt that change nothing in the search, or were taken for others: as notes.

A user who types "left liver tumor" has to know that the right lobe is searched as well.
"""

from __future__ import annotations

import re
from itertools import groupby

from DiffuGTSLib.prompt.site import side_indices, unmatched
from DiffuGTSLib.prompt.vocabulary import SEPARATORS, Match, Reading, fold, tokens, vocabulary

# What is there anyway where another finding is named beside it: a "cystic mass".
_GENERAL = ("lesion", "mass", "nodule", "tumor")
_NUMBER = r"\d+(?:[.,]\d+)?"
_SIZE = re.compile(rf"{_NUMBER}(?:\s*(?:mm|cm)?\s*[x\u00d7]\s*{_NUMBER})*\s*-?\s*(?:mm|cm|ml|cc)\b",
                   re.IGNORECASE)
_SEGMENT = re.compile(r"\bsegments?\s+[ivx\d]+[a-d]?\b", re.IGNORECASE)
MAX_NAMED = 8


def notes_on(
    text: str, reading: Reading, finding: Match, place: str, side: str
) -> tuple[str, ...]:
    """Sentences on words that were read as others, used in part, or not used.

    Args:
        text: as it was given.
        reading: of the text.
        finding: what is searched for.
        place: the id of the anatomy that is searched; "" means anywhere.
        side: that is searched; the result says whether it could be used.
    """
    notes = [f"“{typed}” was read as “{word}”." for typed, word in _corrected(reading)]
    lobes = vocabulary().listed("lobes")
    for match in reading.named("anatomy"):
        if match.id == place and reading.tokens[match.start : match.end] in lobes:
            whole = f"{side} {vocabulary().anatomies[place].name}".strip()
            notes.append(f"“{_words(reading, match.start, match.end)}” was used as {whole}.")
    unused = _unused(text, reading, finding, place, side)
    if unused:
        quoted = [f"“{words}”" for words in unused[:MAX_NAMED]]
        listed = ", ".join(quoted[:-1]) + " and " + quoted[-1] if len(quoted) > 1 else quoted[0]
        notes.append(f"{listed} {'were' if len(quoted) > 1 else 'was'} not used.")
    return tuple(notes)


def _corrected(reading: Reading) -> list[tuple[str, str]]:
    """Words that were taken for a typing error, and what they were taken for."""
    pairs = zip(reading.typed, reading.tokens, strict=True)
    return [(typed, word) for typed, word in pairs
            if fold(typed) != word and fold(typed).removesuffix("s") != word]


def _unused(
    text: str, reading: Reading, finding: Match, place: str, side: str
) -> list[str]:
    """Stretches of the text that change nothing, in their order."""
    dropped = _dropped(reading, finding, place) - side_indices(side, reading)
    stretches = [list(group) for _, group in groupby(sorted(dropped), _Consecutive())]
    found = [(group[0], _words(reading, group[0], group[-1] + 1)) for group in stretches]
    words = [entry for _, entry in found]
    sizes = [match.group() for match in (*_SIZE.finditer(text), *_SEGMENT.finditer(text))]
    # "segment" of "segment VII" is a word of its own in the lists.
    inside = {word for size in sizes for word in tokens(size)}
    return [*[entry for entry in words if not set(tokens(entry)) <= inside], *sizes]


def _dropped(reading: Reading, finding: Match, place: str) -> set[int]:
    """Indices of tokens that were understood, or not, and are not what is searched for."""
    plain = {word for name in ("ignored", "conjunctions", "toward", "origin", "history", "beside")
             for phrase in vocabulary().listed(name) for word in phrase}
    chosen = range(finding.start, finding.end)
    dropped = {
        index for index, word in enumerate(unmatched(reading))
        if word and index not in chosen and word not in plain and word not in SEPARATORS
        and not any(char.isdigit() for char in word)
    }
    for match in reading.matches:
        if match.kind == "anatomy":
            other = match.id != place and match.start not in chosen
        else:
            other = match.id != finding.id and match.id not in _GENERAL
        if other:
            dropped |= set(range(match.start, match.end)) - set(chosen)
    return dropped


def _words(reading: Reading, start: int, end: int) -> str:
    return " ".join(reading.typed[start:end])


class _Consecutive:
    """A key for `groupby` that keeps numbers together that follow each other."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, index: int) -> int:
        self._count += 1
        return index - self._count

