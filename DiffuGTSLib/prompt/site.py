"""Where a finding sits: the organ that it is in, not one that it comes from or lies beside.

Words around each organ of a text tell which it is: "in the liver", "from colon cancer",
"near the heart". Lists of these words are in words.json.

Words that change nothing in the search, or were taken for others, become notes: a user who types
"left liver tumor" has to know that the right lobe is searched as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from DiffuGTSLib.prompt.vocabulary import (
    SEPARATORS,
    Match,
    Reading,
    fold,
    starts_of,
    tokens,
    vocabulary,
)

# "metastatic colon cancer": the colon is where the metastasis comes from. A metastatic brain
# tumor, in contrast, is one in the brain.
_PRIMARIES = ("cancer", "sarcoma", "melanoma", "neuroendocrine_tumor", "lymphoma")
# What is there anyway where another finding is named beside it: a "cystic mass".
_GENERAL = ("lesion", "mass", "nodule", "tumor")
_NUMBER = r"\d+(?:[.,]\d+)?"
_SIZE = re.compile(rf"{_NUMBER}(?:\s*(?:mm|cm)?\s*[x\u00d7]\s*{_NUMBER})*\s*-?\s*(?:mm|cm|ml|cc)\b",
                   re.IGNORECASE)
_SEGMENT = re.compile(r"\bsegments?\s+[ivx\d]+[a-d]?\b", re.IGNORECASE)
MAX_NAMED = 8


def site_of(finding: Match | None, reading: Reading) -> str:
    """The anatomy that a finding sits in, by its id; "" where the text names none.

    Args:
        finding: the one to look for; None where the text names none.
        reading: the whole text.

    Example:
        >>> from DiffuGTSLib.prompt.vocabulary import vocabulary
        >>> text = vocabulary().read("metastasis from colon cancer in liver")
        >>> site_of(text.named("finding")[0], text)
        'liver'
    """
    site = _site(finding, reading)
    return site.id if site else ""


def _site(finding: Match | None, reading: Reading) -> Match | None:
    anatomies = reading.named("anatomy")
    sites = not_of_origin(reading, anatomies)
    if finding is None:
        sites = sites or anatomies
        firm = [match for match in sites if not _is_weak(match, reading)] or sites
        return _head(firm[0], firm) if firm else None
    if finding.id == "metastasis":
        sites = [match for match in sites if not _is_primary(match, reading)]
    elif not sites:
        sites = anatomies  # a "mass arising from the kidney" is in the kidney
    sites = [match for match in sites if not _follows(match, reading, "beside")] or sites
    firm = [match for match in sites if not _is_weak(match, reading)]
    if finding.id == "lymphadenopathy" and not firm:
        return None  # its place is the lymph node, in the mediastinum for example
    sites = firm or sites
    inside = [match for match in sites if _follows(match, reading, "toward")]
    before = [match for match in sites if match.start <= finding.start]
    if inside:
        return _head(inside[0], sites)
    ordered = before[::-1] or sites
    return ordered[0] if ordered else None


def not_of_origin(reading: Reading, matches: list[Match]) -> list[Match]:
    """Matches that do not name where a finding comes from, or what else a patient has."""
    findings = reading.named("finding")
    outside = [match for match in matches if not _in_scope(match, reading)]
    # In "patient with a liver tumor" the tumor is what to look for.
    return outside if any(not _in_scope(match, reading) for match in findings) else matches


def leaves_out(finding: Match | None, reading: Reading) -> bool:
    """Whether a text says what not to find: "tumor excluding liver", "tumor not in the liver".

    Args:
        finding: the one to look for; None where the text names none.
    """
    around = unmatched(reading)
    if starts_of(vocabulary().listed("leaving_out"), around):
        return True
    site = _site(finding, reading)
    if finding is None or site is None:
        return False
    outside, toward = vocabulary().listed("outside"), vocabulary().listed("toward")
    small = _words_of("ignored", "toward")
    # "no" is the Portuguese "in the", too; of what a finding does, as in "extending outside the
    # kidney", nothing is left out, nor is it in "non-enhancing".
    denials = [at for at in starts_of(vocabulary().listed("negating"), around)
               if (around[at],) not in toward]
    denials += [at for at in starts_of(outside, around)
                if around[at - 1] in {"", *SEPARATORS, *small}]
    close = [at for at in starts_of(vocabulary().listed("negating_next"), around)
             if all(word in small for word in around[at + 1 : site.start])]
    small |= _words_of("qualifiers")
    close += [at for at in denials if all(word in small for word in around[at + 1 : site.start])]
    return any(finding.start < at < site.start for at in close)


def _words_of(*names: str) -> set[str]:
    return {word for name in names for phrase in vocabulary().listed(name) for word in phrase}


def unmatched(reading: Reading) -> list[str]:
    """The tokens, with "" where one belongs to a finding or a place."""
    taken = {index for match in reading.matches for index in range(match.start, match.end)}
    return ["" if index in taken else word for index, word in enumerate(reading.tokens)]


def at_border(finding: str, reading: Reading) -> bool:
    """Whether a finding, by its id, or the text's words put it at the border of its organ."""
    return (finding in vocabulary().words["border_findings"]
            or bool(starts_of(vocabulary().listed("at_border"), reading.tokens)))


