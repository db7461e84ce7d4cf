"""Texts beyond the vocabulary: what they are about, by the frozen text encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from DiffuGTSLib.prompt.vocabulary import Vocabulary

if TYPE_CHECKING:
    from DiffuGTSLib.networks.text_encoder import TextEncoder

# Calibrated in Testing/Python/prompt/test_parsing.py on the lists of prompt_texts.py.
LEAST_LIKENESS = 0.34
LEAST_MARGIN = 0.02
LEAST_PLACE = 0.28
LEAST_PLACE_LEAD = 0.07
LEAST_FINDING = 0.5
LEAST_NEAR = 0.45
NEIGHBOURS = 3


class FreeText:
    """Compares texts with the vocabulary by cosine similarity.

    Args:
        encoder: the frozen text encoder; it keeps what it has encoded, so that only the first
            free text of a process pays for the some 300 texts compared with.
        vocabulary: the places, findings and anchors.
    """

    def __init__(self, encoder: TextEncoder, vocabulary: Vocabulary) -> None:
        self._encoder = encoder
        self._vocabulary = vocabulary

    def names_a_finding(self, text: str) -> bool:
        """Whether `text` is nearer to texts that name a finding than to others."""
        anchors = self._vocabulary.words["anchors"]
        names = [finding.name for finding in self._vocabulary.findings.values()]
        likeness = self._likeness(text, [*anchors["findings"], *names])
        margin = likeness - self._likeness(text, anchors["others"])
        return margin >= LEAST_MARGIN and likeness >= LEAST_LIKENESS

    def anatomy(self, text: str) -> str:
        """The id of the anatomy that `text` is about, or "" where none stands out.

        Places are centred first (METHOD.md 8): texts about tumors are all alike otherwise.
        """
        places = list(self._vocabulary.anatomies.values())
        vectors = torch.stack([self._place(place.name) for place in places])
        centre = vectors.mean(dim=0)
        others = [self._place(name) for name in self._vocabulary.words["other_places"]]
        candidates = normalize(torch.cat([vectors, torch.stack(others)]) - centre, dim=1)
        wanted = normalize(self._one(text) - centre, dim=0)
        best, second = (candidates @ wanted).topk(2).values.tolist()
        index = int((candidates @ wanted).argmax())
        clear = best >= LEAST_PLACE and best - second >= LEAST_PLACE_LEAD
        return places[index].id if clear and index < len(places) else ""

    def finding(self, text: str) -> str:
        """The id of the nearest finding among those of no special place; else "tumor"."""
        general = [entry for entry in self._vocabulary.findings.values() if not entry.anatomy]
        scores = self._encoder.encode([entry.name for entry in general]) @ self._one(text)
        best = int(scores.argmax())
        return general[best].id if scores[best] >= LEAST_FINDING else "tumor"

    def nearest(self, text: str, titles: list[str], count: int) -> list[str]:
        """At most `count` of the titles near to `text`, best first; none where none is near."""
        scores, order = (self._encoder.encode(titles) @ self._one(text)).sort(descending=True)
        near = int((scores[:count] >= LEAST_NEAR).sum())
        return [titles[index] for index in order[:near].tolist()]

    def _one(self, text: str) -> torch.Tensor:
        return self._encoder.encode([text])[0]

    def _likeness(self, text: str, anchors: list[str]) -> float:
        """The mean cosine similarity with the three nearest anchors."""
        scores = self._encoder.encode(anchors) @ self._one(text)
        return float(scores.topk(NEIGHBOURS).values.mean())

    def _place(self, name: str) -> torch.Tensor:
        texts = (f"{name} tumor", f"tumor of the {name}", f"{name} cancer")
        return self._encoder.encode_ensemble(texts)
