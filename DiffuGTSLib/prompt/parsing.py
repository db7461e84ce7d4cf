"""A clinician's words to what the model needs: finding, place, texts, terminology codes.

Among the texts are those of an organ's normal and abnormal state (METHOD.md 2).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from DiffuGTSLib.errors import PromptNotUnderstood
from DiffuGTSLib.prompt.site import (
    at_border,
    leaves_out,
    not_of_origin,
    notes_on,
    side_of,
    site_of,
    unmatched,
)
from DiffuGTSLib.prompt.vocabulary import (
    Anatomy,
    Finding,
    Match,
    Reading,
    starts_of,
    tokens,
    vocabulary,
)

if TYPE_CHECKING:
    from DiffuGTSLib.networks import TextEncoder
    from DiffuGTSLib.prompt.free_text import FreeText

MAX_LENGTH = 200
MAX_SUGGESTIONS = 5
TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^{code}^{meaning}~^^"
    "~Anatomic codes - DICOM master list~{region}~^^"
)
COMMON = ("liver tumor", "lung nodule", "kidney tumor", "brain tumor", "tumor")
LANGUAGES = "English, German, French, Spanish, Italian and Portuguese"
EXAMPLE = "Type what to look for and where, for example: liver tumor."
# Share of equal letters; below it, hello would be similar to cell, and none to bone.
_MIN_WORD_SIMILARITY = 0.8
NORMAL = (
    "{organ}", "normal {organ}", "healthy {organ}", "a scan of a healthy {organ}",
    "{organ} without any abnormality",
)
ABNORMAL = (
    "{organ} {finding}", "{finding} in the {organ}", "{organ} with a {finding}",
    "a scan that shows a {finding} of the {organ}", "abnormal {organ} with a {finding}",
)
GATE = ("{organ}", "the {organ}", "{organ} tissue", "an image of the {organ}")


@dataclass(frozen=True)
class Prompt:
    """A text that was understood.

    Attributes:
        text: as it was given.
        anatomy: id of the place in anatomies.json; empty means anywhere.
        anatomy_name: the place in words; empty means anywhere.
        finding: id in findings.json.
        title: the canonical name, such as "liver tumor"; the given words where they say more
            than the vocabulary knows.
        known: every word is in the vocabulary; the text encoder was not needed.
        normal: texts that describe the place without the finding (METHOD.md 2).
        abnormal: texts that describe it with the finding.
        gate: texts that name the place itself; none means anywhere.
        terminology: Slicer's seven parts: category, type, region and their lists.
        region: "head", "thorax", "abdomen", "pelvis" or "any".
        modalities: in which the embedded model was shown the place.
        side: "left" or "right" where the text says so of an organ of which there are two; else "".
        notes: sentences on words of the text that change nothing, or were read as others.
        at_border: it lies at the border of its organ (a mesothelioma, a tumor of the skull base),
            where a mask of the organ may not hold it.
    """

    text: str
    anatomy: str
    anatomy_name: str
    finding: str
    title: str
    known: bool
    normal: tuple[str, ...]
    abnormal: tuple[str, ...]
    gate: tuple[str, ...]
    terminology: str
    region: str
    modalities: tuple[str, ...]
    side: str = ""
    notes: tuple[str, ...] = ()
    at_border: bool = False


def understand(text: str, encoder: TextEncoder | None = None) -> Prompt:
    """The prompt that `text` means.

    Words of the vocabulary are recognised in any order, in six languages and with small typing
    errors. What goes beyond them is compared with the vocabulary by `encoder`; without one, the
    known words alone decide.

    Raises:
        PromptNotUnderstood: the text names no finding, denies it, or names two places.

    Example:
        >>> understand("hepatic neoplasm").title
        'liver tumor'
    """
    _check_characters(text)
    reading = vocabulary().read(text)
    _check_intent(reading)
    findings = _affirmed(reading)
    finding = max(findings, key=_rank, default=None)
    _check_one_place(reading, finding)
    place = site_of(finding, reading)
    if encoder and reading.unknown:
        return _beyond_vocabulary(text, reading, finding, place, encoder)
    if finding is None:
        _refuse_without_finding(reading)
    return _prompt(text, reading, finding, place or _finding(finding).anatomy)


def refuse_early(texts: Sequence[str]) -> None:
    """Refuses what `understand` would refuse, before anything large is read.

    The text encoder is loaded only where the vocabulary does not decide.

    Raises:
        PromptNotUnderstood: as `understand`.
    """
    encoder: TextEncoder | None = None
    for text in texts:
        try:
            understand(text)
        except PromptNotUnderstood:
            if not vocabulary().read(text).unknown:
                raise
            encoder = encoder or _text_encoder()
            understand(text, encoder)


def refusals(texts: Iterable[str]) -> dict[str, PromptNotUnderstood]:
    """The texts that `understand` refuses, each with its error.

    The text encoder is loaded only where a text has words beyond the vocabulary.
    """
    encoder: TextEncoder | None = None
    refused = {}
    for text in dict.fromkeys(texts):
        try:
            known = understand(text).known
        except PromptNotUnderstood:
            known = False
        if not known:
            encoder = encoder or _text_encoder()
            try:
                understand(text, encoder)
            except PromptNotUnderstood as error:
                refused[text] = error
    return refused


def _text_encoder() -> TextEncoder:
    # Here, not above: it imports torch, which a known prompt does not need.
    from DiffuGTSLib.networks import TextEncoder

    return TextEncoder.from_package()


def several(text: str) -> list[str]:
    """The prompts in `text`: one a line, or divided by semicolons."""
    parts = (part.strip() for line in text.splitlines() for part in line.split(";"))
    return [part for part in parts if part]


def suggestions(prefix: str, limit: int = 8) -> list[str]:
    """Prompts that complete what was typed so far: first by their own words, then by synonyms."""
    typed = " ".join(tokens(prefix))
    if not typed:
        return list(COMMON)[:limit]
    words = vocabulary().phrases.items()
    entries = {entry for phrase, entry in words if " ".join(phrase).startswith(typed)}
    anatomies = {name for kind, name in entries if kind == "anatomy"}
    named = {name for kind, name in entries if kind == "finding"}
    found = [title for title in titles() if title.startswith(typed)]
    found += [title for title in titles() if f" {typed}" in title]
    found += [title for name in vocabulary().anatomies if name in anatomies
              for title in _titles_of(vocabulary().anatomies[name])]
    found += [entry.name for name, entry in vocabulary().findings.items() if name in named]
    return list(dict.fromkeys(found))[:limit]


@lru_cache(maxsize=1)
def titles() -> tuple[str, ...]:
    """The canonical prompts, the usual ones first."""
    places = vocabulary().anatomies.values()
    names = [f"{place.attribute} tumor" for place in places]
    names += [finding.name for finding in vocabulary().findings.values()]
    names += [title for place in places for title in _titles_of(place)]
    return tuple(dict.fromkeys(names))


def _titles_of(place: Anatomy) -> list[str]:
    implied = [f.name for f in vocabulary().findings.values() if f.anatomy == place.id]
    usual = [
        f"{place.attribute} {name}" for name in ("tumor", "metastasis", "cyst", "lesion", "cancer")
    ]
    return usual[:3] + implied + usual[3:]


def _check_characters(text: str) -> None:
    """Refuses what cannot be a prompt, whatever it means."""
    if not text.strip():
        _refuse("The text is empty.", EXAMPLE)
    if len(text) > MAX_LENGTH:
        message = f"The text is too long: {len(text)} characters, {MAX_LENGTH} at most."
        _refuse(message, EXAMPLE)
    if any(unicodedata.category(char) in ("Cc", "Cs", "Co", "Cn") and char not in "\t\n\r"
           for char in text):
        _refuse("The text holds characters that cannot be printed.", EXAMPLE)
    letters = [char for char in text if char.isalpha()]
    if letters and not any("LATIN" in unicodedata.name(char, "") for char in letters):
        _refuse("The text is in a script that is not read.",
                f"Type it in one of the languages that are read: {LANGUAGES}.")


def _check_intent(reading: Reading) -> None:
    """Refuses questions, other instructions, and texts that deny a finding."""
    around = unmatched(reading)
    matches = _closest(reading)
    if starts_of(vocabulary().listed("other_intents"), around):
        message = "The text is a question or an instruction, not a finding."
        _refuse(message, EXAMPLE, matches)
    denied = starts_of(vocabulary().listed("absent"), around)
    normal = starts_of(vocabulary().listed("normal"), around)
    findings = reading.named("finding")
    affirmed = _affirmed(reading)
    if leaves_out(max(affirmed, key=_rank, default=None), reading):
        message = "The text names something to leave out, which is not possible."
        wanted = dict.fromkeys(_finding(match).name for match in affirmed)
        _refuse(message, "Type only what to look for, and where.", list(wanted))
    if (findings and (denied or not affirmed)) or (normal and not findings):
        message = "The text says that there is no finding."
        _refuse(message, "Type the finding itself; if there is none, the result says so.", matches)
    if len(affirmed) < len(not_of_origin(reading, findings)):
        message = "The text names a finding to leave out, which is not possible."
        place = site_of(max(affirmed, key=_rank), reading)
        wanted = dict.fromkeys(_title(_finding(match), place) for match in affirmed)
        _refuse(message, "Type only what to look for.", list(wanted))


def _check_one_place(reading: Reading, finding: Match | None) -> None:
    """Refuses two places joined by "and": each is a prompt of its own."""
    anatomies = not_of_origin(reading, reading.named("anatomy"))
    around = unmatched(reading)
    joining = {word for phrase in vocabulary().listed("conjunctions") for word in phrase}
    joining |= {"&", "+", "/", ","}
    qualifiers = {word for phrase in vocabulary().listed("qualifiers") for word in phrase}
    for first, second in pairwise(anatomies):
        between = [word for word in around[first.end : second.start] if word]
        joined = any(word in joining for word in between)
        # Articles and short prepositions may stand there; "near the" means one place only.
        if joined and first.id != second.id and all(
            word in joining or word in qualifiers or len(word) <= 3 for word in between
        ):
            name = _finding(finding).name if finding else "tumor"
            places = [vocabulary().anatomies[match.id] for match in (first, second)]
            both = [f"{place.attribute} {name}" for place in places]
            _refuse("The text names two places.", "Type one prompt a line.", both)


def _affirmed(reading: Reading) -> list[Match]:
    """The findings that the text does not deny, without those that name a metastasis' origin."""
    around = unmatched(reading)
    denials = sorted(start for name in ("negating", "leaving_out")
                     for start in starts_of(vocabulary().listed(name), around))
    if denials and denials[-1] == len(around) - 1:
        return []  # "liver tumor: no"
    directly = starts_of(vocabulary().listed("negating_next"), around)
    return [
        match
        for match in not_of_origin(reading, reading.named("finding"))
        if not any(place < match.start for place in denials) and match.start - 1 not in directly
    ]


