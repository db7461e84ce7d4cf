"""Texts with words that the vocabulary lacks, compared with it by the frozen text encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from DiffuGTSLib.prompt.vocabulary import Vocabulary

if TYPE_CHECKING:
    from DiffuGTSLib.networks import TextEncoder

# Calibrated in Testing/Python/prompt/test_parsing.py on the lists of prompt_texts.py.
MIN_SIMILARITY = 0.34
MIN_MARGIN = 0.02
MIN_ANATOMY = 0.28
MIN_ANATOMY_LEAD = 0.07
MIN_FINDING = 0.5
MIN_SUGGESTION = 0.45
NEIGHBOURS = 3


class FreeText:
    """Compares texts with the vocabulary by cosine similarity.

    Args:
        encoder: the frozen text encoder; it caches what it has encoded, so that only the
            first free text of a process takes the time of the some 300 texts compared with.
        vocabulary: the anatomies, findings and anchors.
    """

    def __init__(self, encoder: TextEncoder, vocabulary: Vocabulary) -> None:
        self._encoder = encoder
        self._vocabulary = vocabulary

    def names_a_finding(self, text: str) -> bool:
        """Whether `text` is more similar to texts that name a finding than to others."""
        anchors = self._vocabulary.words["anchors"]
        names = [finding.name for finding in self._vocabulary.findings.values()]
        similarity = self._similarity(text, [*anchors["findings"], *names])
        margin = similarity - self._similarity(text, anchors["others"])
        return margin >= MIN_MARGIN and similarity >= MIN_SIMILARITY

    def anatomy(self, text: str) -> str:
        """The id of the anatomy that `text` is about, or "" where none stands out.

        The vectors are centred first (METHOD.md 8): texts about tumors are all alike otherwise.
        """
        anatomies = list(self._vocabulary.anatomies.values())
        vectors = torch.stack([self._anatomy_vector(anatomy.name) for anatomy in anatomies])
        centre = vectors.mean(dim=0)
        others = [self._anatomy_vector(name) for name in self._vocabulary.words["other_places"]]
        candidates = normalize(torch.cat([vectors, torch.stack(others)]) - centre, dim=1)
        wanted = normalize(self._one(text) - centre, dim=0)
        best, second = (candidates @ wanted).topk(2).values.tolist()
        index = int((candidates @ wanted).argmax())
        clear = best >= MIN_ANATOMY and best - second >= MIN_ANATOMY_LEAD
        return anatomies[index].id if clear and index < len(anatomies) else ""

    def finding(self, text: str) -> str:
        """The id of the most similar finding of no particular anatomy; else "tumor"."""
        general = [entry for entry in self._vocabulary.findings.values() if not entry.anatomy]
        scores = self._encoder.encode([entry.name for entry in general]) @ self._one(text)
        best = int(scores.argmax())
        return general[best].id if scores[best] >= MIN_FINDING else "tumor"

    def closest(self, text: str, titles: list[str], count: int) -> list[str]:
        """At most `count` titles similar to `text`, best first; none where none is similar."""
        scores, order = (self._encoder.encode(titles) @ self._one(text)).sort(descending=True)
        similar = int((scores[:count] >= MIN_SUGGESTION).sum())
        return [titles[index] for index in order[:similar].tolist()]

    def _one(self, text: str) -> torch.Tensor:
        return self._encoder.encode([text])[0]

    def _similarity(self, text: str, anchors: list[str]) -> float:
        """The mean cosine similarity with the three most similar anchors."""
        scores = self._encoder.encode(anchors) @ self._one(text)
        return float(scores.topk(NEIGHBOURS).values.mean())

    def _anatomy_vector(self, name: str) -> torch.Tensor:
        texts = (f"{name} tumor", f"tumor of the {name}", f"{name} cancer")
        return self._encoder.encode_ensemble(texts)
