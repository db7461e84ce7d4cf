"""The options of a run, and the values that they may have: stated once, here.

Commands, the worker's requests, the settings of a batch and those of an evaluation each hold one
`Options`; what they write to JSON they take from `as_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from DiffuGTSLib.errors import InvalidOption
from DiffuGTSLib.scan.modality import MODALITIES, SEQUENCES

HIGHEST_SEED = 2**63 - 1
MOST_SAMPLES = 100


@dataclass(frozen=True)
class Options:
    """What a caller may specify for one scan or for many; None leaves it to the model or the scan.

    Attributes:
        model: catalogue name or folder of a package.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threshold: of the score, 0 to 1.
        seed: the same one gives the same mask; 0 to `HIGHEST_SEED`.
        samples: pseudo-healthy scans to draw, 1 to `MOST_SAMPLES`.
        modality: one of `scan.modality.MODALITIES`.
        sequence: of an MR scan, one of `scan.modality.SEQUENCES`.
        skull_stripped: of an MR scan, whether the brain was cut out of the head.

    Raises:
        InvalidOption: a value is of another type, or not one of those above.

    Example:
        >>> Options(seed=7).as_dict("seed", "threshold")
        {'seed': 7, 'threshold': None}
    """

    model: str = "embedded"
    device: str = "auto"
    threshold: float | None = None
    seed: int = 0
    samples: int | None = None
    modality: str | None = None
    sequence: str | None = None
    skull_stripped: bool | None = None

    def __post_init__(self) -> None:
        _check_text("model", self.model)
        _check_text("device", self.device)
        _check_number("seed", self.seed, 0, HIGHEST_SEED, whole=True)
        if self.threshold is not None:
            _check_number("threshold", self.threshold, 0, 1)
        if self.samples is not None:
            _check_number("samples", self.samples, 1, MOST_SAMPLES, whole=True)
        _check_choice("modality", self.modality, MODALITIES)
        _check_choice("sequence", self.sequence, SEQUENCES)
        if not isinstance(self.skull_stripped, bool | None):
            raise InvalidOption("skull_stripped", "true or false")

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Options:
        """The options that a JSON object states; what is absent or null is the default.

        Raises:
            InvalidOption: an entry is unknown or has a value that it cannot have.
        """
        known = {field.name for field in fields(cls)}
        for name in entries:
            if name not in known:
                raise InvalidOption(name, f"one of {', '.join(sorted(known))}")
        stated = {name: value for name, value in entries.items() if value is not None}
        if type(stated.get("threshold")) is int:
            stated["threshold"] = float(stated["threshold"])
        return cls(**stated)

    def as_dict(self, *names: str) -> dict[str, Any]:
        """In plain values, for JSON.

        Args:
            names: which options, in that order; all of them where none is named.
        """
        every = asdict(self)
        return {name: every[name] for name in names or every}


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidOption(name, "a text")


def _check_number(
    name: str, value: object, low: float, high: float, whole: bool = False
) -> None:
    # A bool is an int to Python, and no number to whoever wrote it.
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "whole number" if whole else "number"
        highest = high if whole else f"{high:g}"  # not as a power of ten
        raise InvalidOption(name, f"a {kind} from {low:g} to {highest}")


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise InvalidOption(name, " or ".join(choices))