def _beyond_vocabulary(
    text: str, reading: Reading, finding: Match | None, place: str, encoder: TextEncoder
) -> Prompt:
    """A text with words that the vocabulary does not have."""
    # Here, not above: it imports torch, which the vocabulary alone does not need.
    from DiffuGTSLib.prompt.free_text import FreeText

    free = FreeText(encoder, vocabulary())
    plain = " ".join(text.split())
    if finding is None:
        if _is_other_disease(reading) or not free.names_a_finding(plain):
            _refuse_without_finding(reading, free, plain)
        # The whole text is what names the finding.
        finding = Match(0, len(reading.tokens), "finding", free.finding(plain))
    place = place or _finding(finding).anatomy
    # What the text says of an origin must not become the site of a metastasis.
    guessed = "" if place or reading.named("anatomy") else free.anatomy(plain)
    prompt = _prompt(text, reading, finding, place or guessed)
    if not guessed:
        return prompt
    note = ("The text names no place that is known; it is most like one about: "
            f"{prompt.anatomy_name}.")
    return replace(prompt, notes=(*prompt.notes, note))


def _is_other_disease(reading: Reading) -> bool:
    """Whether a word ends like an inflammation or another disease that is no tumor."""
    endings = tuple(vocabulary().words["other_endings"])
    # Carcinomatosis and the like are tumors all the same.
    return any(word.endswith(endings) and "matosis" not in word for word in reading.unknown)