def side_of(place: str, reading: Reading) -> str:
    """ "left" or "right" where the text names that side of an organ of which there are two."""
    if place not in vocabulary().words["paired"]:
        return ""
    named = [side for side in ("left", "right") if _side_words(side, reading)]
    return named[0] if len(named) == 1 else ""


def side_indices(side: str, reading: Reading) -> set[int]:
    """Tokens that name a side."""
    return set(_side_words(side, reading)) if side else set()


def _side_words(side: str, reading: Reading) -> list[int]:
    words = {word for phrase in vocabulary().listed(side) for word in phrase}
    return [index for index, word in enumerate(reading.tokens) if word in words]


def _in_scope(match: Match, reading: Reading) -> bool:
    return any(start <= match.start < end for start, end in _scopes(reading))


def _scopes(reading: Reading) -> Iterator[tuple[int, int]]:
    """Stretches that name an origin, once a finding was named, or a history; each ends at a comma
    or where the site follows: "from colon cancer" in "metastasis from colon cancer in liver"."""
    around = unmatched(reading)
    first = min((match.start for match in reading.named("finding")), default=len(around))
    openings = [start for start in starts_of(vocabulary().listed("origin"), around)
                if start > first]
    openings += starts_of(vocabulary().listed("history"), around)
    toward = {word for phrase in vocabulary().listed("toward") for word in phrase}
    for start in openings:
        # Not at once: "secondary to" has a word of the list itself.
        ends = (i for i in range(start + 2, len(around)) if around[i] in toward | {","})
        yield start, next(ends, len(around))


def _is_primary(match: Match, reading: Reading) -> bool:
    """Whether the name of a primary tumor follows: "colon cancer", "Lungenkrebs"."""
    for finding in reading.named("finding"):
        if finding.start in (match.end, match.start):
            general = finding.id in _PRIMARIES
            return general or bool(vocabulary().findings[finding.id].anatomy)
    return False


def _is_weak(match: Match, reading: Reading) -> bool:
    """Whether a place gives way to an organ: the "neck" of the gallbladder."""
    words = reading.tokens[match.start : match.end]
    return words in vocabulary().listed("weak_places")


def _follows(match: Match, reading: Reading, name: str) -> bool:
    """Whether a word of a list stands before an organ, with no more than articles, qualifiers and
    other organs between them. Of "adjacent to", "to" is no word that names the site."""
    skipped = {word for listed in ("qualifiers", "ignored") for phrase in
               vocabulary().listed(listed) for word in phrase}
    leading = {phrase[-1] for listed in ("toward", "beside") for phrase in
               vocabulary().listed(listed)}
    organs = {index for other in reading.named("anatomy") for index in range(other.start, other.end)
              if other.end <= match.start}
    at = match.start - 1
    while at >= 0 and (at in organs or (reading.tokens[at] in skipped - leading - {"of"})):
        at -= 1
    if at < 0 or reading.tokens[at] in SEPARATORS:
        return False
    beside = _ends_at(vocabulary().listed("beside"), reading.tokens, at)
    return beside if name == "beside" else (
        not beside and _ends_at(vocabulary().listed("toward"), reading.tokens, at))


def _ends_at(phrases: frozenset[tuple[str, ...]], words: Sequence[str], at: int) -> bool:
    return any(tuple(words[max(0, at + 1 - len(phrase)) : at + 1]) == phrase for phrase in phrases)


def _head(first: Match, sites: list[Match]) -> Match:
    """The last of the organs that follow each other directly: of "pancreatic lymph node", the
    lymph node."""
    for match in sites:
        if match.start == first.end and match is not first:
            first = match
    return first


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
