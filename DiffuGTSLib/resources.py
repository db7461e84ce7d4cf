"""Where the vocabulary, the embedded model and other resources lie."""

from __future__ import annotations

from pathlib import Path


def resource(name: str) -> Path:
    """A folder or file of Resources: in the wheel beside the library's code, else in the checkout.

    The result need not exist; who reads it says what is missing.
    """
    packaged = Path(__file__).parent / "Resources" / name
    return packaged if packaged.exists() else Path(__file__).parents[1] / "Resources" / name