def _refuse_without_finding(
    reading: Reading, free: FreeText | None = None, plain: str = ""
) -> NoReturn:
    anatomies = reading.named("anatomy")
    if anatomies:
        place = vocabulary().anatomies[site_of(None, reading)]
        message = f"The text names a place ({place.name}), but nothing to look for there."
        _refuse(message, "Add what to look for.", _titles_of(place))
    matches = free.closest(plain, list(titles()), MAX_SUGGESTIONS) if free else []
    matches = matches or _closest(reading)
    hint = EXAMPLE if matches else f"{EXAMPLE} {_known_places()}"
    _refuse("The text names no tumor or similar finding.", hint, matches)


def _known_places() -> str:
    """All places in a sentence."""
    return f"Known places: {', '.join(place.name for place in vocabulary().anatomies.values())}."


def _refuse(message: str, hint: str, matches: Sequence[str] = ()) -> NoReturn:
    raise PromptNotUnderstood(message, hint, tuple(matches)[:MAX_SUGGESTIONS])


def _closest(reading: Reading) -> list[str]:
    """Suggestions from the words alone; none where no word is similar to a known one."""
    findings, anatomies = reading.named("finding"), reading.named("anatomy")
    if findings:
        named = max(findings, key=_rank)
        place = site_of(named, reading) or _finding(named).anatomy
        return [_title(_finding(named), place)]
    if anatomies:
        return _titles_of(vocabulary().anatomies[site_of(None, reading)])
    words = {word: title for title in reversed(titles()) for word in title.split()}
    close = [word for typed in reading.unknown
             for word in get_close_matches(typed, words, cutoff=_MIN_WORD_SIMILARITY)]
    return list(dict.fromkeys(words[word] for word in close))


