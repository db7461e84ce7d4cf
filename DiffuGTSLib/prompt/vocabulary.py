"""The words that prompts are made of: places, findings, and what stands around them.

Read from Resources/Prompts; nothing here needs a network or torch.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from DiffuGTSLib.files import resource

FOLDER = resource("Prompts")
SEPARATORS = frozenset("&+/,")
LETTERS = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "ł": "l"})
Kind = Literal["anatomy", "finding"]
Phrase = tuple[str, ...]


@dataclass(frozen=True)
class Anatomy:
    """A place in the body; the fields are those of anatomies.json."""

    id: str
    name: str
    attribute: str
    code: str
    meaning: str
    region: str
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """Something to find there; `rank` grows from the general to the specific."""

    id: str
    name: str
    anatomy: str
    code: str
    meaning: str
    rank: int


@dataclass(frozen=True)
class Match:
    """Tokens `start` up to `end` name the entry `id`."""

    start: int
    end: int
    kind: Kind
    id: str


@dataclass(frozen=True)
class Reading:
    """A text as the vocabulary sees it.

    Attributes:
        tokens: the folded words, typing errors corrected; separators (& + / ,) are tokens too.
        matches: what was recognised, from left to right.
        unknown: the words that are in no list, as they were typed.
        typed: a word for each token, as it was typed.
    """

    tokens: Phrase
    matches: tuple[Match, ...]
    unknown: tuple[str, ...]
    typed: Phrase = ()

    def named(self, kind: Kind) -> list[Match]:
        """The matches of one kind, from left to right."""
        return [match for match in self.matches if match.kind == kind]


def fold(text: str) -> str:
    """`text` without case and accents; ligatures are written out."""
    decomposed = unicodedata.normalize("NFKD", text.casefold().translate(LETTERS))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def tokens(text: str) -> Phrase:
    """The folded words of `text`, and its separators; hyphens and other marks only divide."""
    return _words(fold(text))


def _words(text: str) -> Phrase:
    return tuple(re.findall(r"[^\W_]+|[&+/,]", text))


def is_close(typed: str, word: str) -> bool:
    """Whether `typed` may be `word` mistyped: 1 error, or 2 from eight letters on.

    The first letter has to be right (people rarely miss it, and `rumor` is not `tumor`);
    words of three letters are never forgiven: they are abbreviations, one letter apart; of words
    of four letters only two neighbours that are swapped (`lnug`).
    """
    longest = max(len(typed), len(word))
    if len(typed) < 4 or typed[0] != word[0]:
        return False
    if longest == 4 and sorted(typed) != sorted(word):
        return False
    allowed = 2 if len(word) >= 8 else 1
    return abs(len(typed) - len(word)) <= allowed and _edits(typed, word) <= allowed


def _edits(first: str, second: str) -> int:
    """Letters inserted, left out, replaced, or swapped with their neighbour."""
    before: list[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, above, row = row, before, [i]
        for j, b in enumerate(second, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                row[j] = min(row[j], above[j - 2] + 1)
    return row[-1]


class Vocabulary:
    """Places, findings and words, and how they are recognised in a text.

    Args:
        anatomies, findings, words, dictionary: the content of the JSON files in `FOLDER`.
    """

    def __init__(
        self, anatomies: dict[str, Any], findings: dict[str, Any], words: dict[str, Any],
        dictionary: dict[str, Any],
    ) -> None:
        self.anatomies = {entry["id"]: _anatomy(entry) for entry in anatomies["anatomies"]}
        self.findings = {
            entry["id"]: _finding(entry, rank) for rank, entry in enumerate(findings["findings"])
        }
        self.words = words
        self.phrases: dict[Phrase, tuple[Kind, str]] = {}
        self._stems: dict[str, str] = {}
        for entry in anatomies["anatomies"]:
            self._add("anatomy", entry)
            self._stems.update({fold(stem): entry["id"] for stem in entry.get("stems", ())})
        for entry in findings["findings"]:
            self._add("finding", entry)
        self._longest = max(map(len, self.phrases))
        self._correct = sorted({word for phrase in self.phrases for word in phrase})
        lists = ("ignored", "conjunctions", "toward", "origin", "history", "beside", "qualifiers",
                 "left", "right", "negating", "leaving_out", "outside", "negating_next", "absent",
                 "normal", "other_intents")
        self._plain = {word for name in lists for text in words[name] for word in tokens(text)}
        self._known = self._plain | set(self._correct) | SEPARATORS
        self._known |= set(words["not_typos"]) | set(words["not_tumors"])
        # An English word is what it says, however close it is to a word of another language:
        # the lingula is no tongue (lingua).
        lines = (line for name, kind in dictionary.items() if name != "$schema" for line in kind)
        self._known |= {word for line in lines for word in line.split()}

    def _add(self, kind: Kind, entry: dict[str, Any]) -> None:
        for text in (entry["name"], *entry["synonyms"]):
            self.phrases[tokens(text)] = (kind, entry["id"])

    def listed(self, name: str) -> frozenset[Phrase]:
        """A list of words.json as folded phrases."""
        return _phrases(tuple(self.words[name]))

    def read(self, text: str) -> Reading:
        """Recognises places and findings; the longest phrase wins, from left to right."""
        typed, as_typed = tokens(text), _words(unicodedata.normalize("NFC", text))
        corrected = tuple(self._corrected(word) for word in typed)
        matches: list[Match] = []
        unknown: list[str] = []
        position = 0
        while position < len(corrected):
            found = self._match(corrected, position)
            if not found and self._is_unknown(corrected[position]):
                unknown.append(typed[position])
                found = self._tumor_word(corrected[position], position)
            matches += found
            position = found[-1].end if found else position + 1
        same = len(as_typed) == len(typed)
        return Reading(corrected, tuple(matches), tuple(unknown), as_typed if same else typed)

    def _is_unknown(self, word: str) -> bool:
        # Sizes and segment numbers say nothing about what to find.
        number = any(char.isdigit() for char in word) and len(word) <= 5
        return not number and word not in self._plain and word not in SEPARATORS

    def _match(self, words: Phrase, start: int) -> list[Match]:
        for end in range(min(len(words), start + self._longest), start, -1):
            if words[start:end] in self.phrases:
                kind, name = self.phrases[words[start:end]]
                return [Match(start, end, kind, name)]
        return self._compound(words[start], start)

    def _compound(self, word: str, start: int) -> list[Match]:
        """Place and finding in one word: Lebertumor, Nierenkrebs, osteosarcoma."""
        for length in range(len(word) - 3, 3, -1):
            ending = self.phrases.get((word[-length:],))
            place = self._place(word[:-length])
            if ending and ending[0] == "finding" and place:
                return [
                    Match(start, start + 1, "anatomy", place),
                    Match(start, start + 1, "finding", ending[1]),
                ]
        return []

    def _tumor_word(self, word: str, start: int) -> list[Match]:
        """A tumor by its ending, and its place where a stem begins it: hepatoblastoma."""
        ends = word.endswith(tuple(self.words["tumor_endings"]))
        if len(word) < 6 or not ends or word in self.words["not_tumors"]:
            return []
        singular = word.removesuffix("s").removesuffix("ta")
        # Only findings of no special place: an esthesioneuroblastoma is not in the adrenal gland.
        general = [finding for finding in self.findings.values() if not finding.anatomy]
        endings = {fold(finding.name): finding.id for finding in general}
        endings["carcinoma"] = "cancer"
        fitting = [ending for ending in endings if singular.endswith(ending)]
        name = endings[max(fitting, key=len)] if fitting else "tumor"
        places = [place for stem, place in self._stems.items() if word.startswith(stem)]
        found = [Match(start, start + 1, "anatomy", place) for place in places[:1]]
        return [*found, Match(start, start + 1, "finding", name)]

    def _place(self, part: str) -> str:
        """The anatomy that the first part of a compound names, or ""; n and s may link."""
        for form in (part, part.removesuffix("n"), part.removesuffix("s")):
            if form in self._stems:
                return self._stems[form]
            kind, name = self.phrases.get((form,), ("", ""))
            if kind == "anatomy" and len(form) >= 4:
                return name
        return ""

    def _corrected(self, word: str) -> str:
        if word in self._known or self._compound(word, 0):
            return word
        close = [known for known in self._correct if is_close(word, known)]
        return min(close, key=lambda known: _edits(word, known), default=word)


@lru_cache(maxsize=32)
def _phrases(texts: tuple[str, ...]) -> frozenset[Phrase]:
    return frozenset(tokens(text) for text in texts)


def starts_of(phrases: Iterable[Phrase], words: Sequence[str]) -> list[int]:
    """Where in `words` one of `phrases` begins."""
    wanted = list(phrases)
    return [
        start
        for start in range(len(words))
        if any(tuple(words[start : start + len(phrase)]) == phrase for phrase in wanted)
    ]


def _anatomy(entry: dict[str, Any]) -> Anatomy:
    return Anatomy(
        id=entry["id"],
        name=entry["name"],
        attribute=entry.get("attribute", entry["name"]),
        code=entry["code"]["value"],
        meaning=entry["code"]["meaning"],
        region=entry["region"],
        modalities=tuple(entry["modalities"]),
    )


def _finding(entry: dict[str, Any], rank: int) -> Finding:
    return Finding(
        id=entry["id"],
        name=entry["name"],
        anatomy=entry["anatomy"],
        code=entry["code"]["value"],
        meaning=entry["code"]["meaning"],
        rank=rank,
    )


@lru_cache(maxsize=1)
def vocabulary() -> Vocabulary:
    """The project's own vocabulary, read once."""
    return Vocabulary(
        *(
            json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("anatomies", "findings", "words", "dictionary")
        )
    )
