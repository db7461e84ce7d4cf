"""Where a finding sits: the organ that it is in, not one that it comes from or lies beside.

Words around each organ of a text tell which it is: "in the liver", "from colon cancer",
"near the heart". Lists of these words are in words.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from DiffuGTSLib.prompt.vocabulary import SEPARATORS, Match, Reading, starts_of, vocabulary

# "metastatic colon cancer": the colon is where the metastasis comes from. A metastatic brain
# tumor, in contrast, is one in the brain.
_PRIMARIES = ("cancer", "sarcoma", "melanoma", "neuroendocrine_tumor", "lymphoma")


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


def unmatched(reading: Reading) -> list[str]:
    """The tokens, with "" where one belongs to a finding or a place."""
    taken = {index for match in reading.matches for index in range(match.start, match.end)}
    return ["" if index in taken else word for index, word in enumerate(reading.tokens)]


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
