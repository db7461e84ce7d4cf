"""Classes of lesions, and what a model package has seen of them: the basis of "zero-shot".

A class is all that grows in one organ, named after it: hepatocellular carcinoma, liver metastasis
and liver cyst are all "liver tumor". Zero-shot means that no mask of the class was trained on.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from DiffuGTSLib.errors import PromptNotUnderstood
from DiffuGTSLib.prompt.parsing import EXAMPLE, understand
from DiffuGTSLib.prompt.vocabulary import vocabulary

if TYPE_CHECKING:
    from DiffuGTSLib.models import Card

# Anatomies whose tumors are those of another one: hepatic vessel data sets outline liver tumors.
SAME_TUMORS = {"liver_vessels": "liver"}


class Exposure(enum.StrEnum):
    """What a model's training has seen of a class.

    Only UNSEEN makes a score zero-shot. SYNTHETIC: synthetic lesions only, no real mask.
    FROZEN: real masks for the frozen networks alone, for example to keep tumors out of what a
    denoiser learns. UNKNOWN: the package does not say.
    """

    REAL = "real"
    FROZEN = "frozen"
    SYNTHETIC = "synthetic"
    UNSEEN = "unseen"
    UNKNOWN = "unknown"


_SEEN = {
    Exposure.REAL: "trained on outlined tumors of this organ",
    Exposure.FROZEN: "trained on tumors of this organ in its frozen networks alone",
    Exposure.SYNTHETIC: "trained on synthetic lesions of this organ only",
    Exposure.UNSEEN: "never trained on lesions of this organ",
}


def class_of_organ(organ: str) -> str:
    """The class of what grows in `organ`, an id of anatomies.json: "liver" -> "liver tumor".

    Raises:
        KeyError: there is no such organ.
    """
    return f"{vocabulary().anatomies[SAME_TUMORS.get(organ, organ)].attribute} tumor"


def lesion_class(text: str) -> str:
    """The class that a prompt names: "HCC" -> "liver tumor".

    Raises:
        PromptNotUnderstood: the text is no prompt, or names no organ.
    """
    organ = understand(text).anatomy
    if not organ:
        raise PromptNotUnderstood(f"“{text}” names no organ, so it is no class of lesions.",
                                  EXAMPLE)
    return class_of_organ(organ)


def reliability(
    card: Card, organ: str, modality: str, sequence: str, within: bool = False,
    at_border: bool = False,
) -> str:
    """How good a model is for lesions of an organ in such a scan, in a sentence.

    Args:
        card: of the model.
        organ: an id of anatomies.json; "" where the text names none.
        sequence: of an MR scan; "" where it is not known.
        within: the search is limited to a given region, which the scores know nothing of.
        at_border: the prompt names a tumor at the organ's border, as `Prompt.at_border`. The scores
            are those of tumors in the organ, and of a search in there.

    Returns:
        "" where the card states neither what it was trained on nor how good it was.
    """
    of_organ = [m for m in card.validation if m.anatomy == organ and m.modality == modality]
    elsewhere = " That was measured without a mask to search in." if within and of_organ else ""
    like_it = [m for m in of_organ if not sequence or m.sequence in ("", sequence)]
    if of_organ and at_border:
        return ("How good this model is at the border of this organ is not known (in the organ: "
                f"{'; '.join(map(str, like_it or of_organ))}).{elsewhere}")
    if like_it:
        return f"How good this model is here: {'; '.join(map(str, like_it))}.{elsewhere}"
    if not organ:
        seen = "not validated where no organ is named" if card.validation else ""
    else:
        known = _exposure(card.trained_classes, class_of_organ(organ))
        stated = card.trained_classes is not None or card.validation
        seen = f"{_SEEN[known]}, not validated" if known in _SEEN else (
            "not validated" if stated else "")
    if of_organ and seen:
        seen += f" on this sequence (on others: {'; '.join(map(str, of_organ))})"
    return f"How good this model is here is not known: {seen}.{elsewhere}" if seen else ""


def exposure(
    trained_classes: Mapping[str, Sequence[str] | None] | None, text: str
) -> Exposure:
    """What training has seen of the class that `text` names.

    Args:
        trained_classes: the card's entry: classes by "real", "frozen" and "synthetic"; None, for
            all or for one of these: not stated.

    Raises:
        PromptNotUnderstood: see `lesion_class`.
    """
    return _exposure(trained_classes, lesion_class(text))


def _exposure(
    trained_classes: Mapping[str, Sequence[str] | None] | None, named: str
) -> Exposure:
    if trained_classes is None:
        return Exposure.UNKNOWN
    for kind in (Exposure.REAL, Exposure.FROZEN, Exposure.SYNTHETIC):
        classes = trained_classes.get(kind, ())
        if classes is None:
            return Exposure.UNKNOWN
        if named in classes:
            return kind
    return Exposure.UNSEEN