def _finding(match: Match) -> Finding:
    return vocabulary().findings[match.id]


def _rank(match: Match) -> int:
    return _finding(match).rank


def _title(finding: Finding, place: str) -> str:
    if not place or finding.anatomy == place:
        return finding.name
    return f"{vocabulary().anatomies[place].attribute} {finding.name}"


def _prompt(text: str, reading: Reading, match: Match, place: str) -> Prompt:
    """The prompt for a finding at a place (an id of anatomies.json; empty means anywhere)."""
    finding = _finding(match)
    anatomy = vocabulary().anatomies.get(place)
    organ = anatomy.name if anatomy else vocabulary().words["anywhere"]
    # Where the finding's own word is unknown, the given words say more than the closest entry.
    named = set(tokens(" ".join(reading.unknown))) & set(reading.tokens[match.start : match.end])
    words = " ".join(text.split()) if named else ""
    names = [finding.name, words] if words else [finding.name]
    side = side_of(place, reading)
    return Prompt(
        text=text,
        anatomy=place,
        anatomy_name=anatomy.name if anatomy else "",
        finding=finding.id,
        title=words or _title(finding, place),
        known=not reading.unknown,
        normal=normal(organ),
        abnormal=tuple(text for name in names for text in abnormal(organ, name)),
        gate=gate(organ) if anatomy else (),
        terminology=TERMINOLOGY.format(
            code=finding.code,
            meaning=finding.meaning,
            region=f"SCT^{anatomy.code}^{anatomy.meaning}" if anatomy else "^^",
        ),
        region=anatomy.region if anatomy else "any",
        modalities=anatomy.modalities if anatomy else ("CT", "MR"),
        side=side,
        notes=notes_on(text, reading, match, place, side),
        at_border=at_border(finding.id, reading),
    )


def normal(organ: str) -> tuple[str, ...]:
    """Texts of the healthy `organ`."""
    return tuple(t.format(organ=organ) for t in NORMAL)


def abnormal(organ: str, finding: str) -> tuple[str, ...]:
    """Texts of `organ` with `finding` in it."""
    return tuple(t.format(organ=organ, finding=finding) for t in ABNORMAL)


def gate(organ: str) -> tuple[str, ...]:
    """Texts of the organ itself."""
    return tuple(t.format(organ=organ) for t in GATE)
