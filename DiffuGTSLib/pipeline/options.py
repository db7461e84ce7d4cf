"""What a user may tell the method, for one scan or for many."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """What a run may be told; None leaves it to the model, or to the scan.

    Attributes:
        model: catalogue name or folder of a package.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threshold: of the score, 0 to 1.
        seed: the same one gives the same mask.
        samples: pseudo-healthy scans to draw.
        modality: "CT" or "MR".
        sequence: of an MR scan, one of modality.SEQUENCES.
        skull_stripped: of an MR scan, whether the brain was cut out of the head.
    """

    model: str = "embedded"
    device: str = "auto"
    threshold: float | None = None
    seed: int = 0
    samples: int | None = None
    modality: str | None = None
    sequence: str | None = None
    skull_stripped: bool | None = None
