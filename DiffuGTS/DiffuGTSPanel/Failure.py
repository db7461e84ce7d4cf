"""What the person is told when something cannot be done: a sentence and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class Failure(Exception):
    """The only exception that reaches the panel and whoever calls the logic.

    Args:
        code: short and stable, for programs; those of DiffuGTSLib/errors.py are among them.
        message: one sentence for a person.
        hint: what to do about it; may be empty.
        suggestions: texts that would have been understood, best first; with the code
            "sequence-unknown" the MR sequences of which one has to be stated.
    """

    def __init__(
        self, code: str, message: str, hint: str = "", suggestions: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.suggestions = tuple(suggestions)
