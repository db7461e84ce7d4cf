"""The ensembles of texts that stand for an organ's normal and abnormal state (METHOD.md 2)."""

from __future__ import annotations

NORMAL = (
    "{organ}", "normal {organ}", "healthy {organ}", "a scan of a healthy {organ}",
    "{organ} without any abnormality",
)
ABNORMAL = (
    "{organ} {finding}", "{finding} in the {organ}", "{organ} with a {finding}",
    "a scan that shows a {finding} of the {organ}", "abnormal {organ} with a {finding}",
)
GATE = ("{organ}", "the {organ}", "{organ} tissue", "an image of the {organ}")


def normal(organ: str) -> tuple[str, ...]:
    """Texts of the healthy `organ`."""
    return tuple(t.format(organ=organ) for t in NORMAL)


def abnormal(organ: str, finding: str) -> tuple[str, ...]:
    """Texts of `organ` with `finding` in it."""
    return tuple(t.format(organ=organ, finding=finding) for t in ABNORMAL)


def gate(organ: str) -> tuple[str, ...]:
    """Texts of the organ itself."""
    return tuple(t.format(organ=organ) for t in GATE)
