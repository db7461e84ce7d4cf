"""Classes of lesions, and what a model package has seen of them: the basis of "zero-shot".

A class is all that grows in one organ, named after it: hepatocellular carcinoma, liver metastasis
and liver cyst are all "liver tumor". Zero-shot means that no mask of the class was trained on.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

from DiffuGTSLib.errors import PromptNotUnderstood
from DiffuGTSLib.prompt.parsing import EXAMPLE, understand
from DiffuGTSLib.prompt.vocabulary import vocabulary

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


def exposure(trained_classes: Mapping[str, Sequence[str]] | None, text: str) -> Exposure:
    """What training has seen of the class that `text` names.

    Args:
        trained_classes: the card's entry: classes by "real", "frozen" and "synthetic"; None: not
            stated.

    Raises:
        PromptNotUnderstood: see `lesion_class`.
    """
    named = lesion_class(text)
    if trained_classes is None:
        return Exposure.UNKNOWN
    for kind in (Exposure.REAL, Exposure.FROZEN, Exposure.SYNTHETIC):
        if named in trained_classes.get(kind, ()):
            return kind
    return Exposure.UNSEEN
